"""What storing images small changes in the crops: which of them have fewer pixels than the view made of them.

A crop of a small stored image is enlarged where the published pipeline, which
decodes the whole image, would have reduced it: such views are blurred. Here
crops are drawn as in training, on the sizes at hand, and counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mvkit.images.crops import crop_boxes
from mvkit.images.settings import Crop, RandomCrop, RandomResizedCrop

#: Side of the views of all published trainings, in px.
VIEW_PX: Final = 64
#: Crops drawn for a report; the fraction's standard error is below 0.4 %.
N_DRAWS: Final = 20_000

#: The published crops by the objectives that use them.
LABELLED_CROPS: Final[Mapping[str, Crop]] = {
    "scale 0.08-1 (supervised, RotNet, SimCLR, Barlow Twins, VICReg)": RandomResizedCrop(scale=(0.08, 1.0)),
    "scale 0.2-1 (instance recognition, MoCo v2, SimSiam)": RandomResizedCrop(scale=(0.2, 1.0)),
}
#: Depth prediction takes 224 x 224 px of PBRNet's 480 x 640.
DEPTH_CROPS: Final[Mapping[str, Crop]] = {
    "224 of 480 px (depth prediction)": RandomCrop(resize_px=480, crop_px=224)
}


@dataclass(frozen=True)
class Enlargement:
    """How many crops are enlarged to become a view, and by how much.

    Attributes
    ----------
    fraction
        Of crops whose shorter side has fewer pixels than the view.
    median_factor
        View side / crop's shorter side, median over those crops; None if there are none.
    """

    fraction: float
    median_factor: float | None


@dataclass(frozen=True)
class CropReport:
    """A published crop on the images as stored, and on the images as they were found."""

    crop: str
    view_px: int
    stored: Enlargement
    source: Enlargement

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def enlargement(
    crop: Crop,
    heights: NDArray[np.int64],
    widths: NDArray[np.int64],
    *,
    view_px: int = VIEW_PX,
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> Enlargement:
    """Draw crops as in training and count those that must be enlarged.

    Parameters
    ----------
    crop
        Distribution of the crops.
    heights, widths
        int64 (n,), px: sizes of images, a sample is enough; each gets the same number of draws.
    view_px
        Side of the view.
    n_draws
        About so many crops are drawn.
    seed
        Of the draws.
    """
    repeats = max(1, n_draws // len(heights))
    heights, widths = np.tile(heights, repeats), np.tile(widths, repeats)
    boxes = crop_boxes(crop, seed, 0, np.arange(len(heights)), 0, heights, widths)
    factors = view_px / np.maximum(boxes[:, 2:].min(axis=1), 1)
    enlarged = factors[factors > 1]
    return Enlargement(
        fraction=float(len(enlarged) / len(factors)),
        median_factor=float(np.median(enlarged)) if len(enlarged) else None,
    )


def report_crops(
    stored: NDArray[np.int64], source: NDArray[np.int64], *, has_depth: bool
) -> tuple[CropReport, ...]:
    """Report on every published crop.

    Parameters
    ----------
    stored, source
        int64 (n, 2): heights and widths of the images as stored and as found, px.
    has_depth
        Whether the images are for depth prediction.
    """
    crops = DEPTH_CROPS if has_depth else LABELLED_CROPS
    return tuple(
        CropReport(
            crop=name,
            view_px=VIEW_PX,
            stored=enlargement(crop, stored[:, 0], stored[:, 1]),
            source=enlargement(crop, source[:, 0], source[:, 1]),
        )
        for name, crop in crops.items()
    )
