"""``mvkit fetch neural --source allensdk``: sessions read one by one, then assembled into one neural file.

Sessions are files on disk, or those that the Allen Institute offers: listed by AllenSDK, downloaded by mvkit
to where AllenSDK's cache looks for them (AllenSDK would leave a torn file when killed), read with h5py.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from mvkit import __version__
from mvkit.allen.assemble import assemble, describe_sessions
from mvkit.allen.calcium import CalciumReader
from mvkit.allen.environment import AllenPython, ask_allensdk, find_allen_python
from mvkit.allen.folder import MOVIE_TEMPLATES, TEMPLATES
from mvkit.allen.neuropixels import NeuropixelsReader
from mvkit.allen.request import CALCIUM, MOVIES, NEUROPIXELS, SCENES, SessionRequest
from mvkit.allen.session import (
    RUN_P,
    SessionOutline,
    SessionRecording,
    SessionSource,
    Staging,
    differing_images,
)
from mvkit.errors import (
    DataError,
    FetchError,
    FetchHaltedError,
    MissingPackageError,
    MvkitError,
    UsageError,
    suggest,
)
from mvkit.fetch.catalogue import HDF5
from mvkit.fetch.manifest import ContentCheck, FileToFetch, Record
from mvkit.fetch.run import (
    FetchReport,
    FetchRequest,
    FileOutcome,
    PlannedStep,
    PlanReport,
    Status,
    describe_downloads,
    fetch_file,
    find_present,
    plan_files,
)
from mvkit.files import (
    check_output_path,
    file_lock,
    follow_link,
    move_durably,
    remove_leftovers,
    sha256_of,
)
from mvkit.machine import check_free_disk, explain_full_disk, free_disk, installed_versions
from mvkit.neural.neural_file import open_neural_file
from mvkit.neural.reliability import reliabilities_present
from mvkit.paths import neural_dir, neural_path

#: Measures reliabilities of a neural file and stores them in it: (path, home=, progress=).
Measure = Callable[..., object]

#: Source and reader in the provenance of files made here.
SOURCE = "Allen Brain Observatory, Visual Coding"
READER = "h5py"
#: Address of a mirror of the warehouse (``http://host:port``).
WAREHOUSE_VARIABLE = "MVKIT_ALLEN_URL"
NWB = ContentCheck("an NWB (HDF5) file", HDF5.beginnings)
TIFF = ContentCheck("a TIFF image", (b"II*\0", b"MM\0*"))
NPY = ContentCheck("an array of NumPy", (b"\x93NUMPY",))

#: Columns of the p value of running modulation: Neuropixels, calcium.
_RUN_P = (RUN_P, "p_run_mod_ns")
_NO_METRICS = (
    "no p values of running modulation beside the sessions (session_ID_analysis_metrics.csv or units.csv; "
    "calcium: cell_specimens.json): the selection of units goes by reliability only"
)
#: HDF5 adds to its tables besides what is stored.
_SPARE_BYTES = 1 << 20
#: A session, where the server is not asked: length of its file (58 sessions are 147 GB), and its values: of
#: some 300 units in a bin, or of 100 cells, in all presentations of images or frames.
_USUAL_BYTES = {NEUROPIXELS: 2_500_000_000, CALCIUM: 300_000_000}
_USUAL_UNITS = {NEUROPIXELS: 300, CALCIUM: 100}
_USUAL_PRESENTATIONS = {SCENES: 50 * 118, "natural_movie_one": 20 * 900, "natural_movie_three": 10 * 3600}
# Bytes per value, packed, of counts, of rates and of averaged responses.
_COUNT_BYTES, _RATE_BYTES, _DOUBLE_BYTES = 0.25, 0.4, 8


def fetch_sessions(
    request: SessionRequest, fetch: FetchRequest | None = None, *, measure: Measure | None = None
) -> FetchReport:
    """Read sessions of the Allen Brain Observatory and make ``HOME/neural/DATASET.h5`` of them.

    Every session that was read is stored, so that the next call continues one that was killed, or in which
    some sessions failed. The neural file appears when all sessions are there.

    Parameters
    ----------
    request
        Which sessions, and what of them.
    fetch
        Home, and whether to replace a file that is there.
    measure
        Measures split-half reliabilities, which the usual selection of units needs
        (:func:`mvkit.pipeline.reliability.measure_reliability`); None does without.

    Returns
    -------
    FetchReport
        With an entry for the file and for every session, also those that failed.

    Raises
    ------
    UsageError
        If something named does not exist, or a file made otherwise would be replaced without ``force``.
    MissingPackageError
        If AllenSDK is needed and is not installed.
    DataError
        If the folder of sessions is not what it should be, or no unit remains.
    FetchError
        If the disk is full.
    """
    return _SessionFetch(request, fetch or FetchRequest()).run(measure)


def plan_sessions(
    request: SessionRequest, fetch: FetchRequest | None = None, *, reliability: bool = True
) -> PlanReport:
    """Report what reading and assembling sessions would do; changes nothing.

    Parameters
    ----------
    request
        Which sessions, and what of them.
    fetch
        Home, and whether to replace a file that is there.
    reliability
        Whether reliabilities would be measured.

    Raises
    ------
    UsageError
        If something named does not exist, or a file made otherwise would be replaced without ``force``.
    MissingPackageError
        If AllenSDK is needed and is not installed.
    """
    return _SessionFetch(request, fetch or FetchRequest()).plan(reliability=reliability)


class _SessionFetch:
    """One run over the sessions of a request."""

    def __init__(self, request: SessionRequest, fetch: FetchRequest) -> None:
        self.request, self.fetch = request, fetch
        self.home = fetch.home_dir
        self.target = neural_path(request.name, self.home)
        self.staging = Staging(neural_dir(self.home) / f"{request.name}.sessions" / request.digest)
        self.reader = (
            DownloadingReader(request, fetch)
            if request.folder is None
            else open_reader(request.folder, request)
        )
        self.sources = _choose_sessions(request, self.reader.sessions())

    def plan(self, *, reliability: bool) -> PlanReport:
        self._check_inputs()
        dataset, target = self.request.name, self.target
        if self.fetch.manifest.has(target) and not self.fetch.force:
            present = PlannedStep(dataset, "nothing", target, size=target.stat().st_size)
            return PlanReport(self.home, (present,), needed_bytes=0, free_bytes=free_disk(self.home))
        steps = [self._plan_step(source) for source in self.sources]
        sizes = [self._packed_bytes(source) for source in self.sources]
        unread = sum(size for size, step in zip(sizes, steps, strict=True) if step.step != "nothing")
        note = "with reliabilities" if reliability else ""
        steps.append(PlannedStep(dataset, "assemble", target, size=sum(sizes), is_exact=False, note=note))
        # Measuring reliabilities makes a copy.
        copies = 2 if reliability else 1
        downloads = sum(step.download_bytes or 0 for step in steps)
        needed = downloads + unread + copies * sum(sizes)
        return PlanReport(self.home, tuple(steps), needed_bytes=needed, free_bytes=free_disk(self.home))

    def run(self, measure: Measure | None) -> FetchReport:
        with file_lock(self.target, log=self.fetch.feedback.log):
            self._check_inputs()
            present = find_present(self.request.name, self.target, HDF5, self.fetch)
            if present is None:
                return self._make(measure)
            # Left to do if a process was killed right after the file appeared.
            if not self.fetch.keep_raw:
                self.staging.clear()
        # The lock is released before: measuring takes it itself.
        if measure is not None:
            with open_neural_file(self.target) as file:
                is_measured = reliabilities_present(file.contents)
            if not is_measured:
                self._measure(measure, self.target)
                record = self.fetch.manifest.find(self.target)
                if record is not None:
                    present = FileOutcome.of(present.name, present.status, self.target, record)
        return FetchReport(self.home, (present,))

    def _check_inputs(self) -> None:
        """Check that a file that is there was made from these sessions by this request; else UsageError.

        One that is damaged, or that ``force`` allows to replace, passes.
        """
        is_replaced = self.fetch.force or not self.fetch.manifest.has(self.target)
        if not is_replaced and _made_from(self.target) != self._inputs():
            raise UsageError(
                f"{self.target}: is there already, made from something else or with other options\n"
                "replace it with --force, or choose another folder with --home or MVKIT_HOME"
            )

    def _inputs(self) -> dict[str, object]:
        """Return what a file must have been made from to be the requested one; JSON values."""
        numbers = [source.session_id for source in self.sources]
        return {"request": self.request.to_json(), "sessions": numbers}

    def _plan_step(self, source: SessionSource) -> PlannedStep:
        name, path = f"session {source.session_id}", self.staging.path(source.session_id)
        if self.staging.find(source) is not None:
            return PlannedStep(name, "nothing", path, size=path.stat().st_size)
        if source.path is not None:
            return PlannedStep(name, "read", source.path, size=source.size)
        size = source.size or _USUAL_BYTES[self.request.dataset]
        return PlannedStep(
            name,
            "download",
            path,
            size=size,
            is_exact=source.size is not None,
            download_bytes=size if source.download_bytes is None else source.download_bytes,
        )

    def _packed_bytes(self, source: SessionSource) -> int:
        """Estimate the size of a session once it is read: at most that of its file."""
        request = self.request
        if request.dataset == CALCIUM:
            per_value: float = _DOUBLE_BYTES
        else:
            per_value = request.n_bins * (_COUNT_BYTES if request.holds_counts else _RATE_BYTES)
        n_values = _USUAL_UNITS[request.dataset] * _USUAL_PRESENTATIONS[request.stimulus]
        usual = round(n_values * per_value)
        return min(usual, source.size or _USUAL_BYTES[request.dataset])

    def _make(self, measure: Measure | None) -> FetchReport:
        check_output_path(self.target, overwrite=True, example=self.target.name)
        try:
            with explain_full_disk(self.target, remedy="free some space and run the same command again"):
                steps = [self._plan_step(source) for source in self.sources]
                if any(step.step == "download" for step in steps):
                    self.fetch.feedback.log(f"downloading {describe_downloads(steps)}")
                outcomes, outlines = self._read_sessions()
                if len(outlines) < len(outcomes):
                    return FetchReport(self.home, (*outcomes, self._incomplete(outcomes)))
                if not _has_metrics(outlines):
                    self.fetch.feedback.log(_NO_METRICS)
                assembled = self._assemble(outlines, measure)
                if not self.fetch.keep_raw:
                    self.staging.clear()
                    outcomes = [replace(outcome, removed=True) for outcome in outcomes]
                return FetchReport(self.home, (*outcomes, assembled))
        except (OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise FetchHaltedError(f"{self.target}: not written ({reason}); is the disk full?") from error

    def _read_sessions(self) -> tuple[list[FileOutcome], list[SessionOutline]]:
        outcomes: list[FileOutcome] = []
        outlines: list[SessionOutline] = []
        for number, source in enumerate(self.sources, start=1):
            path = self.staging.path(source.session_id)
            name = f"session {source.session_id}"
            outline = self.staging.find(source)
            status: Status = "read" if outline is None else "already there"
            try:
                if outline is None:
                    # No progress display: the reader may show that of a download.
                    self.fetch.feedback.log(f"reading {name} ({number} of {len(self.sources)})")
                    outline = self._read(source)
                self._check_images(outline, outlines)
            except (FetchHaltedError, MissingPackageError):
                raise
            except MvkitError as error:
                outcomes.append(FileOutcome(name, "failed", path, error=f"{name}: {error}"))
            else:
                outlines.append(outline)
                outcomes.append(FileOutcome(name, status, path, path.stat().st_size))
        return outcomes, outlines

    def _read(self, source: SessionSource) -> SessionOutline:
        try:
            recording = self.reader.read(source, self.request)
        except (FetchHaltedError, MissingPackageError):
            raise
        except MvkitError as error:
            reason = str(error).splitlines()[0]
            self.fetch.feedback.log(f"session {source.session_id}: {reason}: trying once more")
            recording = self.reader.read(source, self.request)
        return self.staging.add(recording, source)

    def _check_images(self, outline: SessionOutline, others: Sequence[SessionOutline]) -> None:
        for other in others:
            frames = differing_images(outline, other)
            if frames:
                raise DataError(
                    f"image of frame {frames[0]} differs from that of session {other.session_id}"
                    f" ({len(frames)} such frames)\n"
                    f"if the images were changed on purpose, remove {self.staging.folder} to read all again"
                )

    def _incomplete(self, outcomes: Sequence[FileOutcome]) -> FileOutcome:
        failed = [
            str(source.session_id)
            for source, outcome in zip(self.sources, outcomes, strict=True)
            if outcome.status == "failed"
        ]
        return FileOutcome(
            self.request.name,
            "failed",
            self.target,
            error=f"{len(failed)} of {len(outcomes)} sessions failed; the others are kept, "
            "and the same command goes on with them\n"
            f"to leave out those that failed: --exclude-sessions {','.join(failed)}",
        )

    def _assemble(self, outlines: Sequence[SessionOutline], measure: Measure | None) -> FileOutcome:
        staging, request, target = self.staging, self.request, self.target
        made_by = {"source": SOURCE, "reader": READER, **self.reader.provenance}
        provenance = {
            **made_by,
            "request": request.to_json(),
            **request.method,
            "excluded_sessions": sorted(request.exclude),
            "assembled": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "mvkit_version": __version__,
        }
        contents = describe_sessions(outlines, staging, request, provenance=provenance)
        remove_leftovers(target)
        # Measuring makes a copy.
        staged = sum(staging.path(outline.session_id).stat().st_size for outline in outlines)
        check_free_disk(target.parent, 2 * (staged + contents.stimuli.nbytes) + _SPARE_BYTES)
        final = follow_link(target)
        draft = final.with_name(f"{final.stem}.tmp-assembling{final.suffix}")
        try:
            with self.fetch.feedback.progress(f"assembling {target.name}") as progress:
                assemble(draft, contents, outlines, staging, request=request, progress=progress)
            if measure is not None:
                self._measure(measure, draft)
            with self.fetch.feedback.progress(f"checking {target.name}") as progress:
                sha256 = sha256_of(draft, progress=progress)
            record = Record(size=draft.stat().st_size, sha256=sha256, made_from={**self._inputs(), **made_by})
            move_durably(draft, final)
            self.fetch.manifest.record(target, record)
        finally:
            draft.unlink(missing_ok=True)
        return FileOutcome.of(request.name, "assembled", target, record)

    def _measure(self, measure: Measure, path: Path) -> None:
        with self.fetch.feedback.progress(f"measuring {self.target.name}") as progress:
            measure(path, home=self.home, progress=progress)


class DownloadingReader:
    """Downloads sessions into AllenSDK's cache under mvkit's home, and reads them there.

    Parameters
    ----------
    request
        The dataset, and which areas and stimulus imaging experiments must have.
    fetch
        Home, network, retries and feedback.

    Attributes
    ----------
    cache
        Folder of AllenSDK's cache; its manifest and everything it fetches lie there.
    """

    def __init__(self, request: SessionRequest, fetch: FetchRequest) -> None:
        self.cache = fetch.home_dir / "allensdk-cache" / request.dataset
        self._request = request
        # What was downloaded is never downloaded again, also when the neural file is made again.
        self._fetch = replace(fetch, force=False)
        self._is_neuropixels = request.dataset == NEUROPIXELS
        self._reader = open_reader(self.cache, request)

    @property
    def provenance(self) -> Mapping[str, object]:
        """The warehouse asked, and the versions that list and read."""
        return {
            "warehouse": os.environ.get(WAREHOUSE_VARIABLE, "Allen Brain Atlas data warehouse"),
            "versions": {**installed_versions("h5py", "numpy"), "allensdk": self._python.version},
        }

    def sessions(self) -> tuple[SessionSource, ...]:
        """Return the sessions that the warehouse offers, ascending by number.

        Raises
        ------
        MvkitError
            If AllenSDK is not installed, or the warehouse does not answer.
        """
        missing = [row for row in self._rows.values() if row["url"] and not Path(row["path"]).is_file()]
        steps = plan_files([self._session_file(row) for row in missing], self._fetch)
        by_path = {step.path: step for step in steps}
        return tuple(_session_source(row, by_path.get(Path(row["path"]))) for row in self._rows.values())

    def read(self, source: SessionSource, request: SessionRequest) -> SessionRecording:
        """Download one session unless it is there, and read it.

        Raises
        ------
        MvkitError
            If it cannot be downloaded or read; what was downloaded is kept.
        """
        name, row = f"session {source.session_id}", self._rows[source.session_id]
        path = Path(row["path"])
        if self._request.is_movie:
            self._download_movie()
        elif self._is_neuropixels:
            self._download_scenes()
        if not path.is_file():
            self._require_network(name)
            fetch_file(self._session_file(row), self._fetch)
        if self._is_neuropixels:
            metrics = path.with_name(f"session_{source.session_id}_analysis_metrics.csv")
            if not metrics.is_file():
                self._require_network(f"{name}: the table of its units")
                self._ask(["metrics", str(source.session_id)], about=name)
        return self._reader.read(replace(source, path=path), request)

    @cached_property
    def _python(self) -> AllenPython:
        return find_allen_python(self._fetch.home)

    @cached_property
    def _rows(self) -> dict[int, dict[str, Any]]:
        about = "the table of sessions"
        if self._is_neuropixels:
            table, task = "sessions.csv", ["sessions", *(["--offline"] if self._fetch.is_offline else [])]
        else:
            areas, stimulus = ",".join(self._request.areas), self._request.stimulus
            table, task = "ophys_experiments.json", ["experiments", "--areas", areas, "--stimulus", stimulus]
        if not (self.cache / table).is_file():
            self._require_network(about)
        rows = self._ask(task, about=about)
        if not rows:
            raise FetchError(f"the warehouse offers no session with '{self._request.stimulus}'")
        return {int(row["session_id"]): row for row in rows}

    def _download_scenes(self) -> None:
        complete = self.cache / TEMPLATES / "complete"
        if complete.is_file():
            return
        self._require_network("the images")
        for row in self._ask(["scenes"], about="the images"):
            name = f"natural scene {row['frame']}"
            fetch_file(FileToFetch(name, str(row["url"]), Path(row["path"]), TIFF), self._fetch)
        complete.parent.mkdir(parents=True, exist_ok=True)
        complete.touch()

    def _download_movie(self) -> None:
        number = MOVIES[self._request.stimulus]
        if (self.cache / MOVIE_TEMPLATES / f"natural_movie_{number}.h5").is_file():
            return
        self._require_network("the movie")
        for row in self._ask(["movie", str(number)], about="the movie"):
            file = FileToFetch(f"natural movie {number}", str(row["url"]), Path(row["path"]), NPY)
            fetch_file(file, self._fetch)

    def _session_file(self, row: Mapping[str, Any]) -> FileToFetch:
        if not row["url"]:
            raise FetchError(f"session {row['session_id']}: the warehouse offers no file of it")
        return FileToFetch(f"session {row['session_id']}", str(row["url"]), Path(row["path"]), NWB)

    def _require_network(self, what: str) -> None:
        if self._fetch.is_offline:
            raise FetchError(
                f"{what}: not in {self.cache}, and the network is forbidden\n"
                "allow it, or give session files that are on disk: --sessions-from DIR"
            )

    def _ask(self, task: Sequence[str], *, about: str) -> list[dict[str, Any]]:
        address = os.environ.get(WAREHOUSE_VARIABLE, "")
        parts = urlsplit(address)
        if address and (parts.scheme not in ("http", "https") or not parts.netloc):
            raise UsageError(f"{WAREHOUSE_VARIABLE}={address}: expected http://HOST or https://HOST")
        self.cache.mkdir(parents=True, exist_ok=True)
        options = ["--cache", str(self.cache), *(["--address", address] if address else [])]
        return ask_allensdk(self._python, [*options, *task], about=about, log=self._fetch.feedback.log)


def open_reader(folder: Path, request: SessionRequest) -> NeuropixelsReader | CalciumReader:
    """Return the reader of a folder of session files."""
    return NeuropixelsReader(folder) if request.dataset == NEUROPIXELS else CalciumReader(folder, request)


def _session_source(row: Mapping[str, Any], planned: PlannedStep | None) -> SessionSource:
    number, path = int(row["session_id"]), Path(row["path"])
    version = {"session_id": row["session_id"], "published_at": row["published_at"]}
    if path.is_file():
        return SessionSource(number, path, path.stat().st_size, 0, version)
    if planned is None:
        return SessionSource(number, None, None, None, version)
    return SessionSource(number, None, planned.size, planned.download_bytes, version)


def _choose_sessions(
    request: SessionRequest, offered: Collection[SessionSource]
) -> tuple[SessionSource, ...]:
    """Return the sessions to read, ascending by number; UsageError for unknown ones, or if none remains."""
    sources = {source.session_id: source for source in offered}
    for option, named in (("--sessions", request.sessions), ("--exclude-sessions", request.exclude)):
        for session_id in named:
            if session_id not in sources:
                raise _unknown_session(option, session_id, sources)
    ids = sorted({*(request.sessions or sources)} - {*request.exclude})
    if not ids:
        raise UsageError("no session remains: all of them are excluded")
    return tuple(sources[session_id] for session_id in ids)


def _unknown_session(option: str, session_id: int, ids: Collection[int]) -> UsageError:
    names = [str(number) for number in sorted(ids)]
    shown = ", ".join(names[:10]) + (f", ... ({len(names)} in all)" if len(names) > 10 else "")
    return UsageError(
        f"{option}: no session {session_id}{suggest(str(session_id), names)}\nthere are: {shown}"
    )


def _made_from(path: Path) -> dict[str, object]:
    """Return the request and the sessions that a neural file was made of; {} if it was made otherwise."""
    try:
        with open_neural_file(path) as file:
            provenance = file.contents.provenance
    except DataError:
        return {}
    sessions = provenance.get("sessions")
    if provenance.get("source") != SOURCE or not isinstance(sessions, list):
        return {}
    numbers = [session.get("session_id") for session in sessions]
    return {"request": provenance.get("request"), "sessions": numbers}


def _has_metrics(outlines: Sequence[SessionOutline]) -> bool:
    columns = [one.unit_columns[name] for one in outlines for name in _RUN_P if name in one.unit_columns]
    return any(bool(np.isfinite(column).any()) for column in columns)
