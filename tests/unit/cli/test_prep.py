"""``mvkit prep``: words, JSON and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvkit.cli.main import run
from mvkit.images.beton import has_ffcv
from mvkit.images.prep import load_prep_recipe
from mvkit.paths import images_dir


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve small images in two classes."""
    generator = np.random.default_rng(0)
    for number in range(12):
        place = tmp_path / "images" / ("train" if number < 8 else "val") / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (40, 50, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    return tmp_path / "images"


needs_ffcv = pytest.mark.skipif(not has_ffcv(), reason="FFCV is not installed")


def test_dry_run_writes_nothing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["prep", "imagenet_64", "--images", str(folder), "--out", str(out), "--dry-run"]
    assert run([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(split["split"], split["images"], split["classes"]) for split in document["splits"]] == [
        ("train", 8, 2),
        ("val", 4, 2),
    ]
    assert document["settings"]["short_side_px"] == 128
    # The images have 40 x 50 px: no crop of them has 64.
    assert [crop["stored"]["fraction"] for crop in document["crops"]] == [1.0, 1.0]
    assert run(words) == 0
    shown = capsys.readouterr().out
    assert "train.beton" in shown and "enlarged to 64 px: 100.0 %" in shown
    assert not out.exists()


def test_planning_and_workers_do_not_load_torch(folder: Path, tmp_path: Path) -> None:
    words = ["prep", "imagenet_64", "-i", str(folder), "-o", str(tmp_path / "out"), "--dry-run"]
    code = f"""import sys
import mvkit.images.prep  # all that a worker imports
from mvkit.cli.main import run
assert run({words!r}) == 0
assert run(["prep", "--verify", {str(tmp_path / "absent.beton")!r}]) == 1
print("torch" in sys.modules, file=sys.stderr)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "False"


@needs_ffcv
def test_default_folder_overrides_and_verify(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "prep",
        "imagenet_64",
        "-i",
        str(folder),
        "--set",
        "short_side_px=20",
        "--workers",
        "1",
        "--json",
    ]
    assert run([*words, "--workers", "1"]) == 0
    document = json.loads(capsys.readouterr().out)
    target = images_dir("imagenet_64") / "train.beton"
    assert document["splits"][0]["path"] == str(target)
    assert document["splits"][0]["counts"] == [4, 4]
    assert run(["prep", "--verify", str(target)]) == 0
    assert "whole; 8 images, 2 classes" in capsys.readouterr().out
    target.write_bytes(target.read_bytes()[:-1])
    assert run(["prep", "--verify", str(target), "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["type"] == "DataError" and "cut short" in error["message"]


@needs_ffcv
def test_on_error(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "train/a/0.png").write_bytes(b"broken")
    words = ["prep", "imagenet_64", "-i", str(folder), "-o", str(tmp_path / "out"), "--workers", "1"]
    assert run(words) == 1
    assert "train/a/0.png" in capsys.readouterr().err
    assert run([*words, "--on-error", "skip"]) == 0
    assert "left out: train/a/0.png: not an image" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["imagenet_46", "-i", "."], "did you mean 'imagenet_64'?"),
        (["imagenet_64"], "prep needs --images DIR (the folder of your images)"),
        ([], "prep needs a RECIPE"),
        (["imagenet_64", "--verify", "x.beton"], "--verify takes a file"),
        (["imagenet_64", "-i", ".", "--set", "short_side=3"], "did you mean 'short_side_px'?"),
        (["imagenet_64", "-i", ".", "--set", "page_mib=3"], "power of two"),
    ],
)
def test_wrong_words(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["prep", *words]) == 2
    assert message in capsys.readouterr().err


def test_missing_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["prep", "imagenet_64", "-i", str(tmp_path / "nowhere")]) == 1
    assert "nowhere: no such folder" in capsys.readouterr().err
    assert run(["prep", "--verify", str(tmp_path / "x.beton")]) == 1
    assert "x.beton: no such file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["imagenet_64", "imagenet_full", "cifar10", "pbrnet"])
def test_packaged_recipes_state_their_size(name: str) -> None:
    settings = load_prep_recipe(name)
    assert settings.name == name
    assert settings.gb_per_million_images is not None and settings.measured
    assert load_prep_recipe(f"prep/{name}.yaml") == settings


def test_stated_sizes_of_raw_recipes_are_their_pixels() -> None:
    # 10**6 images of 128 x 170 (4:3, rounded down) and of 32 x 32 px, three bytes each; in 10**9 bytes.
    imagenet, cifar = (load_prep_recipe(name).gb_per_million_images for name in ("imagenet_64", "cifar10"))
    assert imagenet == pytest.approx(128 * 170 * 3 / 1e3, rel=0.01)
    assert cifar == pytest.approx(32 * 32 * 3 / 1e3, rel=0.03)
