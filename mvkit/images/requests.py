"""What is asked of a loader: crops with their keys, and index arrays that exist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import UsageError
from mvkit.images.settings import Crop


@dataclass(frozen=True)
class CropRequest:
    """One crop of every image: which, how large, and the keys of its draws."""

    crop: Crop
    side_px: int
    seed: int
    epoch: int
    view: int


def requests_of(crops: Sequence[tuple[Crop, int]], *, seed: int, epoch: int) -> tuple[CropRequest, ...]:
    """Number the crops: the position in ``crops`` is the key ``view`` of the draws."""
    if not crops:
        raise UsageError("no crops were asked for; needed: at least one (crop, side in px)")
    return tuple(
        CropRequest(crop=crop, side_px=side_px, seed=seed, epoch=epoch, view=view)
        for view, (crop, side_px) in enumerate(crops)
    )


def check_plan(plan: Sequence[NDArray[np.int64]], n_images: int) -> tuple[NDArray[np.int64], ...]:
    """Return the plan as contiguous int64 arrays; UsageError if it names an image that is not there."""
    checked = tuple(np.ascontiguousarray(index, np.int64) for index in plan)
    for number, index in enumerate(checked):
        if index.ndim != 1 or index.size == 0:
            raise UsageError(f"batch {number} of the plan has shape {index.shape}; needed: (n,), n > 0")
        if index.min() < 0 or index.max() >= n_images:
            raise UsageError(
                f"batch {number} of the plan asks for images {index.min()} to {index.max()}; "
                f"there are {n_images} (0 to {n_images - 1})"
            )
    return checked
