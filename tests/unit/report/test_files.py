"""A run on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mvkit.errors import UsageError
from mvkit.report import ScoreRun, save_run, written_lines
from mvkit.report.figures import check_figure
from mvkit.report.files import folder_names
from mvkit.report.text import Table2Comparison
from mvkit.scoring import Scores, read_scores
from mvkit.scoring.comparison import compare_models

VALUES = {("a", "VISp"): [0.1, 0.2, 0.3, 0.4]}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["pixels", "gabor"], ["pixels", "gabor"]),
        (["runs/demo", "runs/demo/best.pt"], ["runs_demo", "runs_demo_best.pt"]),
        (["a/b", "a_b", "A b"], ["a_b", "a_b-2", "A_b-3"]),
        (["../x", "~/x"], ["x", "x-2"]),
        (["ceiling", "Ceiling"], ["ceiling-2", "Ceiling-3"]),
        (["..", "é"], ["model", "model-2"]),
    ],
)
def test_folders_are_safe_and_distinct(names: list[str], expected: list[str]) -> None:
    assert list(folder_names(names, taken=["ceiling"]).values()) == expected


def test_one_model_lies_in_the_folder_itself_and_several_in_their_own(
    tmp_path: Path, scores_of: Callable[..., Scores]
) -> None:
    scores = scores_of(VALUES, {"dataset": "toy"})
    other = scores_of(
        {key: [value + 0.1 for value in row] for key, row in VALUES.items()}, {"dataset": "toy"}
    )
    ceiling = scores_of({("holdout", "VISp"): [0.8, 0.8, 0.9, 0.9]}, {"dataset": "toy"})
    fractions = pd.DataFrame({"area": ["VISp"], "choice": ["paper"], "fraction": [0.3]})
    table2 = Table2Comparison("net", "neuropixels", 0.413, 0.25)
    files = save_run(
        ScoreRun({"net": scores}, {"net": table2}, ceiling=ceiling, fractions={"net": fractions}),
        tmp_path / "one",
    )
    assert all(file.is_file() for file in files)
    np.testing.assert_array_equal(read_scores(tmp_path / "one").columns["score"], scores.columns["score"])
    np.testing.assert_array_equal(
        read_scores(tmp_path / "one" / "ceiling").columns["score"], ceiling.columns["score"]
    )
    assert pd.read_csv(tmp_path / "one" / "fractions.csv")["fraction"].tolist() == [0.3]
    summary = json.loads((tmp_path / "one" / "summary.json").read_text(encoding="utf-8"))
    assert summary["table2"] == table2.to_json()
    models = {"net": scores, "runs/x": other}
    comparison = compare_models(models)
    files = save_run(ScoreRun(models, {}, comparison=comparison), tmp_path / "two")
    for folder, expected in (("net", scores), ("runs_x", other)):
        found = read_scores(tmp_path / "two" / folder)
        np.testing.assert_array_equal(found.columns["score"], expected.columns["score"])
    document = json.loads((tmp_path / "two" / "comparison.json").read_text())
    assert document["models"] == ["net", "runs/x"]
    table = pd.read_csv(tmp_path / "two" / "comparison.csv")
    np.testing.assert_allclose(table["difference"], -0.1, atol=1e-12)
    lines = written_lines(files)
    assert len(lines) == 3 and lines[-1] == f"wrote {tmp_path / 'two'}: comparison.csv, comparison.json"


def test_a_figure_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.svg").mkdir()
    check_figure(tmp_path / "figure.SVG")
    with pytest.raises(UsageError, match=r"\.svg, \.png, \.pdf"):
        check_figure(tmp_path / "figure.bmp")
    with pytest.raises(UsageError, match="is a folder"):
        check_figure(tmp_path / "folder.svg")
