"""Scoring from models and recordings to scores, ceilings and comparisons."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mvkit.display import ProgressOption, open_progress
from mvkit.errors import DataError, UsageError
from mvkit.files import shorten, split_names
from mvkit.machine import Resources, choose_device, describe_gpu, worker_number
from mvkit.models.names import split_random
from mvkit.paths import cache_dir, ceilings_dir
from mvkit.pipeline.layers import (
    fit_device,
    fit_workers,
    label_model,
    layer_features,
    open_layers,
    open_network_layers,
    score_source,
    weights_source,
)
from mvkit.pipeline.request import (
    ScoreRequest,
    Shard,
    check_request,
    choose_recordings,
    compare_with_table2,
    dataset_context,
    load_models,
    open_default,
)
from mvkit.scoring.parallel import dask_cluster

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pandas import DataFrame
    from torch import nn

    from mvkit.features import FeatureSet
    from mvkit.models import VisionModel
    from mvkit.neural import NeuralDataset, Recording
    from mvkit.neural.selection import SelectionOutcome, SelectionSettings
    from mvkit.pipeline.cached import DiskScoreCache
    from mvkit.report.text import ScoreRun
    from mvkit.scoring import Scores, ScoreSettings
    from mvkit.scoring.extrapolation import Extrapolation
    from mvkit.scoring.two_way import TwoWay


log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


#: Mapping of :func:`score` and :func:`ceiling` if none is given.
_DEFAULT_MAPPING = "pls"


def score(  # noqa: PLR0913
    features_or_model: FeatureSet | nn.Module | Mapping[str, NDArray[np.floating[Any]]] | str | Path,
    dataset: NeuralDataset | str | Path,
    layers: Sequence[str] | str | None = None,
    areas: Sequence[str] | str | None = None,
    mapping: str = _DEFAULT_MAPPING,
    *,
    weights: str | Path | None = None,
    seed: int | None = None,
    input_size: int | None = None,
    selection: str | SelectionSettings | None = None,
    n_jobs: int | None = None,
    device: str = "cpu",
    progress: ProgressOption = None,
    **settings: object,
) -> Scores:
    """Score how well layers predict every unit of a dataset, corrected for noise.

    Parameters
    ----------
    features_or_model
        The name of a model, a model of :func:`mvkit.load_model`, the path of a training run or its
        checkpoint, or any ``nn.Module`` (with ``input_size``, or with a ``.preprocess`` of its own): its
        layers are extracted from the dataset's stimuli in one pass. Or features: a
        :class:`~mvkit.features.FeatureSet`, or a mapping from layer to float array (n_images, n_features) in
        the order of the dataset's images.
    dataset
        A dataset, the name of one, or the path of a neural file.
    layers
        Names, patterns (with commas between, or a list), or ``"published"`` for the list that the reference
        scored; None means the model's default list (the same but for ``vgg16_encoder``), or every layer of
        given features.
    areas
        Area acronyms, ``["VISp", "VISl"]`` or ``"VISp,VISl"``; None means all.
    mapping
        ``"pls"``, ``"ridge"``, ``"one-to-one"``, ``"lasso"``, ``"elasticnet"``, ``"rsa"`` or ``"cka"``.
    weights, seed
        Of a model that is named: ``"released"`` (the default), ``"random"`` or the path of a checkpoint, and
        the seed of random weights; as for :func:`mvkit.load_model`.
    input_size
        Side in pixels of the images that a model that is named, or an ``nn.Module``, is shown; None: as it
        was trained, or as its ``.preprocess`` says.
    selection
        Of the units of a dataset that is named: ``"code"`` (the default), ``"paper"``, ``"none"``, or
        :class:`~mvkit.neural.SelectionSettings`; as for :func:`mvkit.open_dataset`.
    n_jobs
        Worker processes; None means one per core. The result does not depend on it.
    device
        Where features are extracted: ``"cpu"``, ``"cuda"``, ``"auto"`` (a GPU if there is one). A GPU that is
        named also makes the fits of ``"pls"`` with ``pls_stopping="converged"``; scores then differ by
        rounding. All other fits are made on the processor.
    progress
        Whether to show a bar; None: in notebooks and on terminals. Or a function, which is called with
        (done, total) fits.
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
        An unknown model, layer, area or setting, an argument that does not belong to what is scored, or
        ``resources`` beside what it stands for.
    CheckpointError
        Weights that are missing or do not fit.
    DataError
        The dataset is missing or damaged, or features and responses are not of the same images.

    Notes
    -----
    Protocol of Nayebi, Kong et al. 2023, PLOS Comput Biol 19(10):e1011506, as the code published with it
    computes it; numbers of splits and trial halves as given to us, not checked against the paper's text.
    """
    resources = _resources(n_jobs, device, settings)
    resolved = _settings_with(mapping, settings)
    opened = _open_dataset(dataset, selection, home=resources.home)
    recordings = choose_recordings(opened, split_names(areas))
    source = _open_source(
        features_or_model, weights=weights, seed=seed, input_size=input_size, home=resources.home
    )
    label = f"scoring {getattr(source, 'name', 'features')}"
    with dask_cluster(resources.dask), open_progress(progress, label) as bar:
        scores = score_source(
            source, opened, recordings, resolved, resources, layers=split_names(layers), progress=bar
        )
    _warn_of_missing_scores(scores)
    return scores


def _open_dataset(
    dataset: object, selection: str | SelectionSettings | None, *, home: Path | None
) -> NeuralDataset:
    """Open a dataset that is named; check one that is given."""
    from mvkit.neural import DATASETS, NeuralDataset, open_dataset

    if isinstance(dataset, str | Path):
        return open_dataset(dataset, selection=selection or "code", home=home)
    if not isinstance(dataset, NeuralDataset):
        shape = getattr(dataset, "shape", None)
        what = f"{type(dataset).__name__}" + (f" {tuple(shape)}" if shape is not None else "")
        raise UsageError(
            f"dataset: give a NeuralDataset, a name ({', '.join(DATASETS)}) or the path of a neural file, "
            f"not {what}\nof arrays make one first: mvkit.NeuralDataset(..., "
            "recordings=[mvkit.neural.Recording.from_arrays(...)])"
        )
    if selection is not None:
        raise UsageError(
            f"selection: the units of dataset {dataset.name} were selected when it was opened\n"
            "give it there: open_dataset(name, selection=...), or give score the name"
        )
    return dataset


def _open_source(
    source: object,
    *,
    weights: str | Path | None,
    seed: int | None,
    input_size: int | None,
    home: Path | None,
) -> object:
    """Load a model that is named, or prepare the input of one that is given; features stay as they are."""
    if not isinstance(source, Mapping):
        # Features that are given need no torch.
        from torch import nn

        from mvkit.features.extraction import open_network

        if isinstance(source, str | Path | nn.Module):
            return open_network(source, weights=weights, seed=seed, input_size=input_size, home=home)
    for option, value in (("weights", weights), ("seed", seed), ("input_size", input_size)):
        if value is not None:
            raise UsageError(f"{option}: features are given, so that no model is loaded or shown images")
    return source


def _warn_of_missing_scores(scores: Scores) -> None:
    """Log which layers have no score at all, and why; the table itself says NaN only."""
    import numpy as np

    columns = scores.columns
    for layer in scores.layers:
        rows = columns["layer"] == layer
        if rows.any() and np.isnan(columns["score"][rows].astype(float)).all():
            details = (str(columns[name][rows][0]) for name in ("detail", "reason") if name in columns)
            log.warning(
                "layer %s has no score: %s", layer, next(filter(None, details), "no unit can be predicted")
            )


def _resources(n_jobs: int | None, device: str, options: dict[str, object]) -> Resources:
    """Remove where to run from the options of a call, and return it."""
    cache, resources = options.pop("cache", None), options.pop("resources", None)
    if resources is None:
        if cache not in (None, True, False):
            raise UsageError(f"cache: must be True or False, got {cache!r}")
        if device != "cpu":
            choose_device(device)
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
    selection: str | SelectionSettings | None = None,
    home: Path | None = None,
    n_jobs: int | None = None,
    progress: ProgressOption = None,
    **settings: object,
) -> Scores:
    """Measure how well animals predict one another: the ceiling of what a model can reach.

    A ceiling that was measured before is read from ``ceilings`` under mvkit's home.

    Parameters
    ----------
    dataset
        A dataset, the name of one, or the path of a neural file.
    areas
        Area acronyms, ``["VISp", "VISl"]`` or ``"VISp,VISl"``; None means all.
    kind
        ``"holdout"`` predicts each animal from the units of all others pooled, ``"pairwise"`` from every
        other animal by itself.
    mapping
        As in :func:`score`.
    selection
        Of the units of a dataset that is named, as in :func:`score`.
    home
        mvkit's home directory; None means the usual one.
    n_jobs
        Worker processes; None means one per core. The result does not depend on it.
    progress
        As in :func:`score`.
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
    resolved = _settings_with(mapping, {**settings, "ceiling": kind})
    opened = _open_dataset(dataset, selection, home=home)
    recordings = choose_recordings(opened, split_names(areas))
    resources = Resources(n_jobs=n_jobs, home=home)
    with open_progress(progress, "ceiling between animals") as bar:
        measured, _ = measured_ceiling(opened, recordings, resolved, resources=resources, progress=bar)
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
        Folders that ``mvkit score --out`` wrote, of one or several models, or ``FOLDER/MODEL``.

    Returns
    -------
    dict
        ``FOLDER`` of a single model (with the seed of random weights), ``FOLDER/MODEL`` of several -> scores.

    Raises
    ------
    UsageError
        If a folder or a model is given twice.
    DataError
        If there are no scores, or damaged ones.
    """
    from mvkit.scoring import read_models

    earlier: dict[str, Scores] = {}
    seen: set[tuple[Path, str]] = set()
    for folder in folders:
        models = read_models(folder)
        is_whole = folder.resolve().is_dir()
        within = folder if is_whole else folder.parent
        for name, scores in models.items():
            source = str(scores.context.get("weights_source", ""))
            is_only = is_whole and len(models) == 1
            label = label_model(str(folder), source) if is_only else f"{within}/{name}"
            key = (within.resolve(), name)
            if key in seen:
                raise UsageError(f"--against {folder}: given twice")
            seen.add(key)
            earlier[label] = scores
    return earlier


@dataclass(frozen=True)
class ComparedAreas:
    """In which areas models are compared with earlier ones.

    Attributes
    ----------
    areas
        Those that all have.
    digest
        Of the responses there; None where these are the areas of the run.
    notes
        What to tell the user.
    """

    areas: tuple[str, ...]
    digest: str | None = None
    notes: tuple[str, ...] = ()

    def narrow(self, scores: Scores) -> Scores:
        """Return scores in these areas, with the digest of the responses there."""
        if self.digest is None:
            return scores
        narrowed = scores.in_areas(self.areas)
        return replace(narrowed, context={**scores.context, "responses_sha256": self.digest})


def check_protocols(
    earlier: Mapping[str, Scores],
    dataset: NeuralDataset,
    recordings: Sequence[Recording],
    settings: ScoreSettings,
) -> ComparedAreas:
    """Check that saved scores have the protocol that scores of these recordings will have.

    Areas may differ: then those that all have are compared.

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

    areas = tuple(dict.fromkeys(recording.area for recording in recordings))
    if not earlier:
        return ComparedAreas(areas)
    context = {**dataset_context(dataset), "responses_sha256": recordings_digest(recordings)}
    here = Scores({"score": np.empty(0)}, (), areas, settings, context)
    for label, scores in earlier.items():
        differences = protocol_differences(scores, here)
        digest = differences.pop("responses_sha256", None)
        names = differences.pop("dataset", None)
        if names is not None:
            differences = {}
            fields = [f"other recordings ({names[0]} there, {names[1]} here)"]
        else:
            fields = [
                f"{name}: {shorten(there, _LONGEST)} there, {shorten(now, _LONGEST)} here"
                for name, (there, now) in differences.items()
            ]
        if not fields and digest is not None:
            fields = _other_responses(scores, dataset, areas)
        if not set(areas) & set(scores.areas):
            fields.append(f"areas: {','.join(scores.areas)} there, {','.join(areas)} here")
        if fields:
            raise UsageError(
                f"--against {label}: saved with another protocol, which must not be compared\n"
                f"{'; '.join(fields)}"
            )
    common = tuple(area for area in areas if all(area in scores.areas for scores in earlier.values()))
    if not common:
        raise UsageError(f"--against: no area that {', '.join(earlier)} and this run all have")
    if all(scores.areas == areas for scores in earlier.values()):
        return ComparedAreas(areas)
    digest_there = recordings_digest([recording for recording in recordings if recording.area in common])
    missing = {
        label: [area for area in areas if area not in scores.areas] for label, scores in earlier.items()
    }
    lacking = "; ".join(f"{label} has no {', '.join(left)}" for label, left in missing.items() if left)
    more = list(dict.fromkeys(area for one in earlier.values() for area in one.areas if area not in areas))
    reasons = [lacking] if lacking else []
    reasons += [f"{', '.join(more)} not scored now"] if more else []
    note = f"compared in the areas that all have: {', '.join(common)} ({'; '.join(reasons)})"
    return ComparedAreas(common, digest_there, (note,))


def _other_responses(scores: Scores, dataset: NeuralDataset, areas: Sequence[str]) -> list[str]:
    """Say that saved scores are of other responses; [] if these are the dataset's in other areas."""
    from mvkit.scoring.protocol import recordings_digest

    there = set(scores.areas)
    if there != set(areas) and there <= set(dataset.areas):
        recordings = [recording for recording in dataset.recordings if recording.area in there]
        if recordings_digest(recordings) == scores.context.get("responses_sha256"):
            return []
    return [f"other recordings, though both are called {dataset.name}"]


#: Called with a note for the user.
Note = Callable[[str], None]

#: Opens a progress bar with a label; the bar is called with (done, total).
ProgressBar = Callable[[str], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class OpenedRun:
    """Everything that a run needs, loaded and checked."""

    settings: ScoreSettings
    extrapolate: Literal["none", "units", "stimuli"]
    extrapolate_grid: Literal["log", "linear"]
    two_way: bool
    shuffle_seed: int | None
    resources: Resources
    #: Label -> model, in the order given.
    models: Mapping[str, VisionModel]
    earlier: Mapping[str, Scores]
    #: Where these are compared with the models.
    compared: ComparedAreas
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
    with dask_cluster(request.resources.dask):
        run = open_run(request, note=note)
        from mvkit.report.text import ScoreRun
        from mvkit.scoring import pool_networks
        from mvkit.scoring.comparison import compare_models

        models: dict[str, Scores] = {}
        for label, model in run.models.items():
            with progress(f"scoring {label}") as bar:
                models[label] = score_source(
                    model,
                    run.dataset,
                    run.recordings,
                    run.settings,
                    run.resources,
                    layers=request.layers,
                    label=label,
                    shuffle_seed=run.shuffle_seed,
                    progress=bar,
                )
        ceiling = _ceiling(run, note, progress)
        table2 = {
            label: compare_with_table2(name, request.weights, scores)
            for name, (label, scores) in zip(request.models, models.items(), strict=True)
        }
        two_way = {
            label: _two_way(run, label, models[label], request.layers, progress)
            for label in (run.models if run.two_way else ())
        }
        if run.shuffle_seed is not None:
            table2 = {}
        if request.pool_as is not None:
            models = {request.pool_as: pool_networks(models, request.pool_as)}
            table2 = {}
        earlier = {label: run.compared.narrow(scores) for label, scores in run.earlier.items()}
        compared = {**{name: run.compared.narrow(scores) for name, scores in models.items()}, **earlier}
        return ScoreRun(
            models=models,
            earlier=earlier,
            table2=table2,
            notes=(*_pooling_notes(request, run), *run.compared.notes),
            ceiling=ceiling,
            fractions={}
            if ceiling is None
            else {label: fractions_by_choice(scores, ceiling) for label, scores in models.items()},
            # Earlier scores may have been saved with the other choice; both can be made from either.
            comparison=compare_models(compared, choice=run.settings.layer_choice)
            if len(compared) > 1
            else None,
            extrapolation=_extrapolation(run, progress),
            two_way=two_way,
            selection=_selection(request, run),
        )


def open_run(request: ScoreRequest, *, note: Note) -> OpenedRun:
    """Load everything that a request names, and check that it can be done.

    Raises
    ------
    UsageError, RecipeError, CheckpointError, DataError
        As :func:`run_score`.
    """
    recipe = check_request(request)
    earlier = read_earlier(request.against)
    settings = recipe.settings
    selection = recipe.selection.resolve()
    device = choose_device(request.resources.device)
    if (gpu := describe_gpu(device)) is not None:
        on_gpu = fit_device(request.resources, settings) is not None
        note(f"device: {gpu}, for features{' and fits' if on_gpu else '; fits are made on the processor'}")
    resources = replace(
        request.resources,
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
    dataset = open_default(request.dataset, selection=selection, home=home, remark=note)
    if recipe.input.frame_rate_hz is not None:
        dataset = replace(dataset, frame_rate_hz=recipe.input.frame_rate_hz)
    recordings = choose_recordings(dataset, request.areas)
    compared = check_protocols(earlier, dataset, recordings, settings)
    labels = _label_models(models)
    if recipe.shuffle_seed is not None:
        labels = {f"{label}, shuffled ({recipe.shuffle_seed})": model for label, model in labels.items()}
    if request.pool_as is not None:
        _check_pooling(request.pool_as, labels, request.layers)
    return OpenedRun(
        settings,
        recipe.extrapolate,
        recipe.extrapolate_grid,
        recipe.two_way,
        recipe.shuffle_seed,
        resources,
        labels,
        earlier,
        compared,
        dataset,
        recordings,
    )


def _label_models(models: Mapping[str, VisionModel]) -> dict[str, VisionModel]:
    """Give models the names that results carry.

    A training run goes by its folder, a user's file by its name without the folder, as a path is nobody's
    business, unless two files have the same name.
    """
    names = {}
    for given, model in models.items():
        base = split_random(given)[0]
        names[given] = model.name if base.endswith(model.name) else base
    labels = {}
    for given, model in models.items():
        shared = sum(name == names[given] for name in names.values()) > 1
        name = split_random(given)[0] if shared else names[given]
        labels[label_model(name, weights_source(model))] = model
    return labels


def _check_pooling(name: str, models: Mapping[str, VisionModel], layers: Sequence[str] | None) -> None:
    """Refuse to pool networks of different layers, before they are scored."""
    from mvkit.features.layers import layers_to_record

    (first, network), *others = models.items()
    expected = [layer.name for layer in layers_to_record(network, layers)]
    for other, model in others:
        found = [layer.name for layer in layers_to_record(model, layers)]
        if found != expected:
            raise UsageError(
                f"--as {name}: {first} and {other} have different layers ({', '.join(expected[:4])}, ... and "
                f"{', '.join(found[:4])}, ...), so that they are no networks of one kind"
            )


def _pooling_notes(request: ScoreRequest, run: OpenedRun) -> tuple[str, ...]:
    if request.pool_as is None:
        return ()
    return (
        f"{request.pool_as}: {len(run.models)} networks as one model ({', '.join(run.models)}); scores are "
        "means over them, and intervals are over networks and animals",
    )


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
            run.recordings,
            run.settings,
            run.extrapolate,
            grid=run.extrapolate_grid,
            n_jobs=worker_number(run.resources),
            progress=bar,
        )


def _two_way(
    run: OpenedRun,
    label: str,
    scores: Scores,
    patterns: Sequence[str] | None,
    progress: ProgressBar,
) -> TwoWay:
    """Compare a model with the animals both ways, in every area by the layer that predicts it best."""
    import numpy as np

    from mvkit.features.stimuli import open_stimuli
    from mvkit.scoring.two_way import compare_two_ways, draw_features

    chosen = {area: units for area, units in scores.chosen_units("paper").items() if units.layer}
    names = tuple(dict.fromkeys(units.layer for units in chosen.values()))
    resources = replace(run.resources, device=str(choose_device(run.resources.device)), cache=False)
    opened = open_network_layers(run.models[label], open_stimuli(run.dataset), patterns, resources)
    with layer_features(opened.source, names) as features:
        drawn = {name: draw_features(features[name], run.settings) for name in names}
    layers = {}
    for area, units in chosen.items():
        known = ~np.isnan(units.score)
        medians = {
            int(animal): float(np.median(units.score[known & (units.specimen == animal)]))
            for animal in np.unique(units.specimen[known])
        }
        layers[area] = (units.layer, drawn[units.layer], medians)
    with progress(f"comparing {label} both ways") as bar:
        return compare_two_ways(
            run.recordings, layers, run.settings, n_jobs=worker_number(run.resources), progress=bar
        )


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
            name: open_layers(
                model,
                run.dataset,
                request.layers,
                run.settings,
                run.resources,
                shuffle_seed=run.shuffle_seed,
            )
            for name, model in run.models.items()
        }
        device = fit_device(run.resources, run.settings)
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
                    n_jobs=fit_workers(run.resources, device),
                    fit_device=device,
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
