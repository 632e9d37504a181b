"""Images to show to a network: arrays, the stimuli of a neural dataset, or a folder of image files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mvkit import paths
from mvkit.errors import DataError, UsageError
from mvkit.features.featureset import ImageIds
from mvkit.features.image_folder import FolderStimuli

DATASETS = ("neuropixels", "calcium", "simulated")
#: Stimuli when nobody says which: the published ones if they were fetched, else the simulated ones.
PREFERRED_DATASET, FALLBACK_DATASET = "neuropixels", "simulated"


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
    """

    images: NDArray[Any]
    image_ids: ImageIds
    name: str = "array"

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


def open_stimuli(source: object, *, home: Path | None = None) -> Stimuli:
    """Turn whatever holds images into stimuli.

    Parameters
    ----------
    source
        One of: uint8 array (n, H, W) or (n, H, W, 3); float array or tensor (n, C, H, W) of prepared network
        inputs; an object with ``.stimuli`` (and ``.frame_ids``), such as a NeuralDataset; a dataset name
        (neuropixels, calcium, simulated); the path of a neural file; the path of a folder of images (sorted
        by name, numbers by value).
    home
        mvkit's home directory, where datasets lie.

    Raises
    ------
    UsageError
        If an array has another type or shape, or the source is none of these.
    DataError
        If there are no images, or the file or folder cannot be read.
    """
    if isinstance(source, ArrayStimuli | FolderStimuli):
        return source
    if isinstance(source, str | Path):
        return _from_place(str(source), home)
    if hasattr(source, "stimuli"):
        images = _checked_array(source.stimuli)
        frame_ids = getattr(source, "frame_ids", range(len(images)))
        return ArrayStimuli(images, tuple(map(int, frame_ids)), str(getattr(source, "name", "array")))
    images = _checked_array(source)
    return ArrayStimuli(images, tuple(range(len(images))))


def default_stimuli(*, home: Path | None = None) -> str:
    """Return the dataset to show when nobody says which: neuropixels if it was fetched, else simulated."""
    fetched = paths.neural_path(PREFERRED_DATASET, home).is_file()
    return PREFERRED_DATASET if fetched else FALLBACK_DATASET


def _from_place(place: str, home: Path | None) -> Stimuli:
    path = Path(place).expanduser()
    if place not in DATASETS:
        if path.is_dir():
            return FolderStimuli.open(path)
        if not path.is_file():
            raise UsageError(
                f"stimuli '{place}': no such dataset, neural file or folder of images\n"
                f"valid: {', '.join(DATASETS)}, or a path"
            )
        return _from_neural_file(path, path.stem)
    fetched = paths.neural_path(place, home)
    if fetched.is_file():
        return _from_neural_file(fetched, place)
    # Here and not above: networks and images do not need the neural package, datasets do.
    from mvkit.neural import open_dataset

    return open_stimuli(open_dataset(place, home=home))


def _from_neural_file(path: Path, name: str) -> Stimuli:
    # The responses stay unread: selecting units takes longer than showing the images.
    from mvkit.neural import reading

    with reading(path) as file:
        contents = file.contents
    return ArrayStimuli(_checked_array(contents.stimuli), tuple(map(int, contents.frame_ids)), name)


def _checked_array(source: Any) -> NDArray[Any]:
    if hasattr(source, "detach"):  # a tensor, perhaps on a GPU or with a gradient
        source = source.detach().cpu()
    if np.ma.is_masked(source):
        raise UsageError("images have masked pixels; fill them, for a network sees every pixel")
    try:
        images = np.asarray(source)
    except (TypeError, ValueError) as error:
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
