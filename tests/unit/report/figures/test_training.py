"""Learning curves: what stands in the figure is what the logs say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mvkit.errors import DataError, UsageError
from mvkit.report.figures import caption_of, draw_training, label_runs, read_training_log


def write_log(folder: Path, *, n_epochs: int = 3, shift: float = 0.0, torn: bool = False) -> Path:
    """A run of 4 steps an epoch; recordings are scored after every epoch, top1 after the second."""
    folder.mkdir(parents=True)
    records: list[dict[str, object]] = [{"kind": "start", "step": 0}]
    for epoch in range(1, n_epochs + 1):
        for step in range(4 * epoch - 3, 4 * epoch + 1):
            records.append({"kind": "step", "step": step, "epoch": epoch, "loss": 4.0 / step + shift})
        values = {
            f"neural_predictivity.{area}": 0.1 * epoch + shift + place / 100
            for place, area in enumerate(("VISp", "VISl", "all"))
        }
        if epoch == 2:
            values |= {"validation_loss.loss": 2.0, "validation_loss.top1": 0.5, "validation_loss.bad": None}  # type: ignore[dict-item]
        records.append({"kind": "evaluation", "step": 4 * epoch, "epoch": epoch, **values})
        records.append({"kind": "epoch", "step": 4 * epoch, "epoch": epoch, "loss": 1.0 / epoch + shift})
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "log.jsonl").write_text(text + ('{"kind": "st' if torn else ""))
    return folder


def curves(axes, gid="epochs"):
    return [line.get_xydata().tolist() for line in axes.lines if line.get_gid() == gid]


def test_a_log_is_read_epoch_by_epoch(tmp_path: Path) -> None:
    log = read_training_log(write_log(tmp_path / "run", torn=True))
    assert log.loss == [(1.0, 1.0), (2.0, 0.5), (3.0, pytest.approx(1 / 3))]
    assert log.steps[0] == (0.25, 4.0) and log.steps[-1][0] == 3.0
    assert log.evaluations["validation_loss.top1"] == [(2.0, 0.5)]
    assert "validation_loss.bad" not in log.evaluations
    assert read_training_log(tmp_path / "run" / "log.jsonl").folder == tmp_path / "run"


def test_one_run_has_a_line_per_area(tmp_path: Path) -> None:
    figure = draw_training({"run": read_training_log(write_log(tmp_path / "run"))})
    loss, neural, validation = figure.axes
    assert curves(loss) == [[[1, 1.0], [2, 0.5], [3, pytest.approx(1 / 3)]]]
    assert len(curves(loss, "steps")[0]) == 12
    assert [curve[0][1] for curve in curves(neural)] == pytest.approx([0.1, 0.11, 0.12])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["VISp", "VISl", "all areas"]
    assert validation.get_title(loc="left") == "validation loss: top1"
    assert curves(validation) == [[[2, 0.5]]]
    assert caption_of(figure).startswith("Training of run.")


def test_several_runs_share_the_score_over_all_areas(tmp_path: Path) -> None:
    folders = [write_log(tmp_path / "a"), write_log(tmp_path / "b", shift=0.2, n_epochs=2)]
    figure = draw_training({name: read_training_log(path) for name, path in label_runs(folders).items()})
    loss, neural, _ = figure.axes
    assert len(curves(loss)) == 2 and not curves(loss, "steps")
    assert [curve[0][1] for curve in curves(neural)] == pytest.approx([0.12, 0.32])
    assert neural.get_title(loc="left") == "neural predictivity, all areas"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    assert "runs differ in their number of epochs" in caption_of(figure)
    figure.canvas.draw()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 >= 0.0 and box.y0 >= 0.0 and box.x1 <= width and box.y1 <= height


def test_runs_are_named_by_their_folders(tmp_path: Path) -> None:
    first, second = tmp_path / "x" / "run", tmp_path / "y" / "run"
    assert label_runs([first, second, first]) == {str(first): first, str(second): second}
    assert label_runs([first / "log.jsonl"]) == {"run": first}
    with pytest.raises(UsageError, match="give a folder that 'mvkit train' wrote"):
        label_runs([])


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no log\.jsonl here; is this a folder written by 'mvkit train'"):
        read_training_log(tmp_path)
    (tmp_path / "log.jsonl").write_text('{"kind": "start", "step": 0}\n')
    with pytest.raises(DataError, match="no epoch is finished yet"):
        read_training_log(tmp_path)
    with pytest.raises(UsageError, match="no training run"):
        draw_training({})
