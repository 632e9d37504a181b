"""One scoring run as a command describes it: settings, dataset, models, ceiling, comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Literal

from mvkit.errors import RecipeError, UsageError
from mvkit.naming import suggest, unknown_name
from mvkit.pipeline import (
    Progress,
    available_cores,
    choose_recordings,
    merge_settings,
    open_default,
    score,
)
from mvkit.report.outcome import ScoreRun
from mvkit.resources import Resources
from mvkit.score_ceiling import fractions_by_choice, measured_ceiling, read_earlier, refuse_other_protocols
from mvkit.score_models import load_models, value_in_paper

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mvkit.models.foreign.options import InputOptions
    from mvkit.neural import NeuralDataset, Recording, SelectionSettings
    from mvkit.scoring import Scores, ScoreSettings
    from mvkit.scoring.ceilings.extrapolation_result import Extrapolation

Remark = Callable[[str], None]

#: Opens a progress bar under a label; what it gives is called with (done, total).
ProgressBar = Callable[[str], AbstractContextManager[Progress]]

#: Loading compiled fits takes less than this; compiling them takes more.
_SLOW_S = 2.0

#: Where the scoring recipes lie among the packaged ones; their names may be given without it.
_RECIPES = "score/"

_EXTRAPOLATIONS = ("units", "stimuli")


@dataclass(frozen=True)
class ScoreRequest:
    """What a user asked to have scored; None means the default.

    Attributes
    ----------
    models
        Released models, architectures, baselines, or paths of checkpoints or folders of training runs.
    layers, areas
        Layer names or patterns, for every model; area acronyms.
    dataset
        Name or path of a neural file.
    weights, seed
        ``"released"``, ``"random"`` or the path of a checkpoint; seed of random weights
        (None: 0, or a training run's own).
    recipe, overrides
        Scoring recipe (path or packaged name, ``score/`` may be left out) and ``key=value`` changes to it.
    settings
        Fields of :class:`~mvkit.scoring.ScoreSettings` given as options; they win over the recipe.
    selection, thresholds
        Preset of the unit selection, and thresholds that differ from it.
    against
        Folders of saved scores to compare with.
    extrapolate
        ``"units"`` or ``"stimuli"``: follow the ceiling over their number.
    inputs
        Preprocessing of models from elsewhere.
    resources
        Where and with what it runs; the scores do not depend on it.
    """

    models: tuple[str, ...]
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
    against: tuple[Path, ...] = ()
    extrapolate: str | None = None
    inputs: InputOptions | None = None
    resources: Resources = field(default_factory=Resources)


def _no_bar(label: str) -> AbstractContextManager[Progress]:
    return nullcontext(lambda done, total: None)


def run_score(request: ScoreRequest, *, remark: Remark, progress: ProgressBar = _no_bar) -> ScoreRun:
    """Carry out a scoring run; everything that can be refused is refused before work starts.

    Parameters
    ----------
    request
        What to score.
    remark
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
    settings = _settings(request)
    _refuse_contradictions(request, settings)
    selection = _selection(request)
    models = load_models(
        request.models,
        layers=request.layers,
        weights=request.weights,
        seed=request.seed,
        home=request.resources.home,
        inputs=request.inputs,
    )
    earlier = read_earlier(request.against)
    dataset = open_default(request.dataset, selection=selection, home=request.resources.home, remark=remark)
    recordings = choose_recordings(dataset, request.areas)
    refuse_other_protocols(earlier, dataset, recordings, settings)
    _warm_up(settings.mapping, remark)
    scores: dict[str, Scores] = {}
    for name, model in models.items():
        with progress(f"scoring {name}") as bar:
            scores[name] = score(
                model,
                dataset,
                layers=request.layers,
                areas=request.areas,
                n_jobs=request.resources.n_jobs,
                device=request.resources.device,
                progress=bar,
                settings=settings,
            )
    return _finished(request, _Measured(settings, dataset, recordings, scores, earlier), remark, progress)


@dataclass(frozen=True)
class _Measured:
    """A run whose models are scored."""

    settings: ScoreSettings
    dataset: NeuralDataset
    recordings: Sequence[Recording]
    scores: Mapping[str, Scores]
    earlier: Mapping[str, Scores]


def _finished(request: ScoreRequest, measured: _Measured, remark: Remark, progress: ProgressBar) -> ScoreRun:
    """Add ceiling, fractions and comparison to scores."""
    from mvkit.scoring.statistics.comparison import compare_models

    ceiling = _ceiling(request, measured, remark, progress)
    compared = {**measured.scores, **measured.earlier}
    return ScoreRun(
        models=measured.scores,
        earlier=measured.earlier,
        table2={
            name: value_in_paper(name, request.weights, scores) for name, scores in measured.scores.items()
        },
        ceiling=ceiling,
        fractions={}
        if ceiling is None
        else {name: fractions_by_choice(scores, ceiling) for name, scores in measured.scores.items()},
        # Earlier scores may have been saved with the other choice; both can be made from either.
        comparison=compare_models(compared, choice=measured.settings.layer_choice)
        if len(compared) > 1
        else None,
        extrapolation=_extrapolation(request, measured, progress),
    )


def _ceiling(
    request: ScoreRequest, measured: _Measured, remark: Remark, progress: ProgressBar
) -> Scores | None:
    if measured.settings.ceiling == "none":
        return None
    with progress("ceiling between animals") as bar:
        ceiling, was_kept = measured_ceiling(
            measured.dataset,
            measured.recordings,
            measured.settings,
            home=request.resources.home,
            n_jobs=request.resources.n_jobs,
            progress=bar,
        )
    if was_kept:
        remark(f"ceiling ({measured.settings.ceiling}): measured before, read from the cache")
    return ceiling


def _extrapolation(request: ScoreRequest, measured: _Measured, progress: ProgressBar) -> Extrapolation | None:
    if request.extrapolate is None:
        return None
    from mvkit.scoring.ceilings.extrapolation import extrapolate_ceiling

    over: Literal["units", "stimuli"] = "units" if request.extrapolate == "units" else "stimuli"
    with progress(f"ceiling over the number of {over}") as bar:
        return extrapolate_ceiling(
            measured.recordings,
            measured.settings,
            over,
            n_jobs=request.resources.n_jobs or available_cores(),
            progress=bar,
        )


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

    base = load_recipe(ScoreSettings, _recipe(request.recipe), request.overrides)
    given = {name: value for name, value in request.settings.items() if value is not None}
    return merge_settings(base, given)


def _recipe(name: str | None) -> str | None:
    """Return the name of a scoring recipe in full: ``honest`` is ``score/honest``."""
    from mvkit.config.recipes import packaged_recipes

    if name is None or Path(name).is_file() or "/" in name or Path(name).suffix:
        return name
    short = [known.removeprefix(_RECIPES) for known in packaged_recipes() if known.startswith(_RECIPES)]
    if name not in short:
        raise RecipeError(
            f"recipe '{name}' is neither a file nor a scoring recipe{suggest(name, short)}\n"
            f"packaged: {', '.join(short) or 'none'}"
        )
    return f"{_RECIPES}{name}"


def _refuse_contradictions(request: ScoreRequest, settings: ScoreSettings) -> None:
    """Refuse options that mean nothing without others."""
    if request.extrapolate is not None and request.extrapolate not in _EXTRAPOLATIONS:
        raise unknown_name("extrapolation", request.extrapolate, _EXTRAPOLATIONS)
    if settings.ceiling == "none" and request.settings.get("source_units") is not None:
        raise UsageError("--equal-units is about the ceiling: give --ceiling holdout or pairwise too")
    if settings.pools_animals and (settings.ceiling != "none" or request.extrapolate):
        raise UsageError(
            "a ceiling is between animals, and pooled populations have none left: --set population=animal"
        )
    if settings.layer_choice == "held-out":
        if settings.compares_all_images:
            raise UsageError(
                f"{settings.mapping} compares all images at once, so that no layer can be held out: "
                "--set similarity_images=test, or --layer-choice paper"
            )
        if settings.n_splits < 2:
            raise UsageError(
                "held-out layers are chosen on some image splits and scored on others: give --splits 2 "
                "or more, or --layer-choice paper"
            )


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
