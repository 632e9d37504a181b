"""``mvkit prep`` as a process: killed half-way, run twice at once, without FFCV."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvkit.images.beton import has_ffcv

needs_ffcv = pytest.mark.skipif(not has_ffcv(), reason="FFCV is not installed")
Start = Callable[..., "subprocess.Popen[str]"]
N_IMAGES = 240


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images large enough that reading all of them takes a while."""
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    grain = generator.integers(0, 256, (600, 800, 3)).astype(np.uint8)
    for number in range(N_IMAGES):
        place = root / "train" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.roll(grain, number, axis=0)).save(place / f"{number:04d}.jpg", quality=80)
    return root


def _words(folder: Path, out: Path, workers: int = 2) -> list[str]:
    return ["prep", "imagenet_64", "-i", str(folder), "-o", str(out), "--workers", str(workers), "--json"]


def _visible(out: Path) -> list[str]:
    return sorted(path.name for path in out.glob("[!.]*"))


def _descendants(pid: int) -> set[int]:
    found = {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    return found.union(*(_descendants(child) for child in found)) if found else found


def _wait(condition: Callable[[], bool], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


@needs_ffcv
@pytest.mark.slow
@pytest.mark.parametrize("n_bytes", [1, 3_000_000])
def test_killed_half_way_leaves_nothing_final_and_no_workers(
    folder: Path, tmp_path: Path, mvkit_process: Start, n_bytes: int
) -> None:
    out = tmp_path / "out"
    running = mvkit_process(*_words(folder, out))
    _wait(lambda: any(path.stat().st_size >= n_bytes for path in out.glob("train.tmp-*.beton")))
    workers = _descendants(running.pid)
    assert workers
    running.send_signal(signal.SIGKILL)
    assert running.wait(timeout=30) == -signal.SIGKILL
    assert [name for name in _visible(out) if ".tmp-" not in name] == []
    _wait(lambda: not any(_is_alive(pid) for pid in workers))
    again = mvkit_process(*_words(folder, out))
    document = json.loads(again.communicate(timeout=240)[0])
    assert again.returncode == 0 and document["splits"][0]["n_images"] == N_IMAGES
    assert _visible(out) == ["train.beton", "train.json"]


@needs_ffcv
@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_leaves_nothing(folder: Path, tmp_path: Path, mvkit_process: Start) -> None:
    out = tmp_path / "out"
    running = mvkit_process(*_words(folder, out))
    _wait(lambda: any(out.glob("train.tmp-*.beton")))
    running.send_signal(signal.SIGINT)
    _, shown = running.communicate(timeout=240)
    assert running.returncode == 130 and "Traceback" not in shown
    assert _visible(out) == []


@needs_ffcv
@pytest.mark.slow
def test_two_at_once_write_once(folder: Path, tmp_path: Path, mvkit_process: Start) -> None:
    out = tmp_path / "out"
    both = [mvkit_process(*_words(folder, out, workers=1)) for _ in range(2)]
    answers = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    splits = [json.loads(answer)["splits"][0] for answer, _ in answers]
    assert sorted(split["was_there"] for split in splits) == [False, True]
    assert splits[0]["sha256"] == splits[1]["sha256"]
    assert sum("another mvkit process" in shown for _, shown in answers) <= 1
    assert _visible(out) == ["train.beton", "train.json"]


def test_without_ffcv_it_says_how_to_install_it(folder: Path, tmp_path: Path) -> None:
    code = "import sys; sys.modules['ffcv'] = None\nfrom mvkit.cli.main import main; main()"
    words = _words(folder, tmp_path / "out")
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["type"] == "MissingPackageError"
    assert "python scripts/install_ffcv.py" in done.stderr
