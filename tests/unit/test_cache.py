"""Entries come back to the last bit, or not at all."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mvkit import cache
from mvkit.cache import Entry, Store, cache_info, prune
from mvkit.errors import DataError
from mvkit.files import is_leftover, is_temporary, temporary_beside

KEY = "ab" + "0" * 62

ARRAYS: dict[str, np.ndarray] = {
    "square": np.random.default_rng(0).normal(size=(5, 5)),
    "single": np.array([1.5, np.nan, np.inf, -0.0], np.float32),
    "text": np.array(["VISp", "", "läger"]),
    "truth": np.array([[True], [False]]),
    "scalar": np.array(3, np.int64),
    "nothing": np.zeros((0, 7), np.int16),
    "no text": np.array([], dtype=np.str_),
    "columns first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big end": np.arange(3, dtype=">f8"),
    "file": np.arange(2),
}

WRITER = """
import sys
import numpy as np
from pathlib import Path
from mvkit.cache import Store

store, start = Store(Path(sys.argv[1])), int(sys.argv[2])
print("ready", flush=True)
for number in range(start, 10**9):
    key = f"{number % 7:02x}" + "0" * 62
    value = float(number % 7)
    store.write("kind", key, {"values": np.full(40_000, value)}, {"value": value})
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    caplog.clear()
    return found


def written(store: Store) -> Path:
    store.write("kind", KEY, ARRAYS, {"layer": "conv", "n": 3})
    return store.path("kind", KEY)


def test_what_is_kept_comes_back_to_the_last_bit(store: Store) -> None:
    written(store)
    entry = store.read("kind", KEY)

    assert isinstance(entry, Entry)
    assert entry.about == {"layer": "conv", "n": 3}
    assert set(entry.arrays) == set(ARRAYS)
    for name, values in ARRAYS.items():
        back = entry.arrays[name]
        assert (back.dtype, back.shape) == (values.dtype, values.shape)
        assert back.tobytes() == np.ascontiguousarray(values).tobytes()
        assert back.flags.writeable and back.flags.aligned


def test_nothing_kept_is_a_miss_without_a_word(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    assert store.read("kind", KEY) is None
    assert not warnings_of(caplog)


def test_every_flipped_bit_is_found(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    path = written(store)
    whole = path.read_bytes()
    generator = random.Random(0)
    places = {*range(60), *range(len(whole) - 40, len(whole)), *generator.sample(range(len(whole)), 300)}
    for place in sorted(places):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        assert store.read("kind", KEY) is None
        (warning,) = warnings_of(caplog)
        assert str(path) in warning


def test_every_truncation_is_found(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    path = written(store)
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 37), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert store.read("kind", KEY) is None
    path.write_bytes(whole + b"\0")
    assert store.read("kind", KEY) is None
    path.write_bytes(whole)
    assert store.read("kind", KEY) is not None


def test_files_of_others_are_misses(store: Store, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    path = written(store)
    np.savez(tmp_path / "other.npz", values=np.arange(3))
    for content in (b"", b"text", (tmp_path / "other.npz").read_bytes(), os.urandom(1000)):
        path.write_bytes(content)
        assert store.read("kind", KEY) is None
        assert len(warnings_of(caplog)) == 1


def test_an_entry_under_another_name_is_a_miss(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    path = written(store)
    other = store.path("kind", "cd" + "1" * 62)
    other.parent.mkdir(parents=True)
    other.write_bytes(path.read_bytes())
    elsewhere = store.path("other", KEY)
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_bytes(path.read_bytes())

    assert store.read("kind", "cd" + "1" * 62) is None
    assert store.read("other", KEY) is None
    assert len(warnings_of(caplog)) == 2


def test_another_version_is_a_miss(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(store)
    monkeypatch.setattr(cache, "MAGIC", b"mvkit cache 2\n")

    assert store.read("kind", KEY) is None
    assert "version" in warnings_of(caplog)[0]


def test_what_cannot_be_opened_is_a_miss(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    path = store.path("kind", KEY)
    path.mkdir(parents=True)

    assert store.read("kind", KEY) is None
    assert len(warnings_of(caplog)) == 1
    store.write("kind", KEY, ARRAYS, {})
    assert len(warnings_of(caplog)) == 1
    assert [inner.name for inner in path.parent.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_written_costs_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    store = Store(tmp_path / "cache")
    for _ in range(3):
        store.write("kind", KEY, ARRAYS, {})

    assert len(warnings_of(caplog)) == 1


def test_a_full_disk_costs_one_warning_and_leaves_nothing(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    for _ in range(3):
        store.write("kind", KEY, ARRAYS, {})

    (warning,) = warnings_of(caplog)
    assert "No space left" in warning
    assert list(store.path("kind", KEY).parent.iterdir()) == []


@pytest.mark.parametrize(
    "values",
    [np.array(["a", None], dtype=object), np.zeros(2, dtype=[("x", "f8")])],
    ids=["objects", "records"],
)
def test_arrays_of_objects_are_refused(store: Store, values: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"array 'column' is .*give numbers, or text as dtype U"):
        store.write("kind", KEY, {"column": values}, {})

    assert not store.folder.exists()


def test_reading_counts_as_use(store: Store) -> None:
    path = written(store)
    os.utime(path, (1, 1))
    store.read("kind", KEY)

    assert path.stat().st_mtime > time.time() - 60


def start_writer(folder: Path, start: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(folder), str(start)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def check(store: Store, caplog: pytest.LogCaptureFixture) -> int:
    """Read everything: each entry is whole or not there; return how many are there."""
    found = 0
    for number in range(7):
        entry = store.read("kind", f"{number:02x}" + "0" * 62)
        if entry is not None:
            found += 1
            assert entry.about["value"] == number
            np.testing.assert_array_equal(entry.arrays["values"], np.full(40_000, float(number)))
    assert not warnings_of(caplog)
    return found


def test_two_processes_write_the_same_keys_and_are_killed_at_any_moment(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    generator = random.Random(3)
    for attempt in range(4):
        writers = [start_writer(store.folder, attempt), start_writer(store.folder, attempt)]
        until = time.monotonic() + generator.uniform(0.01, 0.15)
        while time.monotonic() < until:
            check(store, caplog)
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.communicate()
        check(store, caplog)
        prune(store.folder, "30d")
        assert cache_info(store.folder).n_leftovers == 0
    assert check(store, caplog) == 7
    assert all(not is_temporary(path.name) for path in store.folder.rglob("*.cached"))


def test_files_being_written_are_told_from_leftovers(tmp_path: Path) -> None:
    target = tmp_path / f"{KEY}.cached"
    own = temporary_beside(target)
    own.write_bytes(b"")
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    dead = own.with_name(own.name.replace(f"-{os.getpid()}-", f"-{ended.pid}-"))
    dead.write_bytes(b"")
    elsewhere = own.with_name(f"{KEY}.tmp-01234567-1-01234567.cached")
    elsewhere.write_bytes(b"")

    assert own.suffix == ".cached" and is_temporary(own.name) and not is_leftover(own)
    assert is_leftover(dead)
    assert not is_leftover(elsewhere)
    os.utime(elsewhere, (1, 1))
    assert is_leftover(elsewhere)
    assert not is_temporary(target.name)


def test_about_holds_plain_values_only(store: Store) -> None:
    store.write("kind", KEY, {}, {"value": 0.1, "none": None, "list": [1, "a"]})
    entry = store.read("kind", KEY)

    assert entry is not None
    assert json.loads(json.dumps(entry.about)) == {"value": 0.1, "none": None, "list": [1, "a"]}


def test_a_store_reaches_other_processes(store: Store) -> None:
    import pickle

    written(store)
    copy: Any = pickle.loads(pickle.dumps(store))
    assert copy == store
    assert copy.read("kind", KEY) is not None
