"""Scores as fractions of the consistency between animals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import UsageError
from mvkit.scoring.intervals import NO_UNITS, Statistic, statistic_interval
from mvkit.scoring.statistics.pairing import PairedUnits, paired_units
from mvkit.scoring.statistics.same_protocol import require_same_protocol

if TYPE_CHECKING:
    import pandas as pd

    from mvkit.scoring.results import Scores
    from mvkit.scoring.settings import ScoreSettings

NO_CEILING = "the median ceiling of these units is not above zero"


def _gradient(medians: NDArray[np.float64]) -> NDArray[np.float64]:
    score, ceiling = medians
    return np.array([1.0 / ceiling, -score / ceiling**2])


#: Median score over median ceiling.
RATIO = Statistic(lambda medians: medians[0] / medians[1], _gradient)


def fraction_of_ceiling(scores: Scores, ceiling: Scores, *, choice: str | None = None) -> pd.DataFrame:
    """Divide the median score of each area by the median ceiling of the same units.

    Parameters
    ----------
    scores
        Scores of a model.
    ceiling
        Consistency between animals of the same protocol, with one layer
        (:func:`mvkit.scoring.ceilings.measure.measure_ceiling`).
    choice
        Which layers of the model: ``"paper"`` or ``"held-out"``; None means ``settings.layer_choice``.

    Returns
    -------
    DataFrame
        Per area of the scores, and ``"all"`` for the units of all areas pooled: ``area``, ``choice``,
        ``fraction``, ``low``, ``high`` (hierarchical bootstrap with shared draws, see
        :func:`~mvkit.scoring.intervals.statistic_interval`), ``n_units`` and ``n_animals`` that
        have a score and a ceiling, ``reason`` for NaN, or "".

    Raises
    ------
    UsageError
        If the protocols differ (names the fields), the ceiling has several layers, or the choice is unknown.
    """
    import pandas as pd

    from mvkit.scoring.results import ALL_AREAS

    require_same_protocol(("the scores", scores), ("the ceiling", ceiling))
    if len(ceiling.layers) != 1:
        raise UsageError(f"a ceiling has one layer, this one has {len(ceiling.layers)}: are these scores?")
    name = scores.settings.layer_choice if choice is None else choice
    chosen, limits = scores.chosen_units(name), ceiling.chosen_units("paper")
    rows = []
    for area in (*scores.areas, ALL_AREAS):
        areas = scores.areas if area == ALL_AREAS else (area,)
        units = paired_units((chosen, limits), areas)
        why = "; ".join(
            dict.fromkeys(
                result[one].reason
                for one in areas
                for result in (chosen, limits)
                if one in result and result[one].reason
            )
        )
        rows.append({"area": area, "choice": name, **_fraction(units, scores.settings, why)})
    return pd.DataFrame(rows)


def _fraction(units: PairedUnits, settings: ScoreSettings, why: str) -> dict[str, float | int | str]:
    n_units, n_animals = units.columns.shape[1], len(np.unique(units.specimen))
    counts = {"n_units": n_units, "n_animals": n_animals}
    nothing = {"fraction": math.nan, "low": math.nan, "high": math.nan, **counts}
    if not n_units:
        return {**nothing, "reason": why or NO_UNITS}
    medians = np.median(units.columns, axis=1)
    if not medians[1] > 0.0:
        return {**nothing, "reason": NO_CEILING}
    interval = statistic_interval(units.columns, units.specimen, RATIO, settings, areas=units.area)
    fraction = float(medians[0] / medians[1])
    return {
        "fraction": fraction,
        "low": interval.low,
        "high": interval.high,
        **counts,
        "reason": interval.reason,
    }
