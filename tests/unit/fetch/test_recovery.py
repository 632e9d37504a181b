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


class World:
    """A home, a server and a converter that count what is asked of them."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.remarks: list[str] = []
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
            home=self.home, offline=True, feedback=Feedback(log=self.remarks.append), **options
        )
        return [outcome.status for outcome in fetch_neural("calcium", request).files]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Such a world; the plan is not allowed a network, and does not need one here."""
    made = World(tmp_path)
    monkeypatch.setattr(run, "download", made.download)
    monkeypatch.setattr(
        importlib.import_module("mvkit.neural"), "convert_pickle", made.convert, raising=False
    )
    monkeypatch.setattr(run, "check_network", lambda steps, request, advice: None)
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


def kept_files(world: World) -> set[str]:
    """Names of all files but locks and the manifest."""
    return {
        path.name
        for path in world.home.rglob("*")
        if path.is_file() and path.name[0] != "." and path.name != "manifest.json"
    }


def test_without_accidents(world: World) -> None:
    assert world.fetch() == ["fetched", "converted"]
    assert world.fetch() == ["already there"]
    assert (world.n_downloads, world.n_conversions) == (1, 1)
    assert kept_files(world) == {"calcium.h5"}
    record = world.manifest.find(world.target)
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
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    second: list[str],
    downloads: int,
    conversions: int,
) -> None:
    with monkeypatch.context() as patch:
        if moment == "recording the pickle":
            killing_when(patch, Manifest, "record", lambda self, path, record: path == world.raw)
        if moment == "converting":
            world.conversion_fails = Killed()
        if moment == "recording the neural file":
            killing_when(patch, Manifest, "record", lambda self, path, record: path == world.target)
        if moment == "removing the pickle":
            killing_when(patch, Path, "unlink", lambda path, *args, **options: path == world.raw)
        if moment == "forgetting the pickle":
            killing_when(patch, Manifest, "forget", lambda self, path: True)
        with pytest.raises(Killed):
            world.fetch()
    world.conversion_fails = None
    world.target.with_name("calcium.tmp-1-dead.h5").write_bytes(b"half")
    assert world.fetch() == second
    assert (world.n_downloads, world.n_conversions) == (downloads, conversions)
    assert world.target.read_bytes() == HDF5 + b"\x80\x04 a pickle"
    assert any(world.home.rglob("*.tmp-*")) == ("converted" not in second), "what was half written is cleared"
    assert world.manifest.find(world.target) is not None
    if moment != "recording the pickle":
        assert not world.raw.exists()
        assert world.manifest.find(world.raw) is None
    assert world.fetch() == ["already there"]


def test_a_pickle_put_there_by_hand_is_used_and_left(world: World) -> None:
    world.raw.parent.mkdir(parents=True)
    world.raw.write_bytes(b"\x80\x04 my own")
    assert world.fetch() == ["already there", "converted"]
    assert world.n_downloads == 0
    assert world.raw.read_bytes() == b"\x80\x04 my own"
    assert world.fetch() == ["already there"]
    assert world.raw.exists()


def test_a_kept_pickle_stays_kept(world: World) -> None:
    assert world.fetch(keep_raw=True) == ["fetched", "converted"]
    assert world.fetch() == ["already there"]
    assert world.raw.exists()
    world.raw.unlink()
    assert world.fetch() == ["already there"]
    assert world.manifest.find(world.raw) is None, "what the user removed is not missed by --verify"


def test_keep_raw_may_be_asked_for_late(world: World) -> None:
    world.conversion_fails = Killed()
    with pytest.raises(Killed):
        world.fetch()
    world.conversion_fails = None
    assert world.fetch(keep_raw=True) == ["already there", "converted"]
    assert world.raw.exists()


def test_a_neural_file_whose_size_changed_is_made_again(world: World) -> None:
    world.fetch()
    world.target.write_bytes(HDF5)
    assert world.fetch() == ["fetched", "converted"]
    assert "not the size that was recorded" in world.remarks[0]


def test_a_damaged_pickle_is_kept_and_named(world: World) -> None:
    world.conversion_fails = DataError("cut short at byte 9")
    request = FetchRequest(home=world.home, offline=True)
    (failed,) = fetch_neural("calcium", request).failures
    assert failed.error == f"cut short at byte 9\nthe pickle is kept at {world.raw}; --force fetches it again"
    assert world.raw.exists()
    assert not world.target.exists()


def test_records_name_the_source_that_was_converted(world: World, tmp_path: Path) -> None:
    mine = tmp_path / "mine.pkl.gz"
    mine.write_bytes(b"zipped")
    (outcome,) = fetch_neural("calcium", FetchRequest(home=world.home), source=mine).files
    expected = {"file": "mine.pkl.gz", "url": None, "etag": None, "size": 6, "sha256": "1" * 64}
    assert outcome.made_from == expected
    found = world.manifest.find(world.target)
    assert found == Record(
        url=None,
        size=len(HDF5) + 6,
        etag=None,
        sha256=found.sha256 if found else "",
        date=found.date if found else "",
        mvkit_version=found.mvkit_version if found else "",
        made_from=expected,
    )
