"""``mvkit fetch neural --source allensdk`` as a library: sessions one by one, then made into one file."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mvkit import __version__
from mvkit.allen.assemble import assemble, describe_sessions
from mvkit.allen.download import DownloadingReader, open_folder
from mvkit.allen.request import CALCIUM, SessionRequest
from mvkit.allen.session import RUN_P, SessionOutline, SessionReader, SessionSource, Staging, differing_images
from mvkit.errors import DataError, FetchHaltedError, MissingPackageError, MvkitError, UsageError, suggest
from mvkit.fetch.catalogue import HDF5
from mvkit.fetch.manifest import Manifest, Record
from mvkit.fetch.run import (
    FetchReport,
    FetchRequest,
    FileOutcome,
    PlannedStep,
    PlanReport,
    Status,
    adopt_file,
)
from mvkit.files import file_lock, move_durably, remove_leftovers, sha256_of
from mvkit.machine import check_free_disk, explain_full_disk, free_disk
from mvkit.neural.neural_file import open_neural_file
from mvkit.neural.reliability import reliabilities_present
from mvkit.paths import neural_dir, neural_path

#: Measures reliabilities of a neural file and stores them in it: (path, home=, progress=).
Measure = Callable[..., object]

#: What files made here have in their provenance.
SOURCE = "Allen Brain Observatory, Visual Coding"
READER = "h5py"

#: Columns of the p value of running modulation: Neuropixels, calcium.
_RUN_P = (RUN_P, "p_run_mod_ns")
_NO_METRICS = (
    "no p values of running modulation beside the sessions (session_ID_analysis_metrics.csv or units.csv; "
    "calcium: cell_specimens.json): the selection of units goes by reliability only"
)
#: HDF5 adds to its tables besides what is stored.
_SPARE_BYTES = 1 << 20
#: A session, where the server is not asked: length of its file (58 sessions are 147 GB), and values of some
#: 300 units in a bin of 50 presentations of 118 images; the same of an imaging experiment of some 100 cells.
_USUAL_BYTES, _USUAL_VALUES_PER_BIN = 2_500_000_000, 300 * 50 * 118
_USUAL_CALCIUM_BYTES, _USUAL_CALCIUM_VALUES = 300_000_000, 100 * 50 * 118
# Bytes per value, packed, of counts, of rates and of averaged responses.
_COUNT_BYTES, _RATE_BYTES, _DOUBLE_BYTES = 0.25, 0.4, 8


def fetch_sessions(
    request: SessionRequest, fetch: FetchRequest | None = None, *, measure: Measure | None = None
) -> FetchReport:
    """Read sessions of the Allen Brain Observatory and make ``HOME/neural/DATASET.h5`` of them.

    Every session read is kept, so that a call that was killed, or in which some sessions failed, is gone on
    with by the next one. The neural file appears when all sessions are there.

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
    fetch = fetch or FetchRequest()
    home = fetch.home_dir
    target = neural_path(request.dataset, home)
    reader = _open_reader(request, fetch)
    sources = _choose_sessions(request, reader)
    with file_lock(target, log=fetch.feedback.log):
        if not _is_present(request, sources, fetch):
            return _Run(request, fetch, reader, sources, measure).run()
        manifest = Manifest(home)
        # A process that was killed right after the file appeared had still to do this.
        record = manifest.find(target) or adopt_file(target, HDF5, fetch)
        if not fetch.keep_raw:
            _staging(request, home).clear()
    # The lock is released before: measuring takes it itself.
    if measure is not None:
        with open_neural_file(target) as file:
            is_measured = reliabilities_present(file.contents)
        if not is_measured:
            _measure(measure, target, fetch, label=target.name)
            record = manifest.find(target) or record
    present = FileOutcome.of(request.dataset, "already there", target, record)
    return FetchReport(home, (present,))


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
    fetch = fetch or FetchRequest()
    home = fetch.home_dir
    sources = _choose_sessions(request, _open_reader(request, fetch))
    target = neural_path(request.dataset, home)
    if _is_present(request, sources, fetch):
        there = PlannedStep(request.dataset, "nothing", target, size=target.stat().st_size)
        return PlanReport(home, (there,), needed_bytes=0, free_bytes=free_disk(home))
    staging = _staging(request, home)
    steps = [_plan_step(source, staging, request) for source in sources]
    sizes = [_packed_bytes(source, request) for source in sources]
    unread = sum(size for size, step in zip(sizes, steps, strict=True) if step.step != "nothing")
    remark = "with reliabilities" if reliability else ""
    steps.append(
        PlannedStep(request.dataset, "assemble", target, size=sum(sizes), is_exact=False, remark=remark)
    )
    # Measuring reliabilities makes a copy.
    copies = 2 if reliability else 1
    downloads = sum(step.download_bytes or 0 for step in steps)
    needed = downloads + unread + copies * sum(sizes)
    return PlanReport(home, tuple(steps), needed_bytes=needed, free_bytes=free_disk(home))


def _plan_step(source: SessionSource, staging: Staging, request: SessionRequest) -> PlannedStep:
    name, path = f"session {source.session_id}", staging.path(source.session_id)
    if staging.find(source) is not None:
        return PlannedStep(name, "nothing", path, size=path.stat().st_size)
    if source.path is not None:
        return PlannedStep(name, "read", source.path, size=source.size)
    size = source.size or (_USUAL_CALCIUM_BYTES if request.dataset == CALCIUM else _USUAL_BYTES)
    return PlannedStep(
        name,
        "download",
        path,
        size=size,
        is_exact=source.size is not None,
        download_bytes=size if source.download_bytes is None else source.download_bytes,
    )


def _packed_bytes(source: SessionSource, request: SessionRequest) -> int:
    """Estimate what a session takes once it is read: no more than its file, and what sessions usually do."""
    if request.dataset == CALCIUM:
        return min(_USUAL_CALCIUM_VALUES * _DOUBLE_BYTES, source.size or _USUAL_CALCIUM_BYTES)
    per_value = _COUNT_BYTES if request.holds_counts else _RATE_BYTES
    usual = round(_USUAL_VALUES_PER_BIN * request.n_bins * per_value)
    return usual if source.size is None else min(usual, source.size)


def _open_reader(request: SessionRequest, fetch: FetchRequest) -> SessionReader:
    if request.folder is None:
        return DownloadingReader(request, fetch)
    return open_folder(request.folder, request)


def _choose_sessions(request: SessionRequest, reader: SessionReader) -> tuple[SessionSource, ...]:
    """Return the sessions to read, ascending by number; UsageError for unknown ones, or if none remains."""
    sources = {source.session_id: source for source in reader.sessions()}
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


def _is_present(request: SessionRequest, sources: Sequence[SessionSource], fetch: FetchRequest) -> bool:
    """Tell whether a neural file of just these sessions and this request is there, and may stay.

    UsageError if there is a file that was made otherwise, and ``force`` does not allow to replace it.
    """
    target = neural_path(request.dataset, fetch.home_dir)
    if fetch.force or not target.exists():
        return False
    record = Manifest(fetch.home_dir).find(target)
    if record is not None and target.stat().st_size != record.size:
        fetch.feedback.log(f"{target}: not the size that was recorded; making it again")
        return False
    if _made_from(target) != _inputs(request, sources):
        raise UsageError(
            f"{target}: is there already, made from something else or with other options\n"
            "replace it with --force, or choose another place with --home or MVKIT_HOME"
        )
    return True


def _inputs(request: SessionRequest, sources: Sequence[SessionSource]) -> dict[str, object]:
    """Return what a file must have been made from to be the requested one; JSON values."""
    return {"request": request.to_json(), "sessions": [source.session_id for source in sources]}


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


def _staging(request: SessionRequest, home: Path) -> Staging:
    return Staging(neural_dir(home) / f"{request.dataset}.sessions" / request.digest)


@dataclass(frozen=True)
class _Run:
    request: SessionRequest
    fetch: FetchRequest
    reader: SessionReader
    sources: tuple[SessionSource, ...]
    measure: Measure | None

    @property
    def home(self) -> Path:
        return self.fetch.home_dir

    @property
    def target(self) -> Path:
        return neural_path(self.request.dataset, self.home)

    @property
    def staging(self) -> Staging:
        return _staging(self.request, self.home)

    def run(self) -> FetchReport:
        try:
            with explain_full_disk(self.target, remedy="free some space and run the same command again"):
                outcomes, outlines = self._read_all()
                n_failed = len(outcomes) - len(outlines)
                if n_failed:
                    return FetchReport(self.home, (*outcomes, self._incomplete(n_failed, outcomes)))
                if not _has_metrics(outlines):
                    self.fetch.feedback.log(_NO_METRICS)
                made = self._make(outlines)
                if not self.fetch.keep_raw:
                    self.staging.clear()
                    outcomes = [replace(outcome, removed=True) for outcome in outcomes]
                return FetchReport(self.home, (*outcomes, made))
        except (OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise FetchHaltedError(f"{self.target}: not written ({reason}); is the disk full?") from error

    def _read_all(self) -> tuple[list[FileOutcome], list[SessionOutline]]:
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
            self.fetch.feedback.log(
                f"session {source.session_id}: {str(error).splitlines()[0]}: trying once more"
            )
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

    def _incomplete(self, n_failed: int, outcomes: Sequence[FileOutcome]) -> FileOutcome:
        failed = ",".join(
            str(source.session_id)
            for source, outcome in zip(self.sources, outcomes, strict=True)
            if outcome.status == "failed"
        )
        return FileOutcome(
            self.request.dataset,
            "failed",
            self.target,
            error=f"{n_failed} of {len(outcomes)} sessions failed; the others are kept, "
            "and the same command goes on with them\n"
            f"to do without the failed: --exclude-sessions {failed}",
        )

    def _make(self, outlines: Sequence[SessionOutline]) -> FileOutcome:
        staging, request, target = self.staging, self.request, self.target
        contents = describe_sessions(outlines, staging, request, provenance=self._provenance())
        remove_leftovers(target)
        # Measuring makes a copy.
        staged = sum(staging.path(outline.session_id).stat().st_size for outline in outlines)
        check_free_disk(target.parent, 2 * (staged + contents.stimuli.nbytes) + _SPARE_BYTES)
        draft = target.with_name(f"{target.stem}.tmp-assembling{target.suffix}")
        try:
            with self.fetch.feedback.progress(f"assembling {target.name}") as progress:
                assemble(draft, contents, outlines, staging, request=request, progress=progress)
            if self.measure is not None:
                _measure(self.measure, draft, self.fetch, label=target.name)
            with self.fetch.feedback.progress(f"checking {target.name}") as progress:
                sha256 = sha256_of(draft, progress=progress)
            made_from = {**_inputs(request, self.sources), **self._made_by()}
            record = Record.of_now(size=draft.stat().st_size, sha256=sha256, made_from=made_from)
            move_durably(draft, target)
            Manifest(self.home).record(target, record)
        finally:
            draft.unlink(missing_ok=True)
        return FileOutcome.of(request.dataset, "assembled", target, record)

    def _made_by(self) -> dict[str, object]:
        return {"source": SOURCE, "reader": READER, **self.reader.provenance}

    def _provenance(self) -> dict[str, object]:
        return {
            **self._made_by(),
            "request": self.request.to_json(),
            **self.request.method,
            "excluded_sessions": sorted(self.request.exclude),
            "assembled": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "mvkit_version": __version__,
        }


def _has_metrics(outlines: Sequence[SessionOutline]) -> bool:
    columns = [one.unit_columns[name] for one in outlines for name in _RUN_P if name in one.unit_columns]
    return any(bool(np.isfinite(column).any()) for column in columns)


def _measure(measure: Measure, path: Path, fetch: FetchRequest, *, label: str) -> None:
    with fetch.feedback.progress(f"measuring {label}") as progress:
        measure(path, home=fetch.home_dir, progress=progress)
