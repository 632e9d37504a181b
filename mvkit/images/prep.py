"""From a folder of images to beton files: the recipe, the plan, the encoding of images, and the run."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import multiprocessing
import os
import signal
import struct
import threading
import time
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import Field, field_validator

from mvkit import files
from mvkit.errors import DataError, UsageError, printable, unknown_name, wording
from mvkit.files import IMAGE_FORMATS, check_link, file_lock, name_text, pointer_problem, sha256_of
from mvkit.images import beton
from mvkit.images.beton import (
    BetonWriter,
    Encoded,
    Failure,
    Sidecar,
    SourceRecord,
    StorageFormat,
    Structure,
    check_complete,
    compare_with_crc,
    compare_with_ffcv,
    load_ffcv,
    read_structure,
    sidecar_path,
    write_sidecar,
)
from mvkit.images.settings import Crop, Pixels, RandomCrop, RandomResizedCrop
from mvkit.images.sources import (
    CIFAR10,
    FOLDER,
    PAIRED_DEPTH,
    Item,
    SplitSource,
    open_cifar10,
    open_folder,
    open_pairs,
)
from mvkit.machine import end_with_parent, free_disk, installed_versions, is_worker_process, safe_child_path
from mvkit.recipes import NAME_PATTERN, Settings, load_recipe, packaged_recipes

MIB: Final = 1024 * 1024
#: Keys of a recipe that change no byte of the file.
_DESCRIPTIVE: Final = frozenset({"name", "notes", "gb_per_million_images", "measured"})
_RECIPE_FOLDER: Final = "prep/"
#: States of a file: not there; finished and up to date; of another recipe or other images; damaged.
NEW, DONE, DIFFERENT, DAMAGED = "new", "done", "different", "damaged"
#: Images per split that are encoded to estimate the size of the file.
SAMPLE: Final = 48
#: Images whose sizes enter the report on crops after writing.
_SIZES_REPORTED: Final = 2000
#: Unreadable images that an error names; the others are in a file that it names.
_MOST_LISTED: Final = 20

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

#: Images that a worker gets at once, and chunks per worker that may wait for the writer.
CHUNK: Final = 16
_AHEAD: Final = 4

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
_DECODING_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, OverflowError, MemoryError),
    *(struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning),
)

OnError = Literal["fail", "skip"]
_SOURCES: Final[Mapping[str, Callable[[Path], tuple[SplitSource, ...]]]] = {
    FOLDER: open_folder,
    CIFAR10: open_cifar10,
    PAIRED_DEPTH: open_pairs,
}


class PrepSettings(Settings):
    """A prep recipe.

    Attributes
    ----------
    name
        Name of the recipe and of the folder of its files.
    notes
        For whom it is.
    gb_per_million_images, measured
        Size on disk (10**9 bytes), and how that number was measured.
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

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
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
    def page_bytes(self) -> int:
        """Size of FFCV's pages in bytes."""
        return self.page_mib * MIB

    def digest(self) -> str:
        """Return a sha256 over everything that decides what is in the file."""
        document = self.model_dump(mode="json", exclude=set(_DESCRIPTIVE))
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
    name = source.removeprefix(_RECIPE_FOLDER).removesuffix(".yaml")
    packaged = (name for name in packaged_recipes() if name.startswith(_RECIPE_FOLDER))
    valid = [name.removeprefix(_RECIPE_FOLDER) for name in packaged]
    if name not in valid:
        raise unknown_name("prep recipe", source, valid)
    return load_recipe(PrepSettings, _RECIPE_FOLDER + name, overrides)


# What a plan and a run report


@dataclass(frozen=True)
class Unreadable:
    """An image that cannot be stored, and why."""

    name: str
    reason: str


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
    """A published crop of the images as stored, and of the original images."""

    crop: str
    view_px: int
    stored: Enlargement
    source: Enlargement

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True)
class SplitPlan:
    """One file to be written.

    Attributes
    ----------
    path
        Its final name.
    source
        The images.
    estimated_bytes
        Size on disk, from a sample of the images.
    state
        ``new``, ``done``, ``different`` or ``damaged``: state of the file at ``path``.
    unreadable
        Images of the sample that cannot be read, and all that are named but not there.
    """

    path: Path
    source: SplitSource
    estimated_bytes: int
    state: str
    unreadable: tuple[Unreadable, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        source = self.source
        return {
            "path": str(self.path),
            "split": source.split,
            "images": source.n_images,
            "classes": None if source.classes is None else len(source.classes),
            "source_bytes": source.n_bytes,
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


@dataclass(frozen=True)
class SplitReport:
    """One finished file; ``was_there``: an earlier run wrote it."""

    path: Path
    sidecar: Sidecar
    was_there: bool

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        reported = {"split", "n_images", "n_bytes", "sha256", "classes", "counts", "failures", "crops"}
        document = self.sidecar.model_dump(mode="json", include=reported)
        return {"path": str(self.path), "was_there": self.was_there, **document}


@dataclass(frozen=True)
class PrepReport:
    """The files of a run, one entry per split, and how long it took."""

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


# Planning and running


def plan(settings: PrepSettings, images: Path, out: Path) -> PrepPlan:
    """Inspect the source and the files that exist already; write nothing.

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


def prepare(
    settings: PrepSettings,
    images: Path,
    out: Path,
    *,
    workers: int = 1,
    on_error: OnError = "fail",
    force: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
    log: Callable[[str], None] = lambda text: None,
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
    log
        Called with messages for the user.

    Raises
    ------
    DataError
        If the source is not what the recipe expects, images cannot be read, or the disk is too small.
    UsageError
        If other files are in the way.
    MissingPackageError
        If FFCV is not installed.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # A worker that runs the caller's script anew would wait for its lock forever.
        raise UsageError("prepare() runs in a script that needs: if __name__ == '__main__':")
    started = time.monotonic()
    sources = open_source(settings, images)
    targets = [beton_path(out, source.split) for source in sources]
    with ExitStack() as stack:
        for target in targets:
            stack.enter_context(file_lock(target, log=log))
            files.remove_leftovers(target)
            files.remove_leftovers(sidecar_path(target))
        # Only now: another process may have finished while this one waited.
        todo = tuple(
            source
            for source, target in zip(sources, targets, strict=True)
            if state_of(target, settings, source) != DONE
        )
        if todo:
            files.check_output_folder(out)
            if on_error == "fail":
                _check_absent(todo, out)
            load_ffcv()
            planned = plan_splits(settings, todo, images, out)
            _check_plan(planned, force=force)
            number, total = itertools.count(1), sum(source.n_images for source in todo)
            written = []
            # The small split first: its problems are known early.
            for split in sorted(planned.splits, key=lambda split: split.source.n_images):
                if split.state == DAMAGED:
                    log(f"{split.path} is damaged and will be replaced")
                temporary = files.temporary_beside(files.follow_link(split.path))
                stack.callback(temporary.unlink, missing_ok=True)
                results = encode_all(split.source.open_items(), settings, workers=workers)
                counted = _count(results, lambda: progress(next(number), total))
                with files.naming_file(split.path):
                    sidecar = _write(split, settings, temporary, counted, on_error)
                written.append((split.path, temporary, sidecar))
            for target, temporary, sidecar in written:
                # An older file must not stand beside the new sidecar: a kill in between leaves no file.
                final = files.follow_link(target)
                final.unlink(missing_ok=True)
                write_sidecar(target, sidecar)
                files.move_durably(temporary, final)
                if sidecar.failures:
                    log(f"{target.name}: left out {len(sidecar.failures)} unreadable images, see its .json")
    new = {beton_path(out, source.split) for source in todo}
    splits = tuple(SplitReport(path, check_complete(path), was_there=path not in new) for path in targets)
    return PrepReport(settings.name, out, splits, time.monotonic() - started)


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
    """Return the path of a split's file."""
    return out / f"{split}.beton"


def plan_splits(
    settings: PrepSettings, sources: tuple[SplitSource, ...], images: Path, out: Path
) -> PrepPlan:
    """Plan for sources that were opened before; see :func:`plan`."""
    splits: list[SplitPlan] = []
    sizes: list[tuple[int, int, int, int]] = []
    for source in sources:
        step = max(1, -(-source.n_images // SAMPLE))
        sample = [encode(item, settings) for item in islice(source.open_items(), 0, None, step)]
        read = [image for image in sample if isinstance(image, Encoded)]
        sizes.extend(map(_sizes, read))
        absent = [Unreadable(name, reason) for name, reason in source.absent]
        unreadable = dict.fromkeys([*absent, *(image for image in sample if isinstance(image, Unreadable))])
        per_image = np.mean([len(image.content) + len(image.depth or b"") for image in read]) if read else 0
        path = beton_path(out, source.split)
        splits.append(
            SplitPlan(
                path=path,
                source=source,
                estimated_bytes=_file_bytes(float(per_image), source.n_images, settings.page_bytes),
                state=state_of(path, settings, source),
                unreadable=tuple(unreadable),
            )
        )
    return PrepPlan(
        recipe=settings.name,
        images=images,
        out=out,
        splits=tuple(splits),
        crops=report_crops(sizes, has_depth=sources[0].has_depth),
        free_bytes=free_disk(out.absolute()),
    )


def state_of(path: Path, settings: PrepSettings, source: SplitSource) -> str:
    """Return the state of the file at ``path``: ``new``, ``done``, ``different`` or ``damaged``."""
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


def _file_bytes(per_image: float, n_images: int, page_bytes: int) -> int:
    """Estimate the size of a file: images fill pages up to the last one that fits."""
    if per_image == 0:
        return 0
    per_page = max(1, int(page_bytes // per_image))
    # Metadata and allocation table take 64 bytes per image, rounded up to a page.
    return (-(-n_images // per_page) + -(-n_images * 40 // page_bytes)) * page_bytes + 24 * n_images


def _check_absent(sources: tuple[SplitSource, ...], out: Path) -> None:
    """Refuse images that are named but not there: known at once, while reading all others takes hours."""
    for source in sources:
        if absent := tuple(Unreadable(name, reason) for name, reason in source.absent):
            raise _unreadable_error(source, beton_path(out, source.split), absent, "fail")


def _check_plan(planned: PrepPlan, *, force: bool) -> None:
    for split in planned.splits:
        if split.state == DIFFERENT and not force:
            raise UsageError(
                f"{split.path} was made by another recipe or from other images; "
                "give another --out, or --force to replace it"
            )
    needed, free = planned.needed_bytes, planned.free_bytes
    if needed > free:
        raise DataError(
            f"about {files.format_bytes(needed)} are needed, but only {files.format_bytes(free)} are free at "
            f"{planned.out}; free some, give another --out, or store less (--set short_side_px=...)"
        )


def _count(
    results: Generator[Result, None, None], count: Callable[[], None]
) -> Generator[Result, None, None]:
    with closing(results):
        for result in results:
            yield result
            count()


def _write(
    split: SplitPlan,
    settings: PrepSettings,
    temporary: Path,
    results: Generator[Result, None, None],
    on_error: OnError,
) -> Sidecar:
    """Write a split to ``temporary``, read it back and describe it.

    After the first unreadable image of a run that does not skip them, the
    others are still read, so that all of them can be listed, but not written.
    """
    source = split.source
    content_digest = hashlib.sha256()
    failures: list[Unreadable] = []
    sizes = []
    every = max(1, source.n_images // _SIZES_REPORTED)
    with (
        BetonWriter(
            temporary,
            capacity=source.n_images,
            has_depth=source.has_depth,
            page_bytes=settings.page_bytes,
        ) as writer,
        closing(results),
    ):
        for image in results:
            if isinstance(image, Unreadable):
                failures.append(image)
            elif on_error == "skip" or not failures:
                content_digest.update(image.sha256)
                if writer.n_images % every == 0:
                    sizes.append(_sizes(image))
                writer.add(image)
        if writer.n_images == 0 or (failures and on_error == "fail"):
            raise _unreadable_error(source, split.path, tuple(failures), on_error)
        writer.finish()
    structure = read_structure(temporary)
    compare_with_crc(structure, writer.crc)
    compare_with_ffcv(structure)
    labels, classes = structure.column(beton.LABEL), source.classes
    return Sidecar(
        split=source.split,
        n_images=structure.n_images,
        n_bytes=temporary.stat().st_size,
        sha256=sha256_of(temporary),
        structure_sha256=structure.sha256,
        has_depth=source.has_depth,
        classes=classes,
        counts=None if classes is None else tuple(np.bincount(labels, minlength=len(classes)).tolist()),
        stored=_storage_format(settings, structure),
        source=SourceRecord(
            kind=source.kind,
            listing_digest=source.listing_digest(),
            content_digest=content_digest.hexdigest(),
            n_files=len(source.files),
            n_bytes=source.n_bytes,
        ),
        recipe=settings.model_dump(mode="json"),
        recipe_digest=settings.digest(),
        failures=tuple(Failure(path=bad.name, reason=bad.reason) for bad in failures),
        crops=tuple(report.to_json() for report in report_crops(sizes, has_depth=source.has_depth)),
        versions=installed_versions("ffcv", "numpy", "pillow"),
    )


def _storage_format(settings: PrepSettings, structure: Structure) -> StorageFormat:
    image = structure.column(beton.IMAGE)
    return StorageFormat(
        format=settings.format,
        jpeg_quality=settings.jpeg_quality if settings.format == "jpeg" else None,
        short_side_px=settings.short_side_px,
        heights=(int(image["height"].min()), int(image["height"].max())),
        widths=(int(image["width"].min()), int(image["width"].max())),
    )


def _unreadable_error(
    source: SplitSource, target: Path, failures: tuple[Unreadable, ...], on_error: OnError
) -> DataError:
    lines = [f"  {bad.name}: {bad.reason}" for bad in failures]
    shown = lines[:_MOST_LISTED]
    if len(lines) > len(shown):
        listing = target.with_suffix(".unreadable.txt")
        files.write_text(listing, "\n".join(line.strip() for line in lines) + "\n")
        shown.append(f"  ... and {len(lines) - len(shown)} more, all listed in {listing}")
    advice = "Replace them, or leave them out with --on-error skip" if on_error == "fail" else "None is left"
    headline = f"{len(failures)} of {source.n_images} images of {source.split} cannot be read"
    return DataError("\n".join([f"{headline}; nothing was written. {advice}:", *shown]))


# How storing images small changes the published crops


def _sizes(image: Encoded) -> tuple[int, int, int, int]:
    return image.height, image.width, image.source_height, image.source_width


def report_crops(sizes: Sequence[tuple[int, int, int, int]], *, has_depth: bool) -> tuple[CropReport, ...]:
    """Report on every published crop; empty without images.

    Parameters
    ----------
    sizes
        Of each image height and width as stored, then of the original, px.
    has_depth
        Whether the images are for depth prediction.
    """
    if not sizes:
        return ()
    height, width, source_height, source_width = np.array(sizes, np.int64).T
    crops = DEPTH_CROPS if has_depth else LABELLED_CROPS
    return tuple(
        CropReport(
            crop=name,
            view_px=VIEW_PX,
            stored=enlargement(crop, height, width),
            source=enlargement(crop, source_height, source_width),
        )
        for name, crop in crops.items()
    )


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
    from mvkit.images.crops import crop_boxes

    boxes = crop_boxes(crop, seed, 0, np.arange(len(heights)), 0, heights, widths)
    factors = view_px / np.maximum(boxes[:, 2:].min(axis=1), 1)
    enlarged = factors[factors > 1]
    return Enlargement(
        fraction=float(len(enlarged) / len(factors)),
        median_factor=float(np.median(enlarged)) if len(enlarged) else None,
    )


# Encoding, in this process or in several

Result = Encoded | Unreadable


def encode_all(
    items: Iterable[Item], settings: PrepSettings, *, workers: int
) -> Generator[Result, None, None]:
    """Encode items; results come in the items' order whatever ``workers`` is.

    Close the iterator to end early: waiting work is cancelled and the workers end.

    Parameters
    ----------
    items
        The images.
    settings
        How they are stored.
    workers
        Processes; with 1, or if this one is itself a worker of a pool, the work is done in this one.

    Raises
    ------
    DataError
        If a worker dies.
    """
    if workers <= 1 or is_worker_process():
        yield from (encode(item, settings) for item in items)
        return
    # Fresh processes: a fork of one with running threads (torch, numba) may deadlock.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_initialise_worker, initargs=(os.getpid(),)
    )
    remaining = iter(items)
    waiting: deque[Future[list[Result]]] = deque()
    try:
        while True:
            while len(waiting) < workers * _AHEAD and (chunk := list(islice(remaining, CHUNK))):
                # Submitting may start a worker, which an interruption would leave half-started.
                with _defer_interruption(), safe_child_path:
                    waiting.append(pool.submit(_encode_chunk, chunk, settings))
            if not waiting:
                return
            yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process died while images were read (often for lack of memory); nothing was written\n"
            + wording(
                "try again with fewer --workers",
                "try again with fewer workers; a script calls this under if __name__ == '__main__':",
            )
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _defer_interruption() -> Iterator[None]:
    """Hold Ctrl-C back until the end of the block (in the main thread, where alone it arrives)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if received:
        signal.raise_signal(signal.SIGINT)


def _encode_chunk(items: list[Item], settings: PrepSettings) -> list[Result]:
    return [encode(item, settings) for item in items]


def _initialise_worker(parent: int) -> None:
    """Leave Ctrl-C to the process that started this one, and end when that one ends, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(parent)


class _UnfitError(Exception):
    """An image that was read but cannot be stored."""


def encode(item: Item, settings: PrepSettings) -> Result:
    """Read an image, make it smaller if asked, and return what is stored; never raises for a bad image."""
    if item.problem:
        return Unreadable(item.name, item.problem)
    with warnings.catch_warnings():
        # Odd EXIF blocks and palettes are common in ImageNet and change nothing. Bombs stay errors.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return _encode(item, settings)
        except _UnfitError as error:
            return Unreadable(item.name, str(error))
        except UnidentifiedImageError:
            # Pillow's message names an object in memory, which differs from run to run.
            return Unreadable(item.name, "not an image of a kind that Pillow knows")
        except _DECODING_ERRORS as error:
            # The system's errors repeat the file's name.
            text = (isinstance(error, OSError) and error.filename and error.strerror) or str(error)
            return Unreadable(item.name, printable(" ".join(text.split())) or type(error).__name__)


def _encode(item: Item, settings: PrepSettings) -> Encoded:
    content, image, digest = _read(item)
    height, width = image.height, image.width
    size = stored_size(height, width, settings.short_side_px)
    keeps_size = size == (height, width)
    keeps_jpeg = settings.format == "jpeg" and keeps_size and image.format == "JPEG" and image.mode == "RGB"
    # Conversion decodes the whole file, also where its bytes are kept: a broken one must not get through.
    pixels = image.convert("RGB")
    if not keeps_size:
        pixels = pixels.resize(size[::-1], _FILTERS[settings.resampling])
    if settings.format == "raw":
        mode, stored = beton.RAW_MODE, pixels.tobytes()
    else:
        mode, stored = beton.JPEG_MODE, content if keeps_jpeg else _as_jpeg(pixels, settings.jpeg_quality)
    depth = None
    if item.depth_path is not None:
        depth_content = _content(item.depth_path, "depth map")
        digest.update(hashlib.sha256(depth_content).digest())
        depth = beton.pack_depth(_depth(item.depth_path, depth_content, (height, width), size))
    needed = len(stored) + len(depth or b"")
    if needed > settings.page_bytes:
        raise _UnfitError(
            f"needs {needed} bytes, more than a page of {settings.page_bytes}; "
            "give --set page_mib a greater value"
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
    image = Image.open(io.BytesIO(content), formats=IMAGE_FORMATS)
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
    with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as image:
        pixels = np.asarray(image)
    # Pillow gives 16-bit PNGs as int32 in some versions.
    is_wide = pixels.dtype == np.int32 and pixels.size > 0
    if is_wide and pixels.min() >= 0 and pixels.max() <= np.iinfo(np.uint16).max:
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
