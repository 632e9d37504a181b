"""What both kinds of fetch share: refusals before the start, failures on the way, disk over time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mvkit.acquire.reports import FetchRequest, FileOutcome, PlannedStep, Step, VerifyReport
from mvkit.errors import FetchError, MvkitError
from mvkit.fetch import FetchHaltedError, Manifest, PlannedFile
from mvkit.fetch.http import shown


@dataclass(frozen=True)
class DiskUse:
    """Disk that one step takes, in bytes: for good, and on top of that while it runs."""

    lasting: int = 0
    passing: int = 0


def peak_bytes(uses: Iterable[DiskUse]) -> int:
    """Return the most disk in use at any moment when steps run one after the other."""
    kept, peak = 0, 0
    for use in uses:
        peak = max(peak, kept + use.lasting + use.passing)
        kept += use.lasting
    return peak


def download_step(planned: PlannedFile) -> PlannedStep:
    """Describe what would be done about one download."""
    step: Step = "nothing"
    if planned.to_fetch:
        step = "resume" if planned.received else "download"
    return PlannedStep(
        name=planned.file.name,
        step=step,
        path=planned.file.target,
        url=shown(planned.file.url),
        size=planned.size,
        is_exact=planned.is_exact,
        download_bytes=planned.missing_bytes,
        remark=planned.remark,
    )


def refuse_offline(planned: Sequence[PlannedFile], *, advice: str) -> None:
    """Refuse to start when files are missing and the network is forbidden.

    Raises
    ------
    FetchError
        Names every missing file and where it can be put.
    """
    missing = [one.file for one in planned if one.to_fetch]
    if missing:
        places = "\n".join(f"  {file.target}  from {shown(file.url)}" for file in missing)
        raise FetchError(
            f"offline (--offline or MVKIT_OFFLINE), and {len(missing)} file(s) would have to be fetched:\n"
            f"{places}\n{advice}"
        )


@dataclass(frozen=True)
class Task:
    """One file to obtain, and how."""

    name: str
    path: Path
    action: Callable[[], list[FileOutcome]]


def carry_out(tasks: Sequence[Task]) -> tuple[FileOutcome, ...]:
    """Carry out tasks in turn; a failed one does not stop the others.

    Only what would befall every other one as well does: no network, or a full disk.
    """
    outcomes: list[FileOutcome] = []
    halted = ""
    for task in tasks:
        if halted:
            outcomes.append(FileOutcome(task.name, "failed", task.path, error=halted))
            continue
        try:
            outcomes.extend(task.action())
        except MvkitError as error:
            outcomes.append(FileOutcome(task.name, "failed", task.path, error=str(error)))
            if isinstance(error, FetchHaltedError):
                halted = f"{task.name} failed, and this would fail alike: not tried"
    return tuple(outcomes)


def verify(home: Path, wanted: Sequence[Path] | None, folder: Path, request: FetchRequest) -> VerifyReport:
    """Check recorded files: those named, or all below ``folder``."""
    manifest = Manifest(home)
    below = f"{manifest.key(folder)}/"
    keys = (
        [key for key in manifest.records() if key.startswith(below)]
        if wanted is None
        else [manifest.key(path) for path in wanted]
    )
    with request.feedback.progress("verifying") as progress:
        return VerifyReport(home, tuple(manifest.verify(keys, progress=progress)))
