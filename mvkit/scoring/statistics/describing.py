"""The row of a summary: median, standard error, interval and counts."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.settings import ScoreSettings
from mvkit.scoring.statistics.hierarchy import Draws
from mvkit.scoring.statistics.intervals import median_interval


def described(
    scores: NDArray[np.float64],
    specimens: NDArray[np.int64],
    settings: ScoreSettings,
    *,
    areas: NDArray[np.generic] | None = None,
    draws: Draws | None = None,
    reason: str = "",
) -> dict[str, float | int | str]:
    """Describe the scores of units.

    Parameters
    ----------
    scores
        float64 (n_units,), NaN = no score.
    specimens
        int64 (n_units,).
    settings
        Those of intervals.
    areas, draws
        As in :func:`~mvkit.scoring.statistics.intervals.median_interval`.
    reason
        Why there are no scores, where that is known.

    Returns
    -------
    dict
        ``median``; ``sem``, the standard deviation (ddof 1) over units over the square root of their number;
        ``low`` and ``high`` of :func:`~mvkit.scoring.statistics.intervals.median_interval`; ``n_units`` and
        ``n_animals`` with a score, ``n_nan`` units without; ``reason`` for bounds that are NaN, or "".
    """
    known = scores[~np.isnan(scores)]
    interval = median_interval(scores, specimens, settings, areas=areas, draws=draws)
    return {
        "median": float(np.median(known)) if known.size else math.nan,
        "sem": float(known.std(ddof=1) / math.sqrt(known.size)) if known.size > 1 else math.nan,
        "low": interval.low,
        "high": interval.high,
        "n_units": interval.n_units,
        "n_animals": interval.n_animals,
        "n_nan": int(scores.size) - interval.n_units,
        "reason": (reason or interval.reason) if interval.reason else "",
    }
