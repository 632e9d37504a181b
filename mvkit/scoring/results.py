"""The outcome of a scoring run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mvkit.jsonable import digest_of, plain
from mvkit.scoring.settings import ScoreSettings
from mvkit.scoring.unit_columns import Column

if TYPE_CHECKING:
    import pandas as pd

ALL_AREAS = "all"
BEST_PER_AREA = "(best layer of each area)"
#: ``unit_id`` of the row of a whole population (RSA, CKA).
POPULATION = -1


@dataclass(frozen=True)
class Scores:
    """One row per layer, area, specimen and unit, and what is computed from these rows.

    Attributes
    ----------
    columns
        Arrays of equal length:

        - ``layer``, ``area`` (text), ``specimen``, ``unit_id`` (int64); -1 is a whole population;
        - ``raw_correlation``: mean of r_cross (prediction from half 1 with responses of half 2, test images);
        - ``map_reliability``: mean of SB(r_map), SB(r) = 2r/(1+r);
        - ``response_reliability``: mean of SB(r_target);
        - ``score``: mean of the noise-corrected r_cross / sqrt(SB(r_map) SB(r_target));
        - ``map_correlation``, ``response_correlation``: means of r_map and r_target, not corrected;
        - ``halves_used``, ``halves_dropped``: splits x halvings that the score is a mean of, and all others;
        - ``reason``: why the score is NaN, or ""; ``dropped_because``: why halvings were dropped, or "".

        All means run over splits and halvings at once and ignore NaN.
    layers, areas
        Names in the order given.
    settings
        What was asked for.
    context
        What else the scores depend on: model, dataset, versions.
    by_split
        float64 (n_splits, number of rows): the score of each split of the images by itself.
    """

    columns: Mapping[str, Column]
    layers: tuple[str, ...]
    areas: tuple[str, ...]
    settings: ScoreSettings
    context: Mapping[str, object]
    by_split: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))

    def protocol(self) -> dict[str, Any]:
        """Return what two results must share to be comparable, as plain JSON values.

        The settings without those of reporting and ceilings, the responses (by their digest), and the
        dataset and the selection of units they come from.
        """
        about = {name: plain(self.context.get(name)) for name in ("dataset", "selection", "responses_sha256")}
        return {**self.settings.protocol(), **about}

    def digest(self) -> str:
        """Return the sha256 (hex) of :meth:`protocol`."""
        return digest_of(self.protocol())

    def table(self) -> pd.DataFrame:
        """Return one row per (layer, area, specimen, unit)."""
        import pandas as pd

        return pd.DataFrame({name: np.array(column) for name, column in self.columns.items()})

    def summary(self) -> pd.DataFrame:
        """Return one row per layer and area, and one per layer for all areas together.

        Columns: ``layer``, ``area`` (``"all"`` = the units of every area pooled), ``median`` of the scores,
        ``sem`` (standard deviation over units with ddof 1, over the square root of their number), ``n_units``
        and ``n_animals`` that the median is over, ``n_nan`` units without a score.
        """
        import pandas as pd

        rows = []
        for layer in self.layers:
            of_layer = self.columns["layer"] == layer
            for area in (*self.areas, ALL_AREAS):
                chosen = of_layer if area == ALL_AREAS else of_layer & (self.columns["area"] == area)
                rows.append({"layer": layer, "area": area, **self._statistics(chosen)})
        return pd.DataFrame(rows)

    def best_layers(self) -> pd.DataFrame:
        """Return the layer with the highest median in each area.

        Columns as in :meth:`summary`. The row ``"all"`` pools the units of all areas, each unit with the
        score from the best layer of its own area, to be compared with the paper's figure per model (Table 2).
        Not to be confused with the ``"all"`` rows of :meth:`summary`, where one layer serves every area.

        The paper chooses the best layer by the very scores it reports, on the same test images, and so does
        this method: the more layers a model has, the more this favours it. On equal medians the earlier
        layer wins. An area without any score has layer "" and NaN.
        """
        import pandas as pd

        summary = self.summary()
        pooled = np.zeros(self.columns["score"].shape, dtype=np.bool_)
        rows = []
        for area in self.areas:
            candidates = summary[(summary["area"] == area) & summary["median"].notna()]
            if candidates.empty:
                nothing = np.zeros_like(pooled)
                rows.append({"area": area, "layer": "", **self._statistics(nothing)})
                continue
            best = str(candidates["layer"].iloc[int(candidates["median"].to_numpy().argmax())])
            chosen = (self.columns["area"] == area) & (self.columns["layer"] == best)
            pooled |= chosen
            rows.append({"area": area, "layer": best, **self._statistics(chosen)})
        rows.append({"area": ALL_AREAS, "layer": BEST_PER_AREA, **self._statistics(pooled)})
        return pd.DataFrame(rows)

    def to_json(self) -> dict[str, Any]:
        """Return settings, context, summary and best layers as plain JSON values (NaN becomes None)."""
        return {
            "settings": self.settings.model_dump(mode="json"),
            "protocol": self.protocol(),
            "digest": self.digest(),
            "context": {name: plain(value) for name, value in self.context.items()},
            "layers": list(self.layers),
            "areas": list(self.areas),
            "best_layers": _records(self.best_layers()),
            "summary": _records(self.summary()),
        }

    def _statistics(self, chosen: np.ndarray[Any, np.dtype[np.bool_]]) -> dict[str, float | int]:
        scores = self.columns["score"][chosen].astype(np.float64)
        scored = ~np.isnan(scores)
        n_units = int(scored.sum())
        specimens = self.columns["specimen"][chosen][scored]
        return {
            "median": float(np.median(scores[scored])) if n_units else math.nan,
            "sem": float(scores[scored].std(ddof=1) / math.sqrt(n_units)) if n_units > 1 else math.nan,
            "n_units": n_units,
            "n_animals": int(np.unique(specimens).size),
            "n_nan": int(scores.size - n_units),
        }


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {str(name): plain(value) for name, value in row.items()} for row in frame.to_dict(orient="records")
    ]
