"""Preprocessing that a user asks for, on top of what a model from elsewhere declares; free of torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from mvkit.errors import UsageError
from mvkit.models.foreign.preparing import ForeignPreprocessing
from mvkit.models.preprocessing import Preprocessing

_Channels = tuple[float, float, float]


@dataclass(frozen=True)
class InputOptions:
    """Changes to a model's preprocessing; None leaves what its library declares.

    Attributes
    ----------
    input_size
        Side of the input in pixels. The part of the image that is seen stays the same (the library's ratio
        of resize to crop).
    mean, std
        One number or three, for values scaled to [0, 1].
    grey
        Whether colour images become grey first; the three channels are then equal.
    """

    input_size: int | None = None
    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    grey: bool | None = None

    def keywords(self) -> dict[str, Any]:
        """Return the options as keywords of :func:`mvkit.load_model`."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the options that were given, as on the command line."""
        values = {
            "--input-size": self.input_size,
            "--mean": self.mean,
            "--std": self.std,
            "--grey": self.grey,
        }
        return tuple(name for name, value in values.items() if value is not None)

    def refuse_any(self, why: str) -> None:
        """Raise a UsageError if any option was given.

        Parameters
        ----------
        why
            What stands against it.
        """
        if self.given:
            raise UsageError(f"{why}: leave out {', '.join(self.given)}")

    def only_size(self, why: str) -> None:
        """Raise a UsageError if more than a size was given.

        Parameters
        ----------
        why
            What stands against it.
        """
        others = [option for option in self.given if option != "--input-size"]
        if others:
            raise UsageError(f"{why}: leave out {', '.join(others)}")

    def applied_to(self, declared: Preprocessing) -> Preprocessing:
        """Return preprocessing with the options in place of what was declared.

        Raises
        ------
        UsageError
            If a value is out of range.
        """
        changed = declared
        if self.input_size is not None:
            changed = _resized(changed, self.input_size)
        if self.mean is not None:
            changed = replace(changed, mean=_channels("mean", self.mean))
        if self.std is not None:
            std = _channels("std", self.std)
            if min(std) <= 0:
                raise UsageError(f"std must be above 0, got {self.std}")
            changed = replace(changed, std=std)
        return changed if self.grey is None else replace(changed, grey=self.grey)


def _resized(declared: Preprocessing, side_px: int) -> Preprocessing:
    if type(side_px) is not int or side_px < 1:
        raise UsageError(f"input size must be a whole number of pixels, 1 or more, got {side_px!r}")
    if isinstance(declared, ForeignPreprocessing) and declared.crop_hw is not None:
        height, width = declared.crop_hw
        raise UsageError(
            f"--input-size {side_px} is one side, but the network takes images of {height} x {width} px "
            "(height x width): leave it out"
        )
    if declared.input_px is not None:
        return replace(declared, input_px=side_px)
    if declared.resize_px is None or declared.crop_px is None:
        return replace(declared, resize_px=side_px, crop_px=side_px)
    resize_px = round(side_px * declared.resize_px / declared.crop_px)
    return replace(declared, resize_px=resize_px, crop_px=side_px)


def _channels(name: str, value: float | Sequence[float]) -> _Channels:
    numbers = (value,) if isinstance(value, int | float) else tuple(value)
    if len(numbers) not in (1, 3) or not all(
        isinstance(number, int | float) and math.isfinite(number) for number in numbers
    ):
        raise UsageError(f"{name} must be one number or three (red, green, blue), got {value}")
    red, green, blue = map(float, numbers * 3 if len(numbers) == 1 else numbers)
    return red, green, blue


#: What is used where nothing is declared: the usual evaluation on ImageNet.
IMAGENET_224 = ForeignPreprocessing(
    resize_px=256, crop_px=224, input_px=None, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
