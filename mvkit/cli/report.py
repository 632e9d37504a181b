"""``mvkit report``: scores that were saved, as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mvkit.cli.console import OUTPUT, JsonOption, help_epilog, print_json, print_line

#: The end of ``mvkit report --help``.
EPILOG = help_epilog(
    "mvkit report scores --out report.html",
    "mvkit report scores/monday scores/tuesday --out both.html",
    learn_more="docs/reference/recipes.md: what the settings on the page mean",
)

Folders = Annotated[
    list[Path],
    typer.Argument(
        metavar="DIR",
        help="Folders that mvkit score --out wrote; several, of the same protocol, are compared.",
        rich_help_panel="What is reported",
    ),
]
Out = Annotated[
    Path,
    typer.Option("--out", "-o", metavar="FILE.html", help="Page to write.", rich_help_panel=OUTPUT),
]


def command(folders: Folders, out: Out, as_json: JsonOption = False) -> None:
    """Write saved scores as one HTML page: ranking, figures, tables of layers and units, protocol."""
    from mvkit.report.html import check_report, read_run, write_report

    check_report(out)
    path = write_report(read_run(folders), out)
    if as_json:
        print_json({"files": [path]})
    else:
        print_line(f"wrote {path}")
