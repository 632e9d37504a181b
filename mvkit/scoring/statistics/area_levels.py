"""Differences between areas, taken out of differences between animals."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def without_area_levels(
    columns: NDArray[np.float64], animals: NDArray[np.int64], areas: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Subtract from each value the level of its area, as far as animals with several areas tell it.

    Animals have units in different areas, and areas differ in level. In a median over several areas the areas
    and the numbers of their units are as they are, not drawn: an animal is not unlike the others because more
    of its units lie in an area of high scores. Levels are fitted by least squares to the medians of cells
    (animal x area, weighted by units) beside a level per animal. Where no chain of animals joins two areas
    nothing tells their levels from those of their animals, and the difference stays. Where animals have few
    areas each, levels are poorly known and intervals become too wide, not too narrow: in simulations of six
    areas they cover 95 to 97 % with four or more areas per animal, 95 to 100 % with one or two.

    Parameters
    ----------
    columns
        float64 (n_columns, n_units), without NaN.
    animals, areas
        int64 (n_units,): positions, every one from 0 to the largest present.

    Returns
    -------
    ndarray
        float64 (n_columns, n_units); the mean level over units is left in.
    """
    n_animals, n_areas = int(animals.max()) + 1, int(areas.max()) + 1
    if n_areas == 1:
        return columns
    cells, cell_of, counts = np.unique(animals * n_areas + areas, return_inverse=True, return_counts=True)
    cell_animals, cell_areas = np.divmod(cells, n_areas)
    order = np.argsort(cell_of, kind="stable")
    parts = np.split(columns[:, order], np.cumsum(counts)[:-1], axis=1)
    medians = np.stack([np.median(part, axis=1) for part in parts])
    design = np.zeros((len(cells), n_animals + n_areas))
    design[np.arange(len(cells)), cell_animals] = 1.0
    design[np.arange(len(cells)), n_animals + cell_areas] = 1.0
    weights = np.sqrt(counts)[:, None]
    fitted = np.linalg.lstsq(design * weights, medians * weights, rcond=None)[0]
    levels = fitted[n_animals:]
    joined = _joined(cell_animals, cell_areas, n_areas)
    units = np.bincount(areas, minlength=n_areas).astype(np.float64)
    for group in np.unique(joined):
        members = joined == group
        levels[members] -= np.average(levels[members], axis=0, weights=units[members])
    adjusted: NDArray[np.float64] = columns - levels[areas].T
    return adjusted


def _joined(animals: NDArray[np.int64], areas: NDArray[np.int64], n_areas: int) -> NDArray[np.int64]:
    """Number areas so that those that animals join, directly or in a chain, share a number."""
    group = np.arange(n_areas)
    for animal in np.unique(animals):
        shared = group[areas[animals == animal]]
        group[np.isin(group, shared)] = shared.min()
    return group
