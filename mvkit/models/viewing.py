"""Viewing conditions: visual acuity, field of view and contrast, applied to images before any preprocessing.

The acuity filter is the one by which visual ecology shows a scene as an animal of lower acuity sees it
(AcuityView: Caves & Johnsen 2018, Methods Ecol. Evol. 9:793; micaToolbox: van den Berg et al. 2020, ibid.
11:316): a Gaussian modulation transfer function, ``exp(-3.56 (f / acuity)^2)`` of Snyder (1977), for which a
grating at the acuity keeps 2.8 % of its amplitude, about the contrast at which it is just seen. Its point
spread is a Gaussian with a full width at half maximum of ``1 / acuity`` degrees.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from mvkit.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Cycles per degree: grating acuity of C57BL/6 mice, 0.49 (Prusky & Douglas 2004, Vision Res. 44:3411).
MOUSE_ACUITY_CPD = 0.5

#: Degrees of the screen's width, 15 cm from the eye, in the Allen Brain Observatory (120 x 95 degrees: Siegle
#: et al. 2021, Nature 592:86, Methods). Natural scenes, 1174 x 918 px, fill it: the spherical warping leaves
#: 1173 x 914 px of 1920 x 1200 visible (AllenSDK, ``brain_observatory.stimulus_info.make_display_mask``).
ALLEN_FIELD_OF_VIEW_DEG = 120.0

#: Snyder's factor 3.56, exactly: a point spread whose full width at half maximum is 1 / acuity.
_SNYDER = math.pi**2 / (4 * math.log(2))


@dataclass(frozen=True)
class ViewingConditions:
    """How an animal sees an image; applied to pixels as they are stored, before resizing and cropping.

    Pixels are taken to be proportional to luminance, as on the Allen Institute's gamma-corrected screens.

    Attributes
    ----------
    acuity_cpd
        Visual acuity in cycles per degree (mice: about 0.5); None: no filter. Amplitudes at spatial frequency
        f are multiplied by ``exp(-pi^2 / (4 ln 2) (f / acuity)^2)``: 0.97 at a tenth of the acuity, 0.5 at
        0.44 of it, 0.028 at the acuity, 0.0003 at one and a half.
    field_of_view_deg
        Degrees of visual angle that the width of an image spans, whatever its pixels; pixels per degree are
        the same over its height. None: as the dataset says, else 120, as of the Allen Institute's natural
        scenes.
    contrast
        Factor of the deviations from the image's mean (of a colour image, from each channel's); below 1
        lowers the contrast. Values beyond 0 and 255 are cut off.

    Raises
    ------
    UsageError
        If a number is out of range.
    """

    acuity_cpd: float | None = None
    field_of_view_deg: float | None = None
    contrast: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, value in asdict(self).items():
            is_number = (
                isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            )
            if value is None and name != "contrast":
                continue
            if not is_number or value < 0 or (value == 0 and name != "contrast"):
                least = "0 or more" if name == "contrast" else "above 0"
                raise UsageError(f"{name} must be a number {least}, got {value!r}")
        if (self.field_of_view_deg or 0) > 360:
            raise UsageError(f"field_of_view_deg must be at most 360, got {self.field_of_view_deg:g}")

    def for_images(self, field_of_view_deg: float | None) -> ViewingConditions:
        """Return the conditions with a field of view: their own, else the images', else 120 degrees.

        Parameters
        ----------
        field_of_view_deg
            Of the images, in degrees; None: not known.
        """
        usual = ALLEN_FIELD_OF_VIEW_DEG if field_of_view_deg is None else field_of_view_deg
        return self if self.field_of_view_deg is not None else replace(self, field_of_view_deg=usual)

    @property
    def changes_images(self) -> bool:
        """Whether anything is done to images."""
        return self.acuity_cpd is not None or self.contrast != 1

    def as_dict(self) -> dict[str, object]:
        """Return what is done to images, for files and logs; nothing where nothing is."""
        done: dict[str, object] = {}
        if self.acuity_cpd is not None:
            done |= {"acuity_cpd": self.acuity_cpd, "field_of_view_deg": self.field_of_view_deg}
        return done if self.contrast == 1 else {**done, "contrast": self.contrast}

    def describe(self) -> str:
        """Return what is done to images in words, or ""."""
        words = []
        if self.acuity_cpd is not None:
            words.append(f"acuity {self.acuity_cpd:g} cycles/degree")
            if self.field_of_view_deg is not None:
                words.append(f"{self.field_of_view_deg:g} degrees wide")
        if self.contrast != 1:
            words.append(f"contrast x {self.contrast:g}")
        return ", ".join(words)

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return an image as it is seen.

        Parameters
        ----------
        image
            uint8 (height, width) or (height, width, 3).

        Returns
        -------
        NDArray
            uint8 of the same shape: computed in float64, rounded once at the end.
        """
        import numpy as np

        if not self.changes_images:
            return image
        pixels: NDArray[np.float64] = image.astype(np.float64)
        if self.acuity_cpd is not None:
            width_deg = self.field_of_view_deg or ALLEN_FIELD_OF_VIEW_DEG
            pixels = low_pass(pixels, image.shape[1] / width_deg, self.acuity_cpd)
        if self.contrast != 1:
            mean = pixels.mean(axis=(0, 1))
            pixels = mean + self.contrast * (pixels - mean)
        seen: NDArray[np.uint8] = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
        return seen


def low_pass(pixels: NDArray[np.float64], pixels_per_degree: float, acuity_cpd: float) -> NDArray[np.float64]:
    """Filter an image by the modulation transfer function of an eye.

    The image is continued by reflection at its borders (``c b a | a b c``), which makes the filter a product
    with its discrete cosine transform (type II): exact, without a truncated kernel, and without a dark or
    bright rim.

    Parameters
    ----------
    pixels
        float64 (height, width) or (height, width, channels).
    pixels_per_degree
        Of visual angle, in both directions.
    acuity_cpd
        Cycles per degree; see :class:`ViewingConditions`.

    Returns
    -------
    NDArray
        float64 of the same shape and mean.
    """
    import numpy as np
    from scipy.fft import dctn, idctn

    spectrum = dctn(pixels, axes=(0, 1))
    for axis in (0, 1):
        length = pixels.shape[axis]
        # Coefficient k is a cosine of k half periods over the length.
        frequency_cpd = np.arange(length) / (2 * length) * pixels_per_degree
        transfer = np.exp(-_SNYDER * (frequency_cpd / acuity_cpd) ** 2)
        spectrum *= np.expand_dims(transfer, tuple(other for other in range(pixels.ndim) if other != axis))
    filtered: NDArray[np.float64] = idctn(spectrum, axes=(0, 1))
    return filtered
