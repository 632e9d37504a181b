"""``mvkit recipe`` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mvkit.cli.main import run


def test_show_copy_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["recipe", "copy", "honest", "mine.yaml"]) == 0
    shown = capsys.readouterr().out
    assert shown == (
        "wrote mine.yaml: change its keys, then check it: mvkit recipe check mine.yaml\n"
        "use it: mvkit score MODEL --recipe mine.yaml\n"
    )
    lines = Path("mine.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# Starts from score/honest; run it: mvkit score MODEL --recipe mine.yaml"
    assert lines[1] == "base: score/honest"
    assert lines[-1] == "# All keys and values: mvkit recipe show score/honest"
    Path("mine.yaml").write_text("base: score/honest\nn_splits: 5\n", encoding="utf-8")
    assert run(["recipe", "check", "mine.yaml", "demo"]) == 0
    assert capsys.readouterr().out == (
        "mine.yaml: a scoring recipe without errors; mvkit score MODEL --recipe mine.yaml\n"
        "demo: a training recipe without errors; mvkit train demo\n"
    )
    assert run(["recipe", "show", "mine.yaml"]) == 0
    text = capsys.readouterr().out
    assert "n_splits: 5                                 # mine.yaml:2\n" in text
    assert "correction: attenuation                     # recipes/score/honest.yaml:" in text
    assert "ridge_alpha: 1.0                            # default\n" in text


def test_show_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipe", "show", "prep/cifar10", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["recipe"], document["kind"]) == ("prep/cifar10", "prep")
    assert document["values"]["source"] == "cifar10"
    assert document["locations"]["source"].startswith("recipes/prep/cifar10.yaml:")


def test_errors_of_several_files_are_reported_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("one.yaml").write_text("n_splits: 0\n", encoding="utf-8")
    Path("two.yaml").write_text("base: demo\ntrain: {epoch: 3}\n", encoding="utf-8")
    assert run(["recipe", "check", "one.yaml", "demo", "two.yaml"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: one.yaml:1: n_splits: give a whole number from 1 to 100,000, got 0",
        "two.yaml:2: train.epoch: unknown key; did you mean 'epochs'?",
    ]
