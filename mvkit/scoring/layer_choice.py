"""Which layer stands for an area, and the score of each unit from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError, unknown_name
from mvkit.scoring.correlation import mean_ignoring_nan

LayerChoice = Literal["paper", "held-out"]
PAPER: LayerChoice = "paper"
HELD_OUT: LayerChoice = "held-out"
CHOICES: tuple[LayerChoice, ...] = (PAPER, HELD_OUT)
NO_SCORES = "no unit with a score"
ONE_SPLIT = "held-out choice needs two splits"
#: Between the layers that the two sets of splits chose, where they differ.
OR = " / "


@dataclass(frozen=True)
class UnitGrid:
    """The units of one area and their scores from every layer.

    Attributes
    ----------
    layers
        Names.
    specimen, unit_id
        int64 (n_units,).
    score
        float64 (n_layers, n_units), NaN = no score.
    by_fold
        float64 (2, n_layers, n_units): from the even splits of the images alone, and from the odd ones;
        empty where there are none.
    networks
        float64 (n_networks, 1 or 3, n_layers, n_units): of pooled networks the scores of each, and those by
        fold; empty for one network.
    """

    layers: Sequence[str]
    specimen: NDArray[np.int64]
    unit_id: NDArray[np.int64]
    score: NDArray[np.float64]
    by_fold: NDArray[np.float64]
    networks: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0, 0, 0)))


@dataclass(frozen=True)
class ChosenUnits:
    """The units of one area, each with the score from the layer chosen for the area.

    Attributes
    ----------
    layer
        The layer; ``"a / b"`` where the even splits chose ``a`` and the odd ones ``b``; "" for none.
    specimen, unit_id
        int64 (n_units,).
    score
        float64 (n_units,), NaN = no score.
    reason
        Why no layer could be chosen, or "".
    networks
        float64 (n_networks, n_units): of pooled networks the scores of each, from the same layer; empty for
        one network.
    """

    layer: str
    specimen: NDArray[np.int64]
    unit_id: NDArray[np.int64]
    score: NDArray[np.float64]
    reason: str = ""
    networks: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))

    @property
    def deviations(self) -> tuple[NDArray[np.float64], ...]:
        """By how much each of pooled networks differs from their mean, as intervals take it; () for one."""
        return (self.networks - self.score,) if len(self.networks) else ()


def unit_grid(
    columns: Mapping[str, NDArray[np.generic]],
    by_fold: NDArray[np.float64],
    layers: Sequence[str],
    area: str,
    networks: NDArray[np.float64] | None = None,
) -> UnitGrid:
    """Arrange the rows of one area as layers x units.

    Parameters
    ----------
    columns
        Those of :class:`~mvkit.scoring.results.Scores`.
    by_fold
        float64 (2, n_rows), or empty.
    layers, area
        What to arrange.
    networks
        float64 (n_networks, 1 or 3, n_rows) of pooled networks, or empty.

    Raises
    ------
    DataError
        If two layers do not hold the same units in the same order.
    """
    grid = unit_rows(columns, layers, area)
    specimen = columns["specimen"].astype(np.int64)
    unit_id = columns["unit_id"].astype(np.int64)
    has_folds = by_fold.shape[-1] == len(specimen)
    return UnitGrid(
        layers,
        specimen[grid[0]],
        unit_id[grid[0]],
        columns["score"].astype(np.float64)[grid],
        by_fold[:, grid] if has_folds else np.empty((0, *grid.shape)),
        networks[:, :, grid] if networks is not None and len(networks) else np.empty((0, 0, *grid.shape)),
    )


def unit_rows(
    columns: Mapping[str, NDArray[np.generic]], layers: Sequence[str], area: str
) -> NDArray[np.int64]:
    """Return the numbers of the rows of one area: int64 (n_layers, n_units).

    Parameters
    ----------
    columns
        Those of :class:`~mvkit.scoring.results.Scores`.
    layers, area
        Of which rows.

    Raises
    ------
    DataError
        If two layers do not hold the same units in the same order.
    """
    of_area = columns["area"] == area
    rows = [np.flatnonzero(of_area & (columns["layer"] == layer)) for layer in layers]
    for layer, chosen in zip(layers, rows, strict=True):
        if not all(
            np.array_equal(columns[key][chosen], columns[key][rows[0]]) for key in ("specimen", "unit_id")
        ):
            raise DataError(f"area {area}: layers '{layers[0]}' and '{layer}' hold different units")
    return np.array(rows, dtype=np.int64).reshape(len(layers), -1)


def choose_layer(grid: UnitGrid, choice: str) -> ChosenUnits:
    """Choose a layer for an area by ``"paper"`` or ``"held-out"``.

    ``"paper"`` takes the layer with the highest median of the very scores that are reported. The expected
    highest of several noisy medians is above the median of the best layer, so that this flatters models with
    many layers.

    ``"held-out"`` takes the layer with the highest median on the even splits and scores it on the odd ones,
    and the other way round; a unit's score is the mean of the two. Splits are random divisions of the same
    images, so that the test images of an even split are also training and test images of odd ones, and the
    trials are the same: this removes the optimism of the choice only in part (see the note in
    :meth:`mvkit.scoring.results.Scores.held_out_layers`).

    On equal medians the earlier layer wins. A single layer is no choice and its scores stay.

    Raises
    ------
    UsageError
        For another name of a choice.
    """
    if choice not in CHOICES:
        raise unknown_name("layer choice", choice, CHOICES)
    if choice == PAPER or len(grid.layers) == 1:
        best = highest_median(grid.score)
        if best is None:
            return _no_choice(grid, NO_SCORES)
        return ChosenUnits(
            grid.layers[best],
            grid.specimen,
            grid.unit_id,
            grid.score[best],
            networks=_of_networks(grid, lambda network: network[0, best]),
        )
    if len(grid.by_fold) < 2:
        return _no_choice(grid, ONE_SPLIT)
    picks = [highest_median(fold) for fold in grid.by_fold]

    def held_out(by_fold: NDArray[np.float64]) -> NDArray[np.float64]:
        parts = [
            by_fold[1 - index][pick] if pick is not None else np.full(grid.score.shape[1], np.nan)
            for index, pick in enumerate(picks)
        ]
        return mean_ignoring_nan(np.stack(parts), axis=0)

    names = list(dict.fromkeys(grid.layers[pick] for pick in picks if pick is not None))
    if not names:
        return _no_choice(grid, NO_SCORES)
    return ChosenUnits(
        OR.join(names),
        grid.specimen,
        grid.unit_id,
        held_out(grid.by_fold),
        networks=_of_networks(grid, lambda network: held_out(network[1:])),
    )


def _of_networks(
    grid: UnitGrid, choose: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> NDArray[np.float64]:
    return np.array([choose(network) for network in grid.networks]).reshape(-1, len(grid.specimen))


def highest_median(scores: NDArray[np.float64]) -> int | None:
    """Return the first row with the highest median, ignoring NaN; None where all is NaN."""
    medians = [np.median(row[~np.isnan(row)]) if not np.isnan(row).all() else -np.inf for row in scores]
    best = int(np.argmax(medians))
    return best if medians[best] > -np.inf else None


def _no_choice(grid: UnitGrid, reason: str) -> ChosenUnits:
    missing = np.full(len(grid.specimen), np.nan)
    return ChosenUnits("", grid.specimen, grid.unit_id, missing, reason)
