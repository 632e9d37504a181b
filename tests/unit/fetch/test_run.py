"""Plans; fetching under a lock, recording, accepting what is there; disk over time; what stops the rest."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mvkit
from mvkit.errors import FetchError, FetchHaltedError, UsageError
from mvkit.fetch.download import DownloadSettings, Feedback, PartialFile, RemoteVersion
from mvkit.fetch.manifest import ContentCheck, FileToFetch, Manifest, Record
from mvkit.fetch.run import (
    FetchRequest,
    FileOutcome,
    PlannedStep,
    fetch_checkpoints,
    fetch_each,
    fetch_file,
    peak_disk,
    plan_files,
    verify_files,
)
from mvkit.models.registry import RELEASED
from mvkit.paths import checkpoint_path


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
    assert [outcome.status for outcome in verify_files("checkpoints", (), request_).files] == ["ok"]


def test_a_file_whose_size_changed_is_fetched_again(
    file: FileToFetch,
    manifest: Manifest,
    body: bytes,
    request_: FetchRequest,
    feedback: Feedback,
    messages: list[str],
) -> None:
    fetch_file(file, request_)
    file.target.write_bytes(body[:-1])
    assert manifest.state(file.target) == "damaged"
    assert fetch_file(file, replace(request_, feedback=feedback)).status == "fetched"
    assert file.target.read_bytes() == body
    assert "not the size that was recorded" in messages[0]


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
    messages: list[str] = []
    statuses: list[str] = []

    def log(text: str) -> None:
        messages.append(text)
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
    assert messages == ["another mvkit process is working on x.pt: waiting for it to finish"]
    assert file.target.read_bytes() == body


def test_every_kind_of_damage_is_reported(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path)

    def put(name: str, body: bytes) -> Path:
        path = checkpoint_path(name, tmp_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        manifest.record(path, Record(size=len(body), sha256=sha256(body)))
        return path

    good, flipped, short, gone, never = list(RELEASED)
    put(good, b"12345")
    put(flipped, b"12345").write_bytes(b"12346")
    put(short, b"12345").write_bytes(b"1234")
    put(gone, b"12345").unlink()
    counts: list[tuple[int, int]] = []

    def progress(label: str) -> Any:
        return nullcontext(lambda done, total: counts.append((done, total)))

    request = FetchRequest(tmp_path, feedback=Feedback(progress=progress))
    report = verify_files("checkpoints", list(RELEASED), request)
    statuses = ["ok", "wrong checksum", "wrong size", "missing", "not fetched"]
    assert [outcome.status for outcome in report.files] == statuses
    assert [outcome.error is None for outcome in report.files] == [True] + [False] * 4
    assert counts == [(5, 5), (5, 5)]
    checkpoint_path(never, tmp_path).write_bytes(b"1")
    assert [outcome.status for outcome in verify_files("checkpoints", [never], request).files] == [
        "not recorded"
    ]
    assert [outcome.name for outcome in verify_files("checkpoints", (), request).files] == [
        f"checkpoints/{name}.pt" for name in sorted((good, flipped, short, gone))
    ]
    assert verify_files("neural", (), request).files == ()


def test_a_failed_download_names_url_path_and_the_other_way(
    file: FileToFetch, faulty: ModuleType, server: Any, request_: FetchRequest
) -> None:
    file = replace(file, alternative="mvkit fetch checkpoints x --from FILE")
    other = (
        f"copy a file downloaded elsewhere to {file.target}, or run `mvkit fetch checkpoints x --from FILE`"
    )
    server.always = faulty.Fault(status=404)
    with pytest.raises(FetchError) as refused:
        fetch_file(file, request_)
    assert str(refused.value) == f"{file.url}: HTTP 404: the server has no such file\n{other}"
    server.always = faulty.Fault(status=503)
    with pytest.raises(FetchError) as failed:
        fetch_file(file, request_)
    assert str(failed.value) == (
        f"{file.url}: the server answered 503 (4 attempts in a row)\n"
        f"run the same command again later: it starts from the beginning; or {other}"
    )


def checkpoint_body() -> bytes:
    """A zip archive, as torch writes them."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", bytes(range(256)) * 40)
    return buffer.getvalue()


def test_a_checkpoint_downloaded_elsewhere_is_copied_checked_and_recorded(tmp_path: Path) -> None:
    body, name = checkpoint_body(), "dual_stream_ir"
    source, request = tmp_path / "elsewhere" / "renamed.pt", FetchRequest(tmp_path / "home", offline=True)
    source.parent.mkdir()
    source.write_bytes(body)
    (copied,) = fetch_checkpoints([name], request, source=source).files
    target = checkpoint_path(name, tmp_path / "home")
    assert (copied.status, copied.sha256, copied.path) == ("copied", sha256(body), target)
    assert target.read_bytes() == source.read_bytes() == body
    assert copied.made_from == {"file": "renamed.pt", "url": None, "etag": None}
    assert [one.status for one in verify_files("checkpoints", (), request).files] == ["ok"]
    assert fetch_checkpoints([name], request, source=source).files[0].status == "already there"
    source.rename(source.with_name("shi_mousenet_ir.pt"))
    (from_folder,) = fetch_checkpoints((), request, source=source.parent).files
    assert (from_folder.name, from_folder.status) == ("shi_mousenet_ir", "copied")


@pytest.mark.parametrize("damage", ["cut", "flipped", "page"])
def test_a_damaged_copy_is_refused(tmp_path: Path, damage: str) -> None:
    body = bytearray(checkpoint_body())
    body[100] ^= 1
    wrong = {"cut": checkpoint_body()[:-200], "flipped": bytes(body), "page": b"<html>"}[damage]
    source = tmp_path / "alexnet_bn_ir.pt"
    source.write_bytes(wrong)
    (failed,) = fetch_checkpoints((), FetchRequest(tmp_path / "home"), source=source).failures
    assert str(source) in str(failed.error)
    assert not list((tmp_path / "home" / "checkpoints").glob("*.pt"))


@pytest.mark.parametrize(
    "names, source, words",
    [
        ((), "mine.pt", "is one checkpoint: name one of alexnet_bn_ir"),
        (("alexnet_bn_ir", "dual_stream_ir"), "mine.pt", "is one checkpoint"),
        (("alexnet_bn_ir",), "nowhere.pt", "no such file or folder"),
        (("alexnet_bn_ir",), ".", r"no alexnet_bn_ir\.pt in this folder"),
        ((), ".", r"no alexnet_bn_ir\.pt, .* in this folder"),
    ],
)
def test_sources_that_do_not_fit_are_refused(
    tmp_path: Path, names: tuple[str, ...], source: str, words: str
) -> None:
    (tmp_path / "mine.pt").write_bytes(checkpoint_body())
    with pytest.raises(UsageError, match=words):
        fetch_checkpoints(names, FetchRequest(tmp_path / "home"), source=tmp_path / source)


def test_a_plan_reports_sizes_and_states_and_changes_nothing(
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
    assert (first.size, first.note) == (None, "the server answered 503")
    assert (second.size, second.is_exact, second.note) == (
        77,
        False,
        "HTTP 404: the server has no such file",
    )


def test_a_host_that_cannot_be_reached_is_asked_once(tmp_path: Path) -> None:
    files = [
        FileToFetch(name, f"http://no-such-host.invalid/{name}", tmp_path / name, ContentCheck())
        for name in "abc"
    ]
    messages = {step.note for step in plan_files(files, FetchRequest(tmp_path))}
    assert len(messages) == 1
    assert messages != {""}


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
