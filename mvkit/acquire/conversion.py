"""From a pickle, or from nothing, to a neural file under its lock; recorded, and the pickle cleared away."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from mvkit.acquire.catalogue import HDF5, RECORDINGS, SIMULATED, pickle_file
from mvkit.acquire.reports import FetchRequest, FileOutcome, Status
from mvkit.atomic import remove_leftovers
from mvkit.errors import DataError, MvkitError
from mvkit.fetch import (
    Fetched,
    FetchHaltedError,
    Manifest,
    Record,
    adopt,
    explaining_full_disk,
    fetch_file,
    holding,
    is_there,
    require_free,
    state_of,
)
from mvkit.fetch.digests import digests
from mvkit.paths import neural_path

#: HDF5 reports a full disk while it writes data, but may crash if there is no room for its first few pages.
_LEAST_FREE_BYTES = 1_000_000


def converted_bytes(dataset: str, pickle_bytes: int, *, is_compressed: bool = False) -> int:
    """Return the most disk that the converted file of a pickle takes, estimated.

    The length a compressed pickle unpacks to is not known beforehand; the neural file is compressed too, so
    it is of the same order.
    """
    if is_compressed:
        return 2 * pickle_bytes
    return round(RECORDINGS[dataset].converted_fraction * pickle_bytes)


def obtain_recording(dataset: str, request: FetchRequest, source: Path | None) -> list[FileOutcome]:
    """Make sure that the neural file of a published dataset is in place.

    Whatever kills the process, the next call goes on from the last whole thing: the bytes received, the
    pickle, or the neural file. A downloaded pickle is removed only after the conversion has been verified
    and recorded.

    Parameters
    ----------
    dataset
        ``neuropixels`` or ``calcium``.
    request
        How to fetch.
    source
        The user's own pickle, or None to download.

    Raises
    ------
    FetchError
        If the pickle cannot be had.
    DataError
        If it is not what it should be.
    """
    target, manifest = neural_path(dataset, request.home_dir), Manifest(request.home_dir)
    with holding(target, remark=request.feedback.remark):
        present = _present(dataset, target, manifest, request)
        if present is not None:
            if source is not None:
                request.feedback.remark(f"{target} is there already: {source} was not used (--force does)")
            _clear_leftover_pickle(dataset, manifest, request)
            return [present]
        if source is not None:
            made_from: dict[str, object] = {"file": source.name, "url": None, "etag": None}
            return [_convert(dataset, source, target, made_from, request)]
        fetched = _pickle(dataset, manifest, request)
        record = fetched.record
        made_from = {
            "file": fetched.file.target.name,
            "url": record.url,
            "etag": record.etag,
        }
        try:
            converted = _convert(dataset, fetched.file.target, target, made_from, request)
        except DataError as error:
            raise _unconverted(error, fetched.file.target) from error
        removed = _clear_pickle(fetched.file.target, manifest)
        return [FileOutcome.of(fetched, removed=removed), converted]


def obtain_simulated(request: FetchRequest) -> list[FileOutcome]:
    """Make sure that the neural file of the simulated dataset is in place."""
    target, manifest = neural_path(SIMULATED, request.home_dir), Manifest(request.home_dir)
    with holding(target, remark=request.feedback.remark):
        present = _present(SIMULATED, target, manifest, request)
        if present is not None:
            return [present]
        from mvkit.neural import write_simulated

        remove_leftovers(target)
        with _explaining_full_disk(target):
            write_simulated(target)
        return [_record(SIMULATED, "generated", target, {}, request)]


def _present(dataset: str, target: Path, manifest: Manifest, request: FetchRequest) -> FileOutcome | None:
    """Return the outcome for a neural file that is in place, unless it is to be made again."""
    state = state_of(target, manifest)
    if request.force or not is_there(state):
        if state == "damaged":
            request.feedback.remark(f"{target}: not the size that was recorded; making it again")
        return None
    record = manifest.find(target) or adopt(target, HDF5, manifest, feedback=request.feedback)
    return FileOutcome.in_place(dataset, "already there", target, record)


def _pickle(dataset: str, manifest: Manifest, request: FetchRequest) -> Fetched:
    fetched = fetch_file(
        pickle_file(dataset, request.home_dir),
        manifest,
        force=request.force,
        keep=request.keep_raw,
        settings=request.download,
        feedback=request.feedback,
    )
    if request.keep_raw and not fetched.record.keep:
        manifest.mark_kept(fetched.file.target)
    return fetched


def _convert(
    dataset: str, source: Path, target: Path, made_from: Mapping[str, object], request: FetchRequest
) -> FileOutcome:
    from mvkit.neural import convert_pickle

    remove_leftovers(target)
    estimate = converted_bytes(dataset, source.stat().st_size, is_compressed=source.suffix != ".pkl")
    require_free(target.parent, max(estimate, _LEAST_FREE_BYTES))
    with _explaining_full_disk(target), request.feedback.progress(f"converting {source.name}") as progress:
        report = convert_pickle(source, target, dataset=dataset, progress=progress)
    origin = {**made_from, "size": report.source_bytes, "sha256": report.source_sha256}
    return _record(dataset, "converted", target, origin, request)


def _unconverted(error: DataError, raw: Path) -> MvkitError:
    """Say what becomes of a downloaded pickle whose conversion failed."""
    if isinstance(error.__cause__, OSError | RuntimeError):
        # The neural file could not be written: the pickle is well, and the next dataset would fare no better.
        return FetchHaltedError(f"{error}\nthe pickle is kept: the same command goes on from there")
    return DataError(f"{error}\nthe pickle is kept at {raw}; --force fetches it again")


def _record(
    dataset: str, status: Status, target: Path, made_from: Mapping[str, object], request: FetchRequest
) -> FileOutcome:
    with request.feedback.progress(f"checking {target.name}") as progress:
        sha256 = digests(target, progress=progress).sha256
    record = Record.of_now(size=target.stat().st_size, sha256=sha256, made_from=made_from or None)
    Manifest(request.home_dir).record(target, record)
    return FileOutcome.in_place(dataset, status, target, record)


def _clear_pickle(raw: Path, manifest: Manifest) -> bool:
    """Remove a pickle that mvkit fetched only for its conversion; say whether it was there and is gone."""
    record = manifest.find(raw)
    if record is None or (record.keep and raw.exists()):
        return False
    was_there = raw.exists()
    raw.unlink(missing_ok=True)
    manifest.forget(raw)
    return was_there


def _clear_leftover_pickle(dataset: str, manifest: Manifest, request: FetchRequest) -> None:
    """Do what a process that was killed right after a conversion had still to do.

    A pickle that the user kept and has removed since is no longer missed either.
    """
    raw = pickle_file(dataset, request.home_dir).target
    if request.keep_raw and raw.exists():
        manifest.mark_kept(raw)
    elif _clear_pickle(raw, manifest):
        request.feedback.remark(f"{raw}: removed; it had been converted")


def _explaining_full_disk(target: Path) -> AbstractContextManager[None]:
    return explaining_full_disk(target, remedy="free some space and run the same command again")
