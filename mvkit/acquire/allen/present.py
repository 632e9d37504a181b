"""A neural file that is there already: whether it is the one that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mvkit.acquire.allen.readers import SessionSource
from mvkit.acquire.allen.wanted import SessionsWanted
from mvkit.acquire.catalogue import HDF5
from mvkit.acquire.reports import FetchRequest, FileOutcome
from mvkit.errors import DataError, UsageError
from mvkit.fetch import Manifest, adopt
from mvkit.neural.layout_reading import reading
from mvkit.paths import neural_path

#: What files made here say in their provenance.
SOURCE = "Allen Brain Observatory, Visual Coding"


def present_file(
    wanted: SessionsWanted, sources: Sequence[SessionSource], fetch: FetchRequest
) -> FileOutcome | None:
    """Return the outcome for the wanted neural file; None if it is to be made.

    Raises
    ------
    UsageError
        As :func:`is_present`.
    """
    if not is_present(wanted, sources, fetch):
        return None
    target, manifest = neural_path(wanted.dataset, fetch.home_dir), Manifest(fetch.home_dir)
    # A process that was killed right after the file appeared had it still to record.
    record = manifest.find(target) or adopt(target, HDF5, manifest, feedback=fetch.feedback)
    return FileOutcome.in_place(wanted.dataset, "already there", target, record)


def is_present(wanted: SessionsWanted, sources: Sequence[SessionSource], fetch: FetchRequest) -> bool:
    """Tell whether a neural file of just these sessions and this request is there, and may stay.

    Raises
    ------
    UsageError
        If there is a file that was made otherwise, and ``force`` does not allow to replace it.
    """
    target = neural_path(wanted.dataset, fetch.home_dir)
    if fetch.force or not target.exists():
        return False
    record = Manifest(fetch.home_dir).find(target)
    if record is not None and target.stat().st_size != record.size:
        fetch.feedback.remark(f"{target}: not the size that was recorded; making it again")
        return False
    if _made_from(target) != asked(wanted, sources):
        raise UsageError(
            f"{target}: is there already, made from something else or with other options\n"
            "replace it with --force, or choose another place with --home or MVKIT_HOME"
        )
    return True


def asked(wanted: SessionsWanted, sources: Sequence[SessionSource]) -> dict[str, object]:
    """Return what a file must have been made from to be the wanted one; JSON values."""
    return {
        "request": wanted.request.to_json(),
        "sessions": [source.session_id for source in sources],
    }


def _made_from(path: Path) -> dict[str, object]:
    """Return the request and the sessions that a neural file was made of; {} if it was made otherwise."""
    try:
        with reading(path) as file:
            told = file.contents.provenance
    except DataError:
        return {}
    sessions = told.get("sessions")
    if told.get("source") != SOURCE or not isinstance(sessions, list):
        return {}
    return {"request": told.get("request"), "sessions": [session.get("session_id") for session in sessions]}
