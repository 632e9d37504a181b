"""Shards of a scoring run put together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mvkit.errors import DataError
from mvkit.report.outcome import ScoreRun
from mvkit.score_ceiling import read_earlier, refuse_other_protocols
from mvkit.score_dataset import choose_recordings, open_default
from mvkit.score_manifest import Manifest, check_probe, find_run, parts_of, request_again
from mvkit.score_request import ScoreRequest, selection_of
from mvkit.score_run import MeasuredRun, ProgressBar, Recorded, Remark, finish_run, no_bar
from mvkit.score_shards import Shard, shards_of
from mvkit.scoring.backends import running_on

if TYPE_CHECKING:
    from mvkit.scoring import Scores, ScoreSettings
    from mvkit.scoring.run import Pair, UnitScores


def merge_shards(
    request: ScoreRequest, folder: Path, *, remark: Remark, progress: ProgressBar = no_bar
) -> ScoreRun:
    """Put the shards in a folder together, without loading a model.

    Parameters
    ----------
    request
        Where to run; everything else is what the shards were asked for.
    folder
        Where they put their results.
    remark, progress
        As for :func:`mvkit.score_run.run_score`.

    Returns
    -------
    ScoreRun
        To the last bit what one process would have measured; ceiling, comparison and extrapolation too.

    Raises
    ------
    DataError
        If there are no shards, some are missing (naming them), or they do not belong together.
    UsageError
        If the folder holds two runs, or the request asks for something else than the shards.
    """
    from mvkit.scoring.settings import ScoreSettings

    manifest = find_run(folder)
    asked = request_again(manifest, request)
    settings = ScoreSettings(**manifest.settings)
    measured = _collected(manifest, folder)
    earlier = read_earlier(asked.against)
    recorded = None
    if earlier or asked.extrapolate or settings.ceiling != "none":
        recorded = _recorded(asked, manifest, remark)
        refuse_other_protocols(earlier, recorded.dataset, recorded.recordings, settings)
    scores = {name: _assembled(name, manifest, measured[name], settings) for name in asked.models}
    run = MeasuredRun(settings, scores, earlier, recorded)
    with running_on(request.resources):
        return finish_run(asked, run, remark=remark, progress=progress)


def _collected(manifest: Manifest, folder: Path) -> dict[str, dict[Pair, UnitScores]]:
    """Read every pair of every model, or say which shards are missing."""
    from mvkit.scoring.kept import read_kept

    parts = parts_of(folder)
    found: dict[str, dict[Pair, UnitScores]] = {name: {} for name in manifest.request["models"]}
    missing = []
    shards = shards_of(manifest, manifest.n_shards)
    for (layer, place), number in zip(manifest.pairs(), shards, strict=True):
        kept = read_kept(parts, layer.keys[place])
        if kept is None:
            missing.append(number)
            continue
        check_probe(layer, kept.probe)
        found[layer.model][layer.name, place] = kept.scores
    if missing:
        _refuse_missing(missing, len(shards), manifest.n_shards, folder)
    return found


def _refuse_missing(missing: Sequence[int], n_pairs: int, n_shards: int, folder: Path) -> None:
    again = ", ".join(f"--shard {Shard(number, n_shards)}" for number in dict.fromkeys(missing))
    raise DataError(
        f"{folder}: {len(missing)} of {n_pairs} pairs of layer and recording are missing\nrun again: {again}"
    )


def _recorded(asked: ScoreRequest, manifest: Manifest, remark: Remark) -> Recorded:
    """Open the recordings that the shards scored."""
    from mvkit.scoring.protocol import recordings_digest

    home = asked.resources.home
    dataset = open_default(asked.dataset, selection=selection_of(asked), home=home, remark=remark)
    recordings = choose_recordings(dataset, asked.areas)
    scored = {context["responses_sha256"] for context in manifest.contexts.values()}
    if scored != {recordings_digest(recordings)}:
        raise DataError(f"{dataset.name}: holds other responses than the shards scored")
    return Recorded(dataset, recordings)


def _assembled(
    name: str, manifest: Manifest, measured: dict[Pair, UnitScores], settings: ScoreSettings
) -> Scores:
    from mvkit.scoring.run import assemble_scores

    layers = [layer.name for layer in manifest.layers if layer.model == name]
    return assemble_scores(layers, manifest.recordings, measured, settings, manifest.contexts[name])
