"""`mvkit score` of several models, by every map, with ceilings, earlier scores and figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mvkit.cli.main import run
from mvkit.scoring import read_scores
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.settings import SIMILARITIES

#: Maps that scikit-learn fits unit by unit, minutes even for one area; their own tests score them.
SLOW = ("lasso", "elasticnet")
QUICK = ["--dataset", "simulated", "--areas", "VISp", "--splits", "2", "--halves", "4", "--jobs", "1"]


def json_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict:
    """Run a command that must succeed and return its JSON document."""
    assert run([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scores of gabor and pixels, and the ceiling, in one folder."""
    out = tmp_path_factory.mktemp("saved")
    words = ["score", "gabor", "pixels", *QUICK, "--ceiling", "holdout", "--home", str(out / "home")]
    assert run([*words, "--out", str(out), "--figure", str(out / "figure.svg")]) == 0
    return out


def test_several_models_are_compared(saved: Path) -> None:
    gabor, pixels, ceiling = (read_scores(saved / name) for name in ("gabor", "pixels", "ceiling"))
    assert gabor.digest() == pixels.digest() == ceiling.digest()
    np.testing.assert_array_equal(gabor.columns["unit_id"], pixels.columns["unit_id"])
    rows = pd.read_csv(saved / "comparison.csv").set_index("area")
    differences = gabor.columns["score"] - pixels.columns["score"]
    assert rows.loc["VISp", "difference"] == pytest.approx(np.nanmedian(differences), abs=1e-12)
    assert rows.loc["VISp", "resolved"], "Gabor energies are the simulation's truth, pixels are far from it"
    fractions = pd.read_csv(saved / "fractions.csv").set_index(["model", "area", "choice"]).loc["gabor"]
    expected = np.nanmedian(gabor.columns["score"]) / np.nanmedian(ceiling.columns["score"])
    assert fractions.loc[("VISp", "paper"), "fraction"] == pytest.approx(expected, rel=1e-9)
    assert "<svg" in (saved / "figure.svg").read_text()[:500]


def test_a_model_scores_the_same_alone_as_among_others(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = json_of(["score", "pixels", *QUICK], capsys)
    among = json.loads((saved / "summary.json").read_text())
    summary = pd.read_csv(saved / "summary.csv")
    medians = summary[summary["model"] == "pixels"]["median"].tolist()
    assert [row["median"] for row in alone["models"][0]["summary"]] == medians
    assert alone["digest"] == among["digest"]


def test_the_printed_comparison_keeps_the_choices_apart(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "score",
        "gabor",
        "alexnet_bn_ir",
        "--weights",
        "random",
        *QUICK,
        "--set",
        "layer_choice=held-out",
    ]
    words += [
        "--layers",
        "energy",
        "--layers",
        "features.3",
        "--layers",
        "features.7",
        "--ceiling",
        "holdout",
    ]
    assert run(words) == 2
    assert "gabor: unknown layer 'features.3'" in capsys.readouterr().err
    words = ["score", "alexnet_bn_ir", "--weights", "random", *QUICK, "--set", "layer_choice=held-out"]
    words += ["--layers", "features.3", "--layers", "features.7", "--against", str(saved / "gabor")]
    words += ["--ceiling", "holdout", "--home", str(saved / "home")]
    assert run([*words, "--details"]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert "median [95 % over animals]; layers held-out" in lines
    held = lines.index("best layer, held-out: chosen on some image splits, scored on the others")
    paper = lines.index("best layer, chosen on the test images (paper)")
    assert held < paper
    title = f"alexnet_bn_ir (random, seed 0) minus {saved / 'gabor'}; best layers held-out"
    assert title in lines
    row = next(line for line in lines[lines.index(title) :] if line.startswith("VISp"))
    assert row.rstrip().endswith(("is higher", "not resolved by these data"))
    assert "read from the cache" in printed.err, "the ceiling was measured with the saved scores"
    assert any("ceiling  ceiling" in line for line in lines), "its median, and the fraction of it"
    assert any(line.startswith("ceiling (holdout)") for line in lines)


def test_a_ceiling_is_read_from_the_cache_the_second_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["score", "pixels", *QUICK, "--map", "one-to-one", "--ceiling", "pairwise", "--json"]
    words += ["--home", str(tmp_path)]
    documents = []
    for expected in (False, True):
        assert run(words) == 0
        printed = capsys.readouterr()
        assert ("read from the cache" in printed.err) is expected
        documents.append(json.loads(printed.out))
    assert documents[0]["ceiling"]["summary"] == documents[1]["ceiling"]["summary"]
    assert documents[0]["models"] == documents[1]["models"]
    assert documents[0]["models"][0]["fractions"]
    assert documents[0]["ceiling"]["kind"] == "pairwise"


@pytest.mark.parametrize("name", [name for name in MAPPINGS if name not in ("pls", *SLOW)])
def test_every_map_scores_the_simulation(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    # Similarities compare all images at once: no --splits.
    quick = [*QUICK[:4], *QUICK[6:]] if name in SIMILARITIES else QUICK
    document = json_of(["score", "gabor", "pixels", *quick, "--map", name], capsys)
    assert document["protocol"]["mapping"] == name
    medians = [
        next(row["median"] for row in model["best_layers"] if row["area"] == "VISp")
        for model in document["models"]
    ]
    assert medians[0] > medians[1] + 0.2, "the true model is ahead by every map"
    assert document["comparison"]["models"] == ["gabor", "pixels"]


def test_scores_of_another_protocol_are_not_compared(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["score", "pixels", *QUICK, "--against", str(saved / "gabor")]
    changes = ["--map", "ridge", "--set", "estimator=corrected-mean", "--areas", "VISl"]
    assert run([*words, *changes]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    for field in ("mapping: pls there, ridge here", "estimator: mean-of-corrected"):
        assert field in printed.err
    assert "n_halves" not in printed.err
    document = json_of(words, capsys)
    assert document["comparison"]["models"] == ["pixels", str(saved / "gabor")]
    # All models of the folder, named by it.
    document = json_of(["score", "pixels", *QUICK, "--against", str(saved)], capsys)
    assert document["comparison"]["models"] == ["pixels", f"{saved}/gabor", f"{saved}/pixels"]


def test_networks_are_pooled_as_one_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nets = tmp_path / "nets.py"
    nets.write_text(
        "import torch\n"
        "def make(seed):\n"
        "    torch.manual_seed(seed)\n"
        "    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 9, stride=4), torch.nn.ReLU())\n"
        + "".join(f"def seed{seed}(): return make({seed})\n" for seed in (1, 2, 3))
    )
    names = [f"{nets}:seed{seed}" for seed in (1, 2, 3)]
    words = ["score", *names, "--as", "seeds", "-l", "1", "--input-size", "64", *QUICK]
    assert run([*words, "--out", str(tmp_path / "out"), "--details"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("seeds on the SIMULATED dataset: ")
    note = "seeds: 3 networks as one model (nets.py:seed1, nets.py:seed2, nets.py:seed3); scores are means "
    assert any(line.startswith(note) for line in lines)
    assert (
        sum(
            line.startswith(f"network {index}: nets.py:seed{index}, median 0.")
            for index in (1, 2, 3)
            for line in lines
        )
        == 3
    )
    pooled = read_scores(tmp_path / "out")
    networks = pd.read_parquet(tmp_path / "out" / "networks.parquet")
    assert sorted(networks["network"].unique()) == [0, 1, 2]
    means = networks.groupby(["layer", "area", "specimen", "unit_id"], sort=False)["score"].mean()
    np.testing.assert_allclose(means, pooled.columns["score"], rtol=1e-12)
    assert [network["name"] for network in pooled.context["networks"]] == [
        f"nets.py:seed{seed}" for seed in (1, 2, 3)
    ]
    # Read back, its intervals are the same; and it is compared with a single network.
    written = pd.read_csv(tmp_path / "out" / "best_layers.csv")
    np.testing.assert_allclose(pooled.best_layers()["low"], written["low"][:2], rtol=1e-12)
    single = ["score", names[0], "-l", "1", "--input-size", "64", *QUICK]
    document = json_of([*single, "--against", str(tmp_path / "out")], capsys)
    assert document["comparison"]["models"] == ["nets.py:seed1", str(tmp_path / "out")]


@pytest.mark.slow
def test_a_figure_and_an_extrapolation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["score", "pixels", *QUICK, "--set", "extrapolate=stimuli", "--ceiling", "holdout"]
    words += ["--set", "n_components=4", "--out", str(tmp_path / "out"), "--figure", str(tmp_path / "f.png")]
    assert run(words) == 0
    printed = capsys.readouterr().out
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "f-extrapolation.png").read_bytes().startswith(b"\x89PNG")
    sizes = pd.read_csv(tmp_path / "out" / "ceiling" / "extrapolation.csv")
    assert sizes["size"].max() == 118
    largest = sizes[(sizes["area"] == "VISp") & (sizes["size"] == 118)].iloc[0]
    lines = printed.splitlines()
    assert "ceiling (holdout) over the number of stimuli" in lines
    assert run([*words, "--details"]) == 0
    lines = capsys.readouterr().out.splitlines()
    title = lines.index("ceiling (holdout) over the number of stimuli")
    row = next(line.split() for line in lines[title:] if line.split()[:2] == ["VISp", "118"])
    assert row[2] == f"{largest['median']:.3f}"
    assert f"wrote {tmp_path}: f.png, f-extrapolation.png" in lines
    document = json.loads((tmp_path / "out" / "ceiling" / "extrapolation.json").read_text())
    assert document["over"] == "stimuli"


def test_the_honest_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    document = json_of(["score", "pixels", "--recipe", "honest", *QUICK], capsys)
    settings = {**document["protocol"], **document["reporting"]}
    assert settings["layer_choice"] == "held-out"
    assert settings["estimator"] == "corrected-mean"
    assert settings["n_halves"] == 4
    assert document["ceiling"] is not None
    (model,) = document["models"]
    row = next(row for row in model["best_layers"] if (row["area"], row["choice"]) == ("VISp", "held-out"))
    assert row["low"] < row["median"] < row["high"]
    assert {row["choice"] for row in model["fractions"]} == {"paper", "held-out"}
