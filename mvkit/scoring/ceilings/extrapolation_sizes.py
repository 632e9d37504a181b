"""How many source units, or images, a ceiling is measured with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.settings import ScoreSettings

#: Source units that a mapping needs at least; with one or two units correlations over units are always ±1.
_FEWEST = 3
_FEWEST_UNITS: dict[str, Callable[[ScoreSettings], int]] = {"pls": lambda settings: settings.n_components}
#: The smallest size is no less than this share of the largest.
_SMALLEST_SHARE = 1 / 32
#: Below so many test images correlations say little.
_FEWEST_TEST_IMAGES = 5


def unit_sizes(
    available: Mapping[str, int], settings: ScoreSettings, n_points: int
) -> dict[str, NDArray[np.int64]]:
    """Choose numbers of source units, evenly spaced in their logarithm.

    Parameters
    ----------
    available
        Area -> source units that every animal of the area can be predicted from.
    settings
        The mapping, which may need a number of source units.
    n_points
        Sizes that all areas share, so that their units can be pooled.

    Returns
    -------
    dict
        Area -> ascending int64 sizes: those shared, up to the most that the poorest area has, and more of
        them up to all units of the area. An area with too few source units has none.
    """
    fewest = fewest_units(settings)
    able = {area: n for area, n in available.items() if n >= fewest}
    if not able:
        return {area: np.empty(0, dtype=np.int64) for area in available}
    most = min(able.values())
    smallest = max(fewest, math.ceil(most * _SMALLEST_SHARE))
    shared = spaced(smallest, most, n_points)
    sizes = {}
    for area, n in available.items():
        if n < fewest:
            sizes[area] = np.empty(0, dtype=np.int64)
            continue
        whole = math.log(n / smallest) or 1.0
        n_more = math.ceil(n_points * math.log(n / most) / whole)
        sizes[area] = np.union1d(shared, spaced(most, n, n_more + 1))
    return sizes


def image_sizes(n_images: int, settings: ScoreSettings, n_points: int) -> NDArray[np.int64]:
    """Choose numbers of images, evenly spaced in their logarithm, from the fewest that serve to all."""
    enough = [
        n
        for n in range(2, n_images + 1)
        if not image_fault(n, settings) and _n_test(n, settings) >= _FEWEST_TEST_IMAGES
    ]
    smallest = max(enough[0] if enough else n_images, math.ceil(n_images * _SMALLEST_SHARE))
    return spaced(smallest, n_images, n_points)


def spaced(first: int, last: int, n: int) -> NDArray[np.int64]:
    """Return ``n`` whole numbers from first to last, evenly spaced in their logarithm; equal ones once."""
    return (
        np.unique(np.round(np.geomspace(first, last, max(n, 1))).astype(np.int64))
        if n > 1
        else np.array([last])
    )


def fewest_units(settings: ScoreSettings) -> int:
    """Return the fewest source units that the mapping can be fitted with."""
    needed = _FEWEST_UNITS.get(settings.mapping)
    return _FEWEST if needed is None else max(_FEWEST, needed(settings))


def image_fault(n_images: int, settings: ScoreSettings) -> str:
    """Say why so many images are too few to be scored, or ""."""
    if settings.compares_all_images:
        return "" if n_images >= _FEWEST else f"{n_images} images have no dissimilarities to compare"
    n_train = math.ceil(settings.train_fraction * n_images)
    n_needed = max(2, MAPPINGS[settings.mapping].n_train_needed(settings))
    if n_train < n_needed:
        return f"{n_train} training images of {n_images}; {settings.mapping} needs {n_needed}"
    if n_images - n_train < 2:
        return f"{n_images - n_train} test images of {n_images}; at least two are needed"
    return ""


def _n_test(n_images: int, settings: ScoreSettings) -> int:
    if settings.compares_all_images:
        return n_images
    return n_images - math.ceil(settings.train_fraction * n_images)
