"""`mvkit.train`: the same run as by the command, from a script."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import mvkit
from mvkit.errors import DataError, RecipeError, UsageError
from mvkit.pipeline.train import TrainRequest, run_training


def test_it_returns_the_report_of_the_run(
    tiny: ModuleType, tiny_recipe: str, coloured_images: Path, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    report = mvkit.train(
        tiny_recipe,
        {
            "train.epochs": 1,
            "optimiser.learning_rate": np.float64(0.02),
            "evaluate": [{"name": "validation_loss"}],
        },
        images=str(coloured_images),
        out=tmp_path / "run",
        device="cpu",
        workers=0,
        progress=lambda done, total: seen.append((done, total)),
    )
    same = TrainRequest(
        tiny_recipe,
        overrides=("train.epochs=1", "optimiser.learning_rate=0.02"),
        images=coloured_images,
        out=tmp_path / "other",
        device="cpu",
        workers=0,
    )
    expected = run_training(same)
    assert report.folder == tmp_path / "run" and (report.folder / "last.pt").is_file()
    assert report.metrics == expected.metrics and "validation_loss.loss" in report.metrics
    assert report.digest == expected.digest
    assert seen[-1] == (9, 9)
    assert repr(report).startswith(
        f"TrainReport(tiny: step 9 of 9, loss {report.fit.loss:.4g}, validation_loss"
    )
    table = report._repr_html_()
    assert "tiny: training finished" in table and ">9 of 9<" in table
    again = mvkit.train(
        tiny_recipe,
        ["train.epochs=1", "optimiser.learning_rate=0.02"],
        images=coloured_images,
        out=tmp_path / "run",
        device="cpu",
        workers=0,
    )
    assert again.fit.resumed_from == 9


@pytest.mark.parametrize(
    ("recipe", "options", "error", "message"),
    [
        ("demoo", {}, RecipeError, "demo"),
        ("demo", {"overrides": {"train.epoch": 1}}, RecipeError, "override train.epoch=1: .*epochs"),
        ("demo", {"overrides": "train.epochs=many"}, RecipeError, "override train.epochs=many"),
        ("demo", {"images": "nowhere"}, DataError, r"nowhere: no such folder \(images=\)"),
        ("demo", {}, DataError, r"not prepared yet .*\n.*images=DIR"),
        ("demo", {"device": "gpu"}, UsageError, "device gpu"),
    ],
)
def test_wrong_arguments_are_answered_in_pythons_words(
    recipe: str, options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        mvkit.train(recipe, **options)  # type: ignore[arg-type]
    assert "--set" not in str(caught.value)
