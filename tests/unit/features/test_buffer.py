"""Room for features: refused beforehand if the disk is too small, and cleared whatever happens."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mvkit.errors import DataError
from mvkit.features import buffer as scratch
from mvkit.features.buffer import StoredLayer, feature_buffer, remove_abandoned
from mvkit.features.feature_set import LayerInfo

LAYERS = {"a/b": LayerInfo("a/b", (2, 3)), "c": LayerInfo("c", (5,))}

HOLDING = """
    import sys, time
    from pathlib import Path
    from mvkit.features.feature_set import LayerInfo
    from mvkit.features.buffer import feature_buffer
    layers = {"a": LayerInfo("a", (4,))}
    with feature_buffer(layers, 3, scratch=Path(sys.argv[1]), in_memory=0):
        print("holding", flush=True)
        time.sleep(60)
"""


def rows(start: int, stop: int) -> dict[str, np.ndarray]:
    images = np.arange(start, stop, dtype=np.float32)[:, None]
    return {"a/b": images * 10 + np.arange(6), "c": images * 100 + np.arange(5), "other": images}


@pytest.mark.parametrize("in_memory", [0, 131, 132])
def test_rows_come_back_by_layer(tmp_path, in_memory):
    with feature_buffer(LAYERS, 3, scratch=tmp_path, in_memory=in_memory) as buffer:
        buffer.write(0, rows(0, 2))
        buffer.write(2, rows(2, 3))
        found = buffer.features()
        on_disk = isinstance(found["c"], StoredLayer)
        assert on_disk == (in_memory < 3 * 11 * 4)
        for name in LAYERS:
            np.testing.assert_array_equal(np.asarray(found[name]), rows(0, 3)[name].astype(np.float32))
    assert not list(tmp_path.iterdir())


def test_little_memory_sends_features_to_the_disk(tmp_path, monkeypatch):
    for available, on_disk in ((None, False), (264, False), (263, True)):
        monkeypatch.setattr(scratch, "available_memory", lambda available=available: available)
        with feature_buffer(LAYERS, 3, scratch=tmp_path, in_memory=132) as buffer:
            buffer.write(0, rows(0, 3))
            assert isinstance(buffer.features()["c"], StoredLayer) == on_disk


def test_what_does_not_fit_on_the_disk_is_refused_with_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch.shutil, "disk_usage", lambda place: SimpleNamespace(free=12_000_000))
    wide = {"wide": LayerInfo("wide", (2_000_000,))}
    with (
        pytest.raises(
            DataError,
            match=r"0\.02 GB are needed .* 1 layers .* 0\.01 GB are free\n.*Resources\(scratch=DIR\)",
        ),
        feature_buffer(wide, 3, scratch=tmp_path, in_memory=0),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_is_told(tmp_path, monkeypatch):
    def full(file, values):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(scratch, "_write_all", full)
    with (
        pytest.raises(DataError, match="the disk is full"),
        feature_buffer(LAYERS, 3, scratch=tmp_path, in_memory=0) as buffer,
    ):
        buffer.write(0, rows(0, 2))
    assert not list(tmp_path.iterdir())


def test_a_place_that_is_no_folder_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(DataError, match="features cannot be stored there"),
        feature_buffer(LAYERS, 3, scratch=tmp_path / "file", in_memory=0),
    ):
        pass


def test_folders_of_killed_processes_go_and_those_in_use_stay(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(HOLDING), str(tmp_path)]
    holders = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        for holder in holders:
            assert holder.stdout.readline() == "holding\n"
        assert len(list(tmp_path.iterdir())) == 2
        remove_abandoned(tmp_path)
        assert len(list(tmp_path.iterdir())) == 2
        holders[0].send_signal(signal.SIGKILL)
        holders[0].wait()
        with feature_buffer(LAYERS, 3, scratch=tmp_path, in_memory=0):
            assert len(list(tmp_path.iterdir())) == 2  # this one's and the living one's
        assert len(list(tmp_path.iterdir())) == 1
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()
            holder.stdout.close()
    remove_abandoned(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_was_never_finished_goes_after_a_while(tmp_path):
    young, old = tmp_path / "new-1", tmp_path / "new-2"
    young.mkdir()
    old.mkdir()
    past = time.time() - 2 * 3600
    os.utime(old, (past, past))
    remove_abandoned(tmp_path)
    assert [place.name for place in Path(tmp_path).iterdir()] == ["new-1"]
