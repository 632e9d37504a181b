"""How images become the input of a model: a row of numbers, and the function that applies it.

The reference pipeline ran torchvision's ``Resize(256)``, ``CenterCrop(224)``,
``Resize(64)``, ``ToTensor`` and ``Normalize`` on PIL images. The same
arithmetic is done here with PIL itself, one image at a time, so a result never
depends on the batch it is part of: PIL's bilinear resize is antialiased (its
support grows with the reduction) and rounds to uint8 after each resize;
torchvision's resize of *tensors* gives slightly different values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from mvkit.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL import Image

#: Channel statistics of ImageNet's training images in [0, 1] (red, green, blue).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """Steps from a uint8 image to a model's input, in this order.

    Attributes
    ----------
    resize_px
        Resize so that the shortest side has this length (None: leave as is).
    crop_px
        Cut out the central square of this side (None: leave as is).
    input_px
        Resize once more so that the shortest side has this length (None: leave as is).
    mean, std
        Per channel, subtracted from and divided into values scaled to [0, 1].
    grey
        Convert colour images to grey first (ITU-R 601 luma); the three output
        channels are then equal.
    """

    resize_px: int | None
    crop_px: int | None
    input_px: int | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    grey: bool = False

    def as_dict(self) -> dict[str, object]:
        """Return the fields as plain data, for files and logs."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Return what ``as_dict`` described.

        Raises
        ------
        ValueError
            If a field is missing, unknown or not what it should be.
        """
        names = {item.name for item in fields(cls)}
        if set(values) != names:
            raise ValueError(f"preprocessing has {sorted(values)}, needed: {sorted(names)}")
        sides = {name: values[name] for name in ("resize_px", "crop_px", "input_px")}
        if any(side is not None and (type(side) is not int or side < 1) for side in sides.values()):
            raise ValueError(f"preprocessing sides {sides} are not numbers of pixels")
        red_mean, green_mean, blue_mean = map(float, values["mean"])
        red_std, green_std, blue_std = map(float, values["std"])
        return cls(
            **sides,
            mean=(red_mean, green_mean, blue_mean),
            std=(red_std, green_std, blue_std),
            grey=bool(values["grey"]),
        )

    def __call__(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """Prepare a batch of images.

        Parameters
        ----------
        images
            uint8, (n_images, height, width) grey or (n_images, height, width, 3) RGB.

        Returns
        -------
        torch.Tensor
            float32 (n_images, 3, side, side) on the CPU; grey images are
            repeated over the three channels.

        Raises
        ------
        DataError
            If the array is not uint8 or of another shape, or an image is too
            small to be cropped.
        """
        import numpy as np
        import torch

        check_images(images)
        prepared = [self._prepare(image) for image in images]
        side = self.input_px or self.crop_px or 0
        stacked = np.stack(prepared) if prepared else np.empty((0, side, side, 3), np.uint8)
        # Same order of float32 operations as ToTensor and Normalize: / 255, - mean, / std.
        scaled = torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous().to(torch.float32).div_(255)
        mean = torch.tensor(self.mean, dtype=torch.float32).view(1, 3, 1, 1)
        std = torch.tensor(self.std, dtype=torch.float32).view(1, 3, 1, 1)
        return scaled.sub_(mean).div_(std)

    def _prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize and crop one image; uint8 (side, side, 3)."""
        import numpy as np
        from PIL import Image

        image = Image.fromarray(pixels)
        if self.grey:
            image = image.convert("L")
        if self.resize_px is not None:
            image = self._resize(image, self.resize_px)
        if self.crop_px is not None:
            image = _crop_centre(image, self.crop_px)
        if self.input_px is not None:
            image = self._resize(image, self.input_px)
        rgb: NDArray[np.uint8] = np.asarray(image.convert("RGB"))
        return rgb

    def _resize(self, image: Image.Image, side_px: int) -> Image.Image:
        from PIL import Image

        return resize_shortest(image, side_px, Image.Resampling.BILINEAR)


def check_images(images: NDArray[np.uint8]) -> None:
    """Refuse arrays that are no pictures.

    Raises
    ------
    DataError
        If the array is not uint8 or of another shape than :class:`Preprocessing` takes.
    """
    shape, dtype = images.shape, images.dtype
    grey = len(shape) == 3
    colour = len(shape) == 4 and shape[3] == 3
    if str(dtype) != "uint8" or not (grey or colour) or 0 in shape[1:3]:
        raise DataError(
            f"images are {dtype} {tuple(shape)}; needed: uint8 (n_images, height, width) "
            "or (n_images, height, width, 3), values 0 to 255"
        )


def resize_shortest(image: Image.Image, side_px: int, filter_: Image.Resampling) -> Image.Image:
    """Resize so that the shortest side has ``side_px``; the longer one is rounded down, as in torchvision."""
    width, height = image.size
    shortest, longest = min(width, height), max(width, height)
    if shortest == side_px:
        return image
    scaled = int(side_px * longest / shortest)
    size = (side_px, scaled) if width <= height else (scaled, side_px)
    return image.resize(size, filter_)


def _crop_centre(image: Image.Image, side_px: int) -> Image.Image:
    width, height = image.size
    if min(width, height) < side_px:
        raise DataError(f"an image of {width} x {height} px is too small for a central crop of {side_px} px")
    left, top = round((width - side_px) / 2), round((height - side_px) / 2)
    return image.crop((left, top, left + side_px, top + side_px))


#: Preprocessing of every network: what the reference used for validation images and neural stimuli.
IMAGENET_64 = Preprocessing(resize_px=256, crop_px=224, input_px=64, mean=IMAGENET_MEAN, std=IMAGENET_STD)

#: Preprocessing of the baselines: grey levels in [0, 1]; a 64 x 64 px image passes unchanged.
GREY_64 = Preprocessing(
    resize_px=64, crop_px=64, input_px=None, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), grey=True
)
