"""Answers that are not the file: each a clear error, nothing under the final name, earlier bytes not lost."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

import pytest
import requests

from mvkit import machine
from mvkit.errors import FetchError, FetchHaltedError, without_credentials
from mvkit.fetch.download import DownloadSettings, PartialFile, check_redirect, download
from mvkit.fetch.manifest import ContentCheck

ZIP = ContentCheck("a zip archive", (b"PK\x03\x04",))


@pytest.mark.parametrize(
    "status, words", [(404, "no such file"), (403, "refuses access"), (410, "removed"), (418, "HTTP 418")]
)
def test_refusals_are_not_retried(
    faulty: ModuleType,
    server: Any,
    body: bytes,
    settings: DownloadSettings,
    tmp_path: Path,
    status: int,
    words: str,
) -> None:
    server.always = faulty.Fault(status=status)
    url = server.put("x.pt", body)
    with pytest.raises(FetchError, match=words) as raised:
        download(url, tmp_path / "x.pt", settings=settings)
    assert str(raised.value).startswith(f"{url}: HTTP {status}")
    assert len(server.gets()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "page, kind",
    [
        (b"<!DOCTYPE html><html>log in</html>", "text/html; charset=utf-8"),
        (b'\n<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', "application/xml"),
        (b"\xef\xbb\xbf<html>", "binary/octet-stream"),
        (b"<Error><Code>AccessDenied</Code></Error>", "binary/octet-stream"),
        (b'{"error": "quota"}', "application/json"),
        (b"quota exceeded", "text/plain"),
        (b"", "binary/octet-stream"),
    ],
)
def test_a_page_with_status_200_is_refused(
    faulty: ModuleType,
    server: Any,
    body: bytes,
    settings: DownloadSettings,
    tmp_path: Path,
    page: bytes,
    kind: str,
) -> None:
    server.always = faulty.Fault(body=page, headers={"Content-Type": kind})
    with pytest.raises(FetchError, match=r"page|not a zip archive"):
        download(server.put("x.pt", body), tmp_path / "x.pt", content=ZIP, settings=settings)
    assert list(tmp_path.iterdir()) == []
    assert len(server.gets()) == 1


def test_a_page_does_not_cost_the_bytes_of_an_earlier_run(
    faulty: ModuleType, server: Any, body: bytes, settings: DownloadSettings, tmp_path: Path
) -> None:
    url, target = server.put("x.pt", body), tmp_path / "x.pt"
    server.faults = [faulty.Fault(cut_after=60_000), *[faulty.Fault(status=503)] * 3]
    with pytest.raises(FetchError, match="503"):
        download(url, target, content=ZIP, settings=settings)
    kept = PartialFile(target).n_bytes()
    assert kept == 60_000
    server.faults = [
        faulty.Fault(body=b"<html>portal</html>", ignore_range=True, headers={"Content-Type": "text/html"})
    ]
    with pytest.raises(FetchError, match="page"):
        download(url, target, content=ZIP, settings=settings)
    assert PartialFile(target).n_bytes() == kept
    assert download(url, target, content=ZIP, settings=settings).resumed_from == kept
    assert target.read_bytes() == body


def test_a_compressed_transfer_is_refused(
    faulty: ModuleType, server: Any, body: bytes, settings: DownloadSettings, tmp_path: Path
) -> None:
    server.always = faulty.Fault(headers={"Content-Encoding": "gzip"})
    with pytest.raises(FetchError, match="compressed \\(gzip\\)"):
        download(server.put("x.pt", body), tmp_path / "x.pt", settings=settings)
    assert list(tmp_path.iterdir()) == []


def test_a_body_without_length_is_refused(
    faulty: ModuleType, server: Any, body: bytes, settings: DownloadSettings, tmp_path: Path
) -> None:
    server.always = faulty.Fault(headers={"Content-Length": None}, cut_after=len(body))
    with pytest.raises(FetchError, match="does not say how long"):
        download(server.put("x.pt", body), tmp_path / "x.pt", settings=settings)
    assert list(tmp_path.iterdir()) == []


def test_redirects_in_a_circle_and_to_files_are_refused(
    faulty: ModuleType, server: Any, body: bytes, settings: DownloadSettings, tmp_path: Path
) -> None:
    url = server.put("x.pt", body)
    for place, words in [(url, "in a circle"), (Path(__file__).as_uri(), "cannot be fetched")]:
        server.always = faulty.Fault(status=302, headers={"Location": place})
        with pytest.raises(FetchError, match=words):
            download(url, tmp_path / "x.pt", settings=settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://host/x", "x.pt", "http:///x", "http://[x"])
def test_only_http_addresses_are_fetched(url: str, settings: DownloadSettings, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="only http"):
        download(url, tmp_path / "x.pt", settings=settings)


def test_encryption_is_not_given_up_on_the_way() -> None:
    check_redirect("https://a/x", "https://b/x")
    check_redirect("http://a/x", "http://b/x")
    with pytest.raises(FetchError, match="unencrypted"):
        check_redirect("https://a/x", "http://b/x")


def test_credentials_of_an_address_are_neither_shown_nor_written(
    faulty: ModuleType, server: Any, body: bytes, settings: DownloadSettings, tmp_path: Path
) -> None:
    url = server.put("x.pt", body).replace("http://", "http://me:secret@")
    server.faults = [faulty.Fault(cut_after=9_000), *[faulty.Fault(status=500)] * 3]
    with pytest.raises(FetchError) as raised:
        download(url, tmp_path / "x.pt", settings=settings)
    assert "secret" not in str(raised.value)
    assert "secret" not in PartialFile(tmp_path / "x.pt").note_path.read_text()
    assert "secret" not in str(download(url, tmp_path / "x.pt", settings=settings).version)
    assert without_credentials("https://u:p@h:8080/a?b=c@d") == "https://h:8080/a?b=c@d"
    assert without_credentials("https://u:p@h?b=c@d") == "https://h?b=c@d"


def test_too_little_disk_is_refused_before_anything_is_written(
    server: Any, body: bytes, settings: DownloadSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "free_disk", lambda path: len(body) - 1)
    with pytest.raises(FetchHaltedError, match=r"100\.0 kB of disk are needed"):
        download(server.put("x.pt", body), tmp_path / "x.pt", settings=settings)
    assert PartialFile(tmp_path / "x.pt").n_bytes() == 0


def test_a_disk_that_fills_up_keeps_what_can_be_resumed(
    server: Any, body: bytes, settings: DownloadSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, target = server.put("x.pt", body), tmp_path / "x.pt"
    whole = PartialFile.append

    def full_after_30_blocks(self: PartialFile, blocks: Any) -> Any:
        for index, length in enumerate(whole(self, blocks)):
            if index == 30:
                raise OSError(errno.ENOSPC, "No space left on device")
            yield length

    with monkeypatch.context() as patch:
        patch.setattr(PartialFile, "append", full_after_30_blocks)
        with pytest.raises(FetchHaltedError, match="disk is full") as raised:
            download(url, target, settings=settings)
    assert "run the same command again" in str(raised.value)
    assert not target.exists()
    kept = PartialFile(target).n_bytes()
    assert 0 < kept < len(body)
    done = download(url, target, settings=settings)
    assert done.resumed_from == kept
    assert hashlib.sha256(target.read_bytes()).hexdigest() == hashlib.sha256(body).hexdigest()


class _Proxy(BaseHTTPRequestHandler):
    """Answers every request with the status that its path or host begins with."""

    def do_CONNECT(self) -> None:
        self.send_response(int(self.path.removeprefix("s")[:3]))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a proxy that is set for https, with a password."""
    running = ThreadingHTTPServer(("127.0.0.1", 0), _Proxy)
    Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
    for name in ("NO_PROXY", "no_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@127.0.0.1:{running.server_port}")
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


@pytest.mark.parametrize(
    ("host", "kind", "words"),
    [
        (
            "s407.example",
            FetchHaltedError,
            "the proxy {} wants a log-in\ngive it in its address: HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT",
        ),
        ("s403.example", FetchError, "the proxy {} refused the connection (403)"),
        ("s503.example", FetchHaltedError, "the proxy {} answered 503 (3 attempts in a row)\n"),
    ],
)
def test_answers_of_a_proxy_in_the_tunnel(
    host: str, kind: type[FetchError], words: str, proxy: str, settings: DownloadSettings, tmp_path: Path
) -> None:
    with pytest.raises(FetchError) as caught:
        download(f"https://{host}/x.pt", tmp_path / "x.pt", settings=replace(settings, attempts=3))
    assert type(caught.value) is kind and "sec" not in str(caught.value)
    assert str(caught.value).startswith(f"https://{host}/x.pt: {words.format(proxy)}")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        (
            {"HTTPS_PROXY": "socks5h://me:secret@127.0.0.1:1080"},
            "https://h.example/x: the proxy socks5h://127.0.0.1:1080 needs PySocks: pip install pysocks",
        ),
        (
            {"HTTPS_PROXY": "http://me:secret@127.0.0.1:1"},
            "https://h.example/x: no connection to the proxy http://127.0.0.1:1 (1 attempts",
        ),
        (
            {"HTTPS_PROXY": "http://me:s#c@127.0.0.1:x"},
            "https://h.example/x: the address, one it redirects to, or the proxy http://127.0.0.1:x, cannot",
        ),
        (
            {"HTTPS_PROXY": "foo://127.0.0.1:1"},
            "https://h.example/x: the address, one it redirects to, or the proxy foo://127.0.0.1:1, cannot",
        ),
        (
            {"REQUESTS_CA_BUNDLE": "/nowhere.pem"},
            "REQUESTS_CA_BUNDLE=/nowhere.pem: no such file; it names the",
        ),
        ({"CURL_CA_BUNDLE": "/nowhere.pem"}, "CURL_CA_BUNDLE=/nowhere.pem: no such file; it names the cert"),
    ],
)
def test_settings_of_the_network_that_cannot_work(
    variables: dict[str, str],
    words: str,
    settings: DownloadSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("NO_PROXY", "no_proxy", "https_proxy", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(FetchError) as caught:
        download("https://h.example/x", tmp_path / "x", settings=replace(settings, attempts=1))
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (
            "self-signed certificate (_ssl.c:1)",
            "trusted (self-signed certificate)\na firm's or university's own certificate is trusted with "
            "REQUESTS_CA_BUNDLE=FILE.pem",
        ),
        (
            "certificate has expired (_ssl.c:1)",
            "trusted (certificate has expired)\nis the clock of this computer right? it is 20",
        ),
    ],
)
def test_a_certificate_that_is_not_trusted(
    reason: str, words: str, settings: DownloadSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise requests.exceptions.SSLError(
            f"[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {reason}"
        )

    monkeypatch.setattr(requests.Session, "request", fail)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    with pytest.raises(FetchError) as caught:
        download("https://h.example/x", tmp_path / "x", settings=settings)
    assert str(caught.value).startswith(f"https://h.example/x: the server's certificate is not {words}")
