"""`mvkit plot` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvkit.cli.main import run


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scores of two models on two areas of the simulated recordings."""
    folder = tmp_path_factory.mktemp("scored") / "scores"
    words = [
        "--dataset",
        "simulated",
        "--areas",
        "VISp,VISl",
        "--splits",
        "1",
        "--halves",
        "2",
        "--jobs",
        "1",
    ]
    home = ["--home", str(folder.parent / "home")]
    assert run(["score", "gabor", "pixels", *words, "--out", str(folder), *home]) == 0
    return folder


def plot(words: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    assert run(["plot", *map(str, words)]) == 0
    return capsys.readouterr().out


def error(words: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    assert run(["plot", *map(str, words)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


@pytest.mark.parametrize("kind", ["areas", "layers", "units", "hierarchy"])
def test_figures_of_saved_scores(
    kind: str, scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"{kind}.png"
    lines = plot([kind, scored, "--out", out, "--columns", "1"], capsys).splitlines()
    assert lines[0].startswith(f"wrote {out} (3.5 x ") and lines[1].startswith("caption: ")
    assert "SIMULATED data, not mouse recordings" in lines[1]
    assert int.from_bytes(out.read_bytes()[16:20], "big") == 1050


def test_models_are_chosen_by_name(scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.svg"
    plot(["units", scored, "-m", "pixels", "-m", "gabor", "-o", out, "--text", "--width", "5"], capsys)
    assert "pixels: noise-corrected correlation" in out.read_text()
    assert 'width="360pt"' in out.read_text()
    message = error(["units", scored, "-m", "gabor", "-o", out], capsys)
    assert message.splitlines() == [
        "error: units: two models are drawn, here are 1: 'gabor'",
        "name two with --model",
    ]
    assert "unknown saved model 'gabr'; did you mean 'gabor'?" in error(
        ["areas", scored, "-m", "gabr", "-o", out], capsys
    )


def test_titles_off_leave_the_caption_to_the_terminal(
    scored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.svg"
    printed = json.loads(plot(["areas", scored, "-o", out, "--no-title", "--text", "--json"], capsys))
    assert printed["file"] == str(out) and printed["caption"].startswith("Neural predictivity of models on")
    assert "Neural predictivity" not in out.read_text()


def test_mistakes_are_told_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    none = tmp_path / "none"
    assert "valid: .svg, .png, .pdf" in error(["areas", none, "-o", tmp_path / "a.jpg"], capsys)
    both = ["areas", none, "-o", tmp_path / "a.png", "--width", "3", "--columns", "1"]
    assert "--width and --columns both say how wide" in error(both, capsys)
    assert "width of 1 inches: give 2 to 30" in error([*both[:4], "--width", "1"], capsys)
    assert "unknown model 'gabr'; did you mean 'gabor'?" in error(
        ["rdm", "gabr", "--area", "VISp", "-d", "simulated", "-o", tmp_path / "a.png"], capsys
    )
    assert "of which model? add --model MODEL" in error(
        ["unit", "simulated", "--area", "VISp", "--layer", "a", "-o", tmp_path / "a.png"], capsys
    )
    assert run(["plot", "areas", str(none), "-o", str(tmp_path / "a.png")]) == 1
    assert "no such folder" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_figures_of_recordings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rdm = ["rdm", "pixels", "--area", "VISp", "--dataset", "simulated", "--out", tmp_path / "rdm.png"]
    assert "RDMs of VISp and of pixels, r = " in plot(rdm, capsys)
    unit = ["unit", "simulated", "--area", "VISl", "--out", tmp_path / "unit.png"]
    assert "in VISl of animal " in plot(unit, capsys)
    for kind in ("reliability", "histogram"):
        assert run(["plot", kind, "simulated", "-o", str(tmp_path / "a.png")]) == 1
    assert "measure them: mvkit fetch reliability FILE" in capsys.readouterr().err


def test_help_says_what_there_is_and_gives_examples(capsys: pytest.CaptureFixture[str]) -> None:
    text = plot(["--help"], capsys)
    kinds = ["areas", "layers", "units", "hierarchy", "training", "reliability", "histogram", "rdm", "unit"]
    shown = [
        line.split()[0] for line in text.splitlines() if line.startswith("  ") and line.split()[0] in kinds
    ]
    assert shown == kinds and "..." not in text.partition("Commands:")[2]
    for kind in kinds:
        page = plot([kind, "--help"], capsys)
        assert "Examples:\n  mvkit plot " in page and "\nFigure:\n" in page and "--columns" in page


def test_figures_of_scores_need_no_torch(scored: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from mvkit.cli.main import run; "
        f"code = run(['plot', 'areas', {str(scored)!r}, '-o', {str(tmp_path / 'a.png')!r}]); "
        "print(code, 'torch' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 False False"


def test_what_a_network_sees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 60)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    out, where = tmp_path / "seen.png", ["--stimuli", tmp_path / "photos", "--home", tmp_path]
    lines = plot(["input", "pixels", *where, "--acuity", "0.2", "--images", "2", "--out", out], capsys)
    assert f"wrote {out}" in lines and "seen with acuity 0.2 cycles/degree, 120 degrees wide" in lines
    alone = error(["input", "pixels", *where, "--field-of-view", "90", "--out", out], capsys)
    assert "--field-of-view has no effect without --acuity" in alone
    assert "acuity_cpd must be a number above 0" in error(
        ["input", "pixels", *where, "--acuity", "-1", "--out", out], capsys
    )
