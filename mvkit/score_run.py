"""One scoring run as a command describes it: settings, dataset, models, ceiling, comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mvkit.pipeline import Progress
from mvkit.report.outcome import ScoreRun
from mvkit.resources import worker_number
from mvkit.score_ceiling import fractions_by_choice, measured_ceiling, read_earlier, refuse_other_protocols
from mvkit.score_dataset import choose_recordings, open_default
from mvkit.score_layers import score_source
from mvkit.score_models import compare_with_table2, load_models
from mvkit.score_request import ScoreRequest as ScoreRequest
from mvkit.score_request import selection_of, settings_of
from mvkit.scoring.backends import running_on

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mvkit.models import VisionModel
    from mvkit.neural import NeuralDataset, Recording
    from mvkit.scoring import Scores, ScoreSettings
    from mvkit.scoring.extrapolation import Extrapolation

Remark = Callable[[str], None]

#: Opens a progress bar under a label; what it gives is called with (done, total).
ProgressBar = Callable[[str], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class Recorded:
    """The recordings of a run and where they come from."""

    dataset: NeuralDataset
    recordings: Sequence[Recording]


@dataclass(frozen=True)
class OpenedRun:
    """A run of which everything is loaded and checked, and nothing done."""

    settings: ScoreSettings
    models: Mapping[str, VisionModel]
    earlier: Mapping[str, Scores]
    recorded: Recorded


@dataclass(frozen=True)
class MeasuredRun:
    """A run whose models are scored; ``recorded`` may be left out where nothing else is measured."""

    settings: ScoreSettings
    scores: Mapping[str, Scores]
    earlier: Mapping[str, Scores]
    recorded: Recorded | None


def no_bar(label: str) -> AbstractContextManager[Progress]:
    """Show no progress."""
    return nullcontext(lambda done, total: None)


def run_score(request: ScoreRequest, *, remark: Remark, progress: ProgressBar = no_bar) -> ScoreRun:
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
    with running_on(request.resources):
        run = open_run(request, remark=remark)
        scores: dict[str, Scores] = {}
        for name, model in run.models.items():
            with progress(f"scoring {name}") as bar:
                scores[name] = score_source(
                    model,
                    run.recorded.dataset,
                    run.recorded.recordings,
                    run.settings,
                    request.resources,
                    layers=request.layers,
                    progress=bar,
                )
        measured = MeasuredRun(run.settings, scores, run.earlier, run.recorded)
        return finish_run(request, measured, remark=remark, progress=progress)


def open_run(request: ScoreRequest, *, remark: Remark) -> OpenedRun:
    """Load everything that a request names, and refuse what cannot be done.

    Raises
    ------
    UsageError, RecipeError, CheckpointError, DataError
        As :func:`run_score`.
    """
    settings = settings_of(request)
    selection = selection_of(request)
    home = request.resources.home
    models = load_models(
        request.models,
        layers=request.layers,
        weights=request.weights,
        seed=request.seed,
        home=home,
        inputs=request.inputs,
    )
    earlier = read_earlier(request.against)
    dataset = open_default(request.dataset, selection=selection, home=home, remark=remark)
    recordings = choose_recordings(dataset, request.areas)
    refuse_other_protocols(earlier, dataset, recordings, settings)
    return OpenedRun(settings, models, earlier, Recorded(dataset, recordings))


def finish_run(
    request: ScoreRequest, measured: MeasuredRun, *, remark: Remark, progress: ProgressBar = no_bar
) -> ScoreRun:
    """Add ceiling, fractions and comparison to scores."""
    from mvkit.scoring.comparison import compare_models

    ceiling = _ceiling(request, measured, remark, progress)
    compared = {**measured.scores, **measured.earlier}
    return ScoreRun(
        models=measured.scores,
        earlier=measured.earlier,
        table2={
            name: compare_with_table2(name, request.weights, scores)
            for name, scores in measured.scores.items()
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
    request: ScoreRequest, measured: MeasuredRun, remark: Remark, progress: ProgressBar
) -> Scores | None:
    if measured.settings.ceiling == "none" or measured.recorded is None:
        return None
    with progress("ceiling between animals") as bar:
        ceiling, was_kept = measured_ceiling(
            measured.recorded.dataset,
            measured.recorded.recordings,
            measured.settings,
            resources=request.resources,
            progress=bar,
        )
    if was_kept:
        remark(f"ceiling ({measured.settings.ceiling}): measured before, read from the cache")
    return ceiling


def _extrapolation(
    request: ScoreRequest, measured: MeasuredRun, progress: ProgressBar
) -> Extrapolation | None:
    if request.extrapolate is None or measured.recorded is None:
        return None
    from mvkit.scoring.extrapolation import extrapolate_ceiling

    over: Literal["units", "stimuli"] = "units" if request.extrapolate == "units" else "stimuli"
    with progress(f"ceiling over the number of {over}") as bar:
        return extrapolate_ceiling(
            measured.recorded.recordings,
            measured.settings,
            over,
            n_jobs=worker_number(request.resources),
            progress=bar,
        )
