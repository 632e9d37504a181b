"""The HTML report: the data that it holds are the results, and nothing of the user's is markup."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mvkit.cli.main import run as run_command
from mvkit.errors import DataError, UsageError
from mvkit.neural.selection import SelectionOutcome, SelectionSettings
from mvkit.report import ScoreRun, save_run
from mvkit.report.figures.style import PALETTE
from mvkit.report.html import (
    BIBTEX,
    PAGES,
    STEP,
    check_report,
    contrast,
    embed_json,
    formula_mathml,
    model_colours,
    page_colours,
    protocol_data,
    read_run,
    report_data,
    write_report,
)
from mvkit.scoring import Scores, ScoreSettings
from mvkit.scoring.comparison import compare_models, fraction_of_ceiling
from mvkit.scoring.layer_choice import OR
from mvkit.scoring.results import ALL_AREAS

ScoresOf = Callable[..., Scores]
NAN = math.nan
DEEP = {
    ("conv1", "VISp"): [0.1, 0.2, 0.3, NAN],
    ("conv2", "VISp"): [0.15, 0.25, 0.45, NAN],
    ("conv1", "VISl"): [0.61, 0.52, 0.43, 0.74],
    ("conv2", "VISl"): [0.21, 0.22, 0.93, 0.24],
}
FLAT = {("pixels", "VISp"): [0.05, 0.1, -0.05, 0.2], ("pixels", "VISl"): [0.11, 0.12, 0.13, 0.14]}
HOSTILE = "</script><img src=x onerror=alert(1)>&\"'\u2028"


@pytest.fixture(scope="module")
def run(scores_of: ScoresOf) -> ScoreRun:
    """Two models, a ceiling and a selection that excluded two units."""
    context = {"dataset": "mice", "selection": {"name": "code", "source": "the rule", "applied": True}}
    models = {
        "deep": scores_of(DEEP, {**context, "model": "deep", "weights_source": "random, seed 0"}),
        "pixels": scores_of(FLAT, {**context, "model": "pixels"}),
    }
    ceiling = scores_of(
        {("holdout", "VISp"): [0.6, 0.7, 0.8, 0.9], ("holdout", "VISl"): [0.5, 0.5, NAN, 0.5]},
        {**context, "model": "ceiling"},
    )
    first = models["deep"].columns["layer"] == "conv1"
    areas, specimens, unit_ids = (
        models["deep"].columns[name][first].tolist() for name in ("area", "specimen", "unit_id")
    )
    selection = SelectionOutcome(
        unit_ids=np.array([*unit_ids, 7, 8]),
        specimens=np.array([*specimens, 99, 11]),
        areas=np.array([*areas, "VISl", "VISp"]),
        reasons=np.array([*("" for _ in areas), "few_units", "reliability"]),
        min_units={"VISl": 3, "VISp": 2},
        settings=SelectionSettings(),
        threshold=0.75,
    )
    return ScoreRun(
        models,
        {"deep": None, "pixels": None},
        ceiling=ceiling,
        fractions={name: fraction_of_ceiling(scores, ceiling) for name, scores in models.items()},
        comparison=compare_models(models),
        selection=selection,
    )


def unit_values(data: dict[str, Any], model: int, column: str) -> dict[tuple[str, str, str], float | None]:
    """(area, animal, unit) -> value of a column, of the units that the model has."""
    units, columns = data["units"], data["models"][model]["units"]
    values = {}
    for position, layer in enumerate(columns["layer"]):
        if layer >= 0:
            key = (
                data["areas"][units["area"][position]],
                units["animals"][units["animal"][position]],
                units["id"][position],
            )
            step = columns[column][position]
            values[key] = None if step is None else step * data["step"]
    return values


@pytest.mark.parametrize("model", [0, 1])
def test_units_have_the_scores_of_the_layer_chosen_for_their_area(run: ScoreRun, model: int) -> None:
    scores = list(run.models.values())[model]
    values = unit_values(report_data(run), model, "score")
    expected = {
        (area, str(specimen), str(unit)): score
        for area, chosen in scores.chosen_units().items()
        for specimen, unit, score in zip(chosen.specimen, chosen.unit_id, chosen.score, strict=True)
    }
    assert values.keys() == expected.keys()
    for key, score in expected.items():
        value = values[key]
        assert (value is None) == math.isnan(score)
        assert value is None or value == pytest.approx(score, abs=STEP / 2)


def test_units_name_their_layers_reasons_and_reliabilities(run: ScoreRun) -> None:
    data = report_data(run)
    deep = data["models"][0]["units"]
    layers = [deep["layers"][layer] for layer in deep["layer"][:8]]
    assert layers == ["conv2"] * 4 + ["conv1"] * 4
    # The third unit of VISl is predicted best by another layer than its area.
    assert deep["own"][:8] == [1, 1, 1, -1, 0, 0, 1, 0]
    assert deep["highest"][6] * data["step"] == pytest.approx(0.93)
    assert [data["reasons"][reason] for reason in deep["reason"][:4]] == ["", "", "", "constant response"]
    assert deep["raw"][0] * data["step"] == pytest.approx(0.075)
    assert [deep["used"][0], deep["dropped"][0], deep["used"][3], deep["dropped"][3]] == [10, 0, 0, 10]
    assert set(deep["response"][:8]) == {5000}


def test_excluded_units_stand_at_the_end_with_their_reason(run: ScoreRun) -> None:
    data = report_data(run)
    units = data["units"]
    assert len(units["id"]) == 10
    assert units["excluded"][:8] == [0] * 8
    excluded = [
        (
            units["id"][position],
            units["animals"][units["animal"][position]],
            data["reasons"][units["excluded"][position]],
        )
        for position in (8, 9)
    ]
    assert excluded == [
        ("7", "99", "excluded: too few units left in its recording"),
        ("8", "11", "excluded: reliability too low"),
    ]
    assert data["models"][0]["units"]["layer"][8:] == [-1, -1]
    facts = dict(data["facts"])
    animals = len(set(run.scores.columns["specimen"].tolist()))
    assert facts["Selection"] == (
        f"code (the rule). Kept 8 of 10 units, {animals} of {animals + 1} animals; "
        "left out: 1 below reliability 0.75; 1 with too few units left (q3: VISl needs 3)."
    )
    assert facts["Scored"] == f"8 units, {animals} animals (VISp 4, VISl 4)"


def test_tables_are_those_of_the_scores(run: ScoreRun) -> None:
    data = report_data(run)
    assert data["areas"] == ["VISp", "VISl", ALL_AREAS]
    for model, scores in zip(data["models"], run.models.values(), strict=True):
        summary = {
            (model["layers"][row["layer"]], data["areas"][row["area"]]): row for row in model["summary"]
        }
        for row in scores.summary().to_dict("records"):
            here = summary[row["layer"], row["area"]]
            assert here["median"] == row["median"]
            assert here["n_units"] == row["n_units"]
            for end in ("low", "high"):
                assert here[end] == (None if math.isnan(row[end]) else row[end])
        for best, row in zip(model["best"], scores.best_layers().to_dict("records"), strict=True):
            assert (best["layer"], best["median"]) == (row["layer"], row["median"])
    fractions = {row["area"]: row for row in run.fractions["deep"].to_dict("records")}
    for best in data["models"][0]["best"]:
        assert best["fraction"] == fractions[data["areas"][best["area"]]]["fraction"]
    ceiling = {data["areas"][row["area"]]: row["median"] for row in data["ceiling"]["rows"]}
    assert ceiling == {"VISp": pytest.approx(0.75), "VISl": 0.5, "all": 0.6}
    assert data["ceiling"]["score"][:8] == [6000, 7000, 8000, 9000, 5000, 5000, None, 5000]


def test_points_of_animals_are_medians_over_their_units(run: ScoreRun) -> None:
    data = report_data(run)
    points = {
        (data["areas"][area], data["units"]["animals"][animal]): (median, n)
        for area, animal, median, n in data["models"][0]["animals"]
    }
    chosen = run.scores.chosen_units()
    expected: dict[tuple[str, str], list[float]] = {}
    for area, units in chosen.items():
        for specimen, score in zip(units.specimen.tolist(), units.score.tolist(), strict=True):
            if not math.isnan(score):
                expected.setdefault((area, str(specimen)), []).append(score)
                expected.setdefault((ALL_AREAS, str(specimen)), []).append(score)
    assert len(expected) > 4
    assert points == {key: (np.median(scores), len(scores)) for key, scores in expected.items()}


def test_differences_are_those_of_the_comparison(run: ScoreRun) -> None:
    data = report_data(run)
    assert run.comparison is not None
    assert len(data["comparison"]) == len(run.comparison.pairs)
    for row, pair in zip(data["comparison"], run.comparison.pairs, strict=True):
        assert data["models"][row["first"]]["name"] == pair.first
        assert data["models"][row["second"]]["name"] == pair.second
        assert data["areas"][row["area"]] == pair.area
        assert row["difference"] == pair.difference


def test_held_out_scores_of_two_layers_have_no_raw_correlation(scores_of: ScoresOf) -> None:
    # The even splits choose conv1, the odd ones conv2.
    folds = {
        ("conv1", "VISp"): [[0.9, 0.8, 0.9, 0.8], [0.1, 0.2, 0.1, 0.2]],
        ("conv2", "VISp"): [[0.3, 0.3, 0.4, 0.4], [0.7, 0.7, 0.6, 0.6]],
    }
    scores = scores_of(
        {key: list(np.mean(rows, axis=0)) for key, rows in folds.items()},
        {"model": "net"},
        by_fold=folds,
        n_splits=2,
        layer_choice="held-out",
    )
    data = report_data(ScoreRun({"net": scores}, {}))
    units = data["models"][0]["units"]
    assert units["layers"] == [f"conv1{OR}conv2"]
    assert [value * STEP for value in units["score"]] == pytest.approx([0.2, 0.25, 0.25, 0.3])
    assert units["raw"] == units["map"] == [None] * 4
    assert units["response"] == [5000] * 4
    assert "held-out" in data["choiceWords"]


def test_populations_have_no_units(scores_of: ScoresOf) -> None:
    scores = scores_of(
        {("conv1", "VISp"): [0.1, 0.2, 0.3, 0.4], ("conv2", "VISp"): [0.2, 0.2, 0.2, 0.2]},
        {"model": "net"},
        populations=True,
        mapping="rsa",
    )
    data = report_data(ScoreRun({"net": scores}, {}))
    assert not data["hasUnits"]
    assert dict(data["facts"])["Scored"] == "4 populations, 4 animals (VISp 4)"
    assert len(data["models"][0]["animals"]) == 8
    assert "RDM" in data["protocol"]["axis"]
    steps = " ".join(data["protocol"]["steps"])
    assert "Nothing is fitted" in steps
    assert "train the map" not in steps


def test_simulated_data_are_called_so(scores_of: ScoresOf) -> None:
    scores = scores_of(FLAT, {"model": "pixels", "dataset": "simulated"})
    data = report_data(ScoreRun({"pixels": scores}, {}))
    assert data["simulated"]
    assert "SIMULATED" in data["title"]


def test_many_dropped_halves_are_a_warning(scores_of: ScoresOf) -> None:
    scores = scores_of({("pixels", "VISp"): [0.1, NAN, NAN, NAN]}, {"model": "pixels"})
    data = report_data(ScoreRun({"pixels": scores}, {}))
    warnings = [text for kind, text, _ in data["notes"] if kind == "warning"]
    assert len(warnings) == 1
    assert "75 % of the split halves were dropped" in warnings[0]
    assert "honest" in warnings[0]


@pytest.mark.parametrize("text", [HOSTILE, "<!--<script>", "]]>", "\u2029", 'a"b\\c', "é 漢 😀"])
def test_embedded_json_ends_no_script_and_comes_back(text: str) -> None:
    embedded = embed_json({text: [text]})
    assert not set("<>&\u2028\u2029") & set(embedded)
    assert json.loads(embedded) == {text: [text]}


def test_names_of_the_user_are_never_markup(tmp_path: Path, scores_of: ScoresOf) -> None:
    scores = scores_of(
        {(HOSTILE, HOSTILE): [0.1, 0.2, 0.3, 0.4]}, {"model": HOSTILE, "dataset": HOSTILE, "network": HOSTILE}
    )
    path = write_report(ScoreRun({HOSTILE: scores}, {}), tmp_path / "r.html", command=HOSTILE)
    page = path.read_text(encoding="utf-8")
    template = (resources.files("mvkit.report") / "report.html").read_text(encoding="utf-8")
    assert page.count("</script>") == template.count("</script>")
    assert "<img" not in page
    data = data_of(page)
    assert data["models"][0]["name"] == HOSTILE
    assert ["Command", HOSTILE] in data["environment"]


def test_placeholders_in_names_are_not_filled(tmp_path: Path, scores_of: ScoresOf) -> None:
    scores = scores_of(FLAT, {"model": "m", "dataset": "{{data}} {{formula}}"})
    page = write_report(ScoreRun({"m": scores}, {}), tmp_path / "r.html").read_text(encoding="utf-8")
    assert data_of(page)["dataset"] == "{{data}} {{formula}}"
    assert page.count("<math") == 1


def data_of(page: str) -> dict[str, Any]:
    """The JSON of a page."""
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert match is not None
    document: dict[str, Any] = json.loads(match[1])
    return document


def test_the_template_asks_for_nothing_from_the_network() -> None:
    template = (resources.files("mvkit.report") / "report.html").read_text(encoding="utf-8")
    assert not re.search(
        r"<link(?! rel=\"icon\" href=\"data:,\")|@import|url\(|\bsrc=|fetch\(|XMLHttp", template
    )
    assert set(re.findall(r"https?://[^\"'\s]+", template)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in template
    # Text goes onto the page as text.
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", template)


def test_the_command_seeds_versions_and_digests_are_told(run: ScoreRun) -> None:
    rows = dict(report_data(run, command="mvkit score deep")["environment"])
    assert rows["Command"] == "mvkit score deep"
    assert rows["Protocol digest"].startswith(run.scores.digest())
    assert rows["Seeds"] == "image splits 0, trial halves 0, resampling 0"
    assert "weights: random, seed 0" in rows["deep"]
    assert "doi     = {10.1371/journal.pcbi.1011506}" in BIBTEX


def formula_text(**settings: object) -> str:
    """The characters of a formula, one after the other."""
    root = ElementTree.fromstring(formula_mathml(ScoreSettings(**settings)))
    return "".join(root.itertext())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "score=⟨r(p1,t2)SB(r(p1,p2))·SB(r(t1,t2))⟩"),
        ({"estimator": "corrected-mean"}, "score=⟨r(p1,t2)⟩SB(⟨r(p1,p2)⟩)·SB(⟨r(t1,t2)⟩)"),
        ({"correction": "attenuation"}, "score=⟨r(p1,t2)r(p1,p2)·r(t1,t2)⟩"),
        ({"correction": "spearman-brown-ratio"}, "score=⟨SB(r(p1,t2)r(p1,p2)·r(t1,t2))⟩"),
        ({"correction": "none", "estimator": "corrected-mean"}, "score=⟨r(p1,t2)⟩"),
        ({"halving": "bootstrap"}, "score=⟨r(p1,t2)r(p1,p2)·r(t1,t2)⟩"),
        ({"mapping": "rsa"}, "score=⟨r(L,t2)SB(r(t1,t2))⟩"),
    ],
)
def test_formulas(settings: dict[str, object], text: str) -> None:
    assert formula_text(**settings) == text


def test_settings_that_differ_from_the_paper_are_marked(scores_of: ScoresOf) -> None:
    settings = protocol_data(scores_of(FLAT, n_splits=2, correlation="spearman"))["settings"]
    changed = {name: (here, paper) for name, here, paper in settings if paper}
    assert changed == {
        "n_splits": ("2", "10"),
        "n_halves": ("10", "100"),
        "correlation": ("spearman", "pearson"),
    }
    assert "ridge_alpha" not in {name for name, *_ in settings}


def test_colours_belong_to_names_and_differ() -> None:
    alone = model_colours(["gabor"])["gabor"]
    assert model_colours(["pixels", "gabor"])["gabor"] == model_colours(["gabor", "pixels"])["gabor"] == alone
    many = model_colours([f"net{number}" for number in range(len(PALETTE))])
    for side in (0, 1):
        assert len({colours[side] for colours in many.values()}) == len(PALETTE)


@pytest.mark.parametrize("colour", [*PALETTE, "#ffffff", "#000000", "#777777", "#bbbbbb"])
def test_colours_stand_out_from_light_and_dark_pages(colour: str) -> None:
    for mixed, (page, least) in zip(page_colours(colour), PAGES.items(), strict=True):
        assert contrast(mixed, page) >= least >= 3.0
    # What stands out already stays.
    assert page_colours("#117733")[0] == "#117733"
    assert page_colours("#88CCEE")[1] == "#88ccee"


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


def test_saved_runs_give_the_same_report(tmp_path: Path, run: ScoreRun) -> None:
    save_run(run, tmp_path / "out")
    again = report_data(read_run([tmp_path / "out"]))
    here = report_data(run)
    # Thresholds of the selection are not saved.
    for data in (here, again):
        data["facts"] = [row for row in data["facts"] if row[0] != "Selection"]
    assert again == here


def test_the_selection_of_a_saved_run_is_told_in_counts(tmp_path: Path, run: ScoreRun) -> None:
    save_run(run, tmp_path)
    words = dict(report_data(read_run([tmp_path]))["facts"])["Selection"]
    assert words.startswith("code (the rule). Kept 8 of 10 units, ")
    assert words.endswith(
        " animals; left out: 1 of too low reliability; 1 in recordings with too few units left."
    )


def test_several_folders_are_compared(tmp_path: Path, run: ScoreRun) -> None:
    for name, scores in run.models.items():
        save_run(ScoreRun({name: scores}, {name: None}), tmp_path / name)
    both = read_run([tmp_path / "deep", tmp_path / "pixels"])
    assert list(both.models) == ["deep", "pixels"]
    # As text: NaN is not equal to itself.
    assert str(both.comparison) == str(run.comparison)


def test_wrong_folders_and_files_are_named(tmp_path: Path, run: ScoreRun) -> None:
    with pytest.raises(DataError, match=r"nothing: no such folder"):
        read_run([tmp_path / "nothing"])
    with pytest.raises(DataError, match="is this a folder written by"):
        read_run([tmp_path])
    with pytest.raises(UsageError, match="given twice"):
        read_run([tmp_path, tmp_path])
    with pytest.raises(UsageError, match="is a folder; give a file name"):
        check_report(tmp_path)
    with pytest.raises(UsageError, match=r"give a name that ends in \.html"):
        check_report(tmp_path / "report.pdf")


def test_the_command_writes_the_page(
    tmp_path: Path, run: ScoreRun, capsys: pytest.CaptureFixture[str]
) -> None:
    save_run(run, tmp_path / "out")
    page = tmp_path / "report.html"
    assert run_command(["report", str(tmp_path / "out"), "--out", str(page)]) == 0
    assert capsys.readouterr().out == f"wrote {page}\n"
    assert data_of(page.read_text(encoding="utf-8"))["title"] == "2 models on mice"
    assert run_command(["report", str(tmp_path / "out"), "--out", str(page), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"files": [str(page)]}
    assert run_command(["report", str(tmp_path / "none"), "--out", str(page)]) == 1
    assert "no such folder" in capsys.readouterr().err


def test_the_suffix_is_checked_before_anything_is_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["score", "gabor", "--dataset", "simulated", "--report", str(tmp_path / "r.txt")]
    assert run_command(words) == 2
    assert "give a name that ends in .html" in capsys.readouterr().err
