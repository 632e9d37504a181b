"""What a prep run is going to do: which files, how large, and what is there already."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from mvkit.errors import DataError
from mvkit.files import check_link
from mvkit.images.beton_check import check_complete
from mvkit.images.beton_write import Encoded
from mvkit.images.prep_crops import CropReport, report_crops
from mvkit.images.prep_encode import Unreadable, encode
from mvkit.images.prep_settings import PrepSettings
from mvkit.images.sources import cifar10, folder, paired_depth
from mvkit.images.sources.base import SplitSource
from mvkit.machine import free_disk

_SOURCES: Final[Mapping[str, Callable[[Path], tuple[SplitSource, ...]]]] = {
    folder.KIND: folder.open_splits,
    cifar10.KIND: cifar10.open_splits,
    paired_depth.KIND: paired_depth.open_splits,
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
