"""Preprocessing as libraries of models declare it: like mvkit's own, with their way of interpolating."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mvkit.errors import UsageError
from mvkit.models.foreign.user_code import UserCode
from mvkit.models.preprocessing import Preprocessing, resize_shortest

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL import Image

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")


@dataclass(frozen=True)
class ForeignPreprocessing(Preprocessing):
    """Preprocessing with a chosen interpolation.

    Attributes
    ----------
    interpolation
        Of both resizes: the name of one of Pillow's resampling filters, in lower case.
    """

    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if self.interpolation not in _INTERPOLATIONS:
            raise UsageError(
                f"interpolation '{self.interpolation}' is not known; valid: {', '.join(_INTERPOLATIONS)}"
            )

    def _resize(self, image: Image.Image, side_px: int) -> Image.Image:
        from PIL import Image

        return resize_shortest(image, side_px, Image.Resampling[self.interpolation.upper()])


@dataclass(frozen=True)
class UserPreprocessing:
    """A user's own function from uint8 images to a network's input.

    Attributes
    ----------
    function
        As :class:`~mvkit.models.preprocessing.Preprocessing`: called with uint8 (n_images, height, width) or
        (n_images, height, width, 3), returns float (n_images, channels, height, width).
    model_name
        For messages.
    """

    function: Callable[[NDArray[np.uint8]], torch.Tensor]
    model_name: str

    def __call__(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """Prepare a batch of images."""
        with UserCode(f"{self.model_name}: .preprocess"):
            return self.function(images)

    def as_dict(self) -> dict[str, object]:
        """Return what is known of the function, for files."""
        name = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        return {"function": name, "of": self.model_name}
