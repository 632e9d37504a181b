"""``mvkit fetch neural --source allensdk`` as a library function: sessions one by one, then assembled."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mvkit.acquire.allen.present import SOURCE, asked, present_file
from mvkit.acquire.allen.readers import SessionReader, SessionSource
from mvkit.acquire.allen.session import RUN_P, SessionOutline
from mvkit.acquire.allen.staging import Staging, differing_images
from mvkit.acquire.allen.wanted import SessionsWanted, choose_reader, choose_sessions
from mvkit.acquire.reports import FetchReport, FetchRequest, FileOutcome, Status
from mvkit.atomic import move_durably, remove_leftovers
from mvkit.errors import DataError, MissingPackageError, MvkitError
from mvkit.fetch import (
    FetchHaltedError,
    Manifest,
    Record,
    explaining_full_disk,
    holding,
    require_free,
)
from mvkit.fetch.digests import digests
from mvkit.neural.layout_reading import reading
from mvkit.neural.reliability_columns import reliabilities_present
from mvkit.paths import neural_dir, neural_path

#: Columns of the p value of running modulation: Neuropixels, calcium.
_RUN_P = (RUN_P, "p_run_mod_ns")
_NO_METRICS = (
    "no p values of running modulation beside the sessions (session_ID_analysis_metrics.csv or units.csv; "
    "calcium: cell_specimens.json): the selection of units goes by reliability only"
)
#: HDF5 adds to its tables besides what is stored.
_SPARE_BYTES = 1 << 20


def staging_of(wanted: SessionsWanted, home: Path) -> Staging:
    """Return where the sessions of a request wait: ``HOME/neural/DATASET.sessions/DIGEST``."""
    return Staging(neural_dir(home) / f"{wanted.dataset}.sessions" / wanted.request.digest)


def fetch_sessions(wanted: SessionsWanted, fetch: FetchRequest | None = None) -> FetchReport:
    """Read sessions of the Allen Brain Observatory and make ``HOME/neural/DATASET.h5`` of them.

    Every session read is kept, so that a call that was killed, or in which some sessions failed, is gone on
    with by the next one. The neural file appears when all sessions are there.

    Parameters
    ----------
    wanted
        Which sessions, and what of them.
    fetch
        Home, and whether to replace a file that is there.

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
    target = neural_path(wanted.dataset, home)
    reader = choose_reader(wanted, fetch)
    sources = choose_sessions(wanted, reader)
    with holding(target, remark=fetch.feedback.remark):
        present = present_file(wanted, sources, fetch)
        if present is None:
            return _Run(wanted, fetch, reader, sources).run()
        if not fetch.keep_raw:
            # What a process that was killed right after the file appeared had still to do.
            staging_of(wanted, home).clear()
    # The lock is released before: measuring takes it itself.
    return FetchReport(home, (_with_reliability(present, wanted, fetch),))


@dataclass(frozen=True)
class _Run:
    wanted: SessionsWanted
    fetch: FetchRequest
    reader: SessionReader
    sources: tuple[SessionSource, ...]

    def run(self) -> FetchReport:
        try:
            with explaining_full_disk(self.target, remedy="free some space and run the same command again"):
                return self._run()
        except (OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise FetchHaltedError(f"{self.target}: not written ({reason}); is the disk full?") from error

    def _run(self) -> FetchReport:
        outcomes, outlines = self._read_all()
        n_failed = len(outcomes) - len(outlines)
        if n_failed:
            return FetchReport(self.home, (*outcomes, self._unfinished(n_failed, outcomes)))
        if not _has_metrics(outlines):
            self.fetch.feedback.remark(_NO_METRICS)
        made = self._make(outlines)
        if not self.fetch.keep_raw:
            self.staging.clear()
            outcomes = [replace(outcome, removed=True) for outcome in outcomes]
        return FetchReport(self.home, (*outcomes, made))

    @property
    def home(self) -> Path:
        return self.fetch.home_dir

    @property
    def target(self) -> Path:
        return neural_path(self.wanted.dataset, self.home)

    @property
    def staging(self) -> Staging:
        return staging_of(self.wanted, self.home)

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
                    self.fetch.feedback.remark(f"reading {name} ({number} of {len(self.sources)})")
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
            return self._read_once(source)
        except (FetchHaltedError, MissingPackageError):
            raise
        except MvkitError as error:
            self.fetch.feedback.remark(
                f"session {source.session_id}: {str(error).splitlines()[0]}: trying once more"
            )
            return self._read_once(source)

    def _read_once(self, source: SessionSource) -> SessionOutline:
        return self.staging.keep(self.reader.read(source, self.wanted.request), source)

    def _check_images(self, outline: SessionOutline, others: Sequence[SessionOutline]) -> None:
        for other in others:
            frames = differing_images(outline, other)
            if frames:
                raise DataError(
                    f"image of frame {frames[0]} differs from that of session {other.session_id}"
                    f" ({len(frames)} such frames)\n"
                    f"if the images were changed on purpose, remove {self.staging.folder} to read all again"
                )

    def _unfinished(self, n_failed: int, outcomes: Sequence[FileOutcome]) -> FileOutcome:
        failed = ",".join(
            str(source.session_id)
            for source, outcome in zip(self.sources, outcomes, strict=True)
            if outcome.status == "failed"
        )
        return FileOutcome(
            self.wanted.dataset,
            "failed",
            self.target,
            error=f"{n_failed} of {len(outcomes)} sessions failed; the others are kept, "
            "and the same command goes on with them\n"
            f"to do without the failed: --exclude-sessions {failed}",
        )

    def _make(self, outlines: Sequence[SessionOutline]) -> FileOutcome:
        from mvkit.acquire.allen.assembling import assemble, describe_sessions

        staging, request = self.staging, self.wanted.request
        contents = describe_sessions(
            outlines, staging, request, dataset=self.wanted.dataset, provenance=self._provenance()
        )
        remove_leftovers(self.target)
        # Measuring makes a copy.
        staged = sum(staging.path(outline.session_id).stat().st_size for outline in outlines)
        require_free(self.target.parent, 2 * (staged + contents.stimuli.nbytes) + _SPARE_BYTES)
        draft = self.target.with_name(f"{self.target.stem}.tmp-assembling{self.target.suffix}")
        try:
            with self.fetch.feedback.progress(f"assembling {self.target.name}") as progress:
                assemble(draft, contents, outlines, staging, request=request, progress=progress)
            if self.wanted.reliability:
                _measure(draft, self.fetch, label=self.target.name)
            with self.fetch.feedback.progress(f"checking {self.target.name}") as progress:
                sha256 = digests(draft, progress=progress).sha256
            made_from = {
                "source": SOURCE,
                **asked(self.wanted, self.sources),
                "reader": self.reader.name,
                **self.reader.origin,
            }
            record = Record.of_now(size=draft.stat().st_size, sha256=sha256, made_from=made_from)
            move_durably(draft, self.target)
            Manifest(self.home).record(self.target, record)
        finally:
            draft.unlink(missing_ok=True)
        return FileOutcome.in_place(self.wanted.dataset, "assembled", self.target, record)

    def _provenance(self) -> dict[str, object]:
        from mvkit import __version__

        return {
            "source": SOURCE,
            "reader": self.reader.name,
            **self.reader.origin,
            "request": self.wanted.request.to_json(),
            **self.wanted.request.method,
            "excluded_sessions": sorted(self.wanted.without),
            "assembled": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "mvkit_version": __version__,
        }


def _has_metrics(outlines: Sequence[SessionOutline]) -> bool:
    found = [
        outline.unit_columns[name] for outline in outlines for name in _RUN_P if name in outline.unit_columns
    ]
    return any(bool(np.isfinite(column).any()) for column in found)


def _with_reliability(present: FileOutcome, wanted: SessionsWanted, fetch: FetchRequest) -> FileOutcome:
    """Measure what an earlier call was told to leave out."""
    if not wanted.reliability:
        return present
    with reading(present.path) as file:
        measured = reliabilities_present(file.contents)
    if not measured:
        _measure(present.path, fetch, label=present.path.name)
    record = Manifest(fetch.home_dir).find(present.path)
    return (
        present
        if record is None
        else FileOutcome.in_place(wanted.dataset, "already there", present.path, record)
    )


def _measure(path: Path, fetch: FetchRequest, *, label: str) -> None:
    from mvkit.measure_reliability import measure_reliability

    with fetch.feedback.progress(f"measuring {label}") as progress:
        measure_reliability(path, home=fetch.home_dir, progress=progress)
