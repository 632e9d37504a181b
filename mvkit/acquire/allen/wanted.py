"""What a user wants of the Allen Brain Observatory: checked before anything is read."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from mvkit.acquire.allen.imaging_request import ImagingRequest
from mvkit.acquire.allen.readers import ALLENSDK, H5PY, READERS, SessionReader, SessionSource
from mvkit.acquire.allen.request import SessionRequest
from mvkit.acquire.catalogue import RECORDINGS
from mvkit.acquire.reports import FetchRequest
from mvkit.errors import UsageError
from mvkit.naming import suggest, unknown_name
from mvkit.neural.recording import AREA_ORDER

NEUROPIXELS, CALCIUM = "neuropixels", "calcium"

#: Structures in which the Neuropixels recordings have units, as AllenSDK names them.
AREAS = (
    *AREA_ORDER,
    *("VIS", "VISa", "VISli", "VISmma", "VISmmp", "VISpl", "VISpor"),
    *("LGd", "LGv", "LP", "IGL", "IntG", "LD", "LT", "MGd", "MGm", "MGv", "PF", "PIL", "PO", "POL", "PP"),
    *("RT", "SGN", "TH", "VL", "VPL", "VPM", "Eth", "ZI"),
    *("CA1", "CA2", "CA3", "DG", "HPF", "POST", "PRE", "ProS", "SUB"),
    *("APN", "MB", "MRN", "NOT", "OP", "PPT", "RPF", "SCig", "SCiw", "SCop", "SCsg", "SCzo"),
    *("BMAa", "COAa", "COApm", "CP", "OLF", "grey"),
)


@dataclass(frozen=True)
class SessionsWanted:
    """Which sessions, what of them, and how they are read.

    Attributes
    ----------
    dataset
        ``neuropixels`` or ``calcium``.
    request
        What is taken from every session; for calcium it becomes an :class:`ImagingRequest`.
    sessions_from
        Folder of session files that are there already; None downloads through AllenSDK.
    only, without
        Sessions to take, all if empty, and sessions to leave out.
    reader
        ``allensdk`` or ``h5py``.
    reliability
        Measure split-half reliabilities, which the usual selection of units needs.

    Raises
    ------
    UsageError
        For an unknown dataset, reader or area, or a folder that does not exist.
    """

    dataset: str = NEUROPIXELS
    request: SessionRequest = field(default_factory=SessionRequest)
    sessions_from: Path | None = None
    only: tuple[int, ...] = ()
    without: tuple[int, ...] = ()
    reader: str = ALLENSDK
    reliability: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        if self.dataset not in RECORDINGS:
            raise unknown_name("dataset of the Allen Brain Observatory", self.dataset, RECORDINGS)
        if self.dataset == CALCIUM:
            object.__setattr__(self, "request", ImagingRequest.of(self.request))
        if self.reader not in READERS:
            raise unknown_name("reader", self.reader, READERS)
        if self.sessions_from is None and self.reader == H5PY:
            raise UsageError("--reader h5py reads files on disk: name their folder with --sessions-from DIR")
        if self.sessions_from is not None and not self.sessions_from.is_dir():
            raise UsageError(f"--sessions-from {self.sessions_from}: no such folder")
        for area in self.request.areas:
            if area not in AREAS:
                raise unknown_name("area", area, AREAS)


def choose_reader(wanted: SessionsWanted, fetch: FetchRequest) -> SessionReader:
    """Return what reads the sessions.

    Raises
    ------
    MissingPackageError
        If that takes AllenSDK and there is none.
    """
    if wanted.dataset == CALCIUM:
        return _choose_ophys_reader(wanted, fetch)
    if wanted.reader == H5PY and wanted.sessions_from is not None:
        from mvkit.acquire.allen.nwb_reader import NwbReader

        return NwbReader(wanted.sessions_from)
    from mvkit.acquire.allen.bridge import allen_reader

    return allen_reader(wanted.sessions_from, fetch)


def _choose_ophys_reader(wanted: SessionsWanted, fetch: FetchRequest) -> SessionReader:
    if wanted.reader == H5PY and wanted.sessions_from is not None:
        from mvkit.acquire.allen.ophys_reader import OphysReader

        return OphysReader(wanted.sessions_from, wanted.request)
    from mvkit.acquire.allen.ophys_bridge import allen_ophys_reader

    return allen_ophys_reader(wanted.sessions_from, wanted.request, fetch)


def choose_sessions(wanted: SessionsWanted, reader: SessionReader) -> tuple[SessionSource, ...]:
    """Return the sessions to read, ascending by number.

    Raises
    ------
    UsageError
        If a named one does not exist, or none remains.
    """
    found = {source.session_id: source for source in reader.sessions()}
    for option, named in (("--sessions", wanted.only), ("--exclude-sessions", wanted.without)):
        for session_id in named:
            if session_id not in found:
                raise _unknown_session(option, session_id, found)
    ids = sorted({*(wanted.only or found)} - {*wanted.without})
    if not ids:
        raise UsageError("no session remains: all of them are excluded")
    return tuple(found[session_id] for session_id in ids)


def _unknown_session(option: str, session_id: int, found: Collection[int]) -> UsageError:
    names = [str(number) for number in sorted(found)]
    shown = ", ".join(names[:10]) + (f", ... ({len(names)} in all)" if len(names) > 10 else "")
    return UsageError(
        f"{option}: no session {session_id}{suggest(str(session_id), names)}\nthere are: {shown}"
    )
