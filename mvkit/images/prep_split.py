"""One split: encode its images, write them under a temporary name, read them back, describe them."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from mvkit.images import beton
from mvkit.images.beton_check import Structure, read_structure
from mvkit.images.beton_sidecar import Failure, Origin, Sidecar, Stored
from mvkit.images.beton_verify import compare_with_checksums, compare_with_ffcv, digest_of
from mvkit.images.beton_write import BetonWriter, Encoded
from mvkit.images.prep_crops import report_crops
from mvkit.images.prep_encode import Unreadable
from mvkit.images.prep_settings import PrepSettings
from mvkit.images.prep_workers import encode_all
from mvkit.images.sources.base import SplitSource
from mvkit.machine import installed_versions

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
