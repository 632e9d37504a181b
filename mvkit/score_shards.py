"""A part of a scoring run, done apart from the others and put together with them later."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvkit.errors import UsageError
from mvkit.resources import worker_number
from mvkit.score_dataset import dataset_context
from mvkit.score_layers import OpenedLayers, open_layers
from mvkit.score_manifest import Manifest, ScoredLayer, Units, asked_for, join_run, parts_of
from mvkit.score_request import ScoreRequest
from mvkit.score_run import OpenedRun, ProgressBar, Remark, no_bar, open_run
from mvkit.scoring.backends import running_on

if TYPE_CHECKING:
    from mvkit.scoring.kept import StoredScores
    from mvkit.scoring.run import KeptScores
    from mvkit.scoring.settings import RecordingLike
    from mvkit.store.entries import Store


@dataclass(frozen=True)
class Shard:
    """Part ``number`` (from 1) of ``count`` parts of a run."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


@dataclass(frozen=True)
class ShardReport:
    """What a shard did.

    Attributes
    ----------
    shard, folder
        Which one, and where its results are.
    n_pairs, n_own
        Pairs of layer and recording of the whole run, and of this shard.
    n_before
        Those of this shard that were there already.
    n_missing
        Pairs of the whole run that are still missing.
    """

    shard: Shard
    folder: Path
    n_pairs: int
    n_own: int
    n_before: int
    n_missing: int

    def lines(self) -> list[str]:
        """Return the report in sentences, with what comes next."""
        before = f", of which {self.n_before} were there already" if self.n_before else ""
        merge = f"mvkit score --merge {self.folder}"
        return [
            f"shard {self.shard}: {self.n_own} of {self.n_pairs} pairs of layer and recording{before}",
            f"every shard is done; put them together: {merge}"
            if not self.n_missing
            else f"{self.n_missing} of {self.n_pairs} pairs are still missing; when all shards are done: "
            f"{merge}",
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {
            "shard": str(self.shard),
            "folder": str(self.folder),
            "pairs": self.n_pairs,
            "pairs_of_shard": self.n_own,
            "pairs_before": self.n_before,
            "pairs_missing": self.n_missing,
        }


def parse_shard(text: str) -> Shard:
    """Read ``i/n``.

    Raises
    ------
    UsageError
        If it is something else, or i is not one of 1 to n.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise UsageError(f"--shard {text}: give i/n with i from 1 to n, for example 2/8")
    return Shard(int(found[1]), int(found[2]))


def shard_wanted(
    text: str, *, out: Path | None, merge: Path | None, figure: Path | None
) -> tuple[Shard, Path]:
    """Return the shard that options ask for, and the folder of its results.

    Raises
    ------
    UsageError
        If the text is not ``i/n``, there is no folder, or an option belongs to merging.
    """
    shard = parse_shard(text)
    if merge is not None:
        raise UsageError("--shard and --merge: do every shard first, then merge them")
    if figure is not None:
        raise UsageError("--figure: a shard has nothing to draw yet; give it with --merge")
    if out is None:
        raise UsageError(f"--shard {shard}: give the folder that all shards share: --out DIR")
    return shard, out


def shards_of_pairs(weights: Sequence[int], count: int) -> list[int]:
    """Divide pairs among shards: contiguous, and balanced by weight.

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


def shards_of(manifest: Manifest, count: int) -> list[int]:
    """Return the shard of every pair of a run, in the order of :meth:`Manifest.pairs`."""
    weights = [len(manifest.recordings[place].unit_ids) for _, place in manifest.pairs()]
    return shards_of_pairs(weights, count)


def run_shard(
    request: ScoreRequest, shard: Shard, folder: Path, *, remark: Remark, progress: ProgressBar = no_bar
) -> ShardReport:
    """Do one shard of a run; what is there already is not done again.

    Parameters
    ----------
    request
        What the whole run scores.
    shard
        Which part of it.
    folder
        Where all shards of the run put their results.
    remark, progress
        As for :func:`mvkit.score_run.run_score`.

    Raises
    ------
    UsageError
        As :func:`mvkit.score_run.run_score`, and if the folder belongs to another run.
    CheckpointError, DataError
        As :func:`mvkit.score_run.run_score`, and if layers give something else than for other shards.
    """
    with running_on(request.resources):
        return _done(request, shard, folder, remark, progress)


def _done(
    request: ScoreRequest, shard: Shard, folder: Path, remark: Remark, progress: ProgressBar
) -> ShardReport:
    from mvkit.scoring.kept import FirstOf, StoredScores
    from mvkit.scoring.run import check_recordings, measure_pairs, populations

    run = open_run(request, remark=remark)
    check_recordings(run.recorded.recordings, run.settings)
    compared = populations(run.recorded.recordings, run.settings)
    parts = parts_of(folder)
    opened: dict[str, OpenedLayers] = {}
    places: dict[str, StoredScores] = {}
    for name, model in run.models.items():
        opened[name] = _identified(name, model, run, request)
        places[name] = StoredScores(parts, opened[name].identities or {}, run.settings)
    manifest = _manifest(request, run, opened, places, compared, shard.count)
    join_run(manifest, folder)
    of_pair = shards_of(manifest, shard.count)
    own = [pair for pair, number in zip(manifest.pairs(), of_pair, strict=True) if number == shard.number]
    n_before = len(own) - missing_pairs(parts, own)
    for name, layers in opened.items():
        pairs = [(layer.name, place) for layer, place in own if layer.model == name]
        if not pairs:
            continue
        cached = layers.kept_scores(run.settings)
        kept: KeptScores = places[name] if cached is None else FirstOf([places[name], cached])
        with progress(f"scoring {name}") as bar:
            measure_pairs(
                layers.source,
                compared,
                run.settings,
                pairs,
                n_jobs=worker_number(request.resources),
                progress=bar,
                kept=kept,
            )
    everything = list(manifest.pairs())
    return ShardReport(
        shard, folder, len(everything), len(own), n_before, n_missing=missing_pairs(parts, everything)
    )


def missing_pairs(parts: Store, pairs: Sequence[tuple[ScoredLayer, int]]) -> int:
    """Count pairs that no shard has written yet."""
    from mvkit.scoring.kept import KIND

    return sum(not parts.path(KIND, layer.keys[place]).is_file() for layer, place in pairs)


def _identified(name: str, model: object, run: OpenedRun, request: ScoreRequest) -> OpenedLayers:
    found = open_layers(
        model, run.recorded.dataset, request.layers, run.settings, request.resources, identify=True
    )
    if found.identities is None:
        raise UsageError(
            f"{name}: what its layers depend on cannot be told, so it cannot be scored in shards"
        )
    return found


def _manifest(
    request: ScoreRequest,
    run: OpenedRun,
    opened: Mapping[str, OpenedLayers],
    places: Mapping[str, StoredScores],
    compared: Sequence[RecordingLike],
    n_shards: int,
) -> Manifest:
    from mvkit.scoring.kept import sources_digest
    from mvkit.scoring.protocol import result_context

    contexts = {
        name: result_context(
            {**layers.about, **dataset_context(run.recorded.dataset)}, run.recorded.recordings
        )
        for name, layers in opened.items()
    }
    scored = tuple(
        ScoredLayer(
            name,
            layer,
            tuple(places[name].key(layer, recording) for recording in compared),
            tuple(float(value) for value in (layers.identities or {})[layer].probe),
        )
        for name, layers in opened.items()
        for layer in layers.source.names
    )
    versions = next(iter(contexts.values()))["versions"]
    return Manifest(
        request=asked_for(request),
        settings=run.settings.model_dump(mode="json"),
        recordings=tuple(Units(one.area, one.specimen, one.unit_ids) for one in compared),
        layers=scored,
        contexts=contexts,
        software={"scoring sources": sources_digest(), "versions": versions},
        n_shards=n_shards,
    )
