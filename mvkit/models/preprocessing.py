"""How images become the input of a model: a row of numbers, and the function that applies it.

The reference pipeline ran torchvision's ``Resize(256)``, ``CenterCrop(224)``,
``Resize(64)``, ``ToTensor`` and ``Normalize`` on PIL images. The same
arithmetic is done here with PIL itself, one image at a time, so a result never
depends on the batch it is part of: PIL's bilinear resize is antialiased (its
support grows with the reduction) and rounds to uint8 after each resize;
torchvision's resize of *tensors* gives slightly different values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mvkit.errors import (
    DataError,
    MvkitError,
    UsageError,
    UserCodeError,
    describe_exception,
    exception_location,
    wording,
)
from mvkit.models.viewing import ViewingConditions

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL import Image


#: Channel statistics of ImageNet's training images in [0, 1] (red, green, blue).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
_CROP_MODES = ("center", "squash", "border")

#: Height and width in pixels.
_Size = tuple[int, int]

#: Values of red, green and blue.
_Channels = tuple[float, float, float]

#: What a module's ``.preprocess`` may be, for messages.
PREPROCESS_CONTRACT = (
    ".preprocess must be mvkit.models.Preprocessing, a preset of torchvision (weights.transforms()), or a "
    "callable that takes one PIL image (RGB) and returns a float tensor (3, height, width)"
)

#: Characters that are recorded of a function.
_LONGEST_TEXT = 2000


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

        Parameters
        ----------
        values
            Field -> value, plain data.

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
        if {len(values["mean"]), len(values["std"])} != {3}:
            raise ValueError(f"mean {values['mean']} and std {values['std']} are not three numbers each")
        return cls(**sides, mean=_three(values["mean"]), std=_three(values["std"]), grey=bool(values["grey"]))

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
        return resize_shortest(image, side_px, self._filter)

    @property
    def _filter(self) -> Image.Resampling:
        from PIL import Image

        return Image.Resampling.BILINEAR


def check_images(images: NDArray[np.uint8]) -> None:
    """Check that an array holds pictures.

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


@dataclass(frozen=True)
class ExternalPreprocessing(Preprocessing):
    """Preprocessing as libraries declare it; equal to what they make of PIL images.

    Images smaller than the crop are padded, as the libraries do.

    Attributes
    ----------
    interpolation
        Of all resizes: the name of one of Pillow's resampling filters, in lower case.
    crop_mode
        "center": the shortest side is resized to ``resize_px``, which keeps the proportions. "squash": both
        sides are. "border": the longest side is, and the mean colour fills what is missing. (Names of timm.)
    resize_hw, crop_hw
        Height and width, in place of ``resize_px`` and ``crop_px``, where they differ. In mode "center" the
        image then covers ``resize_hw``.
    channels
        3, or 1 for networks that take grey images.
    """

    interpolation: str = "bilinear"
    crop_mode: str = "center"
    resize_hw: _Size | None = None
    crop_hw: _Size | None = None
    channels: int = 3

    def as_dict(self) -> dict[str, object]:
        """Return the fields as plain data, for files and logs; unusual ones only where they are set."""
        usual = {"crop_mode": "center", "resize_hw": None, "crop_hw": None, "channels": 3}
        return {
            name: value
            for name, value in super().as_dict().items()
            if name not in usual or value != usual[name]
        }

    def __call__(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """Prepare a batch of images; see :class:`~mvkit.models.preprocessing.Preprocessing`."""
        return super().__call__(images)[:, : self.channels]

    def _prepare(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        import numpy as np
        from PIL import Image

        image = Image.fromarray(pixels)
        if self.grey or self.channels == 1:
            image = image.convert("L")
        # Pillow's convert copies even where nothing changes.
        image = self._resize_before_crop(image if image.mode == "RGB" else image.convert("RGB"))
        crop = self.crop_hw or (self.crop_px and (self.crop_px, self.crop_px))
        if crop:
            fill = (
                tuple(round(255 * value) for value in self.mean) if self.crop_mode == "border" else (0, 0, 0)
            )
            image = _crop_or_pad(image, crop, fill)
        if self.input_px is not None:
            image = self._resize(image, self.input_px)
        rgb: NDArray[np.uint8] = np.asarray(image)
        return rgb

    def _resize_before_crop(self, image: Image.Image) -> Image.Image:
        side = self.resize_px
        if self.crop_mode == "center" and side is not None:
            return self._resize(image, side)
        target = self.resize_hw or (side and (side, side))
        if not target:
            return image
        if self.crop_mode != "squash":
            # As timm's ResizeKeepRatio, which rounds; torchvision's Resize above rounds down.
            ratios = image.height / target[0], image.width / target[1]
            ratio = max(ratios) if self.crop_mode == "border" else min(ratios)
            target = round(image.height / ratio), round(image.width / ratio)
        return image.resize((target[1], target[0]), self._filter)

    @property
    def _filter(self) -> Image.Resampling:
        from PIL import Image

        return Image.Resampling[self.interpolation.upper()]


def _crop_or_pad(image: Image.Image, size: _Size, fill: tuple[int, ...]) -> Image.Image:
    """Cut out the centre; what an image is too small for is filled. As torchvision's and timm's."""
    from PIL import ImageOps

    height, width = size
    across, down = max(0, width - image.width), max(0, height - image.height)
    if across or down:
        border = (across // 2, down // 2, (across + 1) // 2, (down + 1) // 2)
        image = ImageOps.expand(image, border, fill=fill)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


#: Used where nothing is declared: the usual evaluation on ImageNet.
IMAGENET_224 = ExternalPreprocessing(
    resize_px=256, crop_px=224, input_px=None, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)


def as_preprocessing(declared: Any, model_name: str) -> Preprocessing | UserPreprocessing:
    """Return the preprocessing that a module's ``.preprocess`` declares.

    Parameters
    ----------
    declared
        mvkit's own preprocessing; a preset of torchvision's (``weights.transforms()``), whose fields are
        taken over; or any other callable, see :class:`UserPreprocessing`.
    model_name
        For messages.

    Raises
    ------
    UsageError
        If it is something else.
    """
    if isinstance(declared, Preprocessing | UserPreprocessing):
        return declared
    preset = read_preset(declared)
    if preset is not None:
        return preset
    if not callable(declared):
        raise UsageError(f"{model_name}: .preprocess is {_describe(declared)}\n{PREPROCESS_CONTRACT}")
    return UserPreprocessing(declared, model_name)


def read_preset(steps: Any) -> ExternalPreprocessing | None:
    """Take over every field of a preset of torchvision's for pictures; None if it is something else.

    ``antialias`` does not matter: PIL images are always resized with it.
    """
    kind = type(steps)
    if kind.__module__ != "torchvision.transforms._presets":
        return None
    if kind.__name__ == "ObjectDetection":
        zero, one = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        return ExternalPreprocessing(resize_px=None, crop_px=None, input_px=None, mean=zero, std=one)
    if kind.__name__ not in ("ImageClassification", "SemanticSegmentation"):
        return None
    resize, crop = steps.resize_size, getattr(steps, "crop_size", None)
    for size in (resize, crop):
        if size is not None and not (len(size) == 1 and type(size[0]) is int and size[0] > 0):
            return None
    # On PIL images torchvision's two kinds of nearest neighbour are one.
    interpolation = steps.interpolation.value.removesuffix("-exact")
    if interpolation not in _INTERPOLATIONS or {len(steps.mean), len(steps.std)} - {1, 3}:
        return None
    return ExternalPreprocessing(
        resize_px=resize and resize[0],
        crop_px=crop and crop[0],
        input_px=None,
        mean=_three(steps.mean),
        std=_three(steps.std),
        interpolation=interpolation,
    )


def read_timm(config: Mapping[str, Any], model_name: str) -> ExternalPreprocessing:
    """Take over every field of timm's data configuration (``timm.data.resolve_model_data_config``).

    Raises
    ------
    UsageError
        If a field has a value that cannot be used; it is named.
    """
    unknown = set(config) - {"input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode"}
    interpolation, mode = str(config["interpolation"]), str(config["crop_mode"])
    channels, height, width = map(int, config["input_size"])
    problems = [f"{name} {config[name]!r}" for name in sorted(unknown)]
    if interpolation not in _INTERPOLATIONS:
        problems.append(f"interpolation '{interpolation}'")
    if mode not in _CROP_MODES:
        problems.append(f"crop_mode '{mode}'")
    if channels not in (1, 3):
        problems.append(f"input_size {config['input_size']} ({channels} channels)")
    problems += [
        f"{name} {config[name]}" for name in ("mean", "std") if len(config[name]) not in (1, channels)
    ]
    if problems:
        raise UsageError(
            f"{model_name}: timm's data configuration has {', '.join(problems)}, which mvkit cannot use\n"
            "make the network in a function of your own with .preprocess (FILE.py:FUNCTION)"
        )
    # As timm's own evaluation: the crop is this part of the resized image.
    crop_pct = float(config["crop_pct"])
    resized = int(height / crop_pct), int(width / crop_pct)
    square = height == width
    return ExternalPreprocessing(
        resize_px=resized[0] if square else None,
        crop_px=height if square else None,
        input_px=None,
        mean=_three(config["mean"]),
        std=_three(config["std"]),
        interpolation=interpolation,
        crop_mode=mode,
        resize_hw=None if square else resized,
        crop_hw=None if square else (height, width),
        channels=channels,
    )


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    """Return values for three channels; one stands for all."""
    red, green, blue = map(float, [*values] * 3 if len(values) == 1 else values)
    return red, green, blue


@dataclass(frozen=True)
class UserPreprocessing:
    """A user's own function from images to a network's input.

    Attributes
    ----------
    function
        Called with one picture, a PIL image in RGB; returns its input, a float tensor or array (channels,
        height, width), which may have an axis of length 1 in front. Or else, where that fails, called as
        :class:`~mvkit.models.preprocessing.Preprocessing` with uint8 (n_images, height, width) or (n_images,
        height, width, 3); returns float (n_images, channels, height, width).
    model_name
        For messages.
    """

    function: Callable[[Any], Any]
    model_name: str

    def __call__(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """Prepare a batch of images.

        Raises
        ------
        UserCodeError
            If the function fails for pictures and for arrays.
        UsageError
            If what it returns is no input.
        """
        import torch

        check_images(images)
        with torch.no_grad():
            rows, error = self._prepare_pictures(images)
            if rows is not None and len(rows[0]) in (1, 3):
                return _stack(rows, self.model_name)
            # A function of arrays, or one that makes an unusual number of channels.
            batch = self._prepare_arrays(images)
            if batch is not None:
                return batch
            if rows is not None:
                return _stack(rows, self.model_name)
            with UserCode(f"{self.model_name}: .preprocess", PREPROCESS_CONTRACT):
                raise error
            raise error

    def as_dict(self) -> dict[str, object]:
        """Return what is known of the function, for files."""
        kind = type(self.function).__qualname__
        description = {"function": getattr(self.function, "__qualname__", kind), "of": self.model_name}
        text = " ".join(repr(self.function).split())
        # Objects that describe themselves, such as torchvision's transforms, not those with an address only.
        return description if " at 0x" in text else {**description, "steps": text[:_LONGEST_TEXT]}

    def _prepare_pictures(self, images: NDArray[np.uint8]) -> tuple[list[torch.Tensor] | None, Exception]:
        from PIL import Image

        rows = []
        for image in images:
            try:
                value = self.function(Image.fromarray(image).convert("RGB"))
            except Exception as error:  # noqa: BLE001 - any error of a user's function
                return None, error
            row = _as_input(value)
            if row is not None and row.ndim == 4 and len(row) == 1:
                row = row[0]
            if row is None or row.ndim != 3:
                return None, UsageError(
                    f"{self.model_name}: .preprocess returned {_describe(value)}\n{PREPROCESS_CONTRACT}"
                )
            rows.append(row)
        return rows, UsageError(f"{self.model_name}: there are no images")

    def _prepare_arrays(self, images: NDArray[np.uint8]) -> torch.Tensor | None:
        try:
            batch = _as_input(self.function(images))
        except Exception:  # noqa: BLE001 - the error for a picture is the one to show
            return None
        return batch if batch is not None and batch.ndim == 4 and len(batch) == len(images) else None


def _as_input(value: Any) -> torch.Tensor | None:
    import numpy as np
    import torch

    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        value = torch.from_numpy(np.ascontiguousarray(value))
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or 0 in value.shape:
        return None
    # Not torchvision's classes of tensors, whose operations differ.
    return value.detach().as_subclass(torch.Tensor).cpu()


def _stack(rows: Sequence[torch.Tensor], model_name: str) -> torch.Tensor:
    import torch

    shapes = list(dict.fromkeys(tuple(row.shape) for row in rows))
    if len(shapes) > 1:
        raise UsageError(
            f"{model_name}: .preprocess makes inputs of several shapes ({shapes[0]}, {shapes[1]})\n"
            "features need one: let it end with a crop, or give images of one size"
        )
    return torch.stack(list(rows))


def _describe(value: Any) -> str:
    shape = getattr(value, "shape", None)
    text = f"a {type(value).__module__}.{type(value).__qualname__}".replace("a builtins.", "a ")
    return text if shape is None else f"{text} of {getattr(value, 'dtype', '')} {tuple(shape)}"


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
    viewing
        Acuity, field of view and contrast, which change images before any preprocessing.
    """

    input_size: int | None = None
    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    grey: bool | None = None
    viewing: ViewingConditions | None = None

    def keywords(self) -> dict[str, Any]:
        """Return the options as keywords of :func:`mvkit.load_model`."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the options that were given."""
        return tuple(name for name, value in self.keywords().items() if value is not None)

    def check_only(self, allowed: Sequence[str], why: str) -> None:
        """Raise a UsageError, with a reason, if other options than these were given."""
        others = [option for option in self.given if option not in allowed]
        if others:
            shown = (wording("--input-size", name) if name == "input_size" else name for name in others)
            raise UsageError(f"{why}: leave out {', '.join(shown)}")

    def apply(self, declared: Preprocessing) -> Preprocessing:
        """Return preprocessing with the options in place of what was declared.

        Raises
        ------
        UsageError
            If a value is out of range.
        """
        changed = declared if self.input_size is None else _change_size(declared, self.input_size)
        if self.mean is not None:
            changed = replace(changed, mean=_channels("mean", self.mean))
        if self.std is not None:
            std = _channels("std", self.std)
            if min(std) <= 0:
                raise UsageError(f"std must be above 0, got {self.std}")
            changed = replace(changed, std=std)
        return changed if self.grey is None else replace(changed, grey=self.grey)


def _change_size(declared: Preprocessing, side_px: int) -> Preprocessing:
    if type(side_px) is not int or side_px < 1:
        raise UsageError(f"input size must be a whole number of pixels, 1 or more, got {side_px!r}")
    if isinstance(declared, ExternalPreprocessing) and declared.crop_hw is not None:
        height, width = declared.crop_hw
        raise UsageError(
            wording(f"--input-size {side_px}", f"input_size={side_px}")
            + f" is one side, but the network takes images of {height} x {width} px "
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
    return _three(numbers)


class UserCode:
    """Turns what code inside the ``with`` block raises into a :class:`~mvkit.errors.UserCodeError`.

    Errors of mvkit's own, interruptions by the keyboard, and exceptions that are not errors pass.

    Parameters
    ----------
    what
        Whose code it is and what it was doing.
    advice
        What to try; a second line.
    """

    def __init__(self, what: str, advice: str = "") -> None:
        self._what = what
        self._advice = advice

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, trace
        # A script without a `__main__` guard ends itself when it is imported.
        if isinstance(error, MvkitError) or not isinstance(error, Exception | SystemExit):
            return
        where = exception_location(error, in_libraries=True)
        message = f"{self._what}: {where}{describe_exception(error)}"
        raise UserCodeError("\n".join(filter(None, (message, self._advice)))) from error
