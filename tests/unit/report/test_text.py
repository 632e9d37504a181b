"""Everything that a run prints, for scores whose medians are known."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from mvkit.neural.selection import SelectionOutcome, SelectionSettings
from mvkit.report import ScoreRun, run_document, run_page
from mvkit.report.text import (
    Table2Comparison,
    dropped_line,
    dropped_share,
    mapping_words,
    protocol_details,
    protocol_line,
    result_lines,
    selection_lines,
    title_line,
    warning_lines,
)
from mvkit.scoring import Scores, ScoreSettings
from mvkit.scoring.comparison import compare_models

ScoresOf = Callable[..., Scores]
AREAS = ("VISp", "VISl", "VISal", "VISpm", "VISrl", "VISam")
#: The even split prefers conv1, the odd one conv2; over both conv2 is ahead.
SPLITS = {
    "conv1": [[0.50, 0.52, 0.54, 0.56], [0.10, 0.12, 0.14, 0.16]],
    "conv2": [[0.20, 0.22, 0.24, 0.26], [0.60, 0.62, 0.64, 0.66]],
}


def two_layers(scores_of: ScoresOf, *, shift: float = 0.0, areas: tuple[str, ...] = ("VISp",)) -> Scores:
    by_fold = {
        (layer, area): (np.array(rows) + shift).tolist() for layer, rows in SPLITS.items() for area in areas
    }
    means = {key: np.mean(rows, axis=0).tolist() for key, rows in by_fold.items()}
    return scores_of(means, {"model": "net", "dataset": "toy"}, by_fold=by_fold, n_splits=2)


def printed(run: ScoreRun, *, width: int = 140, details: bool = False) -> list[str]:
    stream = io.StringIO()
    console = Console(file=stream, width=width)
    for part in run_page(run, width=width, details=details):
        if isinstance(part, str):
            stream.write(part + "\n")
        else:
            console.print(part)
    return stream.getvalue().splitlines()


def block(lines: list[str], start: str) -> list[str]:
    """The lines of the table under a title."""
    begin = next(index for index, line in enumerate(lines) if line.startswith(start)) + 1
    end = next(index for index in range(begin, len(lines)) if not lines[index].strip())
    return lines[begin:end]


def test_each_choice_of_layers_has_a_table_of_its_own(scores_of: ScoresOf) -> None:
    lines = printed(ScoreRun({"net": two_layers(scores_of)}, {"net": None}), details=True)
    paper = next(
        line for line in block(lines, "best layer, chosen on the test images (paper)") if "VISp" in line
    )
    held = next(line for line in block(lines, "best layer, held-out:") if "VISp" in line)
    # conv2 has the higher median over both splits: (0.23 + 0.63) / 2.
    assert paper.split()[1:3] == ["conv2", "0.430"]
    # conv1, chosen on the even split, scores 0.13 on the odd one; conv2 the other way round 0.23.
    assert held.split()[1:5] == ["conv1", "/", "conv2", "0.180"]
    assert paper.rstrip().endswith("4 (3)")


def test_the_headline_is_that_of_the_choice(scores_of: ScoresOf) -> None:
    scores = two_layers(scores_of)
    changed = scores.settings.model_copy(update={"layer_choice": "held-out"})
    held = Scores(scores.columns, scores.layers, scores.areas, changed, scores.context, scores.by_fold)
    for chosen, words, value in (
        (scores, "chosen on the test images (paper)", 0.43),
        (held, "held-out", 0.18),
    ):
        lines = printed(ScoreRun({"net": chosen}, {"net": None}))
        titles = [line for line in lines if line.startswith("best layer,")]
        assert len(titles) == 1 and words in titles[0], "the other choice is a detail"
        row = next(line for line in lines if line.startswith("VISp"))
        assert f"{value:.3f} [" in row


def test_one_layer_is_no_choice_and_one_split_allows_none(scores_of: ScoresOf) -> None:
    only = printed(ScoreRun({"net": scores_of({("a", "VISp"): [0.1, 0.2, 0.3, 0.4]})}, {}), details=True)
    assert not any(line.startswith(("best layer", "the only layer")) for line in only)
    assert "layer a" in only
    two = scores_of({("a", "VISp"): [0.1, 0.2, 0.3, 0.4], ("b", "VISp"): [0.3, 0.4, 0.5, 0.6]})
    lines = printed(ScoreRun({"net": two}, {}), details=True)
    assert "no best layers held-out: held-out choice needs two splits" in lines


def test_a_missing_interval_says_why(scores_of: ScoresOf) -> None:
    scores = scores_of({("a", "VISp"): [0.1, 0.2, math.nan, math.nan], ("a", "VISl"): [0.1, 0.2, 0.3, 0.4]})
    lines = printed(ScoreRun({"net": scores}, {}))
    assert "VISp: 1 animal: no interval" in lines
    two = scores_of({("a", "VISp"): [0.1, 0.2, 0.3, math.nan], ("a", "VISl"): [0.1, 0.2, 0.3, math.nan]})
    lines = printed(ScoreRun({"net": two}, {}))
    assert "VISp, VISl, all areas: 2 animals: no interval" in lines
    rows = [line for line in lines if line.startswith(("VIS", "all areas"))]
    assert len(rows) == 4 and not any("[" in row for row in rows), "no interval is printed"


def test_populations_are_counted_as_animals(scores_of: ScoresOf) -> None:
    scores = scores_of({("a", "VISp"): [0.1, 0.2, 0.3, 0.4]}, mapping="rsa", populations=True)
    lines = printed(ScoreRun({"net": scores}, {}))
    assert lines[0].startswith(
        "features on recordings: 4 populations (the units of an animal in an area), 4 animals"
    )
    assert not any(line.startswith("units ") for line in lines)
    row = next(line for line in block(lines, "layer a") if line.startswith("VISp"))
    assert row.split()[-1] == "4"


def test_pooled_populations_are_not_called_animals(scores_of: ScoresOf) -> None:
    scores = scores_of(
        {("a", "VISp"): [0.1, 0.2, 0.3, 0.4]}, mapping="rsa", population="pooled", populations=True
    )
    text = "\n".join(printed(ScoreRun({"net": scores}, {})))
    assert "pooled" in text and "populations" in text
    assert "no intervals: the animals of an area are pooled into one population" in text
    assert "4 animals" not in text


NETS = ("dual_stream_encoder", "runs/a_long_name/best.pt", "alexnet_bn_ir (random, seed 0)")


@pytest.mark.parametrize("details", [False, True])
@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit_the_terminal(width: int, details: bool, scores_of: ScoresOf) -> None:
    nets = {name: two_layers(scores_of, shift=-0.1 * i, areas=AREAS) for i, name in enumerate(NETS)}
    ceiling = scores_of(
        {("holdout", area): [0.8, 0.82, 0.84, 0.86] for area in AREAS}, {"dataset": "toy"}, n_splits=2
    )
    run = ScoreRun(nets, {}, ceiling=ceiling, comparison=compare_models(nets))
    parts = list(run_page(run, width=width, details=details))
    stream = io.StringIO()
    console = Console(file=stream, width=width)
    for part in parts:
        if not isinstance(part, str):
            console.print(part)
    lines = stream.getvalue().splitlines()
    assert "…" not in stream.getvalue()
    assert max(len(line.rstrip()) for line in lines) <= width
    assert sum("ceiling (holdout)" in line for line in lines) == (4 if details else 1)


def test_ten_lines_come_first(scores_of: ScoresOf) -> None:
    nets = {name: two_layers(scores_of, shift=-0.1 * i) for i, name in enumerate(NETS)}
    lines = printed(ScoreRun(nets, {}, comparison=compare_models(nets)))
    assert lines[0] == "3 models on toy: 4 units, 3 animals"
    assert lines[1].startswith("PLS (25 components), 2 image splits x 10 trial halves, corrected for noise (")
    # One area is not also called all areas.
    assert not any("all areas" in line for line in lines)
    assert len(lines) < 20
    assert lines[-1] == "every layer, pairs and reason: --details, or files of --out DIR"
    text = "\n".join(lines)
    assert "±" not in text, "one uncertainty at a time"


def test_models_are_ranked_and_verdicts_are_a_matrix(scores_of: ScoresOf) -> None:
    near, far = two_layers(scores_of), two_layers(scores_of, shift=-0.3)
    values = {("conv1", "VISp"): [0.44, 0.42, 0.43, 0.41], ("conv2", "VISp"): [0.2, 0.2, 0.2, 0.2]}
    splits = {key: [row, row] for key, row in values.items()}
    like = scores_of(values, dict(near.context), by_fold=splits, n_splits=2)
    models = {"far": far, "near": near, "like": like}
    run = ScoreRun(models, {}, comparison=compare_models(models))
    lines = printed(run)
    table = block(lines, "median [95 % over animals]; layers chosen on the test images (paper)")
    assert [line.split()[:3] for line in table[1:4]] == [
        ["1", "near", "0.430"],
        ["2", "like", "0.425"],
        ["3", "far", "0.130"],
    ]
    assert [line.split() for line in table[4:]] == [["units", "4"], ["animals", "3"]]
    matrix = block(lines, "verdicts (row against column; 95 %, Holm; -: not resolved)")
    assert [line.split() for line in matrix] == [
        ["1", "2", "3"],
        ["1", "near", ".", "-", "higher"],
        ["2", "like", "-", ".", "higher"],
        ["3", "far", "lower", "lower", "."],
    ]
    pairs = printed(run, details=True)
    first = block(pairs, "far minus near; best layers chosen on the test images (paper)")
    assert next(line for line in first if line.startswith("VISp")).rstrip().endswith("near is higher")


def test_words_that_do_not_fit_become_signs(scores_of: ScoresOf) -> None:
    nets = {f"network_{i}": two_layers(scores_of, shift=-0.1 * i) for i in range(8)}
    run = ScoreRun(nets, {}, comparison=compare_models(nets))
    matrix = block(printed(run, width=80), "verdicts")
    assert matrix[1].split() == ["1", "network_0", ".", *">>>>>>>"]
    assert matrix[8].split() == ["8", "network_7", *"<<<<<<<", "."]


def test_two_models_get_a_sentence(scores_of: ScoresOf) -> None:
    areas = ("VISp", "VISl")
    models = {"a": two_layers(scores_of, areas=areas), "b": two_layers(scores_of, shift=-0.3, areas=areas)}
    lines = printed(ScoreRun(models, {}, comparison=compare_models(models)))
    (sentence,) = (line for line in lines if line.startswith("a minus b"))
    assert sentence.startswith("a minus b, all areas: +0.300 [0.300, 0.300], p < 0.001: a is higher")
    assert sentence.endswith("(median of the differences of the same units)")
    assert "by area: a is higher in VISp, VISl" in lines


def test_an_interval_that_holds_0_is_warned_of(scores_of: ScoresOf) -> None:
    clear = scores_of({("a", "VISp"): [0.28, 0.3, 0.31, 0.33]})
    unclear = scores_of({("a", "VISp"): [0.9, 0.1, 0.3, -0.8]})
    assert warning_lines(ScoreRun({"net": clear}, {})) == []
    (warning,) = warning_lines(ScoreRun({"net": clear, "noise": unclear}, {}))
    assert warning.startswith("warning: the interval holds 0, so these data do not show that there is any ")
    assert ": noise 0.200 [" in warning


def test_there_is_one_document_for_one_model_and_for_several(scores_of: ScoresOf) -> None:
    scores = two_layers(scores_of)
    quoted = Table2Comparison("net", "calcium", 0.316, 0.43)
    one = run_document(ScoreRun({"net": scores}, {"net": quoted}))
    (model,) = one["models"]
    assert model["table2"] == {
        "row": "net",
        "dataset": "calcium",
        "value": 0.316,
        "here": 0.43,
        "comparable": True,
        "differences": [],
    }
    assert [row["median"] for row in model["summary"]] == scores.summary()["median"].tolist()
    models = {"net": scores, "other": two_layers(scores_of, shift=0.1)}
    several = run_document(ScoreRun(models, {"net": quoted}, comparison=compare_models(models)))
    assert set(several) == set(one)
    assert [model["name"] for model in several["models"]] == ["net", "other"]
    assert [model["table2"] for model in several["models"]] == [model["table2"], None]
    assert several["digest"] == one["digest"] == scores.digest()
    assert several["comparison"]["models"] == ["net", "other"]
    assert several["ceiling"] is None


VALUES = {
    ("conv1", "VISp"): [0.1, 0.2, 0.3, 0.4],
    ("conv1", "VISl"): [0.5, 0.6, 0.7, math.nan],
    ("conv2", "VISp"): [0.3, 0.4, 0.5, 0.6],
    ("conv2", "VISl"): [0.1, 0.2, 0.3, math.nan],
}
ONE_LAYER = {("a", "VISp"): [0.1, 0.2, 0.3, 0.4]}


def test_the_result_pools_each_areas_best_layer(scores_of: ScoresOf) -> None:
    table2 = Table2Comparison("net", "neuropixels", 0.413, 0.5)
    scores = scores_of(VALUES, {"model": "net", "dataset": "neuropixels"})
    lines = printed(ScoreRun({"net": scores}, {"net": table2}))
    pooled = [0.5, 0.6, 0.7, 0.3, 0.4, 0.5, 0.6]
    (row,) = (line for line in lines if line.startswith("all areas"))
    assert f"{np.median(pooled):.3f} [" in row and row.rstrip().endswith("7 (3)")
    assert any(line.startswith("the paper's Table 2 has 0.413 for net on neuropixels") for line in lines)
    assert title_line(scores) == "net on neuropixels: 8 units, 3 animals"


def test_what_has_no_score_is_counted_with_its_reason(scores_of: ScoresOf) -> None:
    scores = scores_of(VALUES, {"skipped_areas": {"VISam": "no specimen passes"}})
    assert "skipped VISam: no specimen passes" in printed(ScoreRun({"net": scores}, {}))
    lines = result_lines(scores)
    assert "without a score: 2 of 16 unit-layer pairs (constant response: 2)" in lines
    assert "halves dropped: 20 of 160 (12.5 %: constant response 20)" in lines


def test_scores_that_cannot_be_correlations_are_pointed_out(scores_of: ScoresOf) -> None:
    scores = scores_of({("conv1", "VISp"): [0.1, 0.2, 0.3, 900.0]})
    lines = result_lines(scores)
    start = "scores beyond ±2: 1 of 4 unit-layer pairs (units: 1)"
    assert any(line.startswith(start) for line in lines)
    assert not any("beyond" in line for line in result_lines(scores_of(VALUES)))


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (
            {"selection": {"name": "paper", "applied": True}},
            ["selection paper (not checked against the paper's text): every unit"],
        ),
        ({"selection": {"name": "none", "applied": True}}, ["selection none: every unit"]),
        (
            {"selection": {"name": "none", "applied": False, "note": "every unit, because why"}},
            ["selection none: every unit, because why"],
        ),
        ({}, []),
    ],
)
def test_the_selection_is_named(scores_of: ScoresOf, context: dict[str, object], expected: list[str]) -> None:
    assert selection_lines(None, scores_of(VALUES, context)) == expected


def test_simulated_recordings_are_called_so(scores_of: ScoresOf) -> None:
    assert "the SIMULATED dataset" in title_line(scores_of(VALUES, {"dataset": "simulated"}))


def test_the_papers_protocol_is_called_so(scores_of: ScoresOf) -> None:
    scores = scores_of(ONE_LAYER, n_splits=10, n_halves=100)
    line = protocol_line(scores)
    assert line.startswith("PLS (25 components), 10 image splits x 100 trial halves, corrected for noise (")
    assert "spearman-brown-denominator, mean-of-corrected" in line
    assert line.endswith("; settings as in the paper")
    assert protocol_details(scores) == (
        f"protocol {scores.digest()[:12]}; seeds: splits 0, halves 0, resampling 0",
    )


def test_what_differs_stands_beside_the_papers_value(scores_of: ScoresOf) -> None:
    chosen = {
        "n_splits": 2,
        "n_halves": 100,
        "correction": "attenuation",
        "split_seed": 5,
        "n_resamples": 100,
    }
    scores = scores_of(ONE_LAYER, **chosen)
    line = protocol_line(scores)
    assert line.endswith(
        "; differs from the paper's: n_splits 2 (paper: 10), correction attenuation (paper: "
        "spearman-brown-denominator), split_seed 5 (paper: 0)"
    )
    assert "2 image splits" in line
    assert "seeds: splits 5," in protocol_details(scores)[0]
    assert "not corrected" in protocol_line(scores_of(ONE_LAYER, correction="none"))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"mapping": "ridge"}, "ridge (alpha 1)"),
        ({"mapping": "ridge", "ridge_alpha": "cv"}, "ridge (alpha by cross-validation)"),
        ({"mapping": "one-to-one"}, "one-to-one"),
        ({"mapping": "rsa", "rsa_comparison": "cosine"}, "RSA (RDMs compared by cosine)"),
    ],
)
def test_a_mapping_is_named_with_its_own_settings(settings: dict[str, object], expected: str) -> None:
    assert mapping_words(ScoreSettings(**settings)) == expected


def test_a_similarity_of_all_images_has_no_splits(scores_of: ScoresOf) -> None:
    assert ", all images, 10 trial halves" in protocol_line(scores_of(ONE_LAYER, mapping="rsa"))
    of_test_images = scores_of(ONE_LAYER, mapping="rsa", similarity_images="test", n_splits=3)
    assert ", 3 image splits x 10 trial halves" in protocol_line(of_test_images)


def test_dropped_halves_are_counted_by_reason(scores_of: ScoresOf) -> None:
    scores = scores_of({("a", "VISp"): [0.1, 0.2, 0.3, math.nan]})
    assert dropped_line(scores) == "halves dropped: 10 of 40 (25.0 %: constant response 10)"
    columns = dict(scores.columns)
    columns["dropped_negative_map"] = np.array([0, 1, 0, 3])
    columns["dropped_constant_response"] = np.array([0, 0, 0, 6])
    columns["halves_dropped"] = np.array([0, 1, 0, 9])
    several = replace(scores, columns=columns)
    assert dropped_line(several).endswith(": constant response 6, negative map reliability 4)")
    assert dropped_line(scores_of({("a", "VISp"): [0.1, 0.2, 0.3, 0.4]})) == ""
    corrected = scores_of({("a", "VISp"): [0.1, 0.2, 0.3, math.nan]}, estimator="corrected-mean")
    assert dropped_line(corrected).startswith(
        "halves that alone could not be corrected: 10 of 40 (25.0 %: constant response 10);"
    )


def test_many_dropped_halves_are_warned_of_above_the_table(scores_of: ScoresOf) -> None:
    values = {("a", "VISp"): [0.1, 0.2, 0.3, math.nan]}
    lines = printed(ScoreRun({"net": scores_of(values)}, {}))
    warning = next(index for index, line in enumerate(lines) if line.startswith("warning: 25 %"))
    assert "--recipe honest" in lines[warning]
    assert warning < next(index for index, line in enumerate(lines) if line.startswith("area"))
    assert dropped_share(scores_of(values, estimator="corrected-mean")) == 0.0
    assert dropped_share(scores_of({("a", "VISp"): [0.1, 0.2, 0.3, 0.4]})) == 0.0
    models = {"net": scores_of(values), "other": scores_of(values)}
    assert warning_lines(ScoreRun(models, {}))[0].startswith("warning: net 25 %, other 25 % of the split ")


def test_a_layer_without_a_map_says_why(scores_of: ScoresOf) -> None:
    scores = scores_of({("a", "VISp"): [0.1, 0.2, math.nan, math.nan]})
    reasons = np.array(["", "", "unmapped", "negative_map"], dtype=object)
    detail = np.array(["", "", "the layer does not vary", "image 3 has no valid trial"], dtype=object)
    known = replace(scores, columns={**scores.columns, "reason": reasons, "detail": detail})
    assert (
        "without a score: 2 of 4 unit-layer pairs (the layer does not vary: 1; negative map reliability: 1)"
        in result_lines(known)
    )


def selection(reasons: list[str], areas: list[str]) -> SelectionOutcome:
    return SelectionOutcome(
        unit_ids=np.arange(len(reasons)),
        specimens=np.array([1, 1, 2, 2, 3, 3]),
        areas=np.array(areas),
        reasons=np.array(reasons),
        min_units={"VISp": 86, "VISl": 7},
        settings=SelectionSettings(),
        threshold=0.5,
    )


def test_excluded_units_are_counted_with_their_reasons(scores_of: ScoresOf) -> None:
    reasons = ["", "reliability", "few_units", "few_units", "few_units", "reliability"]
    outcome = selection(reasons, ["VISp", "VISp", "VISp", "VISp", "VISl", "VISl"])
    scores = scores_of(ONE_LAYER, {"selection": {"name": "code"}})
    assert selection_lines(outcome, scores) == [
        "selection code kept 1 of 6 units, 1 of 3 animals; left out: 2 units below reliability 0.5; 3 units "
        "in 2 recordings with too few units left (q3: VISp needs 86, VISl needs 7). All units: --selection "
        "none"
    ]
    assert selection_lines(outcome.in_areas(["VISl"]), scores) == [
        "selection code kept 0 of 2 units, 0 of 1 animal; left out: 1 unit below reliability 0.5; 1 unit in "
        "1 recording with too few units left (q3: VISl needs 7). All units: --selection none"
    ]
    everything = selection([""] * 6, ["VISp"] * 6)
    assert selection_lines(everything, scores) == ["selection code: every unit"]
    assert outcome.to_json() == {
        "units": 6,
        "units_kept": 1,
        "animals": 3,
        "animals_kept": 1,
        "excluded": {
            "reliability": {"units": 2, "recordings": 2},
            "few_units": {"units": 3, "recordings": 2},
        },
    }
