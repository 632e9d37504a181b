"""Stimuli: datasets, folders of images, arrays; and how they become the input of a network."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import mvkit
from mvkit import paths
from mvkit.errors import DataError, UsageError, printable, wording
from mvkit.features.feature_set import FeatureProvenance, ImageIds
from mvkit.files import list_image_folder, name_text, opening_image
from mvkit.images.sources import reason_of, rgb_pixels
from mvkit.models.base import ClipInput, declared_clip, declared_viewing, state_digest
from mvkit.models.preprocessing import as_preprocessing
from mvkit.models.viewing import ViewingConditions
from mvkit.paths import expand

_GREY_MODES = frozenset({"1", "L", "LA"})
_COLOUR_MODES = frozenset({"RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr"})


@dataclass(frozen=True)
class FolderStimuli:
    """The images directly inside a folder, in natural order (``frame2`` before ``frame10``).

    Sizes may differ. Grey files give (H, W), all others RGB (H, W, 3); transparency is dropped and of
    animations the first frame is taken. Hidden files are passed over.

    Parameters
    ----------
    files
        Image files, in order.
    name
        Name of the folder, as text.
    frame_rate_hz
        Frames per second of a movie, whose frames they are, in the order of time; None: still images.
    """

    files: tuple[Path, ...]
    name: str
    frame_rate_hz: float | None = None

    @classmethod
    def open(cls, folder: Path, *, frame_rate_hz: float | None = None) -> FolderStimuli:
        """List the images of a folder.

        Raises
        ------
        DataError
            See :func:`mvkit.files.list_image_folder`.
        """
        return cls(tuple(list_image_folder(folder)), name_text(folder.resolve().name), frame_rate_hz)

    @property
    def image_ids(self) -> tuple[str, ...]:
        """File names, as text (:func:`mvkit.files.name_text`)."""
        return tuple(name_text(file.name) for file in self.files)

    @property
    def is_prepared(self) -> bool:
        """False: files hold pictures, not network inputs."""
        return False

    @property
    def field_of_view_deg(self) -> None:
        """None: files do not say it."""
        return None

    def read(self, start: int, stop: int) -> Sequence[NDArray[Any]]:
        """Read images ``start`` to ``stop``.

        Raises
        ------
        DataError
            If a file is damaged or does not hold eight bits per channel.
        """
        return [_read_image(file) for file in self.files[start:stop]]


def _read_image(file: Path) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with opening_image(file) as image:
            mode = image.mode
            if mode in _GREY_MODES:
                return np.asarray(image.convert("L"))
            if mode in _COLOUR_MODES:
                return rgb_pixels(image, str(file))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        # Pillow reports a broken PNG as a SyntaxError.
        raise DataError(
            f"{file}: cannot be read as an image ({reason_of(str(file), error)}); replace or remove it"
        ) from error
    raise DataError(
        f"{file}: pixels of mode '{mode}' are not grey or colour of eight bits; convert the file to RGB"
    )


DATASETS = paths.DATASETS


class Stimuli(Protocol):
    """Images in a fixed order, read a few at a time."""

    @property
    def name(self) -> str:
        """What the images are called in outputs."""

    @property
    def image_ids(self) -> ImageIds:
        """One id per image."""

    @property
    def is_prepared(self) -> bool:
        """Whether the images are network inputs already, to be used without preprocessing."""

    @property
    def frame_rate_hz(self) -> float | None:
        """Frames per second of a movie, whose frames the images are, in the order of time; None: images."""

    @property
    def field_of_view_deg(self) -> float | None:
        """Degrees of visual angle that the width of an image spans; None: not known."""

    def read(self, start: int, stop: int) -> Sequence[NDArray[Any]]:
        """Return images ``start`` to ``stop``: uint8 (H, W) or (H, W, 3), or prepared float (C, H, W)."""


@dataclass(frozen=True, eq=False)
class ArrayStimuli:
    """Images that lie in memory.

    Parameters
    ----------
    images
        uint8 (n, H, W) or (n, H, W, 3); or float (n, C, H, W), prepared network inputs.
    image_ids
        One id per image.
    name
        Name in outputs.
    frame_rate_hz
        Frames per second of a movie, whose frames they are, in the order of time; None: still images.
    field_of_view_deg
        Degrees of visual angle that their width spans; None: not known.
    """

    images: NDArray[Any]
    image_ids: ImageIds
    name: str = "array"
    frame_rate_hz: float | None = None
    field_of_view_deg: float | None = None

    @property
    def is_prepared(self) -> bool:
        """Whether the images are float inputs."""
        return self.images.dtype != np.uint8

    def read(self, start: int, stop: int) -> Sequence[NDArray[Any]]:
        """Return images ``start`` to ``stop``."""
        return list(self.images[start:stop])


class ImagesDigest:
    """sha256 over images as they are read: the same for an array and for a folder with the same pixels."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def update(self, images: Sequence[NDArray[Any]]) -> None:
        """Add images, in order."""
        for image in images:
            self._sha256.update(f"{image.dtype.name}{image.shape};".encode())
            self._sha256.update(np.ascontiguousarray(image).data)

    def copy(self) -> ImagesDigest:
        """Return a digest that goes on from here by itself."""
        other = ImagesDigest()
        other._sha256 = self._sha256.copy()
        return other

    def hexdigest(self) -> str:
        """Return the digest so far."""
        return self._sha256.hexdigest()


def open_stimuli(source: object, *, home: Path | None = None, frame_rate_hz: float | None = None) -> Stimuli:
    """Open images of any kind as stimuli.

    Parameters
    ----------
    source
        One of: uint8 array (n, H, W) or (n, H, W, 3); float array or tensor (n, C, H, W) of prepared network
        inputs; an object with ``.stimuli`` (and ``.frame_ids``), such as a NeuralDataset; a dataset name
        (neuropixels, calcium, simulated); the path of a neural file; the path of a folder of images (sorted
        by name, numbers by value).
    home
        mvkit's home directory, where datasets lie.
    frame_rate_hz
        Frames per second of a movie, whose frames the images are, in the order of time: networks that take
        clips need one. None: as the dataset or neural file says; of a folder or an array: still images.

    Returns
    -------
    Stimuli
        Images in a fixed order, read a few at a time; with names and ids.

    Raises
    ------
    UsageError
        If an array has another type or shape, or the source is none of these.
    DataError
        If there are no images, or the file or folder cannot be read.
    """
    rate = frame_rate_hz
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise UsageError(f"frame rate {rate:g} Hz: must be above 0")
    if isinstance(source, ArrayStimuli | FolderStimuli):
        return source if rate is None else replace(source, frame_rate_hz=rate)
    if isinstance(source, str | Path):
        return _open_by_name(str(source), home, rate)
    if hasattr(source, "stimuli"):
        images = _check_array(source.stimuli)
        frame_ids = getattr(source, "frame_ids", range(len(images)))
        rate = getattr(source, "frame_rate_hz", None) if rate is None else rate
        name, width_deg = str(getattr(source, "name", "array")), getattr(source, "field_of_view_deg", None)
        return ArrayStimuli(images, tuple(map(int, frame_ids)), name, rate, width_deg)
    images = _check_array(source)
    return ArrayStimuli(images, tuple(range(len(images))), frame_rate_hz=rate)


def default_stimuli(*, home: Path | None = None) -> str:
    """Return the dataset to show when none is named: neuropixels if it was fetched, else simulated.

    Parameters
    ----------
    home
        mvkit's home directory.
    """
    return paths.default_dataset(home)


def _open_by_name(name: str, home: Path | None, frame_rate_hz: float | None) -> Stimuli:
    path = expand(name)
    if name not in DATASETS and not (paths.is_fetched(name, home) and not path.exists()):
        if path.is_dir():
            return FolderStimuli.open(path, frame_rate_hz=frame_rate_hz)
        if not path.is_file():
            raise UsageError(
                f"stimuli '{name}': no such dataset, neural file or folder of images\n"
                f"valid: {', '.join(DATASETS)}, or a path"
            )
        return _open_neural_file(path, path.stem, frame_rate_hz)
    fetched = paths.neural_path(name, home)
    if fetched.is_file():
        return _open_neural_file(fetched, name, frame_rate_hz)
    # Here and not above: networks and images do not need the neural package, datasets do.
    from mvkit.neural import open_dataset

    return open_stimuli(open_dataset(name, home=home), frame_rate_hz=frame_rate_hz)


def _open_neural_file(path: Path, name: str, frame_rate_hz: float | None) -> Stimuli:
    # The responses stay unread: selecting units takes longer than showing the images.
    from mvkit.neural import open_neural_file

    with open_neural_file(path) as file:
        contents = file.contents
    rate = contents.frame_rate_hz if frame_rate_hz is None else frame_rate_hz
    ids, width_deg = tuple(map(int, contents.frame_ids)), contents.field_of_view_deg
    return ArrayStimuli(_check_array(contents.stimuli), ids, name, rate, width_deg)


def _check_array(source: Any) -> NDArray[Any]:
    if np.ma.is_masked(source):
        raise UsageError("images have masked pixels; fill them, for a network sees every pixel")
    try:
        # A tensor is perhaps on a GPU or has a gradient.
        images = np.asarray(source.detach().cpu() if hasattr(source, "detach") else source)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"images of type {type(source).__name__} are not an array: {error}") from error
    problem = _problem_with(images)
    if problem:
        raise UsageError(
            f"images are {images.dtype} {images.shape}: {problem}\n"
            "give uint8 (n, height, width) or (n, height, width, 3), or prepared float inputs "
            "(n, channels, height, width)"
        )
    if len(images) == 0:
        raise DataError("there are no images: the array is empty")
    return images


def _problem_with(images: NDArray[Any]) -> str | None:
    if images.dtype.kind == "f":
        return None if images.ndim == 4 else "float images must be prepared inputs with four axes"
    if images.dtype != np.uint8:
        return "pixels must be uint8"
    if images.ndim == 3:
        # (height, width, 3) would otherwise pass as a stack of pictures three pixels wide.
        return (
            "this looks like one colour image; add an axis in front" if images.shape[-1] in (3, 4) else None
        )
    if images.ndim == 4:
        return None if images.shape[-1] == 3 else "colour must be the last axis, with three channels"
    return "there must be three or four axes"


class InputReader:
    """Reads images and turns them into batches of inputs on the CPU: of images, or of the clips up to each.

    Parameters
    ----------
    model
        The network. Of one that takes clips of T frames (:func:`mvkit.models.base.declared_clip`) the input
        of image t are the images t - T + 1 to t, in this order; before the first one, the first is repeated.
    stimuli
        The images.
    """

    def __init__(self, model: nn.Module, stimuli: Stimuli) -> None:
        self._model, self._stimuli = model, stimuli
        self._clip = declared_clip(model)
        # The last frames that were read, and the number of the one after them.
        self._recent: tuple[Tensor | None, int] = (None, 0)

    def read(self, start: int, stop: int, digest: ImagesDigest | None = None) -> Tensor:
        """Return the inputs of images ``start`` to ``stop``.

        Batch after batch, every frame is read and prepared once.

        Parameters
        ----------
        start, stop
            Which images.
        digest
            Is given these images.

        Returns
        -------
        Tensor
            (n, channels, height, width); of clips with an axis of frames before or after the channels.

        Raises
        ------
        UsageError, DataError
            As :func:`network_inputs`, or if images cannot be read.
        """
        if self._clip is None:
            return self._prepare(start, stop, digest)
        n_before = min(start, self._clip.n_frames - 1)
        recent, end = self._recent
        if recent is None or end != start:
            recent = self._prepare(start - n_before, start, None) if n_before else None
        frames = self._prepare(start, stop, digest)
        if recent is not None and n_before:
            frames = torch.cat([recent[-n_before:], frames])
        self._recent = frames[max(0, len(frames) - self._clip.n_frames + 1) :], stop
        return clips_up_to(frames, n_before, self._clip)

    def _prepare(self, start: int, stop: int, digest: ImagesDigest | None) -> Tensor:
        pictures = self._stimuli.read(start, stop)
        if digest is not None:
            digest.update(pictures)
        return network_inputs(self._model, self._stimuli, pictures)


def clips_up_to(frames: Tensor, n_before: int, clip: ClipInput) -> Tensor:
    """Return the clip that ends with each frame but the first ``n_before``.

    Parameters
    ----------
    frames
        (n_before + n, channels, height, width), in the order of time. Fewer than T - 1 before are those since
        the beginning of the movie: the first is repeated.
    n_before
        Frames that only belong to clips of later ones, T - 1 at most.
    clip
        Number of frames T and order of axes.

    Returns
    -------
    Tensor
        (n, T, channels, height, width) or (n, channels, T, height, width).
    """
    repeated = frames[:1].expand(clip.n_frames - 1 - n_before, *frames.shape[1:])
    # (n, channels, height, width, T)
    windows = torch.cat([repeated, frames]).unfold(0, clip.n_frames, 1)
    return (windows.movedim(-1, 1) if clip.axes == "TCHW" else windows.movedim(-1, 2)).contiguous()


def check_movie(model: nn.Module, stimuli: Stimuli) -> None:
    """Check that a network that takes clips is shown a movie.

    Raises
    ------
    UsageError
        If the order of the images means nothing.
    """
    clip = declared_clip(model)
    if clip is not None and stimuli.frame_rate_hz is None:
        raise UsageError(
            f"{_name(model)} takes clips of {clip.n_frames} frames, and nothing says that the images of "
            f"'{stimuli.name}' are the frames of a movie\nif their order is that of time, give the rate: "
            + wording(
                "--frame-rate HZ (mvkit score: --set input.frame_rate_hz=HZ)",
                "frame_rate_hz=HZ (of mvkit.extract, or of the dataset)",
            )
        )


def network_inputs(model: nn.Module, stimuli: Stimuli, pictures: Sequence[NDArray[Any]]) -> Tensor:
    """Turn pictures into a batch of inputs on the CPU.

    Parameters
    ----------
    model
        The network; its ``viewing`` conditions are applied, then its ``preprocess``, image by image where
        sizes differ: mvkit's own preprocessing, a preset of torchvision's, or a function of one PIL image
        (see :class:`mvkit.models.preprocessing.UserPreprocessing`).
    stimuli
        Where the pictures come from.
    pictures
        uint8 (H, W) or (H, W, 3) each, or prepared float (C, H, W).

    Raises
    ------
    UsageError
        If the network has no ``preprocess`` and the pictures are not prepared, or it is something else; or
        prepared pictures would have to be filtered.
    DataError
        If prepared inputs hold NaN or infinity.
    """
    viewing = viewing_of(model, stimuli)
    if stimuli.is_prepared:
        if viewing is not None:
            raise UsageError(
                f"{_name(model)}: {viewing.describe()}: the images are prepared already\n"
                "give uint8 images, or filter them before: mvkit.ViewingConditions(...)(image)"
            )
        prepared = np.stack(pictures)
        if not np.isfinite(prepared).all():
            raise DataError(f"prepared images of '{stimuli.name}' hold NaN or infinity")
        return torch.from_numpy(prepared)
    preprocess = getattr(model, "preprocess", None)
    if preprocess is None:
        raise UsageError(
            f"{type(model).__name__} has no .preprocess, so mvkit does not know how to make its inputs of "
            "pictures\ngive the side of its input in pixels (input_size=64: grey becomes RGB, means as for "
            "ImageNet), or images that are prepared already: a float array or tensor (n, 3, height, width)"
        )
    prepare = as_preprocessing(preprocess, _name(model))
    if viewing is not None:
        pictures = [viewing(picture) for picture in pictures]
    if len({picture.shape for picture in pictures}) == 1:
        return prepare(np.stack(pictures))
    inputs = [prepare(picture[np.newaxis]) for picture in pictures]
    shapes = list(dict.fromkeys(tuple(one.shape[1:]) for one in inputs))
    if len(shapes) > 1:
        raise UsageError(
            f"{_name(model)}: its preprocessing gives images of several sizes inputs of several shapes "
            f"({shapes[0]}, {shapes[1]})\ngive images of one size, or "
            + wording("--input-size PX", "input_size=PX")
        )
    return torch.cat(inputs)


def viewing_of(model: nn.Module, stimuli: Stimuli) -> ViewingConditions | None:
    """Return the conditions under which a network sees images, field of view included; None: as they are."""
    viewing = declared_viewing(model)
    return None if viewing is None else viewing.for_images(stimuli.field_of_view_deg)


def describe_provenance(model: nn.Module, stimuli: Stimuli, stimuli_digest: str) -> FeatureProvenance:
    """Describe a run: network, weights, preprocessing, images, versions."""
    weights_id = getattr(model, "weights_id", None)
    return FeatureProvenance(
        model_name=printable(_name(model)),
        weights_id=str(weights_id) if weights_id else state_digest(model),
        preprocessing=describe_preprocessing(model, stimuli),
        stimuli=printable(stimuli.name),
        stimuli_digest=stimuli_digest,
        image_ids=_storable(stimuli.image_ids),
        versions={"mvkit": mvkit.__version__, "torch": str(torch.__version__), "numpy": np.__version__},
    )


def _storable(ids: ImageIds) -> ImageIds:
    """Return ids that a file can hold: names of files, given as the system has them, as text."""
    if not any(isinstance(one, str) and printable(one) != one for one in ids):
        return ids
    return tuple(name_text(one) if isinstance(one, str) else str(one) for one in ids)


def describe_preprocessing(model: nn.Module, stimuli: Stimuli) -> dict[str, object]:
    """Return what is recorded of how images become a network's input, as plain data."""
    steps: dict[str, object] = {}
    if not stimuli.is_prepared:
        steps |= as_preprocessing(getattr(model, "preprocess", None), _name(model)).as_dict()
    if (viewing := viewing_of(model, stimuli)) is not None:
        steps |= viewing.as_dict()
    if (clip := declared_clip(model)) is not None:
        rate = stimuli.frame_rate_hz
        steps |= {"clip_frames": clip.n_frames, "clip_axes": clip.axes, "frame_rate_hz": rate}
    # As JSON gives it back, so that features in memory and from a file are equal.
    recorded: dict[str, object] = json.loads(json.dumps(steps))
    return recorded


def _name(model: nn.Module) -> str:
    return str(getattr(model, "name", type(model).__name__))
