"""``mvkit train`` as a user runs it: what is refused, and the plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mvkit.cli.main import run


def test_missing_images_name_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["train", "dual_stream_ir", "--device", "cpu"]) == 1
    assert "run: mvkit prep imagenet_full --images DIR" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_every_problem_of_a_recipe_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "dual_stream_ir", "--set", "objective.temperatur=1", "--set", "train.epochs=1.5"]
    assert run(words) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: --set objective.temperatur=1: unknown key; did you mean 'temperature'?",
        "--set train.epochs=1.5: give a whole number, 1 or more, got 1.5",
    ]


def test_dry_run_plans_without_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "dual_stream_ir", "--dry-run", "--json", "--out", str(tmp_path / "run")]
    assert run(words) == 0
    plan = json.loads(capsys.readouterr().out)
    # The last batch of an epoch is smaller, as in the reference.
    assert plan["size"]["n_steps"] == 200 * (1_281_167 // 256 + 1)
    # The memory bank dominates: a row of 128 numbers for every image.
    assert plan["memory"]["state"] > 1_281_167 * 128 * 4
    assert plan["images"] is None and "mvkit prep imagenet_full" in plan["problem"]
    assert not (tmp_path / "run").exists()


def test_a_wrong_precision(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "dual_stream_ir", "--precision", "bf61"]) == 2
    assert "--precision bf61: give fp32, bf16 or fp16; did you mean 'bf16'?" in capsys.readouterr().err
