"""`mvkit list` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mvkit.cli import console
from mvkit.cli.main import run
from mvkit.models.registry import RELEASED


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 columns."""
    monkeypatch.setattr(console, "print_width", lambda: 80)


def printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert run(["list", *words]) == 0
    return capsys.readouterr().out


def test_models_by_group(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(["models", "--home", str(tmp_path)], capsys).splitlines()
    assert max(map(len, lines)) <= 80
    titles = [
        lines.index(title) for title in lines if title.startswith(("Rel", "Arch", "The same", "Base", "Net"))
    ]
    assert titles == sorted(titles) and len(titles) == 5
    released = next(line for line in lines if line.startswith("six_stream_simclr "))
    assert " ".join(released.split()) == "six_stream_simclr six streams, BN, SimCLR 9 16.8 M to fetch"
    assert lines[0] == "Inputs are 64 px (--input-size changes it); BN: batch norm."
    text = "\n".join(lines)
    assert "dual_stream_encoder takes the weights of dual_stream_ir" in text
    assert "torchvision:NAME" in text and "timm:NAME" in text and "FILE.py:FUNCTION" in text


def test_a_pattern_chooses_models(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(["models", "vgg16_*coder"], capsys)
    assert "vgg16_encoder" in text
    assert "alexnet" not in text and "Released" not in text and "torchvision" not in text


def test_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = next(iter(RELEASED))
    words = ["layers", name, "--home", str(tmp_path), "-l", "features.3,features.4"]
    lines = printed(words, capsys).splitlines()
    assert lines[0] == f"{name}: images at 64 px"
    assert lines[1].split() == ["layer", "shape", "features", "size/image", "default"]
    assert [line.split() for line in lines[3:]] == [
        ["features.3", "64", "x", "7", "x", "7", "3,136", "12.5", "kB", "yes"],
        ["features.4", "192", "x", "7", "x", "7", "9,408", "37.6", "kB"],
    ]
    assert "published" in printed(["layers", "vgg16_encoder", "-l", "features.4"], capsys).splitlines()[1]


def test_recipes_fit_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(["recipes"], capsys).splitlines()
    assert max(map(len, lines)) <= 80
    groups = [line for line in lines if line.startswith("mvkit ")]
    assert groups == [
        "mvkit train NAME: rows of the paper's Table 2",
        "mvkit train NAME",
        "mvkit score --recipe NAME",
        "mvkit prep NAME",
    ]
    (row,) = [line for line in lines if line.startswith("dual_stream_simclr ")]
    assert row.split() == ["dual_stream_simclr", "Dual", "stream,", "SimCLR"]


def test_datasets_say_where_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(["datasets", "--home", str(tmp_path)], capsys)
    assert "to fetch (9.8 GB): mvkit fetch neural --dataset neuropixels" in text
    assert f"makes {tmp_path / 'neural' / 'calcium.h5'}" in text
    assert "692 units, 4 animals, VISp VISl VISal VISpm VISrl VISam" in text


@pytest.mark.parametrize(
    ("words", "key", "name"),
    [
        (["models", "gabor"], "models", "gabor"),
        (["layers", "pixels", "-l", "pixels"], "layers", "pixels"),
        (["recipes", "honest"], "recipes", "honest"),
        (["datasets", "calcium"], "datasets", "calcium"),
    ],
)
def test_json(words: list[str], key: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(printed([*words, "--json"], capsys))
    assert [row["name"] for row in document[key]] == [name]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["models", "alexnt*"], "no model matches 'alexnt*'"),
        (["layers", "alexnet_bn_r"], "did you mean 'alexnet_bn_ir'?"),
        (["layers", "pixels", "-l", "pixel"], "did you mean 'pixels'?"),
        (["recipes", "honst"], "did you mean 'honest'?\nall: mvkit list recipes"),
        (["datasets", "neuropixel5"], "did you mean 'neuropixels'?"),
        (
            ["layer"],
            "there is no command 'mvkit list layer'; did you mean 'mvkit list layers'?\nvalid: models",
        ),
        (["layers"], "mvkit list layers needs MODEL\nusage: mvkit list layers [OPTIONS] MODEL"),
    ],
)
def test_unknown_names(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", *words]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.out == ""


def test_only_layers_load_torch() -> None:
    code = (
        "import sys; from mvkit.cli.main import run\n"
        "for noun in ('models', 'recipes', 'datasets'): assert run(['list', noun, '--json']) == 0\n"
        "assert run(['cache', 'info']) == 0\n"
        "print(sorted({'torch', 'pandas', 'scipy', 'numba'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_commands_stand_in_the_order_of_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    page = capsys.readouterr().out
    commands = page.split("Get things:")[1].split("Options:")[0].split("\n")
    names = [line.split()[0] for line in commands if line.startswith("  ") and line[2] != " "]
    assert names == [
        "fetch",
        "list",
        "recipe",
        "prep",
        "train",
        "extract",
        "score",
        "plot",
        "report",
        "cite",
        "cache",
    ]
    headings = [line for line in page.splitlines() if line.endswith(":")]
    assert headings[:3] == ["Get things:", "Networks:", "Answers:"]
    assert headings[-2:] == ["Examples:", "Learn more:"]
