"""Extraction: images through a network, layers to arrays or a file; the keys by which they are cached."""

from __future__ import annotations

import logging
import math
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mvkit.cache import LayerKey, fingerprint_of
from mvkit.display import ProgressCallback, ProgressOption, open_progress
from mvkit.errors import DataError, UsageError, wording
from mvkit.features.buffer import IN_MEMORY_BYTES, FeatureBuffer, StoredLayer, feature_buffer
from mvkit.features.feature_file import FeatureWriter, check_names, feature_path, hdf5_target, is_npz
from mvkit.features.feature_set import FeatureProvenance, FeatureSet, LayerInfo
from mvkit.features.hooks import (
    device_for,
    evaluation_mode,
    floating_dtype,
    limit_threads,
    measure_outputs,
    parse_device,
)
from mvkit.features.layers import (
    LayerTap,
    default_layers,
    joined_layers,
    layers_to_record,
    published_layers,
)
from mvkit.features.stimuli import (
    ImagesDigest,
    InputReader,
    Stimuli,
    check_movie,
    default_stimuli,
    describe_preprocessing,
    describe_provenance,
    network_inputs,
    open_stimuli,
)
from mvkit.files import check_output_path, digest_of, split_names
from mvkit.machine import available_memory, describe_gpu, installed_versions, sources_digest
from mvkit.models import VisionModel, load_model
from mvkit.models.base import declared_clip, weights_digest
from mvkit.models.exporting import ExportReport, export_weights
from mvkit.models.external import unwrap, with_input_size
from mvkit.models.names import check_export_target, compose_layers
from mvkit.models.preprocessing import InputOptions
from mvkit.paths import FALLBACK_DATASET, PREFERRED_DATASET

logger = logging.getLogger(__name__)

Rows = Mapping[str, NDArray[np.float32]]

#: Pixels of the first batch: 32 images of 64 x 64, 2 of 224 x 224.
_BATCH_PIXELS = 2**17
_LARGEST_BATCH = 64
#: Bytes of the largest output of a module that later batches have at most, and their images. At 224 px:
#: 16 images for AlexNet (12 % less time than 2), 8 for ResNet18 (10 % less), 2 for VGG16, whose outputs
#: leave the processor's cache (8 take 15 % more). Memory holds the requested layers of two batches.
_OUTPUT_BYTES = 2**25
_LARGEST_LATER_BATCH = 16

#: torch's messages on a processor and on Apple's devices; on other GPUs it has an error of its own for it.
_NO_MEMORY = re.compile("can't allocate memory|MPS backend out of memory")

#: To be raised whenever cached results must not be used any more.
EDITION = 2

#: Libraries whose versions features depend on.
_LIBRARIES = ("torch", "torchvision", "numpy", "pillow")
#: The parts of mvkit that features are computed by.
_OWN_PARTS = ("models", "features", "gabor.py")
#: The address of an object in memory, which differs from process to process.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def extract(  # noqa: PLR0913
    model: nn.Module | str | Path,
    images: object,
    layers: str | Sequence[str] | None = None,
    *,
    weights: str | Path | None = None,
    seed: int | None = None,
    input_size: int | None = None,
    batch_size: int | None = None,
    device: str | torch.device = "cpu",
    frame_rate_hz: float | None = None,
    progress: ProgressOption = None,
) -> FeatureSet:
    """Show images to a network and return the features of its layers.

    All layers come from one forward pass per batch, in evaluation mode and without gradients; the network's
    mode and device are restored afterwards. Results do not depend on ``batch_size`` beyond float rounding.

    Parameters
    ----------
    model
        A model of :func:`mvkit.load_model` (or what that takes: a name, the path of a training run's
        checkpoint), or any ``nn.Module``. One without ``.preprocess`` (mvkit's, a preset of torchvision's, or
        a callable from one PIL image to a float tensor) needs ``input_size``, or images that are prepared
        already: a float array or tensor (n, channels, height, width).
    images
        uint8 array (n, height, width) or (n, height, width, 3); a dataset or its name; a folder of images;
        prepared float inputs. See :func:`mvkit.features.open_stimuli`.
    layers
        Names or patterns (globs such as ``features.*``, regular expressions after ``re:``), or
        ``"published"`` for the list that the reference scored; None for the model's default list,
        ``model.layers``, the same but for ``vgg16_encoder``. ``NAME=a+b`` is a layer of the features of a
        and b side by side, ``"joined"`` stands for all of them that the model declares. A layer that runs
        several times gives ``name[0]``, ``name[1]``, ...; a tuple or dict output gives ``name:0`` or
        ``name:key``.
    weights, seed
        Of a model that is named: ``"released"`` (the default), ``"random"`` or the path of a checkpoint, and
        the seed of random weights; as for :func:`mvkit.load_model`.
    input_size
        Side in pixels of the images that a model that is named, or an ``nn.Module``, is shown; None: as it
        was trained, or as its ``.preprocess`` says.
    batch_size
        Images per forward pass; None: 131,072 pixels in the first batch (32 images of 64 px); later as many
        images as keep the largest output of the network's modules within 32 MB (a power of two, at most 16),
        and no fewer than before.
    device
        Where to compute: "cpu", "cuda", "cuda:1", ...
    frame_rate_hz
        Frames per second of a movie, whose frames the images are, in the order of time; a network that takes
        clips (``.clip_frames``) needs one. None: as the dataset says; of other images: none.
    progress
        Whether to show a bar; None: in notebooks and on terminals. Or a function, which is called with
        (images done, images in total) after each batch.

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
    stimuli = open_stimuli(images, frame_rate_hz=frame_rate_hz)
    network = open_network(model, weights=weights, seed=seed, input_size=input_size)
    patterns = split_names(layers)
    forward_pass = ForwardPass(network, stimuli, patterns, batch_size=batch_size, device=device)
    first = forward_pass.first_batch()
    infos = first.composed_infos()
    _check_memory(infos, len(stimuli.image_ids))
    buffer = FeatureBuffer(infos, len(stimuli.image_ids), None)
    with open_progress(progress, "extracting features") as bar:
        provenance = forward_pass.run(
            lambda start, rows: buffer.write(start, first.compose(rows)), progress=bar
        )
    arrays = {name: np.asarray(values) for name, values in buffer.features().items()}
    return FeatureSet(arrays, {name: info.shape for name, info in infos.items()}, provenance)


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
    """Show images to a network and write the features of its layers to a file, batch by batch.

    Memory holds two batches: one is written while the network computes the next. The file appears under its
    name when it is complete, never before. A ``target`` named ``*.npz`` is written as NumPy's archive, any
    other as HDF5; the former needs twice the features' size on the disk while it is written.

    Parameters
    ----------
    target
        The feature file; :func:`mvkit.features.read_features` reads it.
    overwrite
        Replace an existing file.
    model, images, layers, batch_size, device, progress
        As for :func:`extract`.

    Returns
    -------
    ExtractionReport
        The file, its layers, and their provenance.

    Raises
    ------
    UsageError
        As for :func:`extract`, and if ``target`` exists and ``overwrite`` is False.
    DataError
        If images cannot be read.
    """
    target = Path(target)
    check_output_path(target, overwrite=overwrite, example="features.h5")
    stimuli = open_stimuli(images)
    forward_pass = ForwardPass(open_network(model), stimuli, layers, batch_size=batch_size, device=device)
    first = forward_pass.first_batch()
    infos = first.composed_infos()
    if is_npz(target):
        check_names(infos)
    with hdf5_target(target) as (file, guard):
        writer = FeatureWriter(file, guard, len(stimuli.image_ids), forward_pass.images_per_batch)
        writer.create_layers(infos)

        def write(start: int, rows: Rows) -> None:
            for name, values in first.compose(rows).items():
                writer.write_rows(name, start, values)

        provenance = forward_pass.run(write, progress=progress)
        writer.write_provenance(provenance)
    return ExtractionReport(target, tuple(infos.values()), provenance)


@dataclass(frozen=True)
class ExtractionReport:
    """A feature file that was written.

    Parameters
    ----------
    path
        The feature file.
    layers
        Its layers, in order.
    provenance
        Network, weights, images and versions.
    """

    path: Path
    layers: tuple[LayerInfo, ...]
    provenance: FeatureProvenance

    @property
    def n_images(self) -> int:
        """Number of images."""
        return len(self.provenance.image_ids)

    def to_json(self) -> dict[str, object]:
        """Return the report as plain data."""
        return {
            "file": str(self.path),
            "model": self.provenance.model_name,
            "weights_id": self.provenance.weights_id,
            "stimuli": self.provenance.stimuli,
            "stimuli_digest": self.provenance.stimuli_digest,
            "n_images": self.n_images,
            "layers": [layer.to_json() for layer in self.layers],
            "preprocessing": dict(self.provenance.preprocessing),
            "versions": dict(self.provenance.versions),
        }


def _check_memory(layers: Mapping[str, LayerInfo], n_images: int) -> None:
    needed = sum(info.n_bytes(n_images) for info in layers.values())
    available = available_memory()
    if available is not None and needed > available:
        raise DataError(
            f"features of {len(layers)} layers for {n_images} images take {needed / 1e9:.2f} GB, and "
            f"{available / 1e9:.2f} GB of memory are available\n"
            "write them to a file (mvkit extract), take fewer layers, or score the model itself"
        )


def open_network(
    model: nn.Module | str | Path,
    *,
    weights: str | Path | None = None,
    seed: int | None = None,
    input_size: int | None = None,
    home: Path | None = None,
) -> nn.Module:
    """Load a model that is named; take the wrappers off one that is given, and prepare its input.

    Parameters
    ----------
    model, weights, seed, input_size
        As for :func:`extract`.
    home
        mvkit's home directory.

    Raises
    ------
    UsageError
        If a name is unknown, or an option does not belong to the model.
    """
    if isinstance(model, str | Path):
        return load_model(model, weights or "released", seed, home=home, input_size=input_size)
    if not isinstance(model, nn.Module):
        raise UsageError(f"cannot extract from {type(model).__name__}: give a model, or the name of one")
    for option, value in (("weights", weights), ("seed", seed)):
        if value is not None:
            raise UsageError(
                f"{option}: a model that is given has its weights\n"
                f"give {option} with the name of a model, here or in load_model(name, {option}=...)"
            )
    return unwrap(model) if input_size is None else with_input_size(model, input_size)


@dataclass(frozen=True)
class ExtractRequest:
    """One extraction, in names and numbers.

    Parameters
    ----------
    model
        Name of a model, or the path of a checkpoint or folder of a training run.
    layers
        Names, patterns or ``published``; None for the model's default list.
    stimuli
        Dataset, neural file or folder; None for the published stimuli if fetched, else the simulated ones.
    weights
        "released", "random" or the path of a checkpoint.
    seed
        Seed of random weights; None: 0, or a training run's own.
    batch_size
        Images per forward pass; None: as for :func:`extract`.
    device
        Where to compute; "auto": a GPU if there is one.
    threads
        CPU threads; None leaves torch's choice.
    inputs
        Preprocessing of an external model, see :func:`mvkit.load_model` (``input_size``, ``mean``, ...).
    home
        mvkit's home directory.
    format
        Of the feature file: "h5", "npz", or None to go by its name.
    frame_rate_hz
        Frames per second of a movie, whose frames the images are; None: as the dataset says.
    """

    model: str
    layers: tuple[str, ...] | None = None
    stimuli: str | None = None
    weights: str = "released"
    seed: int | None = None
    batch_size: int | None = None
    device: str = "cpu"
    threads: int | None = None
    inputs: InputOptions = field(default_factory=InputOptions)
    home: Path | None = None
    format: str | None = None
    frame_rate_hz: float | None = None

    def load_model(self) -> nn.Module:
        """Load the network."""
        return load_model(
            self.model, weights=self.weights, seed=self.seed, home=self.home, **self.inputs.keywords()
        )

    def open_stimuli(self, log: Callable[[str], None]) -> Stimuli:
        """Open the images; log it if simulated ones stand in for the published ones."""
        chosen = self.stimuli or default_stimuli(home=self.home)
        if self.stimuli is None and chosen == FALLBACK_DATASET:
            log(
                f"stimuli: the {FALLBACK_DATASET} dataset; for the published images run "
                f"mvkit fetch neural --dataset {PREFERRED_DATASET}"
            )
        return open_stimuli(chosen, home=self.home, frame_rate_hz=self.frame_rate_hz)


def run_extract(
    request: ExtractRequest,
    target: Path,
    *,
    overwrite: bool,
    log: Callable[[str], None],
    progress: ProgressCallback | None = None,
) -> ExtractionReport:
    """Carry out a request and write the feature file.

    Raises
    ------
    UsageError
        If there is no target, it exists, it is named otherwise than its format, or a name is wrong.
    MvkitError
        If weights or images are missing or damaged.
    """
    target = feature_path(target, request.format)
    # Before the weights are read, which takes seconds.
    check_output_path(target, overwrite=overwrite, example="features.h5")
    model = request.load_model()
    if isinstance(model, VisionModel) and model.describe():
        log(f"{model.name}: {model.describe()}")
    stimuli = request.open_stimuli(log)
    if (gpu := describe_gpu(parse_device(request.device))) is not None:
        log(f"device: {gpu}")
    with limit_threads(request.threads):
        return extract_to_file(
            model,
            stimuli,
            target,
            request.layers,
            batch_size=request.batch_size,
            device=request.device,
            overwrite=overwrite,
            progress=progress,
        )


def run_export(request: ExtractRequest, target: Path, *, overwrite: bool) -> ExportReport:
    """Write the weights of a request's model instead of features.

    Raises
    ------
    UsageError
        If the target exists or is not named ``*.safetensors``, or a name is wrong.
    MvkitError
        If weights are missing or damaged.
    """
    check_export_target(target, overwrite=overwrite)
    return export_weights(request.load_model(), target, overwrite=overwrite)


class ForwardPass:
    """Images on their way through a network.

    Parameters
    ----------
    model
        The network.
    stimuli
        The images.
    layers
        Names, patterns or ``"published"``; None for the model's default list.
    batch_size
        Images per forward pass; None: as for :func:`extract`.
    device
        Where to compute.

    Raises
    ------
    UsageError
        If a layer is unknown or an argument out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        stimuli: Stimuli,
        layers: str | Sequence[str] | None,
        *,
        batch_size: int | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        network: Any = model
        if not isinstance(network, nn.Module):
            raise UsageError(
                f"a network is needed, not {type(model).__name__} {model!r}; mvkit.load_model(name) gives one"
            )
        self.model = model
        self.stimuli = stimuli
        #: As asked for.
        self.batch_size = batch_size
        self.device = device_for(network, parse_device(device))
        check_movie(model, stimuli)
        self._tap = LayerTap(model, layers_to_record(model, layers))
        self._joined = joined_layers(model, layers)
        self._reader = InputReader(model, stimuli)
        self._first_size = self._size = self._first_batch_size()
        self._first_batch: FirstBatch | None = None
        self._digest = ImagesDigest()
        self._pending: Rows | None = None
        self._warned: set[str] = set()

    @property
    def images_per_batch(self) -> int:
        """How many images go through together after the first batch, which may be smaller."""
        self.first_batch()
        return self._size

    def first_batch(self) -> FirstBatch:
        """Show the first batch, once; later calls return the same.

        Raises
        ------
        UsageError
            If a layer cannot be recorded, or the images are of a wrong type.
        DataError
            If images cannot be read.
        """
        if self._first_batch is None:
            values = self._show_first_batch()
            n_images = min(self._first_size, len(self.stimuli.image_ids))
            default, published = set(default_layers(self.model)), set(published_layers(self.model))
            infos = {
                name: LayerInfo(name, tuple(value.shape[1:]), name in default, name in published)
                for name, value in values.items()
            }
            composition = compose_layers(tuple(values), self._tap.single, self._joined)
            self._first_batch = FirstBatch(infos, n_images, composition)
            self._pending = self._flat(values)
        return self._first_batch

    def first_rows(self) -> Rows:
        """Return the features of the first batch: layer -> float32 (n_images, n_features).

        They are dropped when :meth:`run` has passed them on; after that the batch is shown again.
        """
        self.first_batch()
        if self._pending is None:
            self._pending = self._flat(self._show_first_batch())
        return self._pending

    def run(
        self,
        consume: Callable[[int, Rows], None],
        names: Sequence[str] | None = None,
        *,
        progress: ProgressCallback | None = None,
    ) -> FeatureProvenance:
        """Pass the features of every batch, the first included, to ``consume(first row, layer -> rows)``.

        Parameters
        ----------
        consume
            Called in the order of the images, from a thread of its own while the network goes on with the
            next batch; must not keep rows if memory is to hold two batches only.
        names
            Layers, by the names of :attr:`FirstBatch.layers`; None: all of them.
        progress
            Called after each batch.

        Returns
        -------
        FeatureProvenance
            Network, weights, images and versions.
        """
        first_batch = self.first_batch()
        requested = list(first_batch.layers) if names is None else list(names)
        is_all = requested == list(first_batch.layers)
        tap = self._tap if is_all else LayerTap(self.model, layers_to_record(self.model, requested))
        n_images = len(self.stimuli.image_ids)
        first = self.first_rows()
        digest = self._digest.copy()
        self._pending = None
        # Batches after the first end at whole multiples of their size, as chunks of a file do.
        ends = {*range(self._size, n_images, self._size), n_images}
        batches = list(pairwise(sorted({first_batch.n_images, *ends} - set(range(first_batch.n_images)))))
        # One thread prepares the next batch and another takes the last: the network waits for neither.
        with (
            evaluation_mode(self.model, self.device),
            self._explain_memory_errors(),
            ThreadPoolExecutor(1, thread_name_prefix="mvkit-inputs") as reader,
            ThreadPoolExecutor(1, thread_name_prefix="mvkit-features") as writer,
        ):
            consumed = writer.submit(consume, 0, {name: first[name] for name in requested})
            del first
            if progress is not None:
                progress(first_batch.n_images, n_images)
            coming = deque(reader.submit(self._inputs, *batch, digest) for batch in batches[:1])
            for number, (start, stop) in enumerate(batches, start=1):
                inputs = coming.popleft().result()
                following = batches[number : number + 1]
                coming.extend(reader.submit(self._inputs, *batch, digest) for batch in following)
                rows = self._flat(tap(inputs))
                consumed.result()
                consumed = writer.submit(consume, start, rows)
                # It would live on while the next batch is on its way.
                del rows
                if progress is not None:
                    progress(stop, n_images)
            consumed.result()
        return describe_provenance(self.model, self.stimuli, digest.hexdigest())

    @contextmanager
    def features(
        self,
        names: Sequence[str],
        *,
        scratch: Path,
        progress: ProgressCallback | None = None,
        in_memory: int = IN_MEMORY_BYTES,
    ) -> Iterator[Mapping[str, NDArray[np.float32] | StoredLayer]]:
        """Show the other images, and hold the features of some layers for the length of a block.

        Parameters
        ----------
        names
            Layers, by the names of :attr:`FirstBatch.layers`.
        scratch
            Folder for what does not fit in memory; it is gone when the block ends.
        progress
            Called with (images done, images in total).
        in_memory
            Bytes of features that are held in memory at most.

        Yields
        ------
        mapping
            Layer -> float32 (n_images, n_features), an array or a :class:`StoredLayer`.

        Raises
        ------
        DataError
            If memory and disk cannot hold the features; as :meth:`first_batch`.
        """
        first = self.first_batch()
        infos = {name: first.layers[name] for name in names}
        n_images = len(self.stimuli.image_ids)
        with feature_buffer(infos, n_images, scratch=scratch, in_memory=in_memory) as buffer:
            if infos:
                self.run(buffer.write, names, progress=progress)
            yield buffer.features()

    def _first_batch_size(self) -> int:
        """Prepare one image, to know how large inputs are."""
        one = network_inputs(self.model, self.stimuli, self.stimuli.read(0, 1))
        shape, clip = one.shape[1:], declared_clip(self.model)
        # A clip has the pixels of all its frames.
        return images_per_batch(
            self.batch_size, shape if clip is None else (shape[0], clip.n_frames, *shape[1:])
        )

    def _show_first_batch(self) -> dict[str, Tensor]:
        self._digest = ImagesDigest()
        n_images = min(self._first_size, len(self.stimuli.image_ids))
        with evaluation_mode(self.model, self.device), self._explain_memory_errors():
            inputs = self._inputs(0, n_images, self._digest)
            with measure_outputs() as sizes:
                values = self._tap(inputs)
        if self.batch_size is None:
            self._size = later_images_per_batch(self._first_size, max(sizes, default=0) // n_images)
        return values

    def _inputs(self, start: int, stop: int, digest: ImagesDigest) -> Tensor:
        with torch.no_grad():  # a thread has a mode of its own
            inputs = self._reader.read(start, stop, digest)
            return inputs.to(self.device, floating_dtype(self.model))

    def _flat(self, values: Mapping[str, Tensor]) -> dict[str, NDArray[np.float32]]:
        rows = {
            name: value.reshape(len(value), -1).to(torch.float32).numpy() for name, value in values.items()
        }
        for name, row in rows.items():
            if name not in self._warned and not np.isfinite(row).all():
                self._warned.add(name)
                logger.warning(
                    "layer '%s': values that are not finite (the network overflows or holds NaN)", name
                )
        return rows

    @contextmanager
    def _explain_memory_errors(self) -> Iterator[None]:
        """Turn out-of-memory errors of torch and numpy into an error of two lines."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            reason = (str(error).splitlines() or [""])[0]
            if (
                not isinstance(error, MemoryError | torch.OutOfMemoryError)
                and _NO_MEMORY.search(reason) is None
            ):
                raise
            raise DataError(
                f"a batch of {self._size} images does not fit in memory with these layers ({reason})\n"
                + wording(
                    "give --batch-size 1 (mvkit score: --set machine.batch_size=1), or fewer --layers",
                    "give batch_size=1 (mvkit.score: resources=Resources(batch_size=1)), or fewer layers",
                )
            ) from error


@dataclass(frozen=True)
class FirstBatch:
    """The layers of a network and their shapes, from the first batch of images.

    Attributes
    ----------
    layers
        Layer -> its shape for one image, in the model's order; under final names (``name[0]``, ``name:key``).
    n_images
        How many images were shown: a full batch, unless there are fewer.
    composition
        Layer asked for -> those of ``layers`` that it is made of: itself, or the parts of a joined layer.
    """

    layers: Mapping[str, LayerInfo]
    n_images: int
    composition: Mapping[str, tuple[str, ...]]

    @property
    def joined(self) -> dict[str, tuple[str, ...]]:
        """Joined layer -> its parts."""
        return {name: parts for name, parts in self.composition.items() if parts != (name,)}

    def composed_infos(self) -> dict[str, LayerInfo]:
        """Return the layers asked for; of a joined one the shape is (n_features,)."""
        joined = {
            name: LayerInfo(name, (sum(self.layers[part].n_features for part in parts),), parts=parts)
            for name, parts in self.joined.items()
        }
        return {name: joined[name] if name in joined else self.layers[name] for name in self.composition}

    def compose(self, rows: Rows) -> Rows:
        """Return features of the layers asked for; those of parts lie side by side."""
        return {
            name: np.hstack([rows[part] for part in parts]) if name in self.joined else rows[name]
            for name, parts in self.composition.items()
        }


def images_per_batch(batch_size: int | None, input_shape: Sequence[int]) -> int:
    """Return how many images go through together in the first batch.

    Parameters
    ----------
    batch_size
        The size asked for, or None.
    input_shape
        Shape of one input, (channels, height, width) or any other.

    Raises
    ------
    UsageError
        If a size below 1 is asked for.
    """
    if batch_size is not None:
        if batch_size < 1:
            raise UsageError(f"batch size must be at least 1, got {batch_size}")
        return batch_size
    pixels = math.prod(input_shape[1:])
    return max(1, min(_LARGEST_BATCH, _BATCH_PIXELS // max(1, pixels)))


def later_images_per_batch(first: int, output_bytes: int) -> int:
    """Return how many images go through together when the outputs of the first batch are known.

    Parameters
    ----------
    first
        Images of the first batch, see :func:`images_per_batch`.
    output_bytes
        Of the largest output of a module for one image.

    Returns
    -------
    int
        The largest power of two up to 16 that keeps this output within 32 MB; no fewer than ``first``.
    """
    fitting = max(1, min(_LARGEST_LATER_BATCH, _OUTPUT_BYTES // max(1, output_bytes)))
    return max(first, 1 << (fitting.bit_length() - 1))


def layer_keys(forward_pass: ForwardPass) -> dict[str, LayerKey]:
    """Return the key and the fingerprint of every layer of a forward pass.

    Weights and buffers count by their present values, modules by class and settings, preprocessing by what is
    recorded of it, images by their pixels in order. Code does not count: its effect shows in the
    fingerprint. Names of models, datasets and files do not count, nor does which other layers were asked for.

    Returns
    -------
    dict
        Layer -> key. Empty where weights cannot be read; the reason is logged, and nothing is cached.

    Raises
    ------
    UsageError, DataError, UserCodeError
        As :meth:`~mvkit.features.extraction.ForwardPass.first_batch`.
    """
    # Wrappers change neither names nor what is computed.
    network = unwrap(forward_pass.model)
    weights = weights_digest(network)
    if weights is None:
        logger.info("the network holds tensors whose content cannot be read; nothing of it is cached")
        return {}
    versions = installed_versions(*_LIBRARIES)
    common = {
        "edition": EDITION,
        "weights": weights,
        "modules": _describe_modules(network),
        "preprocessing": _preprocessing(forward_pass.model, forward_pass.stimuli),
        "images": _images_digest(forward_pass.stimuli),
        "device": forward_pass.device.type,
        "batch_size": forward_pass.batch_size,
        "arithmetic": _arithmetic(),
        # Not Python's, which only calls the others, and of mvkit its sources.
        "versions": {**_package_versions(network), **{name: versions[name] for name in _LIBRARIES}},
        "mvkit": sources_digest(*_OWN_PARTS),
    }
    return {
        name: LayerKey(digest_of({**common, "layer": name}), fingerprint_of(rows))
        for name, rows in forward_pass.first_rows().items()
    }


def _describe_modules(network: nn.Module) -> list[tuple[str, str, str]]:
    """Return path, class and settings of every module, as torch prints them."""
    descriptions = []
    for path, module in network.named_modules(remove_duplicate=False):
        try:
            settings = _ADDRESS.sub("", module.extra_repr())
        except Exception:  # noqa: BLE001 - any error of a user's method, which only prints
            settings = ""
        descriptions.append((path, type(module).__qualname__, settings))
    return descriptions


def _package_versions(network: nn.Module) -> dict[str, str]:
    """Return the versions of the installed packages that the modules' classes come from."""
    versions = {}
    for package in {type(module).__module__.partition(".")[0] for module in network.modules()} - {"mvkit"}:
        try:
            versions[package] = version(package)
        except (PackageNotFoundError, ValueError):
            continue
    return versions


def _preprocessing(model: nn.Module, stimuli: Stimuli) -> dict[str, object]:
    # The name of its model may be that of a file.
    return {name: value for name, value in describe_preprocessing(model, stimuli).items() if name != "of"}


def _images_digest(stimuli: Stimuli) -> str:
    digest = ImagesDigest()
    for start in range(len(stimuli.image_ids)):
        digest.update(stimuli.read(start, start + 1))
    return digest.hexdigest()


def _arithmetic() -> dict[str, object]:
    """Return torch's settings that change results by more than float32 rounding."""
    return {
        "default_dtype": str(torch.get_default_dtype()),
        "matmul": torch.get_float32_matmul_precision(),
        "convolutions_tf32": torch.backends.cudnn.allow_tf32,
    }


@dataclass(frozen=True)
class DeviceProducts:
    """Forms ``block @ block.T`` on a device in float64; scoring uses it instead of numpy.

    See :class:`mvkit.scoring.gram.GramMatrix`. Products differ from numpy's by float64 rounding.
    A device without float64 (Apple's) cannot serve.

    Attributes
    ----------
    device
        "cuda", "cuda:1", "cpu", ...
    """

    device: str

    def __call__(self, block: NDArray[np.float64], /) -> NDArray[np.float64]:
        """Return float64 (n_images, n_images) for a block, float64 (n_images, n_features)."""
        values = torch.from_numpy(block).to(self.device)
        with torch.inference_mode():
            products: NDArray[np.float64] = (values @ values.T).cpu().numpy()
        return products
