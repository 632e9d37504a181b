"""Sources of images: folders, CIFAR-10's batches, pairs of image and depth."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mvkit.errors import DataError
from mvkit.files import (
    FolderId,
    ListedFile,
    check_link,
    inspect_file,
    list_files,
    list_folders,
    name_file_in_errors,
    name_text,
    opening_image,
    pointer_problem,
)
from mvkit.neural.pickle_arrays import array_ref, load
from mvkit.pickle_reader import PickleFile, read_pickle
from mvkit.recipes import packaged_recipes

#: Suffixes of files that are taken for images; others are passed over.
SUFFIXES: Final = frozenset(
    {".jpeg", ".jpg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"}
)
TRAIN, VAL = "train", "val"
SPLITS: Final = (TRAIN, VAL)
FOLDER: Final = "folder"
CIFAR10: Final = "cifar10"
PAIRED_DEPTH: Final = "paired_depth"
SIDE_PX: Final = 32
_BATCHES = {TRAIN: tuple(f"data_batch_{number}" for number in range(1, 6)), VAL: ("test_batch",)}
_INNER = "cifar-10-batches-py"
_NAMES = "batches.meta"

#: The classes in the order of the labels, for copies without ``batches.meta``.
CLASSES: Final = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
_PAIR_FOLDER = "data"

#: Modes of one number per pixel and the greatest value of each (PIL reads 16-bit PNGs as "I" or "I;16").
_GREATEST = {"L": 255, "I;16": 65535, "I;16L": 65535, "I;16B": 65535, "I": 65535}

#: How names of modes with more than 8 bits begin: PIL would cut their values off at 255.
_WIDE = ("I", "F")

#: Of TurboJPEG: three bytes a pixel, and the transform that Pillow uses.
_TJPF_RGB, _ACCURATE_DCT = 0, 4096


@dataclass(frozen=True)
class Item:
    """One image, not read yet; small enough to be sent to another process.

    Attributes
    ----------
    name
        Its name in messages and records: the path relative to the source's folder, as text
        (:func:`mvkit.files.name_text`).
    label
        Position of its class; -1 without labels.
    path
        File to read, or None where ``pixels`` are given.
    pixels
        uint8 (height, width, 3), for sources that keep many images in a file.
    depth_path
        File of the depth map, for paired sources.
    problem
        Why there is nothing to read; empty where there is.
    """

    name: str
    label: int
    path: Path | None = None
    pixels: NDArray[np.uint8] | None = None
    depth_path: Path | None = None
    problem: str = ""


@dataclass(frozen=True)
class SourceFile:
    """A file of a source.

    Attributes
    ----------
    name
        Path relative to the source's folder, as the system has it.
    n_bytes
        Size.
    label
        Class of its images.
    problem
        Why its images cannot be read, as far as that is known without opening it; empty otherwise.
    """

    name: str
    n_bytes: int
    label: int = -1
    problem: str = ""


@dataclass(frozen=True)
class SplitSource:
    """One split of a source.

    Attributes
    ----------
    kind
        Name of the layout.
    split
        ``train`` or ``val``.
    classes
        Names in the order of the labels, as text, or None without labels.
    has_depth
        Whether every image has a depth map.
    n_images
        Number of items.
    files
        All files that are read, in order.
    open_items
        Called without arguments, iterates over all items in order.
    """

    kind: str
    split: str
    classes: tuple[str, ...] | None
    has_depth: bool
    n_images: int
    files: tuple[SourceFile, ...]
    open_items: Callable[[], Iterator[Item]]

    @property
    def n_bytes(self) -> int:
        """Size of all files together."""
        return sum(file.n_bytes for file in self.files)

    @property
    def absent(self) -> tuple[tuple[str, str], ...]:
        """Images that are named but not there: name, as text, and reason."""
        return tuple((name_text(file.name), file.problem) for file in self.files if file.problem)

    def listing_digest(self) -> str:
        """Return a sha256 over the names and sizes of all files: changes when a file comes, goes or grows."""
        summary = hashlib.sha256(f"{self.kind} {self.split}\n".encode())
        for file in self.files:
            # Names by their bytes, whatever the system's encoding.
            summary.update(f"{file.n_bytes} {file.label} ".encode() + os.fsencode(file.name) + b"\n")
        return summary.hexdigest()


def no_images(folder: Path, split: str) -> DataError:
    """Return the error that a folder has no images to train on; names the command that makes them."""
    recipe = folder.name if f"prep/{folder.name}" in packaged_recipes() else "RECIPE"
    return DataError(
        f"{folder}: no images for '{split}': no {split}.beton and no {split}/CLASS/*.jpg "
        f"(or images without classes)\n"
        f"make them with `mvkit prep {recipe} --images DIR --out {folder}`, or give `--images DIR`"
    )


def open_folder(root: Path) -> tuple[SplitSource, ...]:
    """List the images of a folder.

    Classes are the names of the folders in ``train``, sorted; ``val`` may lack
    some of them but has no others. A split whose images lie directly in it has
    no labels. A folder with neither ``train`` nor ``val`` is one split,
    ``train``. Folders inside a class belong to it, whatever links lead to
    them, and each counts once; links that lead up to a folder around them are
    not followed. Links to nothing are listed as images that cannot be read.

    Raises
    ------
    DataError
        If there are no images, if labelled and unlabelled ones are mixed, a class is empty, a folder is in
        two classes, a split is a link to nothing, or ``val`` has classes that ``train`` has not.
    """
    for name in SPLITS:
        check_link(root / name)
    present = [name for name in SPLITS if (root / name).is_dir()]
    if not present:
        split = _open_folder_split(root, root, TRAIN, None)
        _check_inner_splits(root, split.files)
        return (split,)
    splits: list[SplitSource] = []
    for name in present:
        known = splits[0].classes if splits else None
        splits.append(_open_folder_split(root, root / name, name, known))
    if len(splits) > 1 and (splits[0].classes is None) != (splits[1].classes is None):
        raise DataError(
            f"{root}: one of train and val has class folders, the other has not; give both the same\n"
            "ImageNet comes with the images of val in one folder: sort them into folders as in train"
        )
    return tuple(splits)


def _check_inner_splits(root: Path, files: tuple[SourceFile, ...]) -> None:
    """Check that images to train on are not those of train and val deeper inside, as in Kaggle's ImageNet."""
    train, val = (
        next((head for file in files for head, mark, _ in [file.name.partition(f"/{split}/")] if mark), None)
        for split in SPLITS
    )
    if train is not None and train == val:
        raise DataError(
            f"{root}: has no train and val, but a folder inside has\nname that one: {root / train}"
        )


def _open_folder_split(root: Path, folder: Path, split: str, known: tuple[str, ...] | None) -> SplitSource:
    loose = list_files(folder, SUFFIXES, levels=0)
    class_folders, missing = list_folders(folder)
    if loose and class_folders:
        raise DataError(
            f"{folder}: has images of its own ({loose[0].path.name}) and folders ({class_folders[0].name}); "
            "keep either images without labels or one folder per class"
        )
    if loose:
        return _source(root, split, None, tuple(source_files(root, [*loose, *missing])))
    if not class_folders:
        if missing:
            check_link(missing[0].path)
        raise DataError(
            f"{folder}: no images and no class folders (looked for {', '.join(sorted(SUFFIXES))})"
        )
    names = tuple(name_text(entry.name) for entry in class_folders)
    classes = known if known is not None else names
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise DataError(f"{folder}: class '{unknown[0]}' ({len(unknown)} in all) is not in train")
    files: list[SourceFile] = list(source_files(root, missing))
    claimed: dict[FolderId, Path] = {}
    for entry, name in zip(class_folders, names, strict=True):
        listed = list_files(entry, SUFFIXES, claimed=claimed)
        if not listed:
            raise DataError(f"{entry}: a class without images; remove the folder or fill it")
        files.extend(source_files(root, listed, classes.index(name)))
    return _source(root, split, classes, tuple(files))


def _source(
    root: Path, split: str, classes: tuple[str, ...] | None, files: tuple[SourceFile, ...]
) -> SplitSource:
    def items() -> Iterator[Item]:
        for file in files:
            yield Item(name_text(file.name), file.label, path=root / file.name, problem=file.problem)

    return SplitSource(
        kind=FOLDER,
        split=split,
        classes=classes,
        has_depth=False,
        n_images=len(files),
        files=files,
        open_items=items,
    )


def open_pairs(root: Path) -> tuple[SplitSource, ...]:
    """List the pairs of a folder; an image and its depth map have the same file name.

    An image whose depth map is missing is listed as one that cannot be read.

    Raises
    ------
    DataError
        If there is no split with images and depth maps.
    """
    for name in SPLITS:
        check_link(root / name)
        check_link(root / name / _PAIR_FOLDER)
    splits = tuple(_open_pairs_split(root, name) for name in SPLITS if (root / name / _PAIR_FOLDER).is_dir())
    if not splits:
        raise DataError(
            f"{root}: no pairs; expected images in train/data/ and depth maps in train_depth/data/"
        )
    return splits


def _open_pairs_split(root: Path, split: str) -> SplitSource:
    images = root / split / _PAIR_FOLDER
    depths = root / f"{split}_depth" / _PAIR_FOLDER
    if not depths.is_dir():
        check_link(depths)
        raise DataError(
            f"{depths}: no such folder; every image of {images} needs a depth map of its name there"
        )
    listed = list_files(images, SUFFIXES, levels=0)
    if not listed:
        raise DataError(f"{images}: no images in this folder")
    maps = [inspect_file(depths / file.path.name) for file in listed]
    files = tuple(
        source_files(
            root, (_add_depth_problem(file, depth) for file, depth in zip(listed, maps, strict=True))
        )
    )
    depth_files = tuple(source_files(root, (depth for depth in maps if not depth.problem)))

    def items() -> Iterator[Item]:
        for file in files:
            path = root / file.name
            depth_path = depths / path.name
            yield Item(name_text(file.name), -1, path=path, depth_path=depth_path, problem=file.problem)

    return SplitSource(
        kind=PAIRED_DEPTH,
        split=split,
        classes=None,
        has_depth=True,
        n_images=len(files),
        files=files + depth_files,
        open_items=items,
    )


def _add_depth_problem(image: ListedFile, depth: ListedFile) -> ListedFile:
    """Return an image, with the problem of its depth map if it has none itself."""
    if image.problem or not depth.problem:
        return image
    exists = depth.path.is_symlink() or depth.path.exists()
    reason = f"is {depth.problem}" if exists else "is missing"
    return replace(image, problem=f"its depth map {name_text(depth.path)} {reason}")


def open_cifar10(root: Path) -> tuple[SplitSource, ...]:
    """List the splits of CIFAR-10: ``data_batch_1`` to ``5`` and ``test_batch``.

    They may lie in ``root`` or in ``cifar-10-batches-py`` inside it.

    Raises
    ------
    DataError
        If a batch is missing or is not one.
    """
    folder = root / _INNER if (root / _INNER).is_dir() else root
    splits = []
    for split, names in _BATCHES.items():
        missing = [name for name in names if not (folder / name).is_file()]
        for name in missing:
            check_link(folder / name)
        if missing:
            raise DataError(f"{folder}: {', '.join(missing)} missing; unpack CIFAR-10's python version there")
        splits.append(_open_cifar10_split(folder, split, names))
    return tuple(splits)


def _open_cifar10_split(folder: Path, split: str, names: tuple[str, ...]) -> SplitSource:
    classes = _class_names(folder)
    files: list[SourceFile] = list(source_files(folder, [inspect_file(folder / name) for name in names]))
    n_images = sum(len(read_batch(folder / name, len(classes))[1]) for name in names)

    def items() -> Iterator[Item]:
        for name in names:
            images, labels = read_batch(folder / name, len(classes))
            for row, (image, label) in enumerate(zip(images, labels, strict=True)):
                yield Item(f"{name}[{row}]", int(label), pixels=image)

    return SplitSource(
        kind=CIFAR10,
        split=split,
        classes=classes,
        has_depth=False,
        n_images=n_images,
        files=tuple(files),
        open_items=items,
    )


def read_batch(path: Path, n_classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read one batch.

    Returns
    -------
    images, labels
        uint8 (n, 32, 32, 3) and int64 (n,).

    Raises
    ------
    DataError
        If the file is damaged, or images and labels do not fit each other or the classes.
    """
    source, content = _open_batch(path)
    if "data" not in content or "labels" not in content:
        raise DataError(f"{path}: not a batch of CIFAR-10 (no 'data' or no 'labels')")
    with name_file_in_errors(path):
        pixels, labels = array_ref(content["data"], "'data'"), content["labels"]
        if pixels.dtype != np.uint8 or len(pixels.shape) != 2:
            raise DataError("its 'data' is no array of bytes with a row per image")
        data = load(pixels, source, "'data'")
    if data.shape[1] != 3 * SIDE_PX**2:
        raise DataError(f"{path}: images of {data.shape[1]} bytes, not 3 x {SIDE_PX} x {SIDE_PX}")
    if not (isinstance(labels, list) and len(labels) == len(data)):
        raise DataError(f"{path}: {len(data)} images, but not as many labels")
    if not all(isinstance(label, int) and 0 <= label < n_classes for label in labels):
        raise DataError(f"{path}: labels that are not numbers from 0 to {n_classes - 1}")
    # One plane after another in the file, channels last here.
    images = data.reshape(-1, 3, SIDE_PX, SIDE_PX).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), np.asarray(labels, np.int64)


def _open_batch(path: Path) -> tuple[PickleFile, dict[object, object]]:
    source = PickleFile(path)
    content = read_pickle(source)
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a batch of CIFAR-10 (holds a {type(content).__name__}, not a dict)")
    return source, content


def _class_names(folder: Path) -> tuple[str, ...]:
    path = folder / _NAMES
    if not path.is_file():
        return CLASSES
    names = _open_batch(path)[1].get("label_names")
    if not isinstance(names, list) or len(names) != len(CLASSES):
        raise DataError(f"{path}: its 'label_names' are not {len(CLASSES)} names of classes")
    # Python 2 wrote text as bytes.
    return tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names)


def source_files(root: Path, files: Iterable[ListedFile], label: int = -1) -> Iterator[SourceFile]:
    """Yield files with their paths relative to ``root``."""
    for file in files:
        yield SourceFile(file.path.relative_to(root).as_posix(), file.n_bytes, label, file.problem)


def read_rgb(file: str | BinaryIO, *, name: str | None = None) -> Image.Image:
    """Decode an image file to RGB.

    Parameters
    ----------
    file
        A path, or an open file that messages call ``name``.
    name
        See ``file``.

    Raises
    ------
    DataError
        If it cannot be read or has more than 8 bits per channel; names the file.
    """
    with _opening(file, name or str(file)) as image:
        return _as_rgb(image, name or str(file))


def read_pixels(path: str) -> NDArray[np.uint8]:
    """Decode an image file to RGB pixels, uint8 (height, width, 3): those of :func:`read_rgb`.

    Raises
    ------
    DataError
        As :func:`read_rgb`.
    """
    with _opening(path, path) as image:
        return rgb_pixels(image, path)


def rgb_pixels(image: Image.Image, path: str) -> NDArray[np.uint8]:
    """Return the RGB pixels, uint8 (height, width, 3), of a file that Pillow has opened.

    JPEGs in colour are decoded by libturbojpeg where the system has it (FFCV needs it, too): Pillow has the
    same decoder, but spreads pixels over four bytes, which takes a fifth of its time. What libturbojpeg
    refuses or warns of, Pillow judges.

    Raises
    ------
    DataError
        If the image has more than 8 bits per channel.
    OSError, SyntaxError, ValueError
        Pillow's, if it cannot be read.
    """
    if image.format == "JPEG" and image.mode == "RGB" and (library := _turbojpeg()) is not None:
        pixels = _decode_jpeg(library, Path(path).read_bytes(), image.size)
        if pixels is not None:
            return pixels
    return np.asarray(_as_rgb(image, path))


def _decode_jpeg(library: ctypes.CDLL, content: bytes, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """Decode a JPEG of (width, height) px by libturbojpeg; None: it found something wrong."""
    width, height = size
    pixels = np.empty((height, width, 3), np.uint8)
    # A decoder must not be shared among threads; making one takes a microsecond.
    decoder = library.tjInitDecompress()
    status = library.tjDecompress2(
        *(decoder, content, len(content), pixels.ctypes.data, width, 0, height, _TJPF_RGB, _ACCURATE_DCT)
    )
    library.tjDestroy(decoder)
    return pixels if status == 0 else None


@functools.cache
def _turbojpeg() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libturbojpeg.so.0")
    except OSError:
        return None
    library.tjInitDecompress.restype = ctypes.c_void_p
    library.tjDestroy.argtypes = [ctypes.c_void_p]
    library.tjDecompress2.argtypes = [
        *(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_void_p),
        *[ctypes.c_int] * 5,
    ]
    return library


def _as_rgb(image: Image.Image, name: str) -> Image.Image:
    image.load()
    if image.mode.startswith(_WIDE):
        raise DataError(f"{name}: pixels of mode '{image.mode}' are not eight bits per channel")
    # PIL's convert copies even where nothing changes.
    return image if image.mode == "RGB" else image.convert("RGB")


def read_depth(path: str) -> Image.Image:
    """Decode a depth image to numbers in [0, 1] (mode "F"): pixel / greatest value of its type.

    Raises
    ------
    DataError
        If it cannot be read or has more than one number per pixel; names the file.
    """
    with _opening(path, path) as image:
        image.load()
    greatest = _GREATEST.get(image.mode)
    if greatest is None:
        raise DataError(f"{path}: a depth image has one number per pixel, this has mode {image.mode}")
    return Image.fromarray(np.asarray(image).astype(np.float32) / np.float32(greatest))


@contextmanager
def _opening(file: str | BinaryIO, name: str) -> Iterator[Image.Image]:
    """Open an image for a block that decodes it; what Pillow finds wrong is a DataError with the name."""
    if isinstance(file, str) and (problem := inspect_file(Path(file)).problem):
        # A pipe, for one, would never end.
        raise DataError(f"{name}: cannot be read as an image: {problem}\nrestore or remove it")
    try:
        with opening_image(file) as image:
            yield image
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{name}: cannot be read as an image: {reason_of(file, error)}\nrestore or remove it"
        ) from error


def reason_of(file: str | BinaryIO, error: Exception) -> str:
    """Return why Pillow does not read an image file, without the file's name."""
    if isinstance(error, UnidentifiedImageError):
        if isinstance(file, str) and (problem := pointer_problem(_read_start(file))):
            return problem
        # Pillow's message repeats the name, or names an object in memory.
        return "not an image of a kind that Pillow knows"
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def _read_start(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(64)
