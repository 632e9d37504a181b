"""Fetching under a lock, recording, and accepting what is there."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import mvkit
from mvkit.errors import FetchError
from mvkit.fetch import (
    ContentCheck,
    DownloadSettings,
    Feedback,
    FileToFetch,
    Manifest,
    fetch_file,
    plan,
    state_of,
)
from mvkit.fetch.partial import PartialFile, RemoteVersion


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


def sha256(body: bytes) -> str:
    """Digest in hexadecimal."""
    return hashlib.sha256(body).hexdigest()


def test_what_is_fetched_is_recorded(
    file: FileToFetch, manifest: Manifest, body: bytes, settings: DownloadSettings
) -> None:
    fetched = fetch_file(file, manifest, settings=settings)
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
    file: FileToFetch, manifest: Manifest, server: Any, body: bytes, settings: DownloadSettings
) -> None:
    fetch_file(file, manifest, settings=settings)
    before = file.target.stat().st_mtime_ns
    assert fetch_file(file, manifest, settings=settings).status == "already there"
    assert len(server.gets()) == 1
    assert file.target.stat().st_mtime_ns == before
    new = body[:4] + b"newer"
    server.put("x.pt", new)
    forced = fetch_file(file, manifest, force=True, settings=settings)
    assert (forced.status, file.target.read_bytes(), forced.record.sha256) == ("fetched", new, sha256(new))


def test_a_failed_forced_fetch_leaves_the_old_file(
    file: FileToFetch,
    manifest: Manifest,
    faulty: ModuleType,
    server: Any,
    body: bytes,
    settings: DownloadSettings,
) -> None:
    fetch_file(file, manifest, settings=settings)
    server.put("x.pt", body[:4] + b"newer")
    server.always = faulty.Fault(status=404)
    with pytest.raises(FetchError):
        fetch_file(file, manifest, force=True, settings=settings)
    assert file.target.read_bytes() == body
    assert [verdict.finding for verdict in manifest.verify(["checkpoints/x.pt"])] == ["ok"]


def test_a_file_whose_size_changed_is_fetched_again(
    file: FileToFetch,
    manifest: Manifest,
    body: bytes,
    settings: DownloadSettings,
    feedback: Feedback,
    remarks: list[str],
) -> None:
    fetch_file(file, manifest, settings=settings)
    file.target.write_bytes(body[:-1])
    assert state_of(file.target, manifest) == "damaged"
    assert fetch_file(file, manifest, settings=settings, feedback=feedback).status == "fetched"
    assert file.target.read_bytes() == body
    assert "not the size that was recorded" in remarks[0]


def test_a_file_put_there_by_hand_is_recorded(
    file: FileToFetch, manifest: Manifest, server: Any, settings: DownloadSettings
) -> None:
    file.target.parent.mkdir()
    file.target.write_bytes(b"PK by hand")
    fetched = fetch_file(file, manifest, settings=settings)
    assert fetched.status == "already there"
    assert (fetched.record.url, fetched.record.sha256) == (None, sha256(b"PK by hand"))
    assert server.seen == []


def test_something_else_put_there_by_hand_is_refused(
    file: FileToFetch, manifest: Manifest, settings: DownloadSettings
) -> None:
    file.target.parent.mkdir()
    file.target.write_bytes(b"<html>")
    with pytest.raises(FetchError, match="--force"):
        fetch_file(file, manifest, settings=settings)
    assert manifest.records() == {}


def test_a_fetch_killed_before_it_was_recorded_keeps_its_origin(
    file: FileToFetch, manifest: Manifest, body: bytes, settings: DownloadSettings
) -> None:
    file.target.parent.mkdir()
    partial = PartialFile(file.target)
    partial.begin(RemoteVersion(file.url, '"e"', len(body)))
    partial.path.write_bytes(body)
    partial.move_to(file.target)
    record = fetch_file(file, manifest, keep=False, settings=settings).record
    assert (record.url, record.etag, record.sha256, record.keep) == (file.url, '"e"', sha256(body), False)
    assert not partial.note_path.exists()


def test_the_second_of_two_waits_and_then_finds_the_file(
    file: FileToFetch,
    manifest: Manifest,
    faulty: ModuleType,
    server: Any,
    body: bytes,
    settings: DownloadSettings,
) -> None:
    server.faults = [faulty.Fault(hold_at=30_000)]
    remarks: list[str] = []
    statuses: list[str] = []

    def remark(text: str) -> None:
        remarks.append(text)
        server.released.set()

    def fetch() -> None:
        feedback = Feedback(remark=remark)
        statuses.append(fetch_file(file, manifest, settings=settings, feedback=feedback).status)

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
    file: FileToFetch, manifest: Manifest, server: Any, body: bytes, settings: DownloadSettings
) -> None:
    def row(**options: Any) -> tuple[Any, ...]:
        (planned,) = plan([file], manifest, settings=settings, **options)
        return planned.state, planned.to_fetch, planned.size, planned.is_exact, planned.missing_bytes

    assert row() == ("missing", True, len(body), True, len(body))
    assert row(offline=True) == ("missing", True, None, False, None)
    assert [request.method for request in server.seen] == ["HEAD"]
    assert not file.target.parent.exists()
    file.target.parent.mkdir()
    partial = PartialFile(file.target)
    partial.begin(RemoteVersion(file.url, f'"{hashlib.md5(body).hexdigest()}"', len(body)))
    partial.path.write_bytes(body[:10_000])
    assert row()[-1] == len(body) - 10_000
    server.put("x.pt", body + b"!")
    assert row()[-1] == len(body) + 1, "a changed file is fetched from the beginning"
    fetch_file(file, manifest, settings=settings)
    assert row() == ("there", False, len(body) + 1, True, 0)
    assert row(force=True)[1:] == (True, len(body) + 1, True, len(body) + 1)


def test_a_plan_says_why_a_size_is_not_known(
    file: FileToFetch, manifest: Manifest, server: Any, settings: DownloadSettings
) -> None:
    server.head_status = 503
    other = FileToFetch("y", f"{server.url}/y.pt", file.target.with_name("y.pt"), file.content, 77)
    first, second = plan([file, other], manifest, settings=settings)
    assert (first.size, first.remark) == (None, "the server answered 503")
    assert (second.size, second.is_exact, second.remark) == (
        77,
        False,
        "HTTP 404: the server has no such file",
    )


def test_a_host_that_cannot_be_reached_is_asked_once(manifest: Manifest, tmp_path: Path) -> None:
    files = [
        FileToFetch(name, f"http://no-such-host.invalid/{name}", tmp_path / name, ContentCheck())
        for name in "abc"
    ]
    remarks = {planned.remark for planned in plan(files, manifest)}
    assert len(remarks) == 1
    assert remarks != {""}
