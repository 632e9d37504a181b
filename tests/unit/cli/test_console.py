"""What the commands share on the command line."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from typing import Annotated

import pytest
import typer

from mvkit.cli import main
from mvkit.cli.console import Command, help_epilog


def test_help_has_a_heading_for_each_panel_and_keeps_the_lines_of_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer(rich_markup_mode=None)

    @app.command(
        cls=Command,
        epilog=help_epilog("mvkit go fast", "mvkit go --far", learn_more="docs/go.md"),
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    def go(
        name: Annotated[str, typer.Argument(metavar="NAME", help="Who goes.")],
        far: Annotated[bool, typer.Option("--far", help="Beyond.", rich_help_panel="Way")] = False,
        fast: Annotated[bool, typer.Option("--fast", help="At once.")] = False,
        back: Annotated[bool, typer.Option("--back", help="And home.", rich_help_panel="Way")] = False,
    ) -> None:
        """Go."""

    monkeypatch.setattr(main, "app", app)
    assert main.run(["-h"]) == 0
    page = capsys.readouterr().out
    headings = [line for line in page.splitlines() if line.endswith(":")]
    assert headings == ["Arguments:", "Way:", "Options:", "Examples:", "Learn more:"]
    way = page.split("Way:")[1].split("Options:")[0]
    assert [line.split()[0] for line in way.strip().splitlines()] == ["--far", "--back"]
    end = page.split("Examples:\n")[1]
    assert end.rstrip("\n") == "  mvkit go fast\n  mvkit go --far\n\nLearn more:\n  docs/go.md"


@pytest.mark.parametrize("words", [["score"], ["fetch", "neural"], ["train"], []])
def test_h_is_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([*words, "-h"]) == 0
    short = capsys.readouterr().out
    assert main.run([*words, "--help"]) == 0
    assert short == capsys.readouterr().out
    assert short.startswith("Usage: mvkit")


def completed(words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What bash is offered for the last word of a command line."""
    monkeypatch.setenv("_MVKIT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    with contextlib.suppress(SystemExit):
        main.run([])
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("mvkit score gab", ["gabor"]),
        ("mvkit score gabor --dataset ne", ["neuropixels"]),
        ("mvkit score gabor --areas VISp,VISa", ["VISp,VISal", "VISp,VISam"]),
        ("mvkit score gabor --recipe paper_r", ["paper_ridge", "paper_rsa"]),
        ("mvkit score gabor --map r", ["ridge", "rsa"]),
        ("mvkit score gabor --ceiling ", ["none", "holdout", "pairwise"]),
        ("mvkit score gabor --selection p", ["paper"]),
        ("mvkit score gabor --recipe q", ["quick"]),
        ("mvkit extract pix", ["pixels"]),
        ("mvkit extract pixels --stimuli s", ["simulated"]),
        ("mvkit list layers gab", ["gabor"]),
        ("mvkit train dual_stream_i", ["dual_stream_ir"]),
        ("mvkit prep ima", ["imagenet_64", "imagenet_full"]),
        ("mvkit recipe show score/q", ["score/quick"]),
        ("mvkit recipe copy prep/ci", ["prep/cifar10"]),
        ("mvkit recipe check vgg16_s", ["vgg16_supervised"]),
        ("mvkit fetch checkpoints six", ["six_stream_simclr"]),
        ("mvkit fetch neural --dataset ", ["neuropixels", "calcium", "simulated", "all"]),
        ("mvkit fetch neural --source a", ["allensdk"]),
        ("mvkit fetch neural --areas VISp,VISr", ["VISp,VISrl"]),
    ],
)
def test_shells_complete_names_and_choices(
    words: str, expected: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert completed(words, monkeypatch, capsys) == expected


def test_completion_imports_no_torch() -> None:
    program = (
        "import sys\n"
        "from mvkit.cli.console import complete_areas, complete_datasets, complete_models, complete_recipes\n"
        "print(complete_models('pix'), complete_datasets('s'))\n"
        "print(complete_areas('VISam'), complete_recipes('score/')('q'))\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "['pixels'] ['simulated']\n['VISam'] ['quick']\n"


@pytest.mark.parametrize(
    ("option", "value", "meant"), [("--map", "rige", "ridge"), ("--ceiling", "hold", "holdout")]
)
def test_a_wrong_choice_names_the_valid_ones_and_the_likely_one(
    option: str, value: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["score", "pixels", option, value]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: {option} {value}: give ")
    assert last.endswith(f"; did you mean '{meant}'?")


def test_score_has_options_for_what_every_run_is_about(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["score", "--help"]) == 0
    page = capsys.readouterr().out.split("Examples:")[0]
    options = re.findall(r"^  (?:-\w, )?--([\w-]+)", page, flags=re.MULTILINE)
    expected = (
        "as layers dataset areas weights seed input-size recipe set map splits halves ceiling selection"
    )
    expected += (
        " out figure table details against report dry-run json jobs device dask shard no-cache home help"
    )
    assert options == expected.split()
