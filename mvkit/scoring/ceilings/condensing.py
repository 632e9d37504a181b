"""From the scores of pairs of animals to one row per target unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mvkit.scoring.ceilings.pairs import PairScores, joined_halvings, nothing_scored
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.results import POPULATION, Column
from mvkit.scoring.run import UnitScores, unit_scores
from mvkit.scoring.settings import RecordingLike, ScoreSettings

ALONE = "no other animal in this area"


@dataclass(frozen=True)
class Sourced:
    """What one source gives for a target: the source's animals, and the scores from them."""

    animals: tuple[int, ...]
    scores: PairScores


def condensed(
    target: RecordingLike, sources: Sequence[Sourced], n_splits: int, settings: ScoreSettings
) -> UnitScores:
    """Condense all sources of a target to one row per unit, every split and halving of each counting equally.

    Sources that cannot be mapped at all take no part; ``dropped_because`` names them. Where none is left,
    ``reason`` says why.

    Returns
    -------
    UnitScores
        With all columns of a ceiling, see :func:`~mvkit.scoring.ceilings.measure.measure_ceiling`.
    """
    per_unit = MAPPINGS[settings.mapping].per_unit
    unit_ids = np.asarray(target.unit_ids if per_unit else [POPULATION], dtype=np.int64)
    used = [source for source in sources if not source.scores.reason]
    unused = [source for source in sources if source.scores.reason]
    without = "; ".join(f"source {_names(source.animals)}: {source.scores.reason}" for source in unused)
    n_rows = unit_ids.size
    if used:
        halvings = joined_halvings([source.scores.halvings for source in used])
        measured = unit_scores(halvings, "", settings)
    else:
        # One halving that is NaN stands for none, of which there would be no mean; it is not counted.
        nothing = nothing_scored((n_splits, 1, n_rows), settings)
        measured = unit_scores(nothing, without or ALONE, settings)
    columns: dict[str, Column] = {
        "layer": np.full(n_rows, settings.ceiling, dtype=object),
        "area": np.full(n_rows, target.area, dtype=object),
        "specimen": np.full(n_rows, target.specimen, dtype=np.int64),
        "unit_id": unit_ids,
        **measured.columns,
        "n_sources": np.full(n_rows, sum(len(source.animals) for source in used), dtype=np.int64),
        "n_source_units": np.full(
            n_rows, sum(source.scores.n_source_units for source in used), dtype=np.int64
        ),
    }
    if not used:
        columns["halves_dropped"] = np.zeros(n_rows, dtype=np.int64)
    elif without:
        columns["dropped_because"] = np.array(
            ["; ".join(filter(None, (text, without))) for text in measured.columns["dropped_because"]],
            dtype=object,
        )
    return UnitScores(columns, measured.by_fold)


def _names(animals: Sequence[int]) -> str:
    return ", ".join(str(animal) for animal in animals)
