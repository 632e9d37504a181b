"""Every moment at which obtaining a recording may be broken off, and what the next call then does."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mvkit.errors import DataError
from mvkit.fetch import run
from mvkit.fetch.catalogue import pickle_file
from mvkit.fetch.download import Downloaded, Feedback, RemoteVersion
from mvkit.fetch.manifest import Manifest, Record
from mvkit.fetch.run import FetchRequest, fetch_neural
from mvkit.paths import neural_path

HDF5 = b"\x89HDF\r\n\x1a\n"


class Killed(BaseException):
    """Stands for the end of the process at a chosen moment."""


class FakeFetch:
    """A home, a server and a converter that count their calls."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.messages: list[str] = []
        self.n_downloads = 0
        self.n_conversions = 0
        self.conversion_fails: BaseException | None = None
        self.raw = pickle_file("calcium", home).target
        self.target = neural_path("calcium", home)
        self.manifest = Manifest(home)

    def download(self, url: str, target: Path, **options: Any) -> Downloaded:
        """Pretend to have received a pickle."""
        self.n_downloads += 1
        target.write_bytes(b"\x80\x04 a pickle")
        return Downloaded(RemoteVersion(url, '"e"', target.stat().st_size), "0" * 64, 0)

    def convert(self, source: Path, target: Path, **options: Any) -> SimpleNamespace:
        """Pretend to have converted it."""
        self.n_conversions += 1
        if self.conversion_fails is not None:
            raise self.conversion_fails
        target.write_bytes(HDF5 + source.read_bytes())
        return SimpleNamespace(source_bytes=source.stat().st_size, source_sha256="1" * 64)

    def fetch(self, **options: Any) -> list[str]:
        """Fetch and return the statuses."""
        request = FetchRequest(
            home=self.home, offline=True, feedback=Feedback(log=self.messages.append), **options
        )
        return [outcome.status for outcome in fetch_neural("calcium", request).files]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeFetch:
    """One of these; the plan is allowed no network, and needs none here."""
    made = FakeFetch(tmp_path)
    monkeypatch.setattr(run, "download", made.download)
    monkeypatch.setattr(
        importlib.import_module("mvkit.neural"), "convert_pickle", made.convert, raising=False
    )
    monkeypatch.setattr(run, "check_network", lambda steps, request: None)
    return made


def killing_when(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, condition: Callable[..., bool]
) -> None:
    """Let a method end the process instead of being called, if its arguments satisfy a condition."""
    real = getattr(owner, name)

    def method(*args: Any, **options: Any) -> Any:
        if condition(*args, **options):
            raise Killed
        return real(*args, **options)

    monkeypatch.setattr(owner, name, method)


def files_left(fake: FakeFetch) -> set[str]:
    """Names of all files but locks and the manifest."""
    return {
        path.name
        for path in fake.home.rglob("*")
        if path.is_file() and path.name[0] != "." and path.name != "manifest.json"
    }


def test_without_accidents(fake: FakeFetch) -> None:
    assert fake.fetch() == ["fetched", "converted"]
    assert fake.fetch() == ["already there"]
    assert (fake.n_downloads, fake.n_conversions) == (1, 1)
    assert files_left(fake) == {"calcium.h5"}
    record = fake.manifest.find(fake.target)
    assert record is not None
    assert record.made_from is not None
    assert record.made_from["sha256"] == "1" * 64


@pytest.mark.parametrize(
    "moment, second, downloads, conversions",
    [
        ("recording the pickle", ["already there", "converted"], 1, 1),
        ("converting", ["already there", "converted"], 1, 2),
        ("recording the neural file", ["already there"], 1, 1),
        ("removing the pickle", ["already there"], 1, 1),
        ("forgetting the pickle", ["already there"], 1, 1),
    ],
)
def test_killed_while(
    fake: FakeFetch,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    second: list[str],
    downloads: int,
    conversions: int,
) -> None:
    with monkeypatch.context() as patch:
        if moment == "recording the pickle":
            killing_when(patch, Manifest, "record", lambda self, path, record: path == fake.raw)
        if moment == "converting":
            fake.conversion_fails = Killed()
        if moment == "recording the neural file":
            killing_when(patch, Manifest, "record", lambda self, path, record: path == fake.target)
        if moment == "removing the pickle":
            killing_when(patch, Path, "unlink", lambda path, *args, **options: path == fake.raw)
        if moment == "forgetting the pickle":
            killing_when(patch, Manifest, "forget", lambda self, path: True)
        with pytest.raises(Killed):
            fake.fetch()
    fake.conversion_fails = None
    fake.target.with_name("calcium.tmp-1-dead.h5").write_bytes(b"half")
    assert fake.fetch() == second
    assert (fake.n_downloads, fake.n_conversions) == (downloads, conversions)
    assert fake.target.read_bytes() == HDF5 + b"\x80\x04 a pickle"
    assert any(fake.home.rglob("*.tmp-*")) == ("converted" not in second), "what was half written is cleared"
    assert fake.manifest.find(fake.target) is not None
    if moment != "recording the pickle":
        assert not fake.raw.exists()
        assert fake.manifest.find(fake.raw) is None
    assert fake.fetch() == ["already there"]


def test_a_pickle_put_there_by_hand_is_used_and_left(fake: FakeFetch) -> None:
    fake.raw.parent.mkdir(parents=True)
    fake.raw.write_bytes(b"\x80\x04 my own")
    assert fake.fetch() == ["already there", "converted"]
    assert fake.n_downloads == 0
    assert fake.raw.read_bytes() == b"\x80\x04 my own"
    assert fake.fetch() == ["already there"]
    assert fake.raw.exists()


def test_a_kept_pickle_stays_kept(fake: FakeFetch) -> None:
    assert fake.fetch(keep_raw=True) == ["fetched", "converted"]
    assert fake.fetch() == ["already there"]
    assert fake.raw.exists()
    fake.raw.unlink()
    assert fake.fetch() == ["already there"]
    assert fake.manifest.find(fake.raw) is None, "what the user removed is not missed by --verify"


def test_keep_raw_may_be_asked_for_late(fake: FakeFetch) -> None:
    fake.conversion_fails = Killed()
    with pytest.raises(Killed):
        fake.fetch()
    fake.conversion_fails = None
    assert fake.fetch(keep_raw=True) == ["already there", "converted"]
    assert fake.raw.exists()


def test_a_neural_file_whose_size_changed_is_made_again(fake: FakeFetch) -> None:
    fake.fetch()
    fake.target.write_bytes(HDF5)
    assert fake.fetch() == ["fetched", "converted"]
    assert any("not the size that was recorded" in message for message in fake.messages)


def test_a_damaged_pickle_is_kept_and_named(fake: FakeFetch) -> None:
    fake.conversion_fails = DataError("cut short at byte 9")
    request = FetchRequest(home=fake.home, offline=True)
    (failed,) = fetch_neural("calcium", request).failures
    assert failed.error == f"cut short at byte 9\nthe pickle is kept at {fake.raw}; --force fetches it again"
    assert fake.raw.exists()
    assert not fake.target.exists()


def test_records_name_the_source_that_was_converted(fake: FakeFetch, tmp_path: Path) -> None:
    mine = tmp_path / "mine.pkl.gz"
    mine.write_bytes(b"zipped")
    (outcome,) = fetch_neural("calcium", FetchRequest(home=fake.home), source=mine).files
    expected = {"file": "mine.pkl.gz", "url": None, "etag": None, "size": 6, "sha256": "1" * 64}
    assert outcome.made_from == expected
    record = fake.manifest.find(fake.target)
    assert record == Record(
        url=None,
        size=len(HDF5) + 6,
        etag=None,
        sha256=record.sha256 if record else "",
        date=record.date if record else "",
        mvkit_version=record.mvkit_version if record else "",
        made_from=expected,
    )
