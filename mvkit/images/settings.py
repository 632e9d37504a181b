"""Views as data: what a recipe says of crops and augmentations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from mvkit.recipes import Positive, Settings

if TYPE_CHECKING:
    from torch import Tensor

Probability = Annotated[float, Field(ge=0, le=1)]
Pixels = Annotated[int, Field(ge=1)]
Strength = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]


def _in_order(interval: tuple[float, float]) -> tuple[float, float]:
    if interval[0] > interval[1]:
        raise ValueError(
            f"the first value must not exceed the second, got {interval[0]:g} and {interval[1]:g}"
        )
    return interval


def _check_fits(name: str, side: int, room_name: str, room: int) -> None:
    if side > room:
        raise ValueError(f"{name} ({side}) must not exceed {room_name} ({room})")


#: Smallest and largest value of something drawn at random.
Interval = Annotated[tuple[Positive, Positive], AfterValidator(_in_order)]


class RandomResizedCrop(Settings):
    """A random box of the image, resized to a square (torchvision's RandomResizedCrop).

    ``via_px`` is the side to which the published pipeline resized the box
    before it went on to the final side; None: straight to the final side.
    """

    name: Literal["random_resized"] = "random_resized"
    scale: Annotated[tuple[Fraction, Fraction], AfterValidator(_in_order)] = (0.08, 1.0)
    ratio: Interval = (3 / 4, 4 / 3)
    via_px: Pixels | None = 224


class RandomCrop(Settings):
    """Shortest side resized to ``resize_px``, zeros of ``pad_px`` around, a random square of ``crop_px``."""

    name: Literal["random"] = "random"
    resize_px: Pixels | None = None
    crop_px: Pixels
    pad_px: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.resize_px is not None:
            _check_fits(
                "crop_px", self.crop_px, "resize_px and its padding", self.resize_px + 2 * self.pad_px
            )
        return self


class CentreCrop(Settings):
    """Shortest side resized to ``resize_px``, the central square of ``crop_px``: the models' own way.

    Without ``crop_px``: the whole image, made a square.
    """

    name: Literal["centre"] = "centre"
    resize_px: Pixels | None = 256
    crop_px: Pixels | None = 224

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.resize_px is not None and self.crop_px is not None:
            _check_fits("crop_px", self.crop_px, "resize_px", self.resize_px)
        return self


Crop = Annotated[RandomResizedCrop | RandomCrop | CentreCrop, Field(discriminator="name")]


class Flip(Settings):
    """Left and right exchanged."""

    name: Literal["flip"] = "flip"
    probability: Probability = 0.5


class Greyscale(Settings):
    """All channels replaced by the luma (ITU-R 601, torchvision's weights .2989, .587, .114)."""

    name: Literal["greyscale"] = "greyscale"
    probability: Probability = 0.2


class ColourJitter(Settings):
    """Brightness, contrast, saturation and hue changed in random order (torchvision's ColorJitter)."""

    name: Literal["colour_jitter"] = "colour_jitter"
    brightness: Strength = 0.0
    contrast: Strength = 0.0
    saturation: Strength = 0.0
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    probability: Probability = 1.0


class Blur(Settings):
    """Gaussian blur of random width.

    ``sigma_px`` is in pixels of an image of side ``at_px``: the published
    pipelines blur at 224 px (PIL's ``radius``) before resizing to 64. A blur
    at 64 px is given 64/224 of that standard deviation; on photographs its
    result differs from theirs by 0.2 to 0.8 of 255 levels, 2.5 without any
    blur. ``at_px`` None: torchvision's ``sigma`` in pixels of the view itself.
    The Gaussian ends at three times the largest width, borders are mirrored.
    """

    name: Literal["blur"] = "blur"
    sigma_px: Interval = (0.1, 2.0)
    at_px: Pixels | None = 224
    probability: Probability = 0.5


class Solarise(Settings):
    """Values at or above the threshold (of 255, values between levels rounded) inverted."""

    name: Literal["solarise"] = "solarise"
    threshold: Annotated[int, Field(ge=0, le=256)] = 128
    probability: Probability = 0.2


Step = Annotated[Flip | Greyscale | ColourJitter | Blur | Solarise, Field(discriminator="name")]


class View(Settings):
    """One way to look at an image: a crop, then steps in order; drawn ``copies`` times independently."""

    crop: Crop
    steps: tuple[Step, ...] = ()
    copies: Annotated[int, Field(ge=1)] = 1


class Rotations(Settings):
    """Every view turned by 0, 90, 180 and 270 degrees counter-clockwise: four views."""

    name: Literal["rotations"] = "rotations"


class Patches(Settings):
    """The view cut into 3 x 3 cells of ``cell_px``; of each a random ``patch_px`` square: nine views.

    Order: the centre, then its eight neighbours in reading order (Doersch et al. 2015).
    """

    name: Literal["patches"] = "patches"
    cell_px: Pixels = 85
    patch_px: Pixels = 64

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _check_fits("patch_px", self.patch_px, "cell_px", self.cell_px)
        return self


Expansion = Annotated[Rotations | Patches, Field(discriminator="name")]


class ViewsSettings(Settings):
    """All views of an image and how they become network input.

    ``size_px`` is the side of a view (before ``expand``); mean and std are of
    values in [0, 1], per channel. ``depth``: maps that come with the images are
    numbers in [0, 1] as stored, or each shifted and scaled to mean 0 and
    standard deviation 1.
    """

    views: Annotated[tuple[View, ...], Field(min_length=1)]
    size_px: Pixels = 64
    expand: Expansion | None = None
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)
    depth: Literal["as_stored", "standardised"] = "as_stored"

    @model_validator(mode="after")
    def _patches_fit(self) -> Self:
        if isinstance(self.expand, Patches) and self.size_px != 3 * self.expand.cell_px:
            cell, needed = self.expand.cell_px, 3 * self.expand.cell_px
            raise ValueError(
                f"size_px must be {needed} for 3 x 3 cells of cell_px {cell}, got {self.size_px}"
            )
        return self

    def each(self) -> tuple[View, ...]:
        """Return one entry for every view, copies written out: what loaders crop and makers augment."""
        return tuple(view for view in self.views for _ in range(view.copies))


#: Validation views: the models' own preprocessing.
VALIDATION = ViewsSettings(views=(View(crop=CentreCrop()),))


@dataclass(frozen=True)
class RawBatch:
    """Cropped images as a loader yields them, on the CPU.

    Attributes
    ----------
    crops
        One tensor for every crop that was asked for: uint8 (n_images, side, side, 3), RGB.
    index
        int64 (n_images,): positions in the source; keys of everything that is drawn at random.
    label
        int64 (n_images,), or None where the source has no labels.
    depth
        float32 (n_images, 1, side, side), cropped as the first crop, or None.
    """

    crops: tuple[Tensor, ...]
    index: Tensor
    label: Tensor | None = None
    depth: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """What an objective receives, on the device.

    Attributes
    ----------
    views
        float32 (n_images, 3, side, side) each, normalised. Two views of an
        image for most self-supervised objectives; the four rotations for
        RotNet (0, 90, 180, 270 degrees); the centre patch and its eight
        neighbours in reading order for relative location.
    index
        int64 (n_images,).
    label
        int64 (n_images,) or None.
    target
        What else the objective predicts: depth, float32 (n_images, 1, side, side); or None.
    """

    views: tuple[Tensor, ...]
    index: Tensor
    label: Tensor | None = None
    target: Tensor | None = None

    def rows(self, first: int, last: int) -> Batch:
        """Return images ``first`` to ``last`` (excluded)."""
        part = slice(first, last)
        return Batch(
            views=tuple(view[part] for view in self.views),
            index=self.index[part],
            label=None if self.label is None else self.label[part],
            target=None if self.target is None else self.target[part],
        )
