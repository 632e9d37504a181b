"""One scoring run as a command describes it: settings, dataset, model, features, scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING

from mvkit.pipeline import Progress, choose_recordings, default_dataset, merge_settings, score

if TYPE_CHECKING:
    from mvkit.neural import NeuralDataset, SelectionSettings
    from mvkit.scoring import Scores, ScoreSettings

Remark = Callable[[str], None]

#: Loading compiled fits takes less than this; compiling them takes more.
_SLOW_S = 2.0


@dataclass(frozen=True)
class ScoreRequest:
    """What a user asked to have scored; None means the default.

    Attributes
    ----------
    model
        Released model, architecture, baseline, or the path of a checkpoint or folder of a training run.
    layers, areas
        Layer names or patterns; area acronyms.
    dataset
        Name or path of a neural file.
    weights, seed
        ``"released"``, ``"random"`` or the path of a checkpoint; seed of random weights
        (None: 0, or a training run's own).
    recipe, overrides
        Scoring recipe (path or packaged name) and ``key=value`` changes to it.
    settings
        Fields of :class:`~mvkit.scoring.ScoreSettings` given as options; they win over the recipe.
    selection, thresholds
        Preset of the unit selection, and thresholds that differ from it.
    n_jobs, device, home
        Where and with how many processes it runs; the scores do not depend on it.
    """

    model: str
    layers: tuple[str, ...] | None = None
    areas: tuple[str, ...] | None = None
    dataset: str | None = None
    weights: str = "released"
    seed: int | None = None
    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    selection: str = "code"
    thresholds: Mapping[str, object] = field(default_factory=dict)
    n_jobs: int | None = None
    device: str = "cpu"
    home: Path | None = None


@dataclass(frozen=True)
class ScoreRun:
    """What a scoring run yields.

    Attributes
    ----------
    scores
        The scores.
    table2
        The paper's value for this model and these weights, where the dataset is the paper's; else None.
    """

    scores: Scores
    table2: float | None


def run_score(request: ScoreRequest, *, remark: Remark, progress: Progress | None = None) -> ScoreRun:
    """Carry out a scoring run; everything that can be refused is refused before work starts.

    Parameters
    ----------
    request
        What to score.
    remark
        Called with notes for the user, e.g. which dataset was chosen.
    progress
        Called with (done, total) fits.

    Raises
    ------
    UsageError, RecipeError
        An unknown name or a value out of range.
    CheckpointError, DataError
        Weights or recordings are missing or damaged; names the command that fetches them.
    """
    from mvkit.features import match_layers, tappable_layers
    from mvkit.models import find_model, load_model
    from mvkit.models.released import is_model, paper_value

    settings = _settings(request)
    selection = _selection(request)
    model = load_model(request.model, weights=request.weights, seed=request.seed, home=request.home)
    if request.layers is not None:
        # A misspelt layer is refused before gigabytes are read.
        match_layers(request.layers, tappable_layers(model))
    dataset = _dataset(request, selection, remark)
    # So is an area, before anything is compiled or extracted.
    choose_recordings(dataset, request.areas)
    _warm_up(settings.mapping, remark)
    scores = score(
        model,
        dataset,
        layers=request.layers,
        areas=request.areas,
        n_jobs=request.n_jobs,
        device=request.device,
        progress=progress,
        settings=settings,
    )
    published = dataset.name == "neuropixels" and is_model(request.model)
    return ScoreRun(scores, paper_value(find_model(request.model), request.weights) if published else None)


def _warm_up(mapping: str, remark: Remark) -> None:
    """Compile the fits if this installation has not yet done so, and say so when it takes a while."""
    from mvkit.scoring.mappings import MAPPINGS

    slow = Timer(_SLOW_S, remark, ["compiling the fits for this machine (once, about 15 s)"])
    slow.daemon = True
    slow.start()
    try:
        MAPPINGS[mapping].warm_up()
    finally:
        slow.cancel()


def _settings(request: ScoreRequest) -> ScoreSettings:
    from mvkit.config.recipes import load_recipe
    from mvkit.scoring import ScoreSettings

    base = load_recipe(ScoreSettings, request.recipe, request.overrides)
    given = {name: value for name, value in request.settings.items() if value is not None}
    return merge_settings(base, given)


def _selection(request: ScoreRequest) -> SelectionSettings:
    from mvkit.neural import selection_with

    changes = {name: _threshold(value) for name, value in request.thresholds.items() if value is not None}
    return selection_with(request.selection, **changes)


def _threshold(value: object) -> object:
    """Read ``"none"`` and whole numbers in a threshold given as text (``--min-units``)."""
    if not isinstance(value, str):
        return value
    if value.lower() == "none":
        return None
    return int(value) if value.isdigit() else value


def _dataset(request: ScoreRequest, selection: SelectionSettings, remark: Remark) -> NeuralDataset:
    from mvkit.neural import open_dataset

    name = request.dataset
    if name is None:
        chosen = default_dataset(request.home)
        name = chosen.name
        if chosen.remark:
            remark(chosen.remark)
    return open_dataset(name, selection=selection, home=request.home)
