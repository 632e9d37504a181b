"""Preprocessing as others declare it: torchvision's presets, timm's configuration, a user's function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mvkit.errors import UsageError
from mvkit.models.foreign.user_code import UserCode
from mvkit.models.preprocessing import Preprocessing, check_images, resize_shortest

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL import Image

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
_CROP_MODES = ("center", "squash", "border")

#: Height and width in pixels.
_Size = tuple[int, int]

#: What a module's ``.preprocess`` may be, for messages.
PREPROCESS_CONTRACT = (
    ".preprocess must be mvkit.models.Preprocessing, a preset of torchvision (weights.transforms()), or a "
    "callable that takes one PIL image (RGB) and returns a float tensor (3, height, width)"
)

_LONGEST_TEXT = 2000


@dataclass(frozen=True)
class ForeignPreprocessing(Preprocessing):
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

    def __post_init__(self) -> None:
        for name, value, valid in (
            ("interpolation", self.interpolation, _INTERPOLATIONS),
            ("crop_mode", self.crop_mode, _CROP_MODES),
        ):
            if value not in valid:
                raise UsageError(f"{name} '{value}' is not known; valid: {', '.join(valid)}")
        if self.channels not in (1, 3):
            raise UsageError(f"inputs with {self.channels} channels cannot be made of pictures; valid: 1, 3")

    def as_dict(self) -> dict[str, object]:
        """Return the fields as plain data, for files and logs; rare ones only where they say something."""
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
        image = self._sized(image.convert("RGB"))
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

    def _sized(self, image: Image.Image) -> Image.Image:
        """Resize before the crop."""
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

    def _resize(self, image: Image.Image, side_px: int) -> Image.Image:
        return resize_shortest(image, side_px, self._filter)

    @property
    def _filter(self) -> Image.Resampling:
        from PIL import Image

        return Image.Resampling[self.interpolation.upper()]


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
            rows, error = self._of_pictures(images)
            if rows is not None and len(rows[0]) in (1, 3):
                return _stacked(rows, self.model_name)
            # A function of arrays, or one that makes an unusual number of channels.
            batch = self._of_arrays(images)
            if batch is not None:
                return batch
            if rows is not None:
                return _stacked(rows, self.model_name)
            with UserCode(f"{self.model_name}: .preprocess", PREPROCESS_CONTRACT):
                raise error
            raise error

    def as_dict(self) -> dict[str, object]:
        """Return what is known of the function, for files."""
        kind = type(self.function).__qualname__
        described = {"function": getattr(self.function, "__qualname__", kind), "of": self.model_name}
        text = " ".join(repr(self.function).split())
        # Objects that describe themselves, such as torchvision's transforms, not those with an address only.
        return described if " at 0x" in text else {**described, "steps": text[:_LONGEST_TEXT]}

    def _of_pictures(self, images: NDArray[np.uint8]) -> tuple[list[torch.Tensor] | None, Exception]:
        from PIL import Image

        rows = []
        for image in images:
            try:
                made = self.function(Image.fromarray(image).convert("RGB"))
            except Exception as error:  # noqa: BLE001 - any error of a user's function
                return None, error
            row = _input_of_floats(made)
            if row is not None and row.ndim == 4 and len(row) == 1:
                row = row[0]
            if row is None or row.ndim != 3:
                return None, UsageError(
                    f"{self.model_name}: .preprocess returned {_describe(made)}\n{PREPROCESS_CONTRACT}"
                )
            rows.append(row)
        return rows, UsageError(f"{self.model_name}: there are no images")

    def _of_arrays(self, images: NDArray[np.uint8]) -> torch.Tensor | None:
        try:
            batch = _input_of_floats(self.function(images))
        except Exception:  # noqa: BLE001 - the error for a picture is the one to show
            return None
        return batch if batch is not None and batch.ndim == 4 and len(batch) == len(images) else None


def as_preprocessing(declared: Any, model_name: str) -> Preprocessing | UserPreprocessing:
    """Return what a module's ``.preprocess`` stands for.

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


def read_preset(steps: Any) -> ForeignPreprocessing | None:
    """Take over every field of a preset of torchvision's for pictures; None if it is something else.

    ``antialias`` does not matter: PIL images are always resized with it.
    """
    kind = type(steps)
    if kind.__module__ != "torchvision.transforms._presets":
        return None
    if kind.__name__ == "ObjectDetection":
        zero, one = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        return ForeignPreprocessing(resize_px=None, crop_px=None, input_px=None, mean=zero, std=one)
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
    return ForeignPreprocessing(
        resize_px=resize and resize[0],
        crop_px=crop and crop[0],
        input_px=None,
        mean=three(steps.mean),
        std=three(steps.std),
        interpolation=interpolation,
    )


def read_timm(config: Mapping[str, Any], model_name: str) -> ForeignPreprocessing:
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
    return ForeignPreprocessing(
        resize_px=resized[0] if square else None,
        crop_px=height if square else None,
        input_px=None,
        mean=three(config["mean"]),
        std=three(config["std"]),
        interpolation=interpolation,
        crop_mode=mode,
        resize_hw=None if square else resized,
        crop_hw=None if square else (height, width),
        channels=channels,
    )


def three(values: Sequence[float]) -> tuple[float, float, float]:
    """Return values for three channels; one stands for all."""
    red, green, blue = map(float, [*values] * 3 if len(values) == 1 else values)
    return red, green, blue


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


def _input_of_floats(made: Any) -> torch.Tensor | None:
    import numpy as np
    import torch

    if isinstance(made, np.ndarray) and made.dtype.kind == "f":
        made = torch.from_numpy(np.ascontiguousarray(made))
    if not isinstance(made, torch.Tensor) or not made.is_floating_point() or 0 in made.shape:
        return None
    # Not torchvision's classes of tensors, whose operations differ.
    return made.detach().as_subclass(torch.Tensor).cpu()


def _stacked(rows: Sequence[torch.Tensor], model_name: str) -> torch.Tensor:
    import torch

    shapes = list(dict.fromkeys(tuple(row.shape) for row in rows))
    if len(shapes) > 1:
        raise UsageError(
            f"{model_name}: .preprocess makes inputs of several shapes ({shapes[0]}, {shapes[1]})\n"
            "features need one: let it end with a crop, or give images of one size"
        )
    return torch.stack(list(rows))


def _describe(made: Any) -> str:
    shape = getattr(made, "shape", None)
    text = f"a {type(made).__module__}.{type(made).__qualname__}".replace("a builtins.", "a ")
    return text if shape is None else f"{text} of {getattr(made, 'dtype', '')} {tuple(shape)}"
