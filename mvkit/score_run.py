"""One scoring run as a command describes it: settings, dataset, models, ceiling, comparison; or a shard."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from mvkit.errors import DataError, UsageError
from mvkit.paths import cache_dir
from mvkit.pipeline import Progress
from mvkit.report.outcome import ScoreRun
from mvkit.resources import worker_number
from mvkit.score_ceiling import fractions_by_choice, measured_ceiling, read_earlier, refuse_other_protocols
from mvkit.score_dataset import choose_recordings, open_default
from mvkit.score_layers import open_layers, score_source
from mvkit.score_models import compare_with_table2, load_models
from mvkit.score_request import ScoreRequest as ScoreRequest
from mvkit.score_request import selection_of, settings_of
from mvkit.scoring.parallel import dask_cluster

if TYPE_CHECKING:
    from mvkit.models import VisionModel
    from mvkit.neural import NeuralDataset, Recording
    from mvkit.scoring import Scores, ScoreSettings
    from mvkit.scoring.extrapolation import Extrapolation
    from mvkit.scoring.run import KeptScores

Remark = Callable[[str], None]

#: Opens a progress bar under a label; what it gives is called with (done, total).
ProgressBar = Callable[[str], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class OpenedRun:
    """A run of which everything is loaded and checked, and nothing done."""

    settings: ScoreSettings
    models: Mapping[str, VisionModel]
    earlier: Mapping[str, Scores]
    dataset: NeuralDataset
    recordings: Sequence[Recording]


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
    from mvkit.scoring.comparison import compare_models

    with dask_cluster(request.resources.dask):
        run = open_run(request, remark=remark)
        models: dict[str, Scores] = {}
        for name, model in run.models.items():
            with progress(f"scoring {name}") as bar:
                models[name] = score_source(
                    model,
                    run.dataset,
                    run.recordings,
                    run.settings,
                    request.resources,
                    layers=request.layers,
                    progress=bar,
                )
        ceiling = _ceiling(request, run, remark, progress)
        compared = {**models, **run.earlier}
        return ScoreRun(
            models=models,
            earlier=run.earlier,
            table2={
                name: compare_with_table2(name, request.weights, scores) for name, scores in models.items()
            },
            ceiling=ceiling,
            fractions={}
            if ceiling is None
            else {name: fractions_by_choice(scores, ceiling) for name, scores in models.items()},
            # Earlier scores may have been saved with the other choice; both can be made from either.
            comparison=compare_models(compared, choice=run.settings.layer_choice)
            if len(compared) > 1
            else None,
            extrapolation=_extrapolation(request, run, progress),
        )


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
    return OpenedRun(settings, models, earlier, dataset, recordings)


def _ceiling(request: ScoreRequest, run: OpenedRun, remark: Remark, progress: ProgressBar) -> Scores | None:
    if run.settings.ceiling == "none":
        return None
    with progress("ceiling between animals") as bar:
        ceiling, was_kept = measured_ceiling(
            run.dataset, run.recordings, run.settings, resources=request.resources, progress=bar
        )
    if was_kept:
        remark(f"ceiling ({run.settings.ceiling}): measured before, read from the cache")
    return ceiling


def _extrapolation(request: ScoreRequest, run: OpenedRun, progress: ProgressBar) -> Extrapolation | None:
    if request.extrapolate is None:
        return None
    from mvkit.scoring.extrapolation import extrapolate_ceiling

    over: Literal["units", "stimuli"] = "units" if request.extrapolate == "units" else "stimuli"
    with progress(f"ceiling over the number of {over}") as bar:
        return extrapolate_ceiling(
            run.recordings, run.settings, over, n_jobs=worker_number(request.resources), progress=bar
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
    """What a shard did.

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
    request: ScoreRequest, shard: Shard, *, remark: Remark, progress: ProgressBar = no_bar
) -> ShardReport:
    """Score one part of a run into the cache, where :func:`run_score` finds it; what is there is left.

    Ceiling, extrapolation and comparison are of the whole run, and left to :func:`run_score`.

    Parameters
    ----------
    request
        What the whole run scores; all shards need the same.
    shard
        Which part of it.
    remark, progress
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
        run = open_run(request, remark=remark)
        check_recordings(run.recordings, run.settings)
        compared = populations(run.recordings, run.settings)
        opened = {
            name: open_layers(model, run.dataset, request.layers, run.settings, request.resources)
            for name, model in run.models.items()
        }
        caches: dict[str, KeptScores] = {}
        for name, layers in opened.items():
            cache = layers.kept_scores(run.settings)
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
                    n_jobs=worker_number(request.resources),
                    progress=bar,
                    kept=caches[name],
                )
    n_missing = len(own) - sum(map(is_cached, own))
    if n_missing:
        raise DataError(
            f"{cache_dir(request.resources.home)}: the scores of {n_missing} of {len(own)} pairs could not "
            "be written there, and a shard is of no use without\n"
            "make room for them, or give a folder that can be written with --home or MVKIT_HOME"
        )
    return ShardReport(shard, len(pairs), len(own), n_before, sum(map(is_cached, pairs)))
