"""What measuring the reliabilities of a neural file found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mvkit.neural.layout import NeuralFileContents
from mvkit.neural.recording import area_sort_key

#: Units at or above these are counted: the thresholds of the selections ``paper`` and ``code``.
THRESHOLDS = (0.3, 0.5)


@dataclass(frozen=True)
class AreaReliability:
    """Reliabilities of the units of one area; of each unit the one in its best time bin.

    Attributes
    ----------
    area
        Visual area, "" for units without one.
    n_specimens, n_units
        Animals and units.
    n_undefined
        Units without a reliability.
    median
        Over the other units; NaN if there are none.
    at_least
        Threshold -> units at or above it.
    """

    area: str
    n_specimens: int
    n_units: int
    n_undefined: int
    median: float
    at_least: Mapping[float, int]


@dataclass(frozen=True, eq=False)
class ReliabilityReport:
    """What was measured and where it was stored.

    Attributes
    ----------
    source, target
        File measured, and file that holds the reliabilities now (the same unless ``out`` was given).
    dataset
        Name of the dataset.
    n_halves, seed
        Halvings of the trials, and seed of their draws.
    mean, std
        float64 (n_bins, n_units), or (n_units,) without a time axis: over the halvings in which the
        reliability is defined; NaN where there is none.
    reasons
        Text (n_units,): why a unit has no reliability (in any time bin), else "".
    areas
        One entry per area.
    replaced
        Names of stored reliabilities that were replaced.
    seconds
        Time taken.
    """

    source: Path
    target: Path
    dataset: str
    n_halves: int
    seed: int
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    reasons: NDArray[np.str_]
    areas: tuple[AreaReliability, ...]
    replaced: tuple[str, ...]
    seconds: float

    def undefined(self) -> dict[str, int]:
        """Return reason -> number of units without a reliability for it."""
        names, counts = np.unique(self.reasons[self.reasons != ""], return_counts=True)
        return {str(name): int(count) for name, count in zip(names, counts, strict=True)}

    def to_json(self) -> dict[str, object]:
        """Return plain data, without the reliabilities themselves."""
        return {
            "file": str(self.source),
            "written": str(self.target),
            "dataset": self.dataset,
            "n_halves": self.n_halves,
            "seed": self.seed,
            "per_time_bin": self.mean.ndim == 2,
            "areas": [asdict(area) for area in self.areas],
            "undefined": self.undefined(),
            "replaced": list(self.replaced),
            "seconds": self.seconds,
        }


def reliability_by_area(
    contents: NeuralFileContents, mean: NDArray[np.float64]
) -> tuple[AreaReliability, ...]:
    """Summarise reliabilities by area, areas in their usual order.

    Parameters
    ----------
    contents
        Of the neural file.
    mean
        float64 (n_bins, n_units) or (n_units,).
    """
    known = np.where(np.isnan(mean), -np.inf, mean)
    best = known if known.ndim == 1 else known.max(axis=0)
    columns = contents.unit_columns
    areas = np.asarray(columns["visual_area"]).astype(str) if "visual_area" in columns else _blank(best)
    specimens = columns.get("specimen_id", np.zeros(len(best)))
    found = []
    for area in sorted(set(areas.tolist()), key=area_sort_key):
        own = areas == area
        values = best[own & np.isfinite(best)]
        animals = specimens[own]
        found.append(
            AreaReliability(
                area=area,
                n_specimens=len(np.unique(animals[~np.isnan(animals)])),
                n_units=int(own.sum()),
                n_undefined=int(own.sum()) - len(values),
                median=float(np.median(values)) if len(values) else float("nan"),
                at_least={threshold: int((values >= threshold).sum()) for threshold in THRESHOLDS},
            )
        )
    return tuple(found)


def _blank(values: NDArray[np.float64]) -> NDArray[np.str_]:
    return np.full(len(values), "")
