"""Encoding in several processes: order, failures, and workers that die."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mvkit.errors import DataError
from mvkit.images.prep import CHUNK, PrepSettings, Unreadable, encode_all
from mvkit.images.sources import Item
from mvkit.images.sources import open_folder as open_splits

SETTINGS = PrepSettings(name="small", short_side_px=32, page_mib=2)


def test_results_do_not_depend_on_workers(make_folder: Callable[..., Path]) -> None:
    root = make_folder(n_train=2 * CHUNK + 3)
    (root / "train/class_1/001.png").write_bytes(b"broken")
    source = open_splits(root)[0]
    alone = list(encode_all(source.open_items(), SETTINGS, workers=1))
    together = list(encode_all(source.open_items(), SETTINGS, workers=2))
    assert alone == together
    assert [image.name for image in alone] == [item.name for item in source.open_items()]
    assert [image.name for image in alone if isinstance(image, Unreadable)] == ["train/class_1/001.png"]


def test_workers_import_nothing_from_the_current_folder(
    make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "signal.py").write_text("raise SystemExit(3)", encoding="utf-8")
    source = open_splits(make_folder(n_train=2))[0]
    monkeypatch.chdir(tmp_path)
    assert len(list(encode_all(source.open_items(), SETTINGS, workers=2))) == 2
    assert "PYTHONSAFEPATH" not in os.environ


def test_a_worker_of_a_pool_reads_images_itself(
    make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_splits(make_folder(n_train=2))[0]
    monkeypatch.setattr("mvkit.images.prep.is_worker_process", lambda: True)
    monkeypatch.setattr("mvkit.images.prep.ProcessPoolExecutor", None)
    assert len(list(encode_all(source.open_items(), SETTINGS, workers=2))) == 2


class _Deadly:
    """Ends the process that unpickles it, as the kernel does when memory runs out."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)


def test_a_worker_that_dies_is_an_error_and_no_hang() -> None:
    deadly: Any = _Deadly()
    with pytest.raises(DataError, match="worker process died"):
        list(encode_all([Item("i", 0, path=deadly)], SETTINGS, workers=2))


@pytest.mark.slow
def test_a_script_without_a_guard_fails_and_does_not_wait(tmp_path: Path) -> None:
    """Its workers run it anew, and would wait for the lock that it holds."""
    for split in ("train", "val"):
        (tmp_path / "images" / split / "a").mkdir(parents=True)
        Image.new("RGB", (80, 80)).save(tmp_path / "images" / split / "a" / "1.png")
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from mvkit.images.prep import PrepSettings, prepare\n"
        "from mvkit.recipes import load_recipe\n"
        "settings = load_recipe(PrepSettings, 'prep/imagenet_64', [])\n"
        "prepare(settings, Path('images'), Path('out'), workers=2)\n"
    )
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "a script calls this under if __name__ == '__main__':" in done.stderr
