"""What a fetch would do, did, or found: plain data for printing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from mvkit.fetch import DownloadSettings, Feedback, Fetched, Record, Verdict
from mvkit.paths import home_dir, is_offline

Step = Literal["nothing", "download", "resume", "convert", "generate", "read", "assemble"]
Status = Literal["already there", "fetched", "converted", "generated", "read", "assembled", "failed"]


@dataclass(frozen=True)
class FetchRequest:
    """How to fetch.

    Attributes
    ----------
    home
        mvkit's home; None for the usual one.
    force
        Fetch and convert again what is there.
    offline
        Use no network; ``MVKIT_OFFLINE`` has the same effect.
    keep_raw
        Keep the downloaded pickle, or the sessions read, after the neural file was made from them.
    download
        Time limits and retries.
    feedback
        Receives progress and remarks.
    """

    home: Path | None = None
    force: bool = False
    offline: bool = False
    keep_raw: bool = False
    download: DownloadSettings = field(default_factory=DownloadSettings)
    feedback: Feedback = field(default_factory=Feedback)

    @property
    def home_dir(self) -> Path:
        """The home directory."""
        return home_dir(self.home)

    @property
    def is_offline(self) -> bool:
        """Whether the network is forbidden by the request or the environment."""
        return self.offline or is_offline()


@dataclass(frozen=True)
class PlannedStep:
    """One thing that would be done.

    Attributes
    ----------
    name
        What it is about.
    step
        What would be done.
    path
        The file that would result, or is there.
    url
        Where it would come from, without credentials; None if from nowhere.
    size
        Length of the resulting file in bytes; None if not known.
    is_exact
        Whether ``size`` was told by the server or the disk, rather than estimated.
    download_bytes
        Bytes that would cross the network; None if not known.
    remark
        What else the user should know.
    """

    name: str
    step: Step
    path: Path
    url: str | None = None
    size: int | None = None
    is_exact: bool = True
    download_bytes: int | None = 0
    remark: str = ""


@dataclass(frozen=True)
class PlanReport:
    """What a fetch would do and the disk it needs.

    Attributes
    ----------
    home
        Where the files go.
    steps
        What would be done, in order.
    needed_bytes
        Most disk in use at any moment beyond what is used now; unknown sizes count nothing.
    free_bytes
        What is free there.
    """

    home: Path
    steps: tuple[PlannedStep, ...]
    needed_bytes: int
    free_bytes: int

    @property
    def fits(self) -> bool:
        """Whether the disk has room."""
        return self.needed_bytes <= self.free_bytes

    def to_json(self) -> dict[str, object]:
        """Return plain data."""
        return {
            "dry_run": True,
            "home": str(self.home),
            "files": [{**asdict(step), "path": str(step.path)} for step in self.steps],
            "disk": {"needed_bytes": self.needed_bytes, "free_bytes": self.free_bytes, "fits": self.fits},
        }


@dataclass(frozen=True)
class FileOutcome:
    """What became of one file.

    Attributes
    ----------
    name
        What the user calls it.
    status
        What was done.
    path
        Where it is, or would have been.
    size, sha256
        Length in bytes and digest; None after a failure.
    url, etag
        Where it came from, if it was fetched.
    resumed_from
        Bytes kept from an interrupted download.
    removed
        Whether it served its purpose and is gone again.
    made_from
        For a converted file, what its source was.
    error
        Why it failed.
    """

    name: str
    status: Status
    path: Path
    size: int | None = None
    sha256: str | None = None
    url: str | None = None
    etag: str | None = None
    resumed_from: int = 0
    removed: bool = False
    made_from: Mapping[str, object] | None = None
    error: str | None = None

    @classmethod
    def in_place(cls, name: str, status: Status, path: Path, record: Record) -> FileOutcome:
        """Return the outcome for a neural file that is where it belongs."""
        return cls(
            name=name,
            status=status,
            path=path,
            size=record.size,
            sha256=record.sha256,
            made_from=record.made_from,
        )

    def to_json(self) -> dict[str, object]:
        """Return plain data; the length is called ``bytes``."""
        fields = asdict(self)
        return {
            "name": self.name,
            "status": self.status,
            "path": str(self.path),
            "bytes": fields.pop("size"),
            **{key: value for key, value in fields.items() if key not in ("name", "status", "path")},
        }

    @classmethod
    def of(cls, fetched: Fetched, *, removed: bool = False) -> FileOutcome:
        """Return the outcome of a download."""
        record = fetched.record
        return cls(
            name=fetched.file.name,
            status=fetched.status,
            path=fetched.file.target,
            size=record.size,
            sha256=record.sha256,
            url=record.url,
            etag=record.etag,
            resumed_from=fetched.resumed_from,
            removed=removed,
        )


@dataclass(frozen=True)
class FetchReport:
    """What became of every file of a request; failures are among them, not raised."""

    home: Path
    files: tuple[FileOutcome, ...]

    @property
    def failures(self) -> tuple[FileOutcome, ...]:
        """Files that could not be had."""
        return tuple(outcome for outcome in self.files if outcome.status == "failed")

    def to_json(self) -> dict[str, object]:
        """Return plain data."""
        return {
            "home": str(self.home),
            "ok": not self.failures,
            "files": [outcome.to_json() for outcome in self.files],
        }


@dataclass(frozen=True)
class VerifyReport:
    """How recorded files compare with their records."""

    home: Path
    verdicts: tuple[Verdict, ...]

    @property
    def is_ok(self) -> bool:
        """Whether every file is what was recorded."""
        return all(verdict.is_ok for verdict in self.verdicts)

    def to_json(self) -> dict[str, object]:
        """Return plain data."""
        return {
            "home": str(self.home),
            "ok": self.is_ok,
            "files": [
                {
                    "file": verdict.key,
                    "path": str(verdict.path),
                    "finding": verdict.finding,
                    "size": verdict.size,
                    "sha256": verdict.sha256,
                    "recorded": asdict(verdict.expected) if verdict.expected is not None else None,
                }
                for verdict in self.verdicts
            ],
        }
