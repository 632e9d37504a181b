"""From a folder of images to beton files."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import signal
import struct
import threading
import time
import uuid
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import Field, field_validator

from mvkit import files as atomic
from mvkit.errors import DataError, UsageError, printable, unknown_name
from mvkit.files import check_link, file_lock, name_text, pointer_problem
from mvkit.images import beton
from mvkit.images import sources as cifar10
from mvkit.images import sources as folder
from mvkit.images import sources as paired_depth
from mvkit.images.beton import (
    BetonWriter,
    Encoded,
    Failure,
    Origin,
    Sidecar,
    Stored,
    Structure,
    VerifyReport,
    check_complete,
    compare_with_checksums,
    compare_with_ffcv,
    digest_of,
    load_ffcv,
    read_structure,
    sidecar_path,
    verify_beton,
    write_sidecar,
)
from mvkit.images.crops import crop_boxes
from mvkit.images.settings import Crop, Pixels, RandomCrop, RandomResizedCrop
from mvkit.images.sources import Item, SplitSource
from mvkit.machine import free_disk, installed_versions
from mvkit.recipes import Settings, load_recipe, packaged_recipes

_FILTERS = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_EIGHT_BITS = frozenset(
    {"1", "L", "LA", "La", "RGB", "RGBA", "RGBX", "RGBa", "P", "PA", "CMYK", "YCbCr", "HSV", "LAB"}
)
#: Pillow reports a broken PNG as a SyntaxError, some broken TIFFs and others in the remaining ways.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


@dataclass(frozen=True)
class Encoding:
    """How images are stored; see :class:`mvkit.images.prep.PrepSettings`."""

    short_side_px: int | None
    format: Literal["raw", "jpeg"]
    jpeg_quality: int
    resampling: Literal["box", "bilinear", "bicubic", "lanczos"]
    page_bytes: int


@dataclass(frozen=True)
class Unreadable:
    """An image that cannot be stored, and why."""

    name: str
    reason: str


class _UnfitError(Exception):
    """An image that was read but cannot be stored."""


def encode(item: Item, how: Encoding) -> Encoded | Unreadable:
    """Read an image, make it smaller if asked, and return what is stored; never raises for a bad image."""
    if item.problem:
        return Unreadable(item.name, item.problem)
    with warnings.catch_warnings():
        # Odd EXIF blocks and palettes are common in ImageNet and change nothing. Bombs stay errors.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return _encode(item, how)
        except _UnfitError as error:
            return Unreadable(item.name, str(error))
        except UnidentifiedImageError:
            # Pillow's message names an object in memory, which differs from run to run.
            return Unreadable(item.name, "not an image of a kind that Pillow knows")
        except _BROKEN as error:
            return Unreadable(item.name, _in_one_line(error))


def _encode(item: Item, how: Encoding) -> Encoded:
    content, image, digest = _read(item)
    height, width = image.height, image.width
    size = stored_size(height, width, how.short_side_px)
    is_kept = size == (height, width)
    keeps_jpeg = how.format == "jpeg" and is_kept and image.format == "JPEG" and image.mode == "RGB"
    # Conversion decodes the whole file, also where its bytes are kept: a broken one must not get through.
    pixels = (
        image.convert("RGB") if is_kept else image.convert("RGB").resize(size[::-1], _FILTERS[how.resampling])
    )
    if how.format == "raw":
        mode, stored = beton.RAW_MODE, pixels.tobytes()
    else:
        mode, stored = beton.JPEG_MODE, content if keeps_jpeg else _as_jpeg(pixels, how.jpeg_quality)
    depth = None
    if item.depth_path is not None:
        depth_content = _content(item.depth_path, "depth map")
        digest.update(hashlib.sha256(depth_content).digest())
        depth = beton.pack_depth(_depth(item.depth_path, depth_content, (height, width), size))
    needed = len(stored) + len(depth or b"")
    if needed > how.page_bytes:
        raise _UnfitError(
            f"needs {needed} bytes, more than a page of {how.page_bytes}; give --set page_mib a greater value"
        )
    if max(size) > beton.MOST_PX:
        raise _UnfitError(f"{size[1]} x {size[0]} px; a beton stores sides up to {beton.MOST_PX}")
    return Encoded(item.name, item.label, mode, *size, height, width, stored, depth, digest.digest())


def stored_size(height: int, width: int, short_side_px: int | None) -> tuple[int, int]:
    """Return (height, width) as stored: the shorter side cut down to ``short_side_px``, never enlarged.

    The longer side is rounded down, as torchvision's ``Resize`` does.
    """
    shorter = min(height, width)
    if short_side_px is None or shorter <= short_side_px:
        return height, width
    return short_side_px * height // shorter, short_side_px * width // shorter


def _read(item: Item) -> tuple[bytes, Image.Image, hashlib._Hash]:
    if item.pixels is not None:
        content = item.pixels.tobytes()
        return content, Image.fromarray(item.pixels), hashlib.sha256(content)
    if item.path is None:
        raise _UnfitError("neither a file nor pixels")
    content = _content(item.path, "image")
    image = Image.open(io.BytesIO(content))
    if image.mode not in _EIGHT_BITS:
        raise _UnfitError(f"pixels of mode '{image.mode}' are not eight bits per channel")
    return content, image, hashlib.sha256(content)


def _content(path: Path, what: str) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise _UnfitError(f"its {what} {name_text(path)} is missing") from error
    if not content:
        raise _UnfitError(f"its {what} is an empty file")
    if problem := pointer_problem(content):
        raise _UnfitError(problem)
    return content


def _as_jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _depth(
    path: Path, content: bytes, source_size: tuple[int, int], size: tuple[int, int]
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Read a depth map of one channel, 8 or 16 bits; made smaller without mixing depths."""
    with Image.open(io.BytesIO(content)) as image:
        pixels = np.asarray(image)
    # Pillow gives 16-bit PNGs as int32 in some versions.
    if (
        pixels.dtype == np.int32
        and pixels.size
        and pixels.min() >= 0
        and pixels.max() <= np.iinfo(np.uint16).max
    ):
        pixels = pixels.astype(np.uint16)
    if pixels.ndim != 2 or pixels.dtype not in (np.uint8, np.uint16):
        raise _UnfitError(f"its depth map {name_text(path)} has not one channel of 8 or 16 bits")
    if pixels.shape != source_size:
        raise _UnfitError(
            f"its depth map has {pixels.shape[1]} x {pixels.shape[0]} px, "
            f"the image {source_size[1]} x {source_size[0]}"
        )
    if size == source_size:
        return pixels
    # The source's pixel at the middle of each new one: Pillow's NEAREST, for any number of bits.
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64)
        for new, old in zip(size, source_size, strict=True)
    )
    return np.ascontiguousarray(pixels[np.ix_(rows, columns)])


def _in_one_line(error: BaseException) -> str:
    # The system's errors repeat the file's name.
    text = error.strerror if isinstance(error, OSError) and error.filename and error.strerror else str(error)
    return printable(" ".join(text.split())) or type(error).__name__


#: Keys that tell a reader something and change no byte of the file.
_REMARKS: Final = frozenset({"name", "notes", "gb_per_million_images", "measured"})
MIB: Final = 1024 * 1024
_FOLDER: Final = "prep/"


class PrepSettings(Settings):
    """A prep recipe.

    Attributes
    ----------
    name
        Name of the recipe and of the folder of its files.
    notes
        For whom it is.
    gb_per_million_images, measured
        Size on disk (10**9 bytes), and how that number was found.
    source
        Layout of the images; see :mod:`mvkit.images.sources`.
    short_side_px
        Images with a greater shorter side are made smaller until it has this length, proportions kept;
        smaller ones and, with None, all stay as they are.
    format
        ``raw``: three bytes per pixel. ``jpeg``: compressed; a JPEG that needs no resizing is kept as it is.
    jpeg_quality
        1 to 95, as Pillow counts.
    resampling
        Filter for making images smaller (Pillow's, with support in proportion).
    page_mib
        Size of FFCV's pages, a power of two; no image takes more.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    notes: str = ""
    gb_per_million_images: Annotated[float, Field(gt=0)] | None = None
    measured: str = ""
    source: Literal["folder", "cifar10", "paired_depth"] = "folder"
    short_side_px: Pixels | None = None
    format: Literal["raw", "jpeg"] = "raw"
    jpeg_quality: Annotated[int, Field(ge=1, le=95)] = 95
    resampling: Literal["box", "bilinear", "bicubic", "lanczos"] = "lanczos"
    page_mib: Annotated[int, Field(ge=2, le=1024)] = 8

    @field_validator("page_mib")
    @classmethod
    def _is_power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError(f"must be a power of two (2, 4, 8, ...), got {value}")
        return value

    @property
    def encoding(self) -> Encoding:
        """How images are stored, as the workers need it."""
        return Encoding(
            short_side_px=self.short_side_px,
            format=self.format,
            jpeg_quality=self.jpeg_quality,
            resampling=self.resampling,
            page_bytes=self.page_mib * MIB,
        )

    def digest(self) -> str:
        """Return a sha256 over everything that decides what is in the file."""
        document = self.model_dump(mode="json", exclude=set(_REMARKS))
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def load_prep_recipe(source: str, overrides: Sequence[str] = ()) -> PrepSettings:
    """Read a prep recipe.

    Parameters
    ----------
    source
        Path of a file, or name of a packaged recipe, as ``imagenet_64``.
    overrides
        ``"key=value"`` items as given to ``--set``.

    Raises
    ------
    UsageError
        If there is no such recipe.
    RecipeError
        If the recipe does not validate; one line per problem.
    """
    if Path(source).is_file():
        return load_recipe(PrepSettings, source, overrides)
    name = source.removeprefix(_FOLDER).removesuffix(".yaml")
    valid = [name.removeprefix(_FOLDER) for name in packaged_recipes() if name.startswith(_FOLDER)]
    if name not in valid:
        raise unknown_name("prep recipe", source, valid)
    return load_recipe(PrepSettings, _FOLDER + name, overrides)


#: Side of the views of all published trainings, in px.
VIEW_PX: Final = 64
#: Crops drawn for a report; the fraction's standard error is below 0.4 %.
N_DRAWS: Final = 20_000

#: The published crops by the objectives that use them.
LABELLED_CROPS: Final[Mapping[str, Crop]] = {
    "scale 0.08-1 (supervised, RotNet, SimCLR, Barlow Twins, VICReg)": RandomResizedCrop(scale=(0.08, 1.0)),
    "scale 0.2-1 (instance recognition, MoCo v2, SimSiam)": RandomResizedCrop(scale=(0.2, 1.0)),
}
#: Depth prediction takes 224 x 224 px of PBRNet's 480 x 640.
DEPTH_CROPS: Final[Mapping[str, Crop]] = {
    "224 of 480 px (depth prediction)": RandomCrop(resize_px=480, crop_px=224)
}


@dataclass(frozen=True)
class Enlargement:
    """How many crops are enlarged to become a view, and by how much.

    Attributes
    ----------
    fraction
        Of crops whose shorter side has fewer pixels than the view.
    median_factor
        View side / crop's shorter side, median over those crops; None if there are none.
    """

    fraction: float
    median_factor: float | None


@dataclass(frozen=True)
class CropReport:
    """A published crop on the images as stored, and on the images as they were found."""

    crop: str
    view_px: int
    stored: Enlargement
    source: Enlargement

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def enlargement(
    crop: Crop,
    heights: NDArray[np.int64],
    widths: NDArray[np.int64],
    *,
    view_px: int = VIEW_PX,
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> Enlargement:
    """Draw crops as in training and count those that must be enlarged.

    Parameters
    ----------
    crop
        Distribution of the crops.
    heights, widths
        int64 (n,), px: sizes of images, a sample is enough; each gets the same number of draws.
    view_px
        Side of the view.
    n_draws
        About so many crops are drawn.
    seed
        Of the draws.
    """
    repeats = max(1, n_draws // len(heights))
    heights, widths = np.tile(heights, repeats), np.tile(widths, repeats)
    boxes = crop_boxes(crop, seed, 0, np.arange(len(heights)), 0, heights, widths)
    factors = view_px / np.maximum(boxes[:, 2:].min(axis=1), 1)
    enlarged = factors[factors > 1]
    return Enlargement(
        fraction=float(len(enlarged) / len(factors)),
        median_factor=float(np.median(enlarged)) if len(enlarged) else None,
    )


def report_crops(
    stored: NDArray[np.int64], source: NDArray[np.int64], *, has_depth: bool
) -> tuple[CropReport, ...]:
    """Report on every published crop.

    Parameters
    ----------
    stored, source
        int64 (n, 2): heights and widths of the images as stored and as found, px.
    has_depth
        Whether the images are for depth prediction.
    """
    crops = DEPTH_CROPS if has_depth else LABELLED_CROPS
    return tuple(
        CropReport(
            crop=name,
            view_px=VIEW_PX,
            stored=enlargement(crop, stored[:, 0], stored[:, 1]),
            source=enlargement(crop, source[:, 0], source[:, 1]),
        )
        for name, crop in crops.items()
    )


_SOURCES: Final[Mapping[str, Callable[[Path], tuple[SplitSource, ...]]]] = {
    folder.FOLDER: folder.open_folder,
    cifar10.CIFAR10: cifar10.open_cifar10,
    paired_depth.PAIRED_DEPTH: paired_depth.open_pairs,
}
#: Images per split that are encoded to estimate the size of the file.
SAMPLE: Final = 48

#: States of a file: not there; finished and up to date; of another recipe or other images; damaged.
NEW, DONE, DIFFERENT, DAMAGED = "new", "done", "different", "damaged"


@dataclass(frozen=True)
class SplitPlan:
    """One file to be written.

    Attributes
    ----------
    path
        Its final name.
    split, classes, n_images, source_bytes
        Of the source.
    estimated_bytes
        Size on disk, from a sample of the images.
    state
        ``new``, ``done``, ``different`` or ``damaged``: what lies at ``path`` now.
    unreadable
        Images of the sample that cannot be read, and all that are named but not there.
    """

    path: Path
    split: str
    n_images: int
    classes: tuple[str, ...] | None
    source_bytes: int
    estimated_bytes: int
    state: str
    unreadable: tuple[Unreadable, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "path": str(self.path),
            "split": self.split,
            "images": self.n_images,
            "classes": None if self.classes is None else len(self.classes),
            "source_bytes": self.source_bytes,
            "estimated_bytes": self.estimated_bytes,
            "state": self.state,
            "unreadable_in_sample": [{"path": bad.name, "reason": bad.reason} for bad in self.unreadable],
        }


@dataclass(frozen=True)
class PrepPlan:
    """What a run is going to do."""

    recipe: str
    images: Path
    out: Path
    splits: tuple[SplitPlan, ...]
    crops: tuple[CropReport, ...]
    free_bytes: int

    @property
    def needed_bytes(self) -> int:
        """Estimated size of the files that are still to be written."""
        return sum(split.estimated_bytes for split in self.splits if split.state != DONE)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "recipe": self.recipe,
            "images": str(self.images),
            "out": str(self.out),
            "splits": [split.to_json() for split in self.splits],
            "needed_bytes": self.needed_bytes,
            "free_bytes": self.free_bytes,
            "crops": [report.to_json() for report in self.crops],
        }


def open_source(settings: PrepSettings, images: Path) -> tuple[SplitSource, ...]:
    """List the splits of a recipe's source.

    Raises
    ------
    DataError
        If the folder is missing or its layout is not the recipe's.
    """
    if not images.is_dir():
        check_link(images)
        raise DataError(f"{images}: no such folder of images")
    return _SOURCES[settings.source](images)


def beton_path(out: Path, split: str) -> Path:
    """Return where the file of a split lies."""
    return out / f"{split}.beton"


def plan(settings: PrepSettings, images: Path, out: Path) -> PrepPlan:
    """Look at the source and at what is there already; write nothing.

    Parameters
    ----------
    settings
        The recipe.
    images
        Folder of the source.
    out
        Folder of the files to write.

    Raises
    ------
    DataError
        If the source has not the recipe's layout.
    """
    return plan_splits(settings, open_source(settings, images), images, out)


def plan_splits(
    settings: PrepSettings, sources: tuple[SplitSource, ...], images: Path, out: Path
) -> PrepPlan:
    """Plan for sources that were opened before; see :func:`plan`."""
    splits, good = [], []
    for source in sources:
        sample = [encode(item, settings.encoding) for item in _spread(source)]
        read = [image for image in sample if isinstance(image, Encoded)]
        good.extend(read)
        absent = [Unreadable(name, reason) for name, reason in source.absent]
        unreadable = dict.fromkeys([*absent, *(image for image in sample if isinstance(image, Unreadable))])
        per_image = np.mean([len(image.content) + len(image.depth or b"") for image in read]) if read else 0
        splits.append(
            SplitPlan(
                path=beton_path(out, source.split),
                split=source.split,
                n_images=source.n_images,
                classes=source.classes,
                source_bytes=source.n_bytes,
                estimated_bytes=_file_bytes(float(per_image), source.n_images, settings.encoding.page_bytes),
                state=state_of(beton_path(out, source.split), settings, source),
                unreadable=tuple(unreadable),
            )
        )
    return PrepPlan(
        recipe=settings.name,
        images=images,
        out=out,
        splits=tuple(splits),
        crops=crops_of(good, has_depth=sources[0].has_depth),
        free_bytes=free_disk(out.absolute()),
    )


def state_of(path: Path, settings: PrepSettings, source: SplitSource) -> str:
    """Return what lies at ``path`` now: ``new``, ``done``, ``different`` or ``damaged``."""
    if not path.exists():
        return NEW
    try:
        sidecar = check_complete(path)
    except DataError:
        return DAMAGED
    same = (
        sidecar.recipe_digest == settings.digest()
        and sidecar.source.listing_digest == source.listing_digest()
    )
    return DONE if same else DIFFERENT


def crops_of(images: list[Encoded], *, has_depth: bool) -> tuple[CropReport, ...]:
    """Report on the published crops for some images; empty without images."""
    if not images:
        return ()
    stored = np.array([(image.height, image.width) for image in images], np.int64)
    source = np.array([(image.source_height, image.source_width) for image in images], np.int64)
    return report_crops(stored, source, has_depth=has_depth)


def _spread(source: SplitSource) -> Iterator[Any]:
    """Return a sample of a source's items, spread over all of it."""
    return islice(source.open_items(), 0, None, max(1, -(-source.n_images // SAMPLE)))


def _file_bytes(per_image: float, n_images: int, page_bytes: int) -> int:
    """Estimate the size of a file: images fill pages up to the last one that fits."""
    if per_image == 0:
        return 0
    per_page = max(1, int(page_bytes // per_image))
    # Metadata and allocation table take 64 bytes per image, rounded up to a page.
    return (-(-n_images // per_page) + -(-n_images * 40 // page_bytes)) * page_bytes + 24 * n_images


#: Images that a worker gets at once, and chunks per worker that may wait for the writer.
CHUNK: Final = 16
_AHEAD: Final = 4

Result = Encoded | Unreadable


def encode_all(items: Iterable[Item], how: Encoding, *, workers: int) -> Generator[Result, None, None]:
    """Encode items; results come in the items' order whatever ``workers`` is.

    Close the iterator to end early: waiting work is dropped and the workers end.

    Parameters
    ----------
    items
        What to read.
    how
        How to store it.
    workers
        Processes; with 1 the work is done in this one.

    Raises
    ------
    DataError
        If a worker dies.
    """
    if workers <= 1:
        for item in items:
            yield encode(item, how)
        return
    # Fresh processes: a fork of one with running threads (torch, numba) may deadlock.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker)
    try:
        yield from _in_order(pool, iter(items), how, workers * _AHEAD)
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process died while images were read (often for lack of memory); "
            "nothing was written; try again with fewer --workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_order(
    pool: ProcessPoolExecutor, items: Iterator[Item], how: Encoding, n_ahead: int
) -> Iterator[Result]:
    waiting: deque[Future[list[Result]]] = deque()
    while True:
        while len(waiting) < n_ahead and (chunk := list(islice(items, CHUNK))):
            # Submitting may start a worker, which an interruption would leave half-started and complaining.
            with _interruption_deferred():
                waiting.append(pool.submit(_encode_chunk, chunk, how))
        if not waiting:
            return
        yield from waiting.popleft().result()


@contextmanager
def _interruption_deferred() -> Iterator[None]:
    """Hold Ctrl-C back until the end of the block (in the main thread, where alone it arrives)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        signal.raise_signal(signal.SIGINT)


def _encode_chunk(items: list[Item], how: Encoding) -> list[Result]:
    return [encode(item, how) for item in items]


def _begin_worker() -> None:
    """Leave Ctrl-C to the process that started this one, and end when that one ends, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


OnError = Literal["fail", "skip"]

#: Images whose sizes are kept for the report on crops.
_SIZES_KEPT: Final = 2000


@dataclass(frozen=True)
class Conduct:
    """How a run goes, apart from what it writes.

    Attributes
    ----------
    workers
        Processes.
    on_error
        What unreadable images do.
    count
        Called once for every image that was read or failed.
    """

    workers: int
    on_error: OnError
    count: Callable[[], None]


@dataclass
class _Tally:
    """What is gathered while images pass by."""

    n_classes: int
    every: int
    content: Any = field(default_factory=hashlib.sha256)
    counts: list[int] = field(default_factory=list)
    stored: list[tuple[int, int]] = field(default_factory=list)
    source: list[tuple[int, int]] = field(default_factory=list)
    failures: list[Unreadable] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = [0] * self.n_classes

    def take(self, image: Encoded, number: int) -> None:
        self.content.update(image.sha256)
        if self.n_classes:
            self.counts[image.label] += 1
        if number % self.every == 0:
            self.stored.append((image.height, image.width))
            self.source.append((image.source_height, image.source_width))


@dataclass(frozen=True)
class WrittenSplit:
    """A split as it was written.

    Attributes
    ----------
    temporary
        The file, not yet under its final name.
    sidecar
        Its description; None if unreadable images forbid to use the file.
    failures
        Images that could not be read.
    """

    temporary: Path
    sidecar: Sidecar | None
    failures: tuple[Unreadable, ...]


def temporary_path(target: Path) -> Path:
    """Return a name for the file while it is written, which ``atomic.remove_leftovers`` knows."""
    return target.with_name(f"{target.stem}.tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}{target.suffix}")


def write_split(source: SplitSource, settings: PrepSettings, temporary: Path, how: Conduct) -> WrittenSplit:
    """Write a split to ``temporary`` and read it back.

    After the first unreadable image of a run that does not skip them, the
    others are still read, so that all of them can be listed, but not written.

    Raises
    ------
    DataError
        If the disk gives back anything else than was written, or a worker dies.
    """
    tally = _Tally(len(source.classes or ()), max(1, source.n_images // _SIZES_KEPT))
    page_bytes = settings.encoding.page_bytes
    with BetonWriter(
        temporary, capacity=source.n_images, has_depth=source.has_depth, page_bytes=page_bytes
    ) as writer:
        with closing(encode_all(source.open_items(), settings.encoding, workers=how.workers)) as results:
            for image in results:
                if isinstance(image, Unreadable):
                    tally.failures.append(image)
                elif how.on_error == "skip" or not tally.failures:
                    tally.take(image, writer.n_images)
                    writer.add(image)
                how.count()
        failures = tuple(tally.failures)
        if writer.n_images == 0 or (failures and how.on_error == "fail"):
            return WrittenSplit(temporary, None, failures)
        writer.finish()
        crcs = writer.crcs
    structure = read_structure(temporary)
    compare_with_checksums(structure, crcs)
    compare_with_ffcv(structure)
    return WrittenSplit(temporary, _describe(source, settings, structure, tally), failures)


def _describe(source: SplitSource, settings: PrepSettings, structure: Structure, tally: _Tally) -> Sidecar:
    image = structure.column(beton.IMAGE)
    crops = report_crops(_sizes(tally.stored), _sizes(tally.source), has_depth=source.has_depth)
    return Sidecar(
        split=source.split,
        n_images=structure.n_images,
        n_bytes=structure.path.stat().st_size,
        sha256=digest_of(structure.path),
        structure_sha256=structure.sha256,
        has_depth=source.has_depth,
        classes=source.classes,
        counts=None if source.classes is None else tuple(tally.counts),
        stored=Stored(
            format=settings.format,
            jpeg_quality=settings.jpeg_quality if settings.format == "jpeg" else None,
            short_side_px=settings.short_side_px,
            heights=_range(image["height"]),
            widths=_range(image["width"]),
        ),
        source=Origin(
            kind=source.kind,
            listing_digest=source.listing_digest(),
            content_digest=tally.content.hexdigest(),
            n_files=len(source.files),
            n_bytes=source.n_bytes,
        ),
        recipe=settings.model_dump(mode="json"),
        recipe_digest=settings.digest(),
        failures=tuple(Failure(path=bad.name, reason=bad.reason) for bad in tally.failures),
        crops=tuple(report.to_json() for report in crops),
        versions=installed_versions("ffcv", "numpy", "pillow"),
    )


def _sizes(pairs: list[tuple[int, int]]) -> NDArray[np.int64]:
    return np.array(pairs, np.int64)


def _range(values: NDArray[np.uint16]) -> tuple[int, int]:
    return int(values.min()), int(values.max())


__all__ = [
    "PrepPlan", "PrepReport", "PrepSettings", "SplitReport", "VerifyReport", "check_complete", "plan",
    "prepare", "verify_beton",
]  # fmt: skip

Progress = Callable[[int, int], None]
Remark = Callable[[str], None]

#: Unreadable images that an error names; the others are in a file that it names.
_MOST_LISTED: Final = 20


@dataclass(frozen=True)
class SplitReport:
    """One finished file; ``was_there``: an earlier run wrote it."""

    path: Path
    sidecar: Sidecar
    was_there: bool

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "path": str(self.path),
            "was_there": self.was_there,
            **self.sidecar.model_dump(mode="json", include=_REPORTED),
        }


_REPORTED = {"split", "n_images", "n_bytes", "sha256", "classes", "counts", "failures", "crops"}


@dataclass(frozen=True)
class PrepReport:
    """What a run left: one entry per split, and how long it took."""

    recipe: str
    out: Path
    splits: tuple[SplitReport, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "recipe": self.recipe,
            "out": str(self.out),
            "seconds": round(self.seconds, 1),
            "splits": [split.to_json() for split in self.splits],
        }


def prepare(
    settings: PrepSettings,
    images: Path,
    out: Path,
    *,
    workers: int = 1,
    on_error: OnError = "fail",
    force: bool = False,
    progress: Progress = lambda done, total: None,
    remark: Remark = lambda text: None,
) -> PrepReport:
    """Write the ``.beton`` files of a recipe.

    Parameters
    ----------
    settings
        The recipe.
    images
        Folder of the source.
    out
        Folder of the files: ``train.beton`` with ``train.json``, and ``val`` if the source has it.
    workers
        Processes that read and encode; the files do not depend on it.
    on_error
        ``fail``: unreadable images end the run before anything is final, and before any is read where a
        name is there without a file (a link to nothing); ``skip``: they are left out and listed in the
        sidecar.
    force
        Whether files of another recipe or of other images are replaced.
    progress
        Called with (images done, all images).
    remark
        Told what a person may want to know on the way.

    Raises
    ------
    DataError
        If the source is not what the recipe expects, images cannot be read, or the disk is too small.
    UsageError
        If other files are in the way.
    MissingPackageError
        If FFCV is not installed.
    """
    started = time.monotonic()
    sources = open_source(settings, images)
    targets = [beton_path(out, source.split) for source in sources]
    with ExitStack() as stack:
        for target in targets:
            stack.enter_context(file_lock(target, log=remark))
            atomic.remove_leftovers(target)
            atomic.remove_leftovers(sidecar_path(target))
        # Only now: another process may have finished while this one waited.
        todo = _still_to_do(settings, sources, targets)
        if todo:
            if on_error == "fail":
                _refuse_absent(todo)
            load_ffcv()
            planned = plan_splits(settings, tuple(one.source for one in todo), images, out)
            _refuse(todo, planned, force=force)
        for one in todo:
            if one.state == DAMAGED:
                remark(f"{one.target} is damaged and will be replaced")
        written = _write_all(todo, settings, stack, Conduct(workers, on_error, _counting(todo, progress)))
        for one, done in written:
            _publish(one.target, done)
            if done.failures:
                remark(f"{one.target.name}: left out {len(done.failures)} unreadable images, see its .json")
    fresh = {one.target for one in todo}
    splits = tuple(SplitReport(path, check_complete(path), was_there=path not in fresh) for path in targets)
    return PrepReport(settings.name, out, splits, time.monotonic() - started)


@dataclass(frozen=True)
class _Todo:
    """A file that is to be written, and what lies there now."""

    source: SplitSource
    target: Path
    state: str


def _still_to_do(
    settings: PrepSettings, sources: tuple[SplitSource, ...], targets: list[Path]
) -> list[_Todo]:
    todo = [
        _Todo(source, target, state_of(target, settings, source))
        for source, target in zip(sources, targets, strict=True)
    ]
    return [one for one in todo if one.state != DONE]


def _refuse(todo: list[_Todo], planned: PrepPlan, *, force: bool) -> None:
    for one in todo:
        if one.state == DIFFERENT and not force:
            raise UsageError(
                f"{one.target} was made by another recipe or from other images; "
                "give another --out, or --force to replace it"
            )
    needed, free = planned.needed_bytes, planned.free_bytes
    if needed > free:
        raise DataError(
            f"about {needed / 1e9:.1f} GB are needed, but only {free / 1e9:.1f} GB are free at "
            f"{planned.out}; free some, give another --out, or store less (--set short_side_px=...)"
        )


def _refuse_absent(todo: list[_Todo]) -> None:
    """Refuse images that are named but not there: known at once, while reading all others takes hours."""
    for one in todo:
        absent = tuple(Unreadable(name, reason) for name, reason in one.source.absent)
        if absent:
            raise _unreadable(one, absent, "fail")


def _counting(todo: list[_Todo], progress: Progress) -> Callable[[], None]:
    total = sum(one.source.n_images for one in todo)
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    return count


def _write_all(
    todo: list[_Todo], settings: PrepSettings, stack: ExitStack, how: Conduct
) -> list[tuple[_Todo, WrittenSplit]]:
    """Write every file under a temporary name, which is gone when ``stack`` closes."""
    written = []
    # The small split first: what is wrong with it is known early.
    for one in sorted(todo, key=lambda one: one.source.n_images):
        temporary = temporary_path(one.target)
        stack.callback(temporary.unlink, missing_ok=True)
        done = write_split(one.source, settings, temporary, how)
        if done.sidecar is None:
            raise _unreadable(one, done.failures, how.on_error)
        written.append((one, done))
    return written


def _publish(target: Path, done: WrittenSplit) -> None:
    """Give a file and its description their final names; a kill in between leaves no file."""
    if done.sidecar is None:
        raise ValueError(f"{done.temporary} is not finished")
    # An older file must not stand beside the new description.
    target.unlink(missing_ok=True)
    write_sidecar(target, done.sidecar)
    atomic.move_durably(done.temporary, target)


def _unreadable(one: _Todo, failures: tuple[Unreadable, ...], on_error: OnError) -> DataError:
    lines = [f"  {bad.name}: {bad.reason}" for bad in failures]
    shown = lines[:_MOST_LISTED]
    if len(lines) > len(shown):
        listing = one.target.with_suffix(".unreadable.txt")
        atomic.write_text(listing, "\n".join(line.strip() for line in lines) + "\n")
        shown.append(f"  ... and {len(lines) - len(shown)} more, all listed in {listing}")
    skipping = (
        "Replace them, or leave them out with --on-error skip" if on_error == "fail" else "None is left"
    )
    headline = f"{len(failures)} of {one.source.n_images} images of {one.source.split} cannot be read"
    return DataError("\n".join([f"{headline}; nothing was written. {skipping}:", *shown]))
