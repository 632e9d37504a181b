"""Downloads against a server that misbehaves: what ends under the final name is the file, or nothing is."""

from __future__ import annotations

import hashlib
import random
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mvkit.errors import FetchError, FetchHaltedError
from mvkit.fetch.download import DownloadSettings, Feedback, PartialFile, RemoteVersion, download


def ranges(server: Any) -> list[str | None]:
    """Range headers of the GET requests, in order."""
    return [request.headers.get("Range") for request in server.gets()]


def leave_partial(target: Path, received: bytes, *, url: str, etag: str | None, size: int | None) -> None:
    """Lay down what a killed download leaves."""
    partial = PartialFile(target)
    partial.begin(RemoteVersion(url, etag, size))
    partial.path.write_bytes(received)


def etag_of(body: bytes) -> str:
    """ETag that the server gives by default."""
    return f'"{hashlib.md5(body).hexdigest()}"'


def nothing_final(target: Path) -> bool:
    """Whether nothing carries the final name and no temporary file is about."""
    return not target.exists() and not list(target.parent.glob("*.tmp-*"))


def test_a_good_server(server: Any, body: bytes, settings: DownloadSettings, tmp_path: Path) -> None:
    url, target = server.put("x.pt", body), tmp_path / "deep" / "x.pt"
    done = download(url, target, settings=settings)
    assert target.read_bytes() == body
    assert done.sha256 == hashlib.sha256(body).hexdigest()
    assert done.version == RemoteVersion(url, etag_of(body), len(body), hashlib.md5(body).hexdigest())
    assert done.resumed_from == 0
    assert len(server.seen) == 1
    assert server.seen[0].headers["Accept-Encoding"] == "identity"
    assert not PartialFile(target).path.exists()


@pytest.mark.parametrize("seed", range(6))
def test_cuts_at_random_points_are_resumed_where_they_happened(
    faulty: ModuleType, server: Any, body: bytes, settings: DownloadSettings, tmp_path: Path, seed: int
) -> None:
    draw = random.Random(seed)
    cuts = [draw.randrange(0, 60_000) for _ in range(3)]
    server.faults = [faulty.Fault(cut_after=cut) for cut in cuts]
    target = tmp_path / "x.pt"
    download(server.put("x.pt", body), target, settings=settings)
    assert target.read_bytes() == body
    expected: list[str | None] = []
    offset = 0
    for cut in [*cuts, len(body)]:
        expected.append(f"bytes={offset}-" if offset else None)
        offset = min(len(body), offset + cut)
        if offset == len(body):
            break
    assert ranges(server) == expected
    assert {r.headers.get("If-Range") for r in server.gets() if "Range" in r.headers} <= {etag_of(body)}


def test_resets_in_mid_air_lose_at_most_a_block(
    faulty: ModuleType, server: Any, body: bytes, settings: DownloadSettings, tmp_path: Path
) -> None:
    server.faults = [faulty.Fault(cut_after=50_000, reset=True), faulty.Fault(cut_after=0, reset=True)]
    target = tmp_path / "x.pt"
    download(server.put("x.pt", body), target, settings=settings)
    assert target.read_bytes() == body
    assert len(server.gets()) == 3


def test_a_later_run_goes_on_where_a_killed_one_stopped(
    server: Any, body: bytes, settings: DownloadSettings, tmp_path: Path
) -> None:
    url, target = server.put("x.pt", body), tmp_path / "x.pt"
    leave_partial(target, body[:70_001], url=url, etag=etag_of(body), size=len(body))
    done = download(url, target, settings=settings)
    assert target.read_bytes() == body
    assert done.resumed_from == 70_001
    assert ranges(server) == ["bytes=70001-"]


def test_a_whole_partial_file_needs_no_request(
    server: Any, body: bytes, settings: DownloadSettings, tmp_path: Path
) -> None:
    url, target = server.put("x.pt", body), tmp_path / "x.pt"
    leave_partial(target, body, url=url, etag=etag_of(body), size=len(body))
    download(url, target, settings=settings)
    assert target.read_bytes() == body
    assert server.seen == []


@pytest.mark.parametrize(
    "how", ["ignores ranges", "412", "416", "part of another length", "part of another etag"]
)
def test_a_file_that_changed_or_cannot_be_resumed_starts_again(
    faulty: ModuleType, server: Any, body: bytes, settings: DownloadSettings, tmp_path: Path, how: str
) -> None:
    old, target = b"PK\x03\x04" + b"old" * 20_000, tmp_path / "x.pt"
    url = server.put("x.pt", body)
    server.faults = {
        "ignores ranges": [faulty.Fault(ignore_range=True)],
        "412": [faulty.Fault(status=412)],
        "416": [faulty.Fault(status=416)],
        "part of another length": [faulty.Fault(ignore_if_range=True, headers={"ETag": None})],
        "part of another etag": [faulty.Fault(ignore_if_range=True)],
    }[how]
    size = len(body) if how == "part of another etag" else len(old) + 5
    leave_partial(target, old, url=url, etag='"old"', size=size)
    done = download(url, target, settings=settings)
    assert target.read_bytes() == body
    assert done.resumed_from == 0
    assert ranges(server)[0] == f"bytes={len(old)}-"
    assert ranges(server)[1:] in ([], [None])


def test_if_range_makes_a_good_server_send_the_changed_file_whole(
    server: Any,
    body: bytes,
    settings: DownloadSettings,
    feedback: Feedback,
    messages: list[str],
    tmp_path: Path,
) -> None:
    url, target = server.put("x.pt", body), tmp_path / "x.pt"
    leave_partial(target, body[:-7][::-1], url=url, etag='"older"', size=len(body))
    download(url, target, settings=settings, feedback=feedback)
    assert target.read_bytes() == body
    assert "starting again" in messages[0]


def test_a_change_between_two_cuts_does_not_mix_versions(
    faulty: ModuleType, server: Any, body: bytes, settings: DownloadSettings, tmp_path: Path
) -> None:
    url, target = server.put("x.pt", body), tmp_path / "x.pt"
    new = body[:4] + bytes(reversed(body[4:]))

    def change(seconds: float) -> None:
        server.put("x.pt", new)

    server.faults = [faulty.Fault(cut_after=33_333)]
    download(url, target, settings=DownloadSettings(block_bytes=1024, attempts=4, sleep=change))
    assert target.read_bytes() == new


@pytest.mark.parametrize("etag", ['W/"weak"', None])
def test_without_a_strong_etag_nothing_is_resumed(
    faulty: ModuleType, server: Any, body: bytes, settings: DownloadSettings, tmp_path: Path, etag: str | None
) -> None:
    server.faults = [faulty.Fault(cut_after=40_000)]
    target = tmp_path / "x.pt"
    download(server.put("x.pt", body, etag=etag), target, settings=settings)
    assert target.read_bytes() == body
    assert ranges(server) == [None, None]
    assert all("If-Range" not in request.headers for request in server.seen)


def test_bytes_from_another_address_are_not_continued(
    server: Any, body: bytes, settings: DownloadSettings, tmp_path: Path
) -> None:
    url, target = server.put("x.pt", body), tmp_path / "x.pt"
    leave_partial(target, b"z" * 50, url="http://mirror.invalid/x.pt", etag=etag_of(body), size=len(body))
    download(url, target, settings=settings)
    assert target.read_bytes() == body
    assert ranges(server) == [None]


def test_a_damaged_note_is_no_note(
    server: Any, body: bytes, settings: DownloadSettings, tmp_path: Path
) -> None:
    url, target = server.put("x.pt", body), tmp_path / "x.pt"
    leave_partial(target, b"z" * 50, url=url, etag=etag_of(body), size=len(body))
    PartialFile(target).note_path.write_text('{"url": "http')
    download(url, target, settings=settings)
    assert target.read_bytes() == body


def test_chunked_bodies_are_checked_by_their_end_mark(
    faulty: ModuleType, server: Any, body: bytes, settings: DownloadSettings, tmp_path: Path
) -> None:
    server.faults = [
        faulty.Fault(chunked=True, cut_after=50_000),
        faulty.Fault(chunked=True, ignore_range=True),
    ]
    target = tmp_path / "x.pt"
    done = download(server.put("x.pt", body), target, settings=settings)
    assert target.read_bytes() == body
    assert done.version.size == len(body)
    assert len(server.gets()) == 2


def test_a_wrong_md5_is_received_again_once_and_then_refused(
    faulty: ModuleType, server: Any, body: bytes, settings: DownloadSettings, tmp_path: Path
) -> None:
    url, target = server.put("x.pt", body), tmp_path / "x.pt"
    flipped = body[:500] + bytes([body[500] ^ 1]) + body[501:]
    server.faults = [faulty.Fault(body=flipped)]
    download(url, target, settings=settings)
    assert target.read_bytes() == body
    target.unlink()
    server.always = faulty.Fault(body=flipped)
    with pytest.raises(FetchError, match=hashlib.md5(body).hexdigest()):
        download(url, target, settings=settings)
    assert nothing_final(target)
    assert len(server.gets()) == 4


@pytest.mark.parametrize(
    "etag, extra",
    [
        ('"0123456789abcdef0123456789abcdef-12"', {}),
        ('"0123456789abcdef0123456789abcdef"', {"x-amz-server-side-encryption": "aws:kms"}),
        ('"not a digest"', {}),
    ],
)
def test_an_etag_that_is_no_md5_is_not_taken_for_one(
    faulty: ModuleType,
    server: Any,
    body: bytes,
    settings: DownloadSettings,
    tmp_path: Path,
    etag: str,
    extra: Any,
) -> None:
    server.always = faulty.Fault(headers=extra)
    target = tmp_path / "x.pt"
    assert download(server.put("x.pt", body, etag=etag), target, settings=settings).version.md5 is None
    assert target.read_bytes() == body


def test_an_unreachable_server_halts_the_rest(settings: DownloadSettings, tmp_path: Path) -> None:
    import socket

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        with pytest.raises(FetchHaltedError, match=r"no connection to the server.*4 attempts"):
            download(f"http://127.0.0.1:{port}/x.pt", tmp_path / "x.pt", settings=settings)
    assert nothing_final(tmp_path / "x.pt")


def test_progress_counts_bytes_from_where_it_goes_on(
    server: Any, body: bytes, settings: DownloadSettings, tmp_path: Path
) -> None:
    url, target = server.put("x.pt", body), tmp_path / "x.pt"
    leave_partial(target, body[:90_000], url=url, etag=etag_of(body), size=len(body))
    shown: dict[str, list[tuple[int, int]]] = {}

    def progress(label: str) -> Any:
        shown[label] = []
        return nullcontext(lambda done, total: shown[label].append((done, total)))

    download(url, target, settings=settings, feedback=Feedback(progress=progress))
    steps = shown["x.pt"]
    assert steps[0] == (90_000, len(body))
    assert [done for done, _ in steps[1:]] == [*range(91_024, len(body), settings.block_bytes), len(body)]
    assert {total for _, total in steps} == {len(body)}
    assert shown["checking x.pt"][-1] == (len(body), len(body))


def test_an_etag_without_quotes_serves_as_well(
    faulty: ModuleType, server: Any, body: bytes, settings: DownloadSettings, tmp_path: Path
) -> None:
    server.faults = [faulty.Fault(cut_after=40_000)]
    url = server.put("x.pt", body, etag=hashlib.md5(body).hexdigest())
    assert download(url, tmp_path / "x.pt", settings=settings).version.md5 == hashlib.md5(body).hexdigest()
    assert ranges(server) == [None, "bytes=40000-"]
