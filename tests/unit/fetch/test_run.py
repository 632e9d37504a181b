"""Plans; fetching under a lock, recording, accepting what is there; disk over time; what stops the rest."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mvkit
from mvkit.errors import FetchError, FetchHaltedError
from mvkit.fetch.download import DownloadSettings, Feedback, PartialFile, RemoteVersion
from mvkit.fetch.manifest import ContentCheck, FileToFetch, Manifest
from mvkit.fetch.run import (
    FetchRequest,
    FileOutcome,
    PlannedStep,
    fetch_each,
    fetch_file,
    peak_disk,
    plan_files,
)


@pytest.fixture
def file(server: Any, body: bytes, tmp_path: Path) -> FileToFetch:
    """A file on the server, to go into a home."""
    return FileToFetch(
        "x", server.put("x.pt", body), tmp_path / "checkpoints" / "x.pt", ContentCheck("a zip", (b"PK",))
    )


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """The manifest of that home."""
    return Manifest(tmp_path)


@pytest.fixture
def request_(tmp_path: Path, settings: DownloadSettings) -> FetchRequest:
    """A request into that home."""
    return FetchRequest(tmp_path, download=settings)


def sha256(body: bytes) -> str:
    """Digest in hexadecimal."""
    return hashlib.sha256(body).hexdigest()


def test_what_is_fetched_is_recorded(
    file: FileToFetch, manifest: Manifest, body: bytes, request_: FetchRequest
) -> None:
    fetched = fetch_file(file, request_)
    document = json.loads(manifest.path.read_text())
    entry = document["files"]["checkpoints/x.pt"]
    assert entry.pop("date").endswith("+00:00")
    assert entry == {
        "url": file.url,
        "size": len(body),
        "etag": f'"{hashlib.md5(body).hexdigest()}"',
        "sha256": sha256(body),
        "mvkit_version": mvkit.__version__,
        "made_from": None,
        "keep": True,
    }
    assert fetched.status == "fetched"
    assert sorted(path.name for path in file.target.parent.iterdir()) == [".x.pt.lock", "x.pt"]


def test_what_is_there_is_left_alone_unless_forced(
    file: FileToFetch, manifest: Manifest, server: Any, body: bytes, request_: FetchRequest
) -> None:
    fetch_file(file, request_)
    before = file.target.stat().st_mtime_ns
    assert fetch_file(file, request_).status == "already there"
    assert len(server.gets()) == 1
    assert file.target.stat().st_mtime_ns == before
    new = body[:4] + b"newer"
    server.put("x.pt", new)
    forced = fetch_file(file, replace(request_, force=True))
    assert (forced.status, file.target.read_bytes(), forced.sha256) == ("fetched", new, sha256(new))


def test_a_failed_forced_fetch_leaves_the_old_file(
    file: FileToFetch,
    manifest: Manifest,
    faulty: ModuleType,
    server: Any,
    body: bytes,
    request_: FetchRequest,
) -> None:
    fetch_file(file, request_)
    server.put("x.pt", body[:4] + b"newer")
    server.always = faulty.Fault(status=404)
    with pytest.raises(FetchError):
        fetch_file(file, replace(request_, force=True))
    assert file.target.read_bytes() == body
    assert [verdict.finding for verdict in manifest.verify(["checkpoints/x.pt"])] == ["ok"]


def test_a_file_whose_size_changed_is_fetched_again(
    file: FileToFetch,
    manifest: Manifest,
    body: bytes,
    request_: FetchRequest,
    feedback: Feedback,
    remarks: list[str],
) -> None:
    fetch_file(file, request_)
    file.target.write_bytes(body[:-1])
    assert manifest.state(file.target) == "damaged"
    assert fetch_file(file, replace(request_, feedback=feedback)).status == "fetched"
    assert file.target.read_bytes() == body
    assert "not the size that was recorded" in remarks[0]


def test_a_file_put_there_by_hand_is_recorded(
    file: FileToFetch, manifest: Manifest, server: Any, request_: FetchRequest
) -> None:
    file.target.parent.mkdir()
    file.target.write_bytes(b"PK by hand")
    fetched = fetch_file(file, request_)
    assert fetched.status == "already there"
    assert (fetched.url, fetched.sha256) == (None, sha256(b"PK by hand"))
    assert server.seen == []


def test_something_else_put_there_by_hand_is_refused(
    file: FileToFetch, manifest: Manifest, request_: FetchRequest
) -> None:
    file.target.parent.mkdir()
    file.target.write_bytes(b"<html>")
    with pytest.raises(FetchError, match="--force"):
        fetch_file(file, request_)
    assert manifest.records() == {}


def test_a_fetch_killed_before_it_was_recorded_keeps_its_origin(
    file: FileToFetch, manifest: Manifest, body: bytes, request_: FetchRequest
) -> None:
    file.target.parent.mkdir()
    partial = PartialFile(file.target)
    partial.begin(RemoteVersion(file.url, '"e"', len(body)))
    partial.path.write_bytes(body)
    partial.path.replace(file.target)
    assert fetch_file(file, request_, keep=False).url == file.url
    record = manifest.find(file.target)
    assert record is not None
    assert (record.url, record.etag, record.sha256, record.keep) == (file.url, '"e"', sha256(body), False)
    assert not partial.note_path.exists()


def test_the_second_of_two_waits_and_then_finds_the_file(
    file: FileToFetch,
    manifest: Manifest,
    faulty: ModuleType,
    server: Any,
    body: bytes,
    request_: FetchRequest,
) -> None:
    server.faults = [faulty.Fault(hold_at=30_000)]
    remarks: list[str] = []
    statuses: list[str] = []

    def log(text: str) -> None:
        remarks.append(text)
        server.released.set()

    def fetch() -> None:
        feedback = Feedback(log=log)
        statuses.append(fetch_file(file, replace(request_, feedback=feedback)).status)

    both = [threading.Thread(target=fetch) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(timeout=30)
    assert sorted(statuses) == ["already there", "fetched"]
    assert len(server.gets()) == 1
    assert remarks == ["another mvkit process is working on x.pt: waiting for it to finish"]
    assert file.target.read_bytes() == body


def test_a_plan_tells_sizes_and_states_and_changes_nothing(
    file: FileToFetch, manifest: Manifest, server: Any, body: bytes, request_: FetchRequest
) -> None:
    def row(**options: Any) -> tuple[Any, ...]:
        (step,) = plan_files([file], replace(request_, **options))
        return manifest.state(step.path), step.step, step.size, step.is_exact, step.download_bytes

    assert row() == ("missing", "download", len(body), True, len(body))
    assert row(offline=True) == ("missing", "download", None, False, None)
    assert [request.method for request in server.seen] == ["HEAD"]
    assert not file.target.parent.exists()
    file.target.parent.mkdir()
    partial = PartialFile(file.target)
    partial.begin(RemoteVersion(file.url, f'"{hashlib.md5(body).hexdigest()}"', len(body)))
    partial.path.write_bytes(body[:10_000])
    assert row() == ("missing", "resume", len(body), True, len(body) - 10_000)
    server.put("x.pt", body + b"!")
    assert row()[-1] == len(body) + 1, "a changed file is fetched from the beginning"
    fetch_file(file, request_)
    assert row() == ("there", "nothing", len(body) + 1, True, 0)
    assert row(force=True)[1:] == ("download", len(body) + 1, True, len(body) + 1)


def test_a_plan_says_why_a_size_is_not_known(
    file: FileToFetch, manifest: Manifest, server: Any, request_: FetchRequest
) -> None:
    server.head_status = 503
    other = FileToFetch("y", f"{server.url}/y.pt", file.target.with_name("y.pt"), file.content, 77)
    first, second = plan_files([file, other], request_)
    assert (first.size, first.remark) == (None, "the server answered 503")
    assert (second.size, second.is_exact, second.remark) == (
        77,
        False,
        "HTTP 404: the server has no such file",
    )


def test_a_host_that_cannot_be_reached_is_asked_once(tmp_path: Path) -> None:
    files = [
        FileToFetch(name, f"http://no-such-host.invalid/{name}", tmp_path / name, ContentCheck())
        for name in "abc"
    ]
    remarks = {step.remark for step in plan_files(files, FetchRequest(tmp_path))}
    assert len(remarks) == 1
    assert remarks != {""}


def peak(uses: Sequence[tuple[int, int]], **options: bool) -> int:
    """Return the most disk in use for the bytes that conversions take for good, and while they run."""
    return peak_disk(
        [
            [
                PlannedStep("pickle", "download", Path("a.pkl"), size=passing, download_bytes=passing),
                PlannedStep("neural file", "convert", Path("a.h5"), size=lasting),
            ]
            for lasting, passing in uses
        ],
        **options,
    )


def test_what_passes_is_counted_only_while_it_is_there() -> None:
    # 10 + 1 while the first runs; then 1 stays, and 1 + 3 + 2 while the second does.
    assert peak([(1, 10), (2, 3)]) == 11
    assert peak([(2, 3), (1, 10)]) == 13
    assert peak([(1, 10), (2, 3)], keep_raw=True) == 16
    assert peak([]) == 0


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000))))
def test_the_peak_lies_between_what_stays_and_everything_together(uses: list[tuple[int, int]]) -> None:
    most = peak(uses)
    stays = sum(lasting for lasting, _ in uses)
    largest = max((passing for _, passing in uses), default=0)
    assert max(stays, largest) <= most <= stays + largest


@pytest.mark.parametrize(
    "error, statuses",
    [
        (FetchError("no such file"), ["fetched", "failed", "fetched"]),
        (FetchHaltedError("no network"), ["fetched", "failed", "failed"]),
    ],
)
def test_only_what_befalls_all_stops_all(error: FetchError, statuses: list[str]) -> None:
    ran: list[str] = []

    def obtain(name: str) -> list[FileOutcome]:
        ran.append(name)
        if name == "second":
            raise error
        return [FileOutcome(name, "fetched", Path(name))]

    outcomes = fetch_each({name: Path(name) for name in ("first", "second", "third")}, obtain)
    assert [outcome.status for outcome in outcomes] == statuses
    assert ran == ["first", "second", "third"][: 2 + (statuses[2] == "fetched")]
    assert outcomes[1].error == str(error)
    assert (outcomes[2].error is None) == (statuses[2] == "fetched")
