"""What the commands share on the command line."""

from __future__ import annotations

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
