"""Why a halving gives no score."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Drop(IntEnum):
    """Reasons, the earlier ones taking precedence where several apply."""

    KEPT = 0
    NO_TRIAL = 1
    CONSTANT_RESPONSE = 2
    CONSTANT_PREDICTION = 3
    NEGATIVE_BOTH = 4
    NEGATIVE_MAP = 5
    NEGATIVE_RESPONSE = 6
    UNDEFINED = 7
    FEW_UNITS = 8
    UNDEFINED_RDM = 9
    NOT_CONVERGED = 10


NEGATIVE = (Drop.NEGATIVE_BOTH, Drop.NEGATIVE_MAP, Drop.NEGATIVE_RESPONSE)

_TEXT = {
    Drop.NO_TRIAL: "no valid trial in one half",
    Drop.CONSTANT_RESPONSE: "constant response",
    Drop.CONSTANT_PREDICTION: "constant prediction",
    Drop.NEGATIVE_BOTH: "two negative reliabilities",
    Drop.NEGATIVE_MAP: "negative map reliability",
    Drop.NEGATIVE_RESPONSE: "negative response reliability",
    Drop.UNDEFINED: "reliability of zero",
    Drop.FEW_UNITS: "fewer than two units",
    Drop.UNDEFINED_RDM: "undefined dissimilarities (all units respond alike to an image, or all are equal)",
    Drop.NOT_CONVERGED: "map did not converge",
}


def explain(counts: NDArray[np.int64], n_halvings: int, missing_image: int) -> str:
    """Put the reasons of a unit's dropped halvings into words.

    Parameters
    ----------
    counts
        int64 (number of reasons,): halvings per reason, indexed by :class:`Drop`.
    n_halvings
        Halvings in all.
    missing_image
        Position of the first image without a valid trial in one half, or -1.

    Returns
    -------
    str
        E.g. ``"negative reliability in all halvings"`` or ``"constant response in 3, negative map
        reliability in 12 of 1000 halvings"``; "" if none was dropped.
    """
    found = [drop for drop in Drop if drop is not Drop.KEPT and counts[drop]]
    if not found:
        return ""
    texts = {drop: _TEXT[drop] for drop in found}
    if Drop.NO_TRIAL in texts:
        texts[Drop.NO_TRIAL] += f" (image {missing_image})"
    if not counts[Drop.KEPT]:
        if len(found) == 1:
            return f"{texts[found[0]]} in all halvings"
        if all(drop in NEGATIVE for drop in found):
            return "negative reliability in all halvings"
    return ", ".join(f"{texts[drop]} in {counts[drop]}" for drop in found) + f" of {n_halvings} halvings"
