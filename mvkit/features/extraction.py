"""Take features: images through preprocessing and network, batch by batch, into memory or a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import nn

from mvkit import atomic
from mvkit.errors import DataError
from mvkit.features.feature_file import FeatureWriter
from mvkit.features.featureset import FeatureOrigin, FeatureSet, LayerInfo
from mvkit.features.formats import hdf5_for, is_npz
from mvkit.features.forward_pass import ForwardPass, ProgressCallback, Rows
from mvkit.features.npz_file import check_names
from mvkit.features.scratch import FeatureRoom
from mvkit.features.stimuli import open_stimuli
from mvkit.machine import available_memory
from mvkit.models import load_model
from mvkit.models.foreign.wrappers import unwrapped


@dataclass(frozen=True)
class ExtractionReport:
    """What was written where.

    Parameters
    ----------
    path
        The feature file.
    layers
        Its layers, in order.
    origin
        Network, weights, images and versions.
    """

    path: Path
    layers: tuple[LayerInfo, ...]
    origin: FeatureOrigin

    @property
    def n_images(self) -> int:
        """Number of images."""
        return len(self.origin.image_ids)

    def to_json(self) -> dict[str, object]:
        """Return the report as plain data."""
        return {
            "file": str(self.path),
            "model": self.origin.model_name,
            "weights_id": self.origin.weights_id,
            "stimuli": self.origin.stimuli,
            "stimuli_digest": self.origin.stimuli_digest,
            "n_images": self.n_images,
            "layers": [layer.to_json() for layer in self.layers],
            "preprocessing": dict(self.origin.preprocessing),
            "versions": dict(self.origin.versions),
        }


def extract(
    model: nn.Module | str | Path,
    images: object,
    layers: str | Sequence[str] | None = None,
    *,
    batch_size: int | None = None,
    device: str | torch.device = "cpu",
    progress: ProgressCallback | None = None,
) -> FeatureSet:
    """Show images to a network and keep what its layers give.

    All layers come from one forward pass per batch, in evaluation mode and without gradients; the network's
    mode and device are restored afterwards. Results do not depend on ``batch_size`` beyond float rounding.

    Parameters
    ----------
    model
        A model of :func:`mvkit.load_model` (or what that takes: a name, the path of a training run's
        checkpoint), or any ``nn.Module``. One without ``.preprocess`` (mvkit's, a preset of torchvision's, or
        a callable from one PIL image to a float tensor) takes only images that are prepared already: a float
        array or tensor (n, channels, height, width).
    images
        uint8 array (n, height, width) or (n, height, width, 3); a dataset or its name; a folder of images;
        prepared float inputs. See :func:`mvkit.features.open_stimuli`.
    layers
        Names or patterns (globs such as ``features.*``, regular expressions after ``re:``), or
        ``"published"`` for the list that the reference scored; None for the model's default list,
        ``model.layers``, the same but for ``vgg16_encoder``. A layer that runs several times gives
        ``name[0]``, ``name[1]``, ...; a tuple or dict output gives ``name:0`` or ``name:key``.
    batch_size
        Images per forward pass; None: so many that a batch has about as many pixels whatever their size, see
        :mod:`mvkit.features.batching`.
    device
        Where to compute: "cpu", "cuda", "cuda:1", ...
    progress
        Called with (images done, images in total) after each batch.

    Returns
    -------
    FeatureSet
        Layer -> float32 (n_images, n_features), flattened in C order, in the model's order.

    Raises
    ------
    UsageError
        If a layer is unknown or cannot be recorded, an argument is out of range, or the images are of a wrong
        type.
    DataError
        If images cannot be read, or the features do not fit in memory.
    """
    stimuli = open_stimuli(images)
    journey = ForwardPass(_network(model), stimuli, layers, batch_size=batch_size, device=device)
    found = journey.look().layers
    _require_memory(found, len(stimuli.image_ids))
    room = FeatureRoom(found, len(stimuli.image_ids), None)
    origin = journey.run(room.write, progress=progress)
    arrays = {name: np.asarray(values) for name, values in room.features().items()}
    return FeatureSet(arrays, {name: info.shape for name, info in found.items()}, origin)


def extract_to_file(
    model: nn.Module | str | Path,
    images: object,
    target: str | Path,
    layers: str | Sequence[str] | None = None,
    *,
    batch_size: int | None = None,
    device: str | torch.device = "cpu",
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> ExtractionReport:
    """Show images to a network and write what its layers give to a feature file, batch by batch.

    Memory holds one batch. The file appears under its name when it is complete, never before. A ``target``
    named ``*.npz`` is written as NumPy's archive, any other as HDF5; the former needs twice the features'
    size on the disk while it is written.

    Parameters
    ----------
    target
        The feature file; :func:`mvkit.features.read_features` reads it.
    overwrite
        Replace an existing file.
    model, images, layers, batch_size, device, progress
        As for :func:`extract`.

    Raises
    ------
    UsageError
        As for :func:`extract`, and if ``target`` exists and ``overwrite`` is False.
    DataError
        If images cannot be read.
    """
    target = Path(target)
    refuse_existing(target, overwrite=overwrite)
    stimuli = open_stimuli(images)
    journey = ForwardPass(_network(model), stimuli, layers, batch_size=batch_size, device=device)
    look = journey.look()
    if is_npz(target):
        check_names(look.layers)
    with hdf5_for(target) as path, h5py.File(path, "w") as file:
        writer = FeatureWriter(file, len(stimuli.image_ids), journey.images_per_batch)
        writer.create_layers(look.layers)

        def write(start: int, rows: Rows) -> None:
            for name, values in rows.items():
                writer.write_rows(name, start, values)

        origin = journey.run(write, progress=progress)
        writer.write_origin(origin)
    return ExtractionReport(target, tuple(look.layers.values()), origin)


def refuse_existing(target: Path, *, overwrite: bool) -> None:
    """Refuse a feature file that exists already, or is a folder.

    Raises
    ------
    UsageError
        With the way out.
    """
    atomic.refuse_existing(target, overwrite=overwrite, example="features.h5")


def _require_memory(layers: Mapping[str, LayerInfo], n_images: int) -> None:
    needed = sum(info.n_bytes(n_images) for info in layers.values())
    available = available_memory()
    if available is not None and needed > available:
        raise DataError(
            f"features of {len(layers)} layers for {n_images} images take {needed / 1e9:.2f} GB, and "
            f"{available / 1e9:.2f} GB of memory are available\n"
            "write them to a file (mvkit extract), take fewer layers, or score the model itself"
        )


def _network(model: nn.Module | str | Path) -> nn.Module:
    if isinstance(model, str | Path):
        return load_model(model)
    return unwrapped(model) if isinstance(model, nn.Module) else model
