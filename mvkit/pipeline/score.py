"""Scoring from models and recordings to scores, ceilings and comparisons."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mvkit.errors import DataError, UsageError
from mvkit.files import shorten
from mvkit.machine import Resources, choose_device, describe_gpu, worker_number
from mvkit.paths import cache_dir, ceilings_dir
from mvkit.pipeline.layers import label_model, open_layers, score_source, weights_source
from mvkit.pipeline.request import (
    ScoreRequest,
    choose_recordings,
    compare_with_table2,
    dataset_context,
    load_models,
    open_default,
    resolve_recipe,
)
from mvkit.report.text import ScoreRun
from mvkit.scoring.parallel import dask_cluster

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pandas import DataFrame
    from torch import nn

    from mvkit.features import FeatureSet
    from mvkit.models import VisionModel
    from mvkit.neural import NeuralDataset, Recording
    from mvkit.neural.selection import SelectionOutcome
    from mvkit.pipeline.cached import DiskScoreCache
    from mvkit.scoring import Scores, ScoreSettings
    from mvkit.scoring.extrapolation import Extrapolation


Progress = Callable[[int, int], None]


#: Mapping of :func:`score` and :func:`ceiling` if none is given.
_DEFAULT_MAPPING = "pls"


def score(
    features_or_model: FeatureSet | nn.Module | Mapping[str, NDArray[np.floating[Any]]] | str | Path,
    dataset: NeuralDataset | str | Path,
    layers: Sequence[str] | str | None = None,
    areas: Sequence[str] | str | None = None,
    mapping: str = _DEFAULT_MAPPING,
    *,
    n_jobs: int | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    **settings: object,
) -> Scores:
    """Score how well layers predict every unit of a dataset, corrected for noise.

    Parameters
    ----------
    features_or_model
        A model (its layers are extracted from the dataset's stimuli in one pass), the name of one
        (released weights where there are any), the path of a training run's checkpoint, a
        :class:`~mvkit.features.FeatureSet`, or a mapping from layer to float array
        (n_images, n_features) in the order of the dataset's images.
    dataset
        A dataset, the name of one, or the path of a neural file (default selection of units).
    layers
        Names, patterns, or ``"published"`` for the list that the reference scored; None means the model's
        default list (the same but for ``vgg16_encoder``), or every layer of given features.
    areas
        Area acronyms, e.g. ``["VISp", "VISl"]``; None means all.
    mapping
        ``"pls"``, ``"ridge"``, ``"one-to-one"``, ``"lasso"``, ``"elasticnet"``, ``"rsa"`` or ``"cka"``.
    n_jobs
        Worker processes; None means one per core. The result does not depend on it.
    device
        Where features are extracted, e.g. ``"cuda"``.
    progress
        Called with (done, total) fits.
    **settings
        Fields of :class:`~mvkit.scoring.ScoreSettings`, for instance ``n_splits=2, n_halves=10``
        (``splits`` and ``halves`` are understood too), or ``settings=ScoreSettings(...)``. Those of the
        ceiling are stored with the scores and change nothing; :func:`ceiling` measures one.
        ``cache=False`` neither uses nor caches results under mvkit's home; ``resources=Resources(...)``
        replaces ``n_jobs``, ``device`` and ``cache``.

    Returns
    -------
    Scores
        One row per layer, area, specimen and unit; see :class:`~mvkit.scoring.Scores`.

    Raises
    ------
    UsageError
        An unknown model, layer, area or setting, or ``resources`` beside what it stands for.
    DataError
        Features and responses are not of the same images.

    Notes
    -----
    Protocol of Nayebi, Kong et al. 2023, PLOS Comput Biol 19(10):e1011506, as the code published with it
    computes it; numbers of splits and trial halves as given to us, not checked against the paper's text.
    """
    from mvkit.neural import open_dataset

    resources = _resources(n_jobs, device, settings)
    resolved = _settings_with(mapping, settings)
    opened = open_dataset(dataset, home=resources.home) if isinstance(dataset, str | Path) else dataset
    recordings = choose_recordings(opened, areas)
    with dask_cluster(resources.dask):
        return score_source(
            features_or_model, opened, recordings, resolved, resources, layers=layers, progress=progress
        )


def _resources(n_jobs: int | None, device: str, options: dict[str, object]) -> Resources:
    """Remove where to run from the options of a call, and return it."""
    cache, resources = options.pop("cache", None), options.pop("resources", None)
    if resources is None:
        if cache not in (None, True, False):
            raise UsageError(f"cache: must be True or False, got {cache!r}")
        return Resources(n_jobs=n_jobs, device=device, cache=cache is not False)
    if not isinstance(resources, Resources):
        raise UsageError(f"resources: must be Resources, got {type(resources).__name__}")
    if (n_jobs, device, cache) != (None, "cpu", None):
        raise UsageError("resources: says n_jobs, device and cache already; give either it or these")
    return resources


def ceiling(
    dataset: NeuralDataset | str | Path,
    areas: Sequence[str] | str | None = None,
    kind: Literal["holdout", "pairwise"] = "holdout",
    mapping: str = _DEFAULT_MAPPING,
    *,
    home: Path | None = None,
    n_jobs: int | None = None,
    progress: Progress | None = None,
    **settings: object,
) -> Scores:
    """Measure how well animals predict one another: the ceiling of what a model can reach.

    A ceiling that was measured before is read from ``ceilings`` under mvkit's home.

    Parameters
    ----------
    dataset
        A dataset, the name of one, or the path of a neural file (default selection of units).
    areas
        Area acronyms; None means all.
    kind
        ``"holdout"`` predicts each animal from the units of all others pooled, ``"pairwise"`` from every
        other animal by itself.
    mapping
        As in :func:`score`.
    home
        mvkit's home directory; None means the usual one.
    n_jobs
        Worker processes; None means one per core. The result does not depend on it.
    progress
        Called with (done, total) fits.
    **settings
        As in :func:`score`; the same settings make the ceiling comparable with scores.

    Returns
    -------
    Scores
        One row per area, specimen and unit, under one "layer" named as ``kind``.

    Raises
    ------
    UsageError
        An unknown area or setting.

    Notes
    -----
    Inter-animal consistency of Nayebi, Kong et al. 2023, PLOS Comput Biol 19(10):e1011506, as the code
    published with it computes it.
    """
    from mvkit.neural import open_dataset

    resolved = _settings_with(mapping, {**settings, "ceiling": kind})
    opened = open_dataset(dataset) if isinstance(dataset, str | Path) else dataset
    recordings = choose_recordings(opened, areas)
    resources = Resources(n_jobs=n_jobs, home=home)
    measured, _ = measured_ceiling(opened, recordings, resolved, resources=resources, progress=progress)
    return measured


def _settings_with(mapping: str, settings: Mapping[str, object]) -> ScoreSettings:
    """Resolve settings of a call: ``settings=``, if given, under keywords and a mapping that was named."""
    options = dict(settings)
    base = options.pop("settings", None)
    if base is None or mapping != _DEFAULT_MAPPING:
        options = {"mapping": mapping, **options}
    from mvkit.scoring.settings import merge_settings

    return merge_settings(base, options)


#: Characters of a value that an error shows.
_LONGEST = 40


def measured_ceiling(
    dataset: NeuralDataset,
    recordings: Sequence[Recording],
    settings: ScoreSettings,
    *,
    resources: Resources,
    progress: Progress | None = None,
) -> tuple[Scores, bool]:
    """Measure the ceiling that settings ask for, or read it from mvkit's home.

    Parameters
    ----------
    dataset
        Where the recordings come from.
    recordings
        Those of the requested areas.
    settings
        ``ceiling`` is ``"holdout"`` or ``"pairwise"``.
    resources
        Worker processes; mvkit's home, unless nothing is to be cached.
    progress
        Called with (done, total) fits.

    Returns
    -------
    ceiling
        See :func:`mvkit.scoring.ceilings.measure_ceiling`.
    was_cached
        Whether it was read from the cache.
    """
    from mvkit.pipeline.cached import cached_ceiling
    from mvkit.scoring.ceilings import measure_ceiling

    n_jobs, context = worker_number(resources), dataset_context(dataset)
    if not resources.cache:
        measured = measure_ceiling(recordings, settings, n_jobs=n_jobs, progress=progress, context=context)
        return measured, False
    folder = ceilings_dir(resources.home)
    return cached_ceiling(recordings, settings, folder, n_jobs=n_jobs, progress=progress, context=context)


def fractions_by_choice(scores: Scores, ceiling: Scores) -> DataFrame:
    """Return scores as fractions of a ceiling by both choices of layers, named in a column.

    See :func:`mvkit.scoring.comparison.fraction_of_ceiling`.
    """
    import pandas

    from mvkit.scoring.comparison import fraction_of_ceiling
    from mvkit.scoring.layer_choice import CHOICES

    return pandas.concat(
        [fraction_of_ceiling(scores, ceiling, choice=choice) for choice in CHOICES], ignore_index=True
    )


def read_earlier(folders: Sequence[Path]) -> dict[str, Scores]:
    """Read saved scores to compare with.

    Parameters
    ----------
    folders
        Folders that ``mvkit score --out`` wrote, one per model.

    Returns
    -------
    dict
        Folder as given, with the seed of random weights -> scores.

    Raises
    ------
    UsageError
        If a folder is given twice.
    DataError
        If one holds no scores, or damaged ones.
    """
    from mvkit.scoring import read_scores

    earlier: dict[str, Scores] = {}
    paths = set()
    for folder in folders:
        if folder.resolve() in paths:
            raise UsageError(f"--against {folder}: given twice")
        paths.add(folder.resolve())
        scores = read_scores(folder)
        earlier[label_model(str(folder), str(scores.context.get("weights_source", "")))] = scores
    return earlier


def check_protocols(
    earlier: Mapping[str, Scores],
    dataset: NeuralDataset,
    recordings: Sequence[Recording],
    settings: ScoreSettings,
) -> None:
    """Check that saved scores have the protocol that scores of these recordings will have.

    Parameters
    ----------
    earlier
        Folder -> saved scores.
    dataset, recordings, settings
        What is about to be scored.

    Raises
    ------
    UsageError
        For the first such scores, naming every field that differs.
    """
    import numpy as np

    from mvkit.scoring import Scores
    from mvkit.scoring.comparison import protocol_differences
    from mvkit.scoring.protocol import recordings_digest

    if not earlier:
        return
    context = {**dataset_context(dataset), "responses_sha256": recordings_digest(recordings)}
    areas = tuple(dict.fromkeys(recording.area for recording in recordings))
    here = Scores({"score": np.empty(0)}, (), areas, settings, context)
    for label, scores in earlier.items():
        differences = protocol_differences(scores, here)
        if scores.areas != areas:
            # Says more than the digest of the responses, which differs too.
            differences["areas"] = ",".join(scores.areas), ",".join(areas)
        if differences:
            fields = "; ".join(
                f"{name}: {shorten(there, _LONGEST)} there, {shorten(now, _LONGEST)} here"
                for name, (there, now) in differences.items()
            )
            raise UsageError(
                f"--against {label}: saved with another protocol, which must not be compared\n{fields}"
            )


#: Called with a note for the user.
Note = Callable[[str], None]

#: Opens a progress bar with a label; the bar is called with (done, total).
ProgressBar = Callable[[str], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class OpenedRun:
    """Everything that a run needs, loaded and checked."""

    settings: ScoreSettings
    extrapolate: Literal["none", "units", "stimuli"]
    resources: Resources
    #: Label -> model, in the order given.
    models: Mapping[str, VisionModel]
    earlier: Mapping[str, Scores]
    dataset: NeuralDataset
    recordings: Sequence[Recording]


def no_progress(label: str) -> AbstractContextManager[Progress]:
    """Show no progress."""
    return nullcontext(lambda done, total: None)


def run_score(request: ScoreRequest, *, note: Note, progress: ProgressBar = no_progress) -> ScoreRun:
    """Carry out a scoring run; everything is checked before work starts.

    Parameters
    ----------
    request
        What to score.
    note
        Called with notes for the user, e.g. which dataset was chosen.
    progress
        Opens a progress bar for each part of the work.

    Raises
    ------
    UsageError, RecipeError
        An unknown name, a value out of range, or earlier scores of another protocol.
    CheckpointError, DataError
        Weights, recordings or earlier scores are missing or damaged; names the command that fetches them.
    """
    from mvkit.scoring.comparison import compare_models

    with dask_cluster(request.resources.dask):
        run = open_run(request, note=note)
        models: dict[str, Scores] = {}
        for name, (label, model) in zip(request.models, run.models.items(), strict=True):
            # A training run goes by its folder; a user's file by its name, as a path is nobody's business.
            given = None if name.endswith(model.name) else label
            with progress(f"scoring {label}") as bar:
                models[label] = score_source(
                    model,
                    run.dataset,
                    run.recordings,
                    run.settings,
                    run.resources,
                    layers=request.layers,
                    label=given,
                    progress=bar,
                )
        ceiling = _ceiling(run, note, progress)
        compared = {**models, **run.earlier}
        return ScoreRun(
            models=models,
            earlier=run.earlier,
            table2={
                label: compare_with_table2(name, request.weights, scores)
                for name, (label, scores) in zip(request.models, models.items(), strict=True)
            },
            ceiling=ceiling,
            fractions={}
            if ceiling is None
            else {label: fractions_by_choice(scores, ceiling) for label, scores in models.items()},
            # Earlier scores may have been saved with the other choice; both can be made from either.
            comparison=compare_models(compared, choice=run.settings.layer_choice)
            if len(compared) > 1
            else None,
            extrapolation=_extrapolation(run, progress),
            selection=_selection(request, run),
        )


def open_run(request: ScoreRequest, *, note: Note) -> OpenedRun:
    """Load everything that a request names, and check that it can be done.

    Raises
    ------
    UsageError, RecipeError, CheckpointError, DataError
        As :func:`run_score`.
    """
    recipe = resolve_recipe(request)
    settings = recipe.settings
    selection = recipe.selection.resolve()
    device = choose_device(request.resources.device)
    if (gpu := describe_gpu(device)) is not None:
        note(f"device: {gpu}")
    resources = replace(
        request.resources,
        device=str(device),
        batch_size=recipe.machine.batch_size or request.resources.batch_size,
        scratch=recipe.machine.scratch or request.resources.scratch,
    )
    home = resources.home
    models = load_models(
        request.models,
        layers=request.layers,
        weights=request.weights,
        seed=request.seed,
        home=home,
        inputs=recipe.input.options(),
    )
    earlier = read_earlier(request.against)
    dataset = open_default(request.dataset, selection=selection, home=home, remark=note)
    recordings = choose_recordings(dataset, request.areas)
    check_protocols(earlier, dataset, recordings, settings)
    labels = {label_model(name, weights_source(model)): model for name, model in models.items()}
    return OpenedRun(settings, recipe.extrapolate, resources, labels, earlier, dataset, recordings)


def _selection(request: ScoreRequest, run: OpenedRun) -> SelectionOutcome | None:
    """Return which units of the areas that are scored the selection kept."""
    outcome = run.dataset.selection_outcome
    return outcome if outcome is None or request.areas is None else outcome.in_areas(request.areas)


def _ceiling(run: OpenedRun, note: Note, progress: ProgressBar) -> Scores | None:
    if run.settings.ceiling == "none":
        return None
    with progress("ceiling between animals") as bar:
        ceiling, was_cached = measured_ceiling(
            run.dataset, run.recordings, run.settings, resources=run.resources, progress=bar
        )
    if was_cached:
        note(f"ceiling ({run.settings.ceiling}): measured before, read from the cache")
    return ceiling


def _extrapolation(run: OpenedRun, progress: ProgressBar) -> Extrapolation | None:
    if run.extrapolate == "none":
        return None
    from mvkit.scoring.extrapolation import extrapolate_ceiling

    with progress(f"ceiling over the number of {run.extrapolate}") as bar:
        return extrapolate_ceiling(
            run.recordings, run.settings, run.extrapolate, n_jobs=worker_number(run.resources), progress=bar
        )


@dataclass(frozen=True)
class Shard:
    """Part ``index`` (from 1) of the ``count`` parts of a run."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True)
class ShardReport:
    """Result of a shard.

    Attributes
    ----------
    shard
        Which one.
    n_pairs, n_pairs_of_shard
        Pairs of layer and recording of the whole run, and of this shard.
    n_cached_before
        Those of this shard whose scores were in the cache already.
    n_cached
        Those of the whole run whose scores are in the cache now.
    """

    shard: Shard
    n_pairs: int
    n_pairs_of_shard: int
    n_cached_before: int
    n_cached: int

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {**asdict(self), "shard": str(self.shard)}


def parse_shard(text: str) -> Shard:
    """Read ``i/n``.

    Raises
    ------
    UsageError
        If it is something else, or i is not one of 1 to n.
    """
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--shard {text}: give i/n with i from 1 to n, for example 2/8")
    return Shard(int(match[1]), int(match[2]))


def shards_of_pairs(weights: Sequence[int], count: int) -> list[int]:
    """Divide pairs of layer and recording among shards: contiguous, and balanced by weight.

    Parameters
    ----------
    weights
        Units of each pair, in order.
    count
        Number of shards.

    Returns
    -------
    list of int
        Shard of each pair, from 1.
    """
    total, before = sum(weights), 0
    shards = []
    for weight in weights:
        # By the middle of the pair, in whole numbers: every machine gives the same.
        shards.append(min(count, 1 + (2 * before + weight) * count // (2 * total)))
        before += weight
    return shards


def run_shard(
    request: ScoreRequest, shard: Shard, *, note: Note, progress: ProgressBar = no_progress
) -> ShardReport:
    """Score one part of a run into the cache for :func:`run_score`; cached scores are not computed again.

    Ceiling, extrapolation and comparison are of the whole run, and left to :func:`run_score`.

    Parameters
    ----------
    request
        What the whole run scores; all shards need the same.
    shard
        Which part of it.
    note, progress
        As for :func:`run_score`.

    Raises
    ------
    UsageError
        As :func:`run_score`, and if the request has no cache, or a model's layers cannot be cached.
    CheckpointError, DataError
        As :func:`run_score`, and if the cache cannot be written.
    """
    from mvkit.scoring.run import check_recordings, measure_pairs, populations

    with dask_cluster(request.resources.dask):
        run = open_run(request, note=note)
        check_recordings(run.recordings, run.settings)
        compared = populations(run.recordings, run.settings)
        opened = {
            name: open_layers(model, run.dataset, request.layers, run.settings, run.resources)
            for name, model in run.models.items()
        }
        caches: dict[str, DiskScoreCache] = {}
        for name, layers in opened.items():
            cache = layers.score_cache(run.settings)
            if cache is None:
                raise UsageError(
                    f"{name}: its scores cannot be cached, so it cannot be scored in shards\n"
                    "score it without --shard, and if --no-cache was given, leave it out"
                )
            caches[name] = cache

        def is_cached(pair: tuple[str, str, int]) -> bool:
            name, layer, recording = pair
            return caches[name].read(layer, compared[recording]) is not None

        pairs = [
            (name, layer, recording)
            for name, layers in opened.items()
            for layer in layers.source.names
            for recording in range(len(compared))
        ]
        shards = shards_of_pairs([len(compared[recording].unit_ids) for *_, recording in pairs], shard.count)
        own = [pair for pair, index in zip(pairs, shards, strict=True) if index == shard.index]
        n_before = sum(map(is_cached, own))
        for name in tuple(opened):
            # The first batch of a model that is done takes no memory any more.
            source = opened.pop(name).source
            todo = [(layer, recording) for model, layer, recording in own if model == name]
            if not todo:
                continue
            with progress(f"scoring {name}") as bar:
                measure_pairs(
                    source,
                    compared,
                    run.settings,
                    todo,
                    n_jobs=worker_number(run.resources),
                    progress=bar,
                    cache=caches[name],
                )
    n_missing = len(own) - sum(map(is_cached, own))
    if n_missing:
        raise DataError(
            f"{cache_dir(run.resources.home)}: the scores of {n_missing} of {len(own)} pairs could not "
            "be written there, and a shard is of no use without\n"
            "make room for them, or give a folder that can be written with --home or MVKIT_HOME"
        )
    return ShardReport(shard, len(pairs), len(own), n_before, sum(map(is_cached, pairs)))
