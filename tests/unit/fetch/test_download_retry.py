"""Waits between attempts, and when it is enough."""

from __future__ import annotations

from email.utils import formatdate
from pathlib import Path
from time import time
from types import ModuleType
from typing import Any

import pytest

from mvkit.errors import FetchError
from mvkit.fetch import download as module
from mvkit.fetch.download import (
    DownloadSettings,
    Feedback,
    TransientError,
    download,
    retry_after_s,
    wait_s,
)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_server_that_is_not_well_is_asked_again(
    faulty: ModuleType,
    server: Any,
    body: bytes,
    settings: DownloadSettings,
    feedback: Feedback,
    waits: list[float],
    messages: list[str],
    tmp_path: Path,
    status: int,
) -> None:
    server.faults = [faulty.Fault(status=status)] * 2
    download(server.put("x.pt", body), tmp_path / "x.pt", settings=settings, feedback=feedback)
    assert (tmp_path / "x.pt").read_bytes() == body
    assert waits == [1.0, 2.0]
    assert messages[0] == f"x.pt: the server answered {status}: trying again in 1 s (1 of 4 attempts)"


def test_giving_up_names_address_reason_and_remedy(
    faulty: ModuleType,
    server: Any,
    body: bytes,
    settings: DownloadSettings,
    waits: list[float],
    tmp_path: Path,
) -> None:
    url = server.put("x.pt", body)
    server.faults = [faulty.Fault(cut_after=15_000), *[faulty.Fault(status=503)] * 3]
    with pytest.raises(FetchError) as raised:
        download(url, tmp_path / "x.pt", settings=settings)
    assert str(raised.value) == (
        f"{url}: the server answered 503 (4 attempts in a row)\n"
        "run the same command again later: it goes on after the 15.0 kB received"
    )
    assert waits == [1.0, 2.0, 4.0]


def test_a_long_file_is_not_given_up_while_it_grows(
    faulty: ModuleType,
    server: Any,
    body: bytes,
    settings: DownloadSettings,
    waits: list[float],
    tmp_path: Path,
) -> None:
    # Four attempts are allowed; five cuts follow each other, each after as much as counts as fresh.
    server.faults = [faulty.Fault(cut_after=20_000)] * 5
    with pytest.raises(FetchError):
        download(server.put("y.pt", body, etag=None), tmp_path / "y.pt", settings=settings)
    server.faults = [faulty.Fault(cut_after=20_000)] * 5
    waits.clear()
    download(server.put("x.pt", body), tmp_path / "x.pt", settings=settings)
    assert (tmp_path / "x.pt").read_bytes() == body
    assert waits == [1.0] * 5


def test_a_server_that_always_starts_again_is_not_asked_for_ever(
    faulty: ModuleType, server: Any, body: bytes, settings: DownloadSettings, tmp_path: Path
) -> None:
    server.always = faulty.Fault(ignore_range=True, cut_after=90_000)
    with pytest.raises(FetchError, match=r"closed after 90\.0 kB of 100\.0 kB"):
        download(server.put("x.pt", body), tmp_path / "x.pt", settings=settings)
    # The first attempt was fresh, and counts as the first of four in a row from there.
    assert len(server.gets()) == 4


def test_waits_double_up_to_the_longest_and_are_drawn_from_the_upper_half() -> None:
    failure = TransientError("x")
    low = DownloadSettings(first_wait_s=1, longest_wait_s=10, jitter=lambda: 0.0)
    high = DownloadSettings(first_wait_s=1, longest_wait_s=10, jitter=lambda: 1.0)
    assert [wait_s(n, failure, high) for n in range(1, 7)] == [1, 2, 4, 8, 10, 10]
    assert [wait_s(n, failure, low) for n in range(1, 7)] == [0.5, 1, 2, 4, 5, 5]
    assert wait_s(5, TransientError("x", at_once=True), high) == 0


def test_retry_after_is_honoured_up_to_a_limit(
    faulty: ModuleType,
    server: Any,
    body: bytes,
    settings: DownloadSettings,
    waits: list[float],
    tmp_path: Path,
) -> None:
    server.faults = [
        faulty.Fault(status=503, headers={"Retry-After": "7"}),
        faulty.Fault(status=429, headers={"Retry-After": "99999"}),
        faulty.Fault(status=503, headers={"Retry-After": "soon"}),
    ]
    download(server.put("x.pt", body), tmp_path / "x.pt", settings=settings)
    assert waits == [7.0, settings.longest_retry_after_s, 4.0]


def test_retry_after_as_a_date_is_ignored() -> None:
    assert retry_after_s({"Retry-After": formatdate(time() + 50, usegmt=True)}) is None
    assert retry_after_s({"Retry-After": "50"}) == 50
    assert retry_after_s({}) is None


def test_errors_that_are_no_failures_of_the_line_pass_at_once(
    server: Any, body: bytes, settings: DownloadSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def receive(*arguments: Any) -> None:
        calls.append(1)
        raise ValueError("a mistake in the code")

    monkeypatch.setattr(module, "_receive", receive)
    with pytest.raises(ValueError, match="mistake"):
        download(server.put("x.pt", body), tmp_path / "x.pt", settings=settings)
    assert calls == [1]
