"""`mvkit fetch neural` killed, doubled or out of disk while it converts."""

from __future__ import annotations

import json
import lzma
import resource
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mvkit.cli.main import run
from mvkit.neural import convert_pickle
from mvkit.paths import neural_dir, neural_path

Same = Callable[[Path, Path], bool]
FILE_NAME = "mouse_neuropixels_visual_data_with_reliabilities.pkl"
WORDS = ("fetch", "neural", "--dataset", "neuropixels", "--json")

#: Stops a process for good at the moment when its neural file is whole but has not got its final name.
HANG_BEFORE_THE_FINAL_NAME = """
import time, mvkit.files
real = mvkit.files.move_durably
def hang(source, target):
    if target.suffix == ".h5":
        source.with_name("reached").touch()
        time.sleep(60)
    real(source, target)
mvkit.files.move_durably = hang
"""


def raw() -> Path:
    """Where the pickle waits."""
    return neural_dir() / "raw" / FILE_NAME


def document(words: list[str], capsys: pytest.CaptureFixture[str], *, code: int = 0) -> dict[str, Any]:
    """Run a command with --json and return its one document."""
    capsys.readouterr()
    assert run(["fetch", "neural", *words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_killed_just_before_the_final_name(
    served: Any,
    pickled: bytes,
    expected: Path,
    same_arrays: Same,
    wait_until: Callable[..., None],
    mvkit_process: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    process = mvkit_process(*WORDS, before=HANG_BEFORE_THE_FINAL_NAME)
    wait_until(lambda: (neural_dir() / "reached").exists(), process)
    process.kill()
    process.wait(timeout=30)
    assert not neural_path("neuropixels").exists()
    assert raw().read_bytes() == pickled
    assert len(list(neural_dir().glob("neuropixels.tmp-*.h5"))) == 1
    found = document(["--dataset", "neuropixels"], capsys)
    assert [row["status"] for row in found["files"]] == ["already there", "converted"]
    assert len(served.gets()) == 1, "the pickle is not fetched again"
    assert same_arrays(neural_path("neuropixels"), expected)
    assert not raw().exists()
    assert list(neural_dir().glob("*.tmp-*")) == []


def test_killed_while_a_larger_file_is_written(
    server: Any,
    legacy_published: Path,
    mvkit_process: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    same_arrays: Same,
    wait_until: Callable[..., None],
) -> None:
    source = legacy_published / f"{FILE_NAME}.xz"
    server.put(FILE_NAME, lzma.decompress(source.read_bytes()))
    process = mvkit_process(*WORDS)
    wait_until(lambda: any(neural_dir().glob("neuropixels.tmp-*.h5")), process)
    process.kill()
    process.wait(timeout=30)
    assert not neural_path("neuropixels").exists()
    document(["--dataset", "neuropixels"], capsys)
    assert len(server.gets()) == 1
    convert_pickle(source, tmp_path / "expected.h5", dataset="neuropixels")
    assert same_arrays(neural_path("neuropixels"), tmp_path / "expected.h5")


def test_a_disk_that_fills_up_while_converting(
    served: Any, pickled: bytes, mvkit_process: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    document(["--dataset", "neuropixels", "--keep-raw"], capsys)
    # Room for the layout of the file, but not for all of its responses.
    most = neural_path("neuropixels").stat().st_size - 5_000
    neural_path("neuropixels").unlink()
    process = mvkit_process(
        *WORDS, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "disk" in err
    assert "Traceback" not in err
    assert json.loads(out)["ok"] is False
    assert not neural_path("neuropixels").exists()
    assert raw().read_bytes() == pickled
    assert document(["--dataset", "neuropixels"], capsys)["ok"] is True


def test_two_at_once_convert_once(
    served: Any,
    faulty: ModuleType,
    mvkit_process: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    wait_until: Callable[..., None],
) -> None:
    served.faults = [faulty.Fault(hold_at=100)]
    first = mvkit_process(*WORDS)
    wait_until(lambda: bool(served.gets()), first)
    second = mvkit_process(*WORDS)
    assert next(second.stderr).startswith("downloading ")
    assert "another mvkit process is working on neuropixels.h5" in next(second.stderr)
    served.released.set()
    ends = [process.communicate(timeout=60) for process in (first, second)]
    statuses = [[row["status"] for row in json.loads(out)["files"]] for out, _ in ends]
    assert statuses == [["fetched", "converted"], ["already there"]]
    assert len(served.gets()) == 1
    assert document(["--verify"], capsys)["ok"] is True
