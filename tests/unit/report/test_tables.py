"""The printed table, for scores whose medians are known, and tables for a paper."""

from __future__ import annotations

import io
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from mvkit.errors import UsageError
from mvkit.report import ScoreRun, save_table, score_table
from mvkit.report.tables import latex_table, markdown_table
from mvkit.scoring import Scores

ScoresOf = Callable[..., Scores]

VALUES = {
    ("conv1", "VISp"): [0.1, 0.2, 0.3, 0.4],
    ("conv1", "VISl"): [0.5, 0.6, 0.7, math.nan],
    ("conv2", "VISp"): [0.3, 0.4, 0.5, 0.6],
    ("conv2", "VISl"): [0.1, 0.2, 0.3, math.nan],
}


def rendered(scores: Scores, *, width: int = 160) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(score_table(scores))
    return stream.getvalue()


def test_cells_are_medians_and_the_best_layer_is_marked(scores_of: ScoresOf) -> None:
    lines = rendered(scores_of(VALUES)).splitlines()
    words = {line.split()[0]: line.split() for line in lines if line.strip()}
    assert words["layer"] == ["layer", "VISp", "VISl", "all", "areas"]
    assert words["conv1"] == ["conv1", "0.250", "0.600*", "0.400*"]
    assert words["conv2"] == ["conv2", "0.450*", "0.200", "0.300"]
    assert words["units"] == ["units", "4", "3", "7"]
    assert words["animals"] == ["animals", "3", "2", "3"]


def test_an_area_without_scores_is_said_to_have_none(scores_of: ScoresOf) -> None:
    nothing = scores_of({("conv1", "VISp"): [math.nan] * 4, ("conv1", "VISl"): [0.1, 0.2, 0.3, 0.4]})
    assert "none" in rendered(nothing)


def test_a_table_fits_eighty_columns(scores_of: ScoresOf) -> None:
    areas = ["VISp", "VISl", "VISal", "VISpm", "VISrl", "VISam"]
    scores = scores_of({("features.10", area): [0.1, 0.2, 0.3, 0.4] for area in areas})
    text = rendered(scores, width=80)
    assert "…" not in text
    assert text.count("0.250") == 7
    assert "all areas" in text


@pytest.fixture
def run(scores_of: ScoresOf) -> ScoreRun:
    context = {"dataset": "my_mice"}
    other = {key: [value / 2 for value in row] for key, row in VALUES.items()}
    ceiling = scores_of(
        {("holdout", "VISp"): [0.8, 0.8, 0.9, 0.9], ("holdout", "VISl"): [0.7] * 4}, dict(context)
    )
    models = {"net_a": scores_of(VALUES, dict(context)), "50 % & more": scores_of(other, dict(context))}
    return ScoreRun(models, {}, ceiling=ceiling)


def test_a_table_in_markdown(run: ScoreRun) -> None:
    lines = markdown_table(run).splitlines()
    assert lines[:2] == ["| model | VISp | VISl | all areas |", "| --- | ---: | ---: | ---: |"]
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells[0] == "net_a"
    assert cells[1].startswith("0.45 [") and cells[2] == "0.60", "two animals: no interval"
    assert lines[4].startswith("| ceiling (holdout) | 0.85 [")
    assert lines[5] == "| units (animals) | 4 (3) | 3 (2) | 7 (3) |"
    assert lines[-1].startswith(
        "Median score on my_mice [95 % intervals over animals and units]; best layer of each area, chosen on "
        "the test images (paper). Protocol "
    )


def test_a_table_in_latex(run: ScoreRun, tmp_path: Path) -> None:
    text = latex_table(run)
    lines = text.splitlines()
    assert lines[2] == r"\begin{tabular}{lrrr}"
    assert lines[4] == r"model & VISp & VISl & all areas \\"
    assert lines[6].startswith(r"net\_a & 0.45 [") and lines[6].endswith(r" \\")
    assert lines[7].startswith(r"50 \% \& more & 0.23 [")
    assert [line for line in lines if line.endswith("rule")] == [
        r"\toprule",
        r"\midrule",
        r"\midrule",
        r"\bottomrule",
    ]
    assert all(line.count("&") - line.count(r"\&") == 3 for line in lines if line.endswith(r"\\"))
    if shutil.which("pdflatex"):
        body = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{text}\end{{document}}"
        (tmp_path / "t.tex").write_text(body)
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
        assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0


def test_names_stay_in_their_cells(run: ScoreRun) -> None:
    hostile = ScoreRun({"a\n\\input{x} <b>\x1b[2J|": run.scores}, {})
    row = next(line for line in markdown_table(hostile).splitlines() if "input" in line)
    assert row.startswith(r"| a \input{x} &lt;b>\x1b[2J\| | ")
    row = next(line for line in latex_table(hostile).splitlines() if "input" in line)
    assert row.startswith(r"a \textbackslash{}input\{x\} <b>\textbackslash{}x1b[2J| & ")


def test_the_suffix_of_a_table_says_which(run: ScoreRun, tmp_path: Path) -> None:
    assert save_table(run, tmp_path / "new" / "t.tex").read_text() == latex_table(run)
    assert save_table(run, tmp_path / "t.MD").read_text() == markdown_table(run)
    with pytest.raises(UsageError, match=r"--table .*t\.csv: give a name that ends in \.tex or \.md"):
        save_table(run, tmp_path / "t.csv")
