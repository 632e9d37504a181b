"""Estimate of what a scoring run needs before it starts: layers, fits, memory and disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvkit.files import format_bytes, plain
from mvkit.machine import available_cores, available_memory, free_disk, resident_memory
from mvkit.paths import ceilings_dir, scratch_dir
from mvkit.pipeline.layers import OpenedLayers, fit_device, fit_workers, open_layers
from mvkit.pipeline.request import ScoreRequest
from mvkit.pipeline.score import Note, open_run

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from mvkit.scoring import ScoreSettings
    from mvkit.scoring.settings import RecordingLike


#: Float64 blocks at a time while a layer is prepared: its features, their deviations, a factorisation.
_BLOCKS = 3
#: Maps that hold all features of a layer in float64, in every worker process.
_WHOLE = ("lasso", "elasticnet")
_FLOAT64 = 8


@dataclass(frozen=True)
class LayerEstimate:
    """A layer: shape for one image, bytes of the features of all, recordings whose scores are cached."""

    name: str
    shape: tuple[int, ...]
    n_features: int
    n_bytes: int
    n_cached: int


@dataclass(frozen=True)
class ModelEstimate:
    """What scoring a model needs.

    Attributes
    ----------
    name, layers
        As the user named it; in order.
    n_fits
        Fits (comparisons, for rsa and cka) that are left to make.
    features, features_on_disk
        Bytes of the features of all images: in memory, or in the scratch folder; the other is 0.
    batch
        Bytes of the layers of two batches of images: one is passed on while the network computes the next.
    blocks
        Bytes of float64 blocks and Gram matrices of the layers that are prepared at a time.
    whole
        Bytes of features in float64 that a map needs whole, in all worker processes together; else 0.
    """

    name: str
    layers: tuple[LayerEstimate, ...]
    n_fits: int
    features: int
    features_on_disk: int
    batch: int
    blocks: int
    whole: int

    @property
    def memory(self) -> int:
        """The most bytes of memory that are needed at a time beside those in use."""
        return self.features + max(self.batch, self.blocks, self.whole)

    @property
    def n_cached(self) -> int:
        """Pairs of layer and recording whose scores are cached."""
        return sum(layer.n_cached for layer in self.layers)


@dataclass(frozen=True)
class ResourceEstimate:
    """What a scoring run needs, and what this machine has.

    Attributes
    ----------
    dataset, n_images, n_recordings, n_units
        The recordings, or pooled populations, that layers are compared with.
    settings
        The protocol.
    n_workers
        Fits at a time; -1: one per core of the dask cluster.
    ceiling_is_cached
        None if no ceiling between animals is asked for.
    memory_in_use
        Bytes that this process takes now that models and recordings are open.
    memory_available
        Bytes that can be had beside them; None where the system does not say.
    scratch, disk_free
        Folder of features that do not stay in memory, and the bytes free on its disk.
    models
        In the order given.
    """

    dataset: str
    n_images: int
    n_recordings: int
    n_units: int
    settings: ScoreSettings
    n_workers: int
    ceiling_is_cached: bool | None
    memory_in_use: int
    memory_available: int | None
    scratch: Path
    disk_free: int
    models: tuple[ModelEstimate, ...] = ()

    @property
    def error(self) -> str:
        """Why the run cannot be done here, with numbers, or ""."""
        errors = {model.name: _error(self, model) for model in self.models}
        return "\n".join(f"{name}: {error}" for name, error in errors.items() if error)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; bytes are numbers."""
        models = [
            {**asdict(model), "memory": model.memory, "n_cached": model.n_cached} for model in self.models
        ]
        settings = self.settings.model_dump(mode="json")
        document: dict[str, Any] = plain({**vars(self), "settings": settings, "models": models})
        return {**document, "fits": not self.error, "error": self.error}


def estimate_run(request: ScoreRequest, *, note: Note) -> ResourceEstimate:
    """Estimate what a scoring run needs: a first batch goes through each network, and nothing is written.

    Scores, coordinates and ceilings that are cached count as done.

    Parameters
    ----------
    request
        As for :func:`mvkit.pipeline.score.run_score`, with the same checks.
    note
        Called with notes for the user.

    Raises
    ------
    UsageError, RecipeError, CheckpointError, DataError
        As :func:`mvkit.pipeline.score.run_score`.
    """
    from mvkit.pipeline.cached import is_ceiling_cached
    from mvkit.scoring.run import check_recordings, populations

    run = open_run(request, note=note)
    resources, settings = run.resources, run.settings
    n_images = check_recordings(run.recordings, settings)
    compared = populations(run.recordings, settings)
    scratch = resources.scratch or scratch_dir(resources.home)
    ceiling_is_cached = None
    if settings.ceiling != "none":
        ceilings = ceilings_dir(resources.home)
        ceiling_is_cached = resources.cache and is_ceiling_cached(run.recordings, settings, ceilings)
    estimate = ResourceEstimate(
        dataset=run.dataset.name,
        n_images=n_images,
        n_recordings=len(compared),
        n_units=sum(len(recording.unit_ids) for recording in compared),
        settings=settings,
        n_workers=fit_workers(resources, fit_device(resources, settings)),
        ceiling_is_cached=ceiling_is_cached,
        memory_in_use=resident_memory(),
        memory_available=available_memory(),
        scratch=scratch,
        disk_free=free_disk(scratch),
    )
    models = []
    for name, model in run.models.items():
        opened = open_layers(
            model, run.dataset, request.layers, settings, resources, shuffle_seed=run.shuffle_seed
        )
        models.append(_estimate_model(name, opened, compared, estimate))
    return replace(estimate, models=tuple(models))


def _estimate_model(
    name: str, opened: OpenedLayers, compared: Sequence[RecordingLike], estimate: ResourceEstimate
) -> ModelEstimate:
    from mvkit.features.buffer import IN_MEMORY_BYTES
    from mvkit.scoring.gram import MANY_IMAGES, columns_at_a_time
    from mvkit.scoring.protocol import splits_of
    from mvkit.scoring.run import layers_at_a_time, prepared_bytes
    from mvkit.scoring.sparse import sparse_bytes

    settings, n_images = estimate.settings, estimate.n_images
    cache = opened.score_cache(settings)
    layers = tuple(
        LayerEstimate(
            name=layer,
            shape=info.shape,
            n_features=info.n_features,
            n_bytes=info.n_bytes(n_images),
            n_cached=0 if cache is None else sum(cache.read(layer, one) is not None for one in compared),
        )
        for layer, info in ((name, opened.infos[name]) for name in opened.source.names)
    )
    todo = [layer for layer in layers if layer.n_cached < len(compared)]
    # Features are needed of these and of their parts, but not where coordinates are enough and cached.
    composition = opened.source.composition(layer.name for layer in todo)
    needed = dict.fromkeys(part for parts in composition.values() for part in parts)
    coordinates = opened.coordinates_cache(settings)
    if coordinates is not None:
        needed = {name: None for name in needed if coordinates.read(name) is None}
    features = sum(opened.infos[name].n_bytes(n_images) for name in needed)
    available = estimate.memory_available
    in_memory = features <= (IN_MEMORY_BYTES if available is None else min(IN_MEMORY_BYTES, available // 2))
    splits = splits_of(n_images, settings)
    n_splits = len(splits)
    widest = max((layer.n_features for layer in todo), default=0)
    n_cores = available_cores()
    at_a_time = min(len(todo), layers_at_a_time(n_images, n_splits))
    n_threads = n_cores if estimate.n_workers == -1 else min(estimate.n_workers, n_cores)
    block = _BLOCKS * n_images * min(widest, columns_at_a_time(n_images)) * _FLOAT64
    blocks = min(n_threads, at_a_time) * block
    if at_a_time == 1:  # then splits are prepared in threads
        blocks = max(blocks, min(n_threads, n_splits) * _BLOCKS * n_images * min(widest, n_images) * _FLOAT64)
    # Coordinates, the Gram matrix of many images, and a training and a test part for every split.
    n_matrices = 2 if splits[0].train.size >= MANY_IMAGES else 1
    prepared = at_a_time * (n_matrices * n_images**2 * _FLOAT64 + prepared_bytes(n_images, n_splits))
    # Workers of a cluster (-1) have memory of their own.
    n_whole = max(0, estimate.n_workers) if settings.mapping in _WHOLE else 0
    # A map is fitted to either half of the trials, or to all of them.
    n_fits = n_splits * (2 * settings.n_halves if settings.measure == "corrected" else 1)
    return ModelEstimate(
        name=name,
        layers=layers,
        n_fits=n_fits * sum(len(compared) - layer.n_cached for layer in todo),
        features=features if in_memory else 0,
        features_on_disk=0 if in_memory else features,
        batch=2 * min(opened.images_per_batch, n_images) * features // n_images,
        blocks=blocks + prepared,
        whole=n_whole * sparse_bytes(n_images, widest),
    )


def _error(estimate: ResourceEstimate, model: ModelEstimate) -> str:
    available = estimate.memory_available
    if available is not None and model.whole > available:
        widest = max(model.layers, key=lambda layer: layer.n_features)
        return (
            f"{estimate.settings.mapping} holds all features of a layer in float64: "
            f"{format_bytes(model.whole)} for {widest.n_features} features of layer '{widest.name}' "
            f"in {estimate.n_workers} processes, and {format_bytes(available)} are available\n"
            "use --map ridge, give fewer --jobs, or leave wide layers out (--layers)"
        )
    if available is not None and model.memory > available:
        return (
            f"{format_bytes(estimate.memory_in_use + model.memory)} of memory are needed, of which "
            f"{format_bytes(estimate.memory_in_use)} are in use already, and "
            f"{format_bytes(available)} more are available\n"
            "score fewer --layers at a time, or give fewer --jobs or a smaller --set machine.batch_size=N"
        )
    if model.features_on_disk > estimate.disk_free:
        return (
            f"{estimate.scratch}: features take {format_bytes(model.features_on_disk)}, and "
            f"{format_bytes(estimate.disk_free)} are free\n"
            "give a folder on another disk with --set machine.scratch=DIR, or score fewer --layers at a time"
        )
    return ""


def estimate_page(estimate: ResourceEstimate) -> Iterator[str | RenderableType]:
    """Yield the lines and tables of an estimate in the order of printing; text is to be printed as a line."""
    from mvkit.report.text import trial_words

    settings = estimate.settings
    workers = _count(estimate.n_workers, "worker process", "es")
    yield (
        f"{estimate.dataset}: {estimate.n_images} images, {estimate.n_recordings} recordings, "
        f"{estimate.n_units} units; {settings.mapping}, {_count(settings.n_splits, 'image split')}, "
        f"{trial_words(settings)}, {'a dask cluster' if estimate.n_workers == -1 else workers}"
    )
    for model in estimate.models:
        n_bytes = sum(layer.n_bytes for layer in model.layers)
        n_pairs = len(model.layers) * estimate.n_recordings
        where = "in memory"
        if model.features_on_disk:
            where = f"in {estimate.scratch} while they are needed ({format_bytes(estimate.disk_free)} free)"
        elif model.n_cached == n_pairs:
            where = "not needed: every score is cached"
        yield ""
        yield f"{model.name}: {_count(len(model.layers), 'layer')}, features {format_bytes(n_bytes)}, {where}"
        yield _layer_table(model.layers, estimate.n_recordings)
        if model.n_cached:
            yield f"cached: {model.n_cached} of {n_pairs} pairs of layer and recording"
        yield _memory_line(estimate, model)
        yield f"fits: {model.n_fits}"
    yield ""
    if estimate.ceiling_is_cached is not None:
        state = "cached" if estimate.ceiling_is_cached else "not cached, to be measured too"
        yield f"ceiling between animals ({settings.ceiling}): {state}"
    yield f"whole run: {sum(model.n_fits for model in estimate.models)} fits"
    if not estimate.error:
        yield "nothing was scored; the same command without --dry-run does it"


def _layer_table(layers: Sequence[LayerEstimate], n_recordings: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    has_cached = any(layer.n_cached for layer in layers)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layer")
    for column in ("shape", "features", "bytes", *(("cached",) if has_cached else ())):
        table.add_column(column, justify="right", no_wrap=True)
    for layer in layers:
        cells = [" x ".join(map(str, layer.shape)), str(layer.n_features), format_bytes(layer.n_bytes)]
        cells += [f"{layer.n_cached} of {n_recordings}"] if has_cached else []
        table.add_row(Text(layer.name), *cells)
    return table


def _memory_line(estimate: ResourceEstimate, model: ModelEstimate) -> str:
    available = estimate.memory_available
    more = "" if available is None else f"; {format_bytes(available)} more are available"
    largest = max((model.batch, "a batch"), (model.blocks, "blocks"), (model.whole, "float64 features"))
    return (
        f"memory: peak about {format_bytes(estimate.memory_in_use + model.memory)} "
        f"({format_bytes(estimate.memory_in_use)} libraries, weights and recordings, "
        f"{format_bytes(model.features)} features, {format_bytes(largest[0])} {largest[1]}){more}"
    )


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else plural}"
