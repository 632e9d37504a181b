"""What the commands share on the command line."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from typing import Annotated

import pytest
import typer
from rich.table import Table
from rich.text import Text

from mvkit.cli import console, main
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
        "as layers dataset areas task weights seed input-size recipe set map splits halves measure ceiling"
        " selection out figure table details against report dry-run json jobs device dask shard"
        " no-cache home help"
    )
    assert options == expected.split()


def in_shell(command: str) -> subprocess.CompletedProcess[str]:
    """Run a shell's command line, in which ``mvkit`` stands for this mvkit."""
    mvkit = f"{sys.executable} -c 'from mvkit.cli.main import main; main()'"
    words = ["bash", "-c", command.replace("mvkit", mvkit)]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("command", "code", "stdout", "stderr"),
    [
        ("mvkit list recipes <&- >&- 2>&-", 0, "", ""),
        ("mvkit nonsense 2>&-", 2, "", ""),
        ("mvkit list recipes --json > /dev/full", 1, "", "error: .*no space left on device\n.*\n"),
        ("mvkit --help > /dev/full", 1, "", "error: .*no space left on device\n.*\n"),
        ("mvkit nonsense 2> /dev/full", 2, "", ""),
        ("mvkit list models | head -1; exit ${PIPESTATUS[0]}", 1, "Inputs are .*\n", ""),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", pytest.param("1", marks=pytest.mark.slow)])
def test_streams_that_are_closed_or_full_or_have_no_reader(
    command: str, code: int, stdout: str, stderr: str, unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    done = in_shell(command)
    assert re.fullmatch(stdout, done.stdout)
    assert re.fullmatch(stderr, done.stderr)
    # All of it may be in the pipe before its reader leaves.
    assert done.returncode == code or ("head" in command and done.returncode == 0)


def test_where_a_table_does_not_fit_each_row_is_a_paragraph(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(table: Table, width: int) -> list[str]:
        monkeypatch.setattr(console, "print_width", lambda: width)
        console.print_renderable(table)
        return capsys.readouterr().out.splitlines()

    table = console.plain_table("area", "median [95 %]>", "of the\nceiling>", "verdict")
    table.add_row("VISp", "-0.894 [-0.957, -0.812]", Text("81 %"), "pixels_of_a_long_name is higher")
    table.add_row("VISl", "none", "", "")
    assert printed(table, 80)[-1].split() == ["VISl", "none"]
    expected = ["VISp", "  median [95 %]: -0.894 [-0.957, -0.812]", "  of the ceiling: 81 %"]
    expected += ["  verdict: pixels_of_a_long_name is ", "higher", "VISl", "  median [95 %]: none"]
    assert printed(table, 40) == expected
    ranking = Table(box=None)
    for head in ("", "model", "all areas", "VISp"):
        ranking.add_column(head, no_wrap=True)
    ranking.add_row("1", Text("a_network_with_quite_a_long_name_of_its_own"), "0.413 [0.381, 0.442]", "0.4")
    name = "1 a_network_with_quite_a_long_name_of_its_own"
    assert printed(ranking, 65) == [name, "  all areas: 0.413 [0.381, 0.442]", "  VISp: 0.4"]
    assert len(printed(ranking, 80)) == 2
    # As the ranking of scores is laid out: names would be folded, letter by letter, before numbers are cut.
    ranking.columns[1].no_wrap, ranking.columns[1].overflow = False, "fold"
    assert printed(ranking, 50) == [name, "  all areas: 0.413 [0.381, 0.442]", "  VISp: 0.4"]


@pytest.mark.parametrize(("columns", "width"), [("0", 80), ("1", 20), ("40", 40), ("abc", 80), ("-3", 80)])
def test_terminals_that_tell_nonsense(columns: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert console.print_width() == width


def test_names_in_files_do_not_steer_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, shown = "a\x1b]0;title\x07\x1b[2J", r"a\x1b]0;title\x07\x1b[2J"
    console.print_line(f"{name}\tb")
    console.note(name)
    table = console.plain_table("area")
    table.add_row(name)
    console.print_renderable(table)
    written = capsys.readouterr()
    assert (written.out.splitlines()[0], written.err) == (f"{shown}\tb", f"{shown}\n")
    shown = shown.replace(r"\x07", "")  # which rich leaves out
    assert written.out.splitlines()[-1].strip() == shown
    monkeypatch.setenv("FORCE_COLOR", "1")
    console.print_renderable(Text(name, style="red"))
    assert re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out) == f"{shown}\n"
