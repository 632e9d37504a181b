"""What lies in a cache is counted and pruned, least recently used first."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mvkit.cache import Store, cache_info, prune
from mvkit.errors import UsageError
from mvkit.files import Lock, temporary_beside

DAY = 86400.0


def key(number: int) -> str:
    return f"{number:064x}"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Five scores, used 0, 10, 20, 30 and 40 days ago; coordinates of 15 days ago."""
    store = Store(tmp_path / "cache")
    for number in range(5):
        store.write("scores", key(number), {"values": np.zeros(1000)}, {})
        age(store.path("scores", key(number)), 10 * number)
    path = store.path("coordinates", key(9))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(4002))
    age(path, 15)
    return store


@pytest.fixture
def ceilings(tmp_path: Path) -> Path:
    """One ceiling, used 50 days ago."""
    place = tmp_path / "ceilings" / "abc"
    place.mkdir(parents=True)
    (place / "scores.parquet").write_bytes(bytes(300))
    age(place, 50)
    return place.parent


def age(path: Path, days: float) -> None:
    when = time.time() - days * DAY - 60
    os.utime(path, (when, when))


def kept(store: Store) -> list[int]:
    return [number for number in range(5) if store.path("scores", key(number)).exists()]


def test_info_counts_kinds(store: Store, ceilings: Path) -> None:
    info = cache_info(store.folder, ceilings=ceilings)
    size = store.path("scores", key(0)).stat().st_size

    assert {name: (kind.n_entries, kind.n_bytes) for name, kind in info.kinds.items()} == {
        "ceilings": (1, 300),
        "coordinates": (1, 4002),
        "scores": (5, 5 * size),
    }
    scores = info.kinds["scores"]
    assert (time.time() - scores.oldest_use) / DAY == pytest.approx(40, abs=0.1)
    assert (time.time() - scores.newest_use) / DAY == pytest.approx(0, abs=0.1)
    assert info.n_bytes == 5 * size + 4302
    assert info.n_leftovers == 0


def test_info_of_no_cache(tmp_path: Path) -> None:
    info = cache_info(tmp_path / "none", ceilings=tmp_path / "neither")

    assert (info.kinds, info.n_bytes) == ({}, 0)
    assert prune(tmp_path / "none", "all").n_removed == 0


@pytest.mark.parametrize(
    ("rule", "left", "coordinates", "ceiling"),
    [
        ("all", [], False, False),
        ("25d", [0, 1, 2], True, False),
        ("12h", [0], False, False),
        ("3w", [0, 1, 2], True, False),
        ("45d", [0, 1, 2, 3, 4], True, False),
        ("1000d", [0, 1, 2, 3, 4], True, True),
        ("1GB", [0, 1, 2, 3, 4], True, True),
        ("0.03 MB", [0, 1, 2], True, False),
        ("0B", [], False, False),
    ],
)
def test_rules(
    store: Store, ceilings: Path, rule: str, left: list[int], coordinates: bool, ceiling: bool
) -> None:
    before = cache_info(store.folder, ceilings=ceilings)
    report = prune(store.folder, rule, ceilings=ceilings)

    assert kept(store) == left
    assert store.path("coordinates", key(9)).exists() == coordinates
    assert (ceilings / "abc").exists() == ceiling
    assert report.n_removed == 7 - len(left) - coordinates - ceiling
    assert report.removed_bytes + report.left.n_bytes == before.n_bytes
    assert report.left == cache_info(store.folder, ceilings=ceilings)


def test_entries_read_lately_outlive_older_ones(store: Store) -> None:
    store.read("scores", key(4))
    prune(store.folder, "5d")

    assert kept(store) == [0, 4]


@pytest.mark.parametrize("rule", ["", "some", "30", "30x", "-3d", "5 GiB", "d", "1e3d"])
def test_other_rules_are_refused(store: Store, rule: str) -> None:
    with pytest.raises(UsageError, match="valid: all; an age"):
        prune(store.folder, rule)

    assert kept(store) == [0, 1, 2, 3, 4]


def test_leftovers_go_and_files_being_written_stay(store: Store, ceilings: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    live = temporary_beside(store.path("scores", key(0)))
    live.write_bytes(bytes(10))
    dead = live.with_name(live.name.replace(f"-{os.getpid()}-", f"-{ended.pid}-"))
    dead.write_bytes(bytes(20))
    half = ceilings / dead.name.replace(key(0), "def")
    half.mkdir()
    (half / "scores.parquet").write_bytes(bytes(40))

    info = cache_info(store.folder, ceilings=ceilings)
    assert (info.n_leftovers, info.leftover_bytes) == (2, 60)
    assert info.kinds["scores"].n_entries == 5

    report = prune(store.folder, "1000d", ceilings=ceilings)
    assert (report.n_removed, report.n_leftovers, report.leftover_bytes) == (0, 2, 60)
    assert [path.exists() for path in (live, dead, half)] == [True, False, False]
    prune(store.folder, "all", ceilings=ceilings)
    assert live.exists()


def test_scratch_is_no_result(store: Store) -> None:
    places = {}
    for name in ("held", "left", "other"):
        places[name] = store.folder / "scratch" / name
        places[name].mkdir(parents=True)
        (places[name] / "0.f32").write_bytes(bytes(10))
        age(places[name] / "0.f32", 100)
    (places["left"] / ".lock").write_bytes(b"")

    lock = Lock(places["held"] / ".lock")
    assert lock.acquire()
    info = cache_info(store.folder)
    assert "scratch" not in info.kinds
    assert (info.n_leftovers, info.leftover_bytes) == (1, 10)
    prune(store.folder, "all")
    lock.release()
    assert {name: place.exists() for name, place in places.items()} == {
        "held": True,
        "left": False,
        "other": True,
    }


def test_pruning_while_others_read_and_write_is_no_error(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    done = threading.Event()

    def work() -> int:
        rounds = 0
        while not done.is_set():
            rounds += 1
            for number in range(5):
                if store.read("scores", key(number)) is None:
                    store.write("scores", key(number), {"values": np.full(9, number)}, {})
        return rounds

    with ThreadPoolExecutor(2) as threads:
        working = [threads.submit(work) for _ in range(2)]
        for _ in range(60):
            prune(store.folder, "all")
        done.set()

    assert all(found.result() > 0 for found in working)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_links_in_a_ceiling_lead_nowhere(store: Store, ceilings: Path) -> None:
    for name in ("up", "up_again"):
        (ceilings / "abc" / name).symlink_to("..")
    assert cache_info(store.folder, ceilings=ceilings).kinds["ceilings"].n_bytes == 300
