"""Take features: images through preprocessing and network, batch by batch, into memory or a file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mvkit import atomic
from mvkit.errors import UsageError
from mvkit.features.feature_file import FeatureWriter
from mvkit.features.featureset import FeatureOrigin, FeatureSet, LayerInfo
from mvkit.features.formats import hdf5_for, is_npz
from mvkit.features.inputs import describe_origin, network_inputs
from mvkit.features.modes import evaluating, floating_dtype, parse_device
from mvkit.features.npz_file import check_names
from mvkit.features.stimuli import ImagesDigest, Stimuli, open_stimuli
from mvkit.features.tapping import LayerTap, layers_to_record, published_layers
from mvkit.models import load_model
from mvkit.models.foreign.wrappers import unwrapped

logger = logging.getLogger(__name__)

#: Called with (images done, images in total).
ProgressCallback = Callable[[int, int], None]
_Rows = Mapping[str, NDArray[np.float32]]


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
    batch_size: int = 64,
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
        checkpoint), or any ``nn.Module``. One without ``.preprocess`` takes only
        images that are prepared already: a float array or tensor (n, channels, height, width).
    images
        uint8 array (n, height, width) or (n, height, width, 3); a dataset or its name; a folder of images;
        prepared float inputs. See :func:`mvkit.features.open_stimuli`.
    layers
        Names or patterns (globs such as ``features.*``, regular expressions after ``re:``); None for the
        model's published list, ``model.layers``. A layer that runs several times gives ``name[0]``,
        ``name[1]``, ...; a tuple or dict output gives ``name:0`` or ``name:key``.
    batch_size
        Images per forward pass.
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
        If images cannot be read.
    """
    stimuli = open_stimuli(images)
    arrays: dict[str, NDArray[np.float32]] = {}
    shapes: dict[str, tuple[int, ...]] = {}

    def keep(start: int, rows: _Rows, infos: Mapping[str, LayerInfo]) -> None:
        if not arrays:
            for name, info in infos.items():
                arrays[name] = np.empty((len(stimuli.image_ids), info.n_features), np.float32)
                shapes[name] = info.shape
        for name, values in rows.items():
            arrays[name][start : start + len(values)] = values

    run = _Run(
        _network(model), stimuli, batch_size=batch_size, device=parse_device(device), progress=progress
    )
    return FeatureSet(arrays, shapes, run.through(layers, keep))


def extract_to_file(
    model: nn.Module | str | Path,
    images: object,
    target: str | Path,
    layers: str | Sequence[str] | None = None,
    *,
    batch_size: int = 64,
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
    run = _Run(
        _network(model), stimuli, batch_size=batch_size, device=parse_device(device), progress=progress
    )
    found: dict[str, LayerInfo] = {}
    with hdf5_for(target) as path, h5py.File(path, "w") as file:
        writer = FeatureWriter(file, len(stimuli.image_ids), batch_size)

        def write(start: int, rows: _Rows, infos: Mapping[str, LayerInfo]) -> None:
            if not found:
                if is_npz(target):
                    check_names(infos)
                found.update(infos)
                writer.create_layers(infos)
            for name, values in rows.items():
                writer.write_rows(name, start, values)

        origin = run.through(layers, write)
        writer.write_origin(origin)
    return ExtractionReport(target, tuple(found.values()), origin)


def refuse_existing(target: Path, *, overwrite: bool) -> None:
    """Refuse a feature file that exists already, or is a folder.

    Raises
    ------
    UsageError
        With the way out.
    """
    atomic.refuse_existing(target, overwrite=overwrite, example="features.h5")


@dataclass(frozen=True)
class _Run:
    """One journey of all images through one network."""

    model: nn.Module
    stimuli: Stimuli
    batch_size: int
    device: torch.device
    progress: ProgressCallback | None
    digest: ImagesDigest = field(default_factory=ImagesDigest)

    def __post_init__(self) -> None:
        model: Any = self.model
        if not isinstance(model, nn.Module):
            raise UsageError(
                f"a network is needed, not {type(model).__name__} {model!r}; mvkit.load_model(name) gives one"
            )
        if self.batch_size < 1:
            raise UsageError(f"batch size must be at least 1, got {self.batch_size}")

    def through(
        self,
        layers: str | Sequence[str] | None,
        consume: Callable[[int, _Rows, Mapping[str, LayerInfo]], None],
    ) -> FeatureOrigin:
        """Hand every batch's features to ``consume(first row, layer -> rows, layer -> info)``."""
        tap = LayerTap(self.model, layers_to_record(self.model, layers))
        published = set(published_layers(self.model))
        n_images = len(self.stimuli.image_ids)
        with evaluating(self.model, self.device):
            dtype = floating_dtype(self.model)
            for start in range(0, n_images, self.batch_size):
                stop = min(start + self.batch_size, n_images)
                pictures = self.stimuli.read(start, stop)
                self.digest.update(pictures)
                inputs = network_inputs(self.model, self.stimuli, pictures)
                values = tap(inputs.to(self.device, dtype))
                infos = {
                    name: LayerInfo(name, tuple(value.shape[1:]), name in published)
                    for name, value in values.items()
                }
                consume(start, {name: _flat(name, value) for name, value in values.items()}, infos)
                if self.progress is not None:
                    self.progress(stop, n_images)
        return describe_origin(self.model, self.stimuli, self.digest.hexdigest())


def _network(model: nn.Module | str | Path) -> nn.Module:
    if isinstance(model, str | Path):
        return load_model(model)
    return unwrapped(model) if isinstance(model, nn.Module) else model


def _flat(layer: str, value: Tensor) -> NDArray[np.float32]:
    rows: NDArray[np.float32] = value.reshape(len(value), -1).to(torch.float32).numpy()
    if not np.isfinite(rows).all():
        logger.warning("layer '%s': values that are not finite (the network overflows or holds NaN)", layer)
    return rows
