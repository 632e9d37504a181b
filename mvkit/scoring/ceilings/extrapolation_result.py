"""What is known of a ceiling at several sizes, and beyond them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mvkit.jsonable import plain
from mvkit.scoring.ceilings.extrapolation_fits import FittedArea, fit_area
from mvkit.scoring.ceilings.extrapolation_targets import Over
from mvkit.scoring.intervals import median_interval
from mvkit.scoring.settings import ScoreSettings

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class AreaSizes:
    """Consistency of the units of one area at several sizes.

    Attributes
    ----------
    area
        Visual area, or ``"all"``.
    sizes
        int64 (n_sizes,), ascending.
    scores
        float64 (n_sizes, n_units), NaN = no score.
    animals, unit_ids
        int64 (n_units,).
    left_out
        Sizes that could not be measured -> why.
    reason
        Why there is no size at all, or "".
    """

    area: str
    sizes: NDArray[np.int64]
    scores: NDArray[np.float64]
    animals: NDArray[np.int64]
    unit_ids: NDArray[np.int64]
    left_out: Mapping[int, str]
    reason: str

    @staticmethod
    def nothing(area: str, left_out: Mapping[int, str], reason: str) -> AreaSizes:
        """Return an area without any size."""
        empty = np.empty(0, dtype=np.int64)
        return AreaSizes(area, empty, np.empty((0, 0)), empty, empty, dict(left_out), reason)

    @cached_property
    def compared(self) -> NDArray[np.float64]:
        """Scores of the units that have one at every size at which any unit has; NaN elsewhere.

        Medians at different sizes are to be of the same units, or a curve would show the change of units.
        """
        missing = np.isnan(self.scores)
        nowhere = missing.all(axis=1, keepdims=True)
        lacking = (missing & ~nowhere).any(axis=0)
        return np.where(lacking | nowhere, np.nan, self.scores)


@dataclass(frozen=True)
class Extrapolation:
    """Ceilings at several sizes, per area and over all of them.

    Attributes
    ----------
    over
        What sizes count: source ``"units"``, or images (``"stimuli"``).
    areas
        One per area; the last one, ``"all"``, pools the units of all areas at the sizes that all have.
    settings
        The protocol; ``ceiling`` is ``"holdout"`` or ``"pairwise"``.
    responses_sha256
        Digest of the recordings.
    """

    over: Over
    areas: tuple[AreaSizes, ...]
    settings: ScoreSettings
    responses_sha256: str

    @property
    def skipped(self) -> dict[str, str]:
        """Areas without any size -> why."""
        return {area.area: area.reason for area in self.areas if area.reason}

    def table(self) -> pd.DataFrame:
        """Return one row per area and size.

        Columns: ``area``; ``size``; ``median`` over the units that have a score at every size; ``low``,
        ``high`` (interval of :func:`~mvkit.scoring.intervals.median_interval`); ``n_units``,
        ``n_animals``; ``n_nan`` units left out; ``reason`` why a number is missing, or "".
        """
        import pandas as pd

        columns = ("area", "size", "median", "low", "high", "n_units", "n_animals", "n_nan", "reason")
        rows = [row for area in self.areas for row in _rows(area, self.settings)]
        return pd.DataFrame(rows, columns=list(columns))

    @cached_property
    def fitted(self) -> dict[str, FittedArea]:
        """Area -> the two curves fitted to its medians, for the areas that have any."""
        return {
            area.area: fit_area(area.sizes, area.compared, area.animals, self.settings)
            for area in self.areas
            if not area.reason
        }

    def fits(self) -> pd.DataFrame:
        """Return one row per area and curve.

        Columns: ``area``; ``curve`` (``"saturating"`` or ``"log-linear"``, see
        :mod:`mvkit.scoring.ceilings.extrapolation_curves`); ``n_sizes``; ``asymptote`` with ``_se``, ``_low``
        and ``_high`` (saturating only); ``half`` and ``exponent``, or ``slope`` per unit of ln(size), with
        ``_se``; ``at_largest``, the curve's value at the largest ``size``; ``doubled`` with ``_low`` and
        ``_high``, its value at twice that; ``rmse`` of the medians; ``determined``: whether the data fix the
        asymptote, given that form of curve; ``n_units``, ``n_animals``; ``reason`` why not, or why there is
        no curve.

        Intervals are for other animals and units, not for other images or another form of curve: maps that
        change with the number of sources (ridge with a fixed penalty) may miss their limit by more.
        Standard errors are standard deviations of refits to hierarchical bootstrap resamples.
        """
        import pandas as pd

        rows = [
            {"area": area, **row} for area, fitted in self.fitted.items() for row in fitted.rows(self.over)
        ]
        return pd.DataFrame(rows)

    def to_json(self) -> dict[str, Any]:
        """Return protocol, sizes, medians, curves and gaps as plain JSON values (NaN becomes None)."""
        return {
            "over": self.over,
            "ceiling": self.settings.ceiling,
            "settings": self.settings.model_dump(mode="json"),
            "responses_sha256": self.responses_sha256,
            "sizes": [plain(row) for row in self.table().to_dict(orient="records")],
            "fits": [plain(row) for row in self.fits().to_dict(orient="records")],
            "skipped": self.skipped,
        }


def _rows(area: AreaSizes, settings: ScoreSettings) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for size, values, compared in zip(area.sizes, area.scores, area.compared, strict=True):
        interval = median_interval(compared, area.animals, settings)
        valid = compared[~np.isnan(compared)]
        rows.append(
            {
                "area": area.area,
                "size": int(size),
                "median": float(np.median(valid)) if valid.size else math.nan,
                "low": interval.low,
                "high": interval.high,
                "n_units": interval.n_units,
                "n_animals": interval.n_animals,
                "n_nan": int(values.size - valid.size),
                "reason": interval.reason,
            }
        )
    gap = {"median": math.nan, "low": math.nan, "high": math.nan, "n_units": 0, "n_animals": 0, "n_nan": 0}
    rows += [{"area": area.area, "size": size, **gap, "reason": why} for size, why in area.left_out.items()]
    return sorted(rows, key=lambda row: int(str(row["size"])))
