"""The log of a run: lines, rewinding, TensorBoard."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from mvkit.training.log import RunLog


def kinds(path: Path) -> list[tuple[str, int]]:
    return [(record["kind"], record["step"]) for record in map(json.loads, path.read_text().splitlines())]


def test_records_are_lines_and_never_nan(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "deep" / "log.jsonl")
    log.write("step", step=1, loss=math.nan, parts={"a": (1, 2)})
    log.close()
    (line,) = (tmp_path / "deep" / "log.jsonl").read_text().splitlines()
    assert json.loads(line) == {"kind": "step", "step": 1, "loss": None, "parts": {"a": [1, 2]}}


def test_rewinding_forgets_what_a_checkpoint_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = RunLog(path)
    log.write("start", step=0)
    log.write("step", step=1)
    log.write("step", step=2)
    log.write("evaluation", step=2, epoch=1)
    log.write("epoch", step=2, epoch=1)
    log.write("step", step=3)
    log.write("interrupted", step=3)
    log.close()
    with path.open("a") as file:
        file.write('{"kind": "step", "st')
    # A checkpoint of step 2, written before the epoch was evaluated.
    RunLog(path).rewind(step=2, epochs=0)
    assert kinds(path) == [("start", 0), ("step", 1), ("step", 2)]


def test_rewinding_keeps_finished_epochs_and_drops_the_end(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = RunLog(path)
    log.write("evaluation", step=2, epoch=1)
    log.write("epoch", step=2, epoch=1)
    log.write("end", step=2)
    log.close()
    RunLog(path).rewind(step=2, epochs=1)
    assert kinds(path) == [("evaluation", 2), ("epoch", 2)]
    RunLog(path).rewind(step=-1, epochs=0)
    assert kinds(path) == []


def test_tensorboard_has_the_numbers(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = RunLog(tmp_path / "log.jsonl", tensorboard=tmp_path / "board")
    log.write("step", step=3, loss=0.5, epoch=1, text="no number", flag=True)
    log.close()
    events = reader.EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert events.Tags()["scalars"] == ["step/loss"]
    (event,) = events.Scalars("step/loss")
    assert (event.step, event.value) == (3, 0.5)
