"""From a source of images to finished ``.beton`` files.

Everything is written under temporary names, read back, and only then renamed,
all splits together: whenever the run ends, a file under its final name is
whole. Where files lie that a killed run left, the next one removes them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mvkit import atomic
from mvkit.errors import DataError, UsageError
from mvkit.files import file_lock
from mvkit.images.beton_check import check_complete
from mvkit.images.beton_ffcv import load_ffcv
from mvkit.images.beton_sidecar import Sidecar, sidecar_path, write_sidecar
from mvkit.images.beton_verify import VerifyReport, verify_beton
from mvkit.images.prep_encode import Unreadable
from mvkit.images.prep_plan import (
    DAMAGED,
    DIFFERENT,
    DONE,
    PrepPlan,
    beton_path,
    open_source,
    plan,
    plan_splits,
    state_of,
)
from mvkit.images.prep_settings import PrepSettings
from mvkit.images.prep_split import Conduct, OnError, WrittenSplit, temporary_path, write_split
from mvkit.images.sources.base import SplitSource

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
