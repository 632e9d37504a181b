"""Folders of labelled images, and the command on one."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mvkit.cli.main import app
from mvkit.errors import DataError, UsageError
from mvkit.pipeline.transfer import open_labelled_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stripes of two orientations, which the gabor model tells apart and a mean over pixels does not."""
    root = tmp_path_factory.mktemp("stripes")
    rng = np.random.default_rng(0)
    for name in ("across", "along"):
        (root / name).mkdir()
        for index in range(6):
            wave = np.sin(np.arange(64) / 2 + 2 * np.pi * rng.random())
            image = np.broadcast_to(wave if name == "across" else wave[:, None], (64, 64))
            Image.fromarray(np.uint8(127 + 100 * image)).save(root / name / f"{index}.png")
    return root


def test_a_folder_per_class(folder: Path) -> None:
    found = open_labelled_images(folder)
    assert found.labels["class"].tolist() == ["across"] * 6 + ["along"] * 6
    assert found.stimuli.image_ids[:2] == ("0.png", "1.png")


def test_a_table_of_names_and_numbers(folder: Path) -> None:
    table = folder / "labels.csv"
    rows = [[f"{name}/{i}.png", name, i / 2] for name in ("along", "across") for i in range(6)]
    try:
        table.write_text("image,kind,size\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rows))
        found = open_labelled_images(folder)
    finally:
        table.unlink()
    assert found.labels["kind"].tolist() == ["along"] * 6 + ["across"] * 6
    assert found.labels["size"].tolist() == [i / 2 for i in range(6)] * 2
    assert found.stimuli.files[0] == folder / "along" / "0.png"


@pytest.mark.parametrize(
    "text, error",
    [
        ("image\nalong/0.png\n", "needs a column 'image', one column per task, and a row per image"),
        ("file,size\nalong/0.png,1\n", "needs a column 'image'"),
        ("image,size\nalong/0.png,1\nnone.png,2\n", "labels.csv:3: no such image: .*none.png"),
        ("image,size\nalong/0.png,1\nalong/0.png,2\n", "labels.csv:3: the image is listed twice"),
        ("image,size\nalong/0.png,1\nalong/1.png\n", "labels.csv:3: 2 values expected"),
        ("image,size\nalong/0.png,1\nalong/1.png,\n", "labels.csv:3: no label in column 'size'"),
        ("image,size\nalong/0.png,1\nalong/1.png,nan\n", "labels.csv:3: column 'size': nan is not a finite"),
    ],
)
def test_wrong_tables_are_refused_by_line(folder: Path, text: str, error: str) -> None:
    table = folder / "labels.csv"
    table.write_text(text)
    try:
        with pytest.raises(DataError, match=error):
            open_labelled_images(folder)
    finally:
        table.unlink()


def test_the_command(folder: Path, tmp_path: Path) -> None:
    options = ["--task", str(folder), "--home", str(tmp_path / "home")]
    run = CliRunner().invoke(app, ["score", "gabor", *options, "--out", str(tmp_path / "out"), "--json"])
    assert run.exit_code == 0, run.output
    document = json.loads(run.stdout)
    (score,) = document["scores"]
    assert (score["model"], score["layer"], score["task"]) == ("gabor", "energy", "class")
    assert (score["measure"], score["score"], score["chance"], score["n_images"]) == (
        "accuracy",
        1.0,
        0.5,
        12,
    )
    with (tmp_path / "out" / "transfer.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["layer"], row["score"], row["folds"]) == ("energy", "1.0", "[1.0, 1.0, 1.0, 1.0, 1.0]")
    page = CliRunner().invoke(app, ["score", "gabor", *options])
    assert "energy  class  accuracy  1.000  0.000   0.500" in page.stdout


def test_what_a_task_has_no_use_for_is_refused(folder: Path) -> None:
    given = ["--map", "ridge", "--set", "n_splits=2", "--set", "input.size_px=64"]
    with pytest.raises(UsageError, match="leave --set n_splits=2, --map out"):
        CliRunner().invoke(app, ["score", "gabor", "--task", str(folder), *given], catch_exceptions=False)


def test_a_joined_layer_is_read_out_as_one(folder: Path, tmp_path: Path) -> None:
    options = ["--task", str(folder), "--home", str(tmp_path / "home"), "--weights", "random", "--json"]
    layers = ["--layers", "both=features.3+features.7,features.7"]
    run = CliRunner().invoke(app, ["score", "alexnet_bn_ir", *layers, *options])
    assert run.exit_code == 0, run.output
    scores = json.loads(run.stdout)["scores"]
    assert [score["layer"] for score in scores] == ["features.7", "both"]
