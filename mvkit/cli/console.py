"""What commands share: the page of help, options, printing, progress."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from typer.core import TyperCommand

from mvkit.display import progress_bar as progress_bar  # for all commands
from mvkit.errors import UsageError, printable
from mvkit.files import plain

if TYPE_CHECKING:
    from rich.table import Table

    from mvkit.models.preprocessing import InputOptions


def split_commas(values: Sequence[str] | None) -> tuple[str, ...] | None:
    """Flatten ``["a,b", "c"]`` to ``("a", "b", "c")``; None stays None (option not given).

    Regular expressions (``re:...``) are kept whole, since commas mean something in them.
    """
    if values is None:
        return None
    parts = [part for value in values for part in ([value] if value.startswith("re:") else value.split(","))]
    return tuple(part.strip() for part in parts if part.strip()) or None


#: Headings of help under which commands put their options.
PROTOCOL, OUTPUT, MACHINE = "Protocol", "Output", "Machine"


class Command(TyperCommand):
    """A command whose ``--help`` groups options under headings and keeps the lines of its epilog.

    Headings are the ``rich_help_panel`` of the options. Rich itself would take half of the time that help
    may take.
    """

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, each under its heading, in the order of their first appearance."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            name, heading = record[0], "Options"
            if parameter.param_type_name == "argument":
                # Newer Typers add the argument's type.
                name, heading = name.split(" ")[0], "Arguments"
            heading = getattr(parameter, "rich_help_panel", None) or heading
            sections.setdefault(heading, []).append((name, record[1]))
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the epilog line by line."""
        if self.epilog:
            formatter.write(f"\n{self.epilog}\n")


def help_epilog(*examples: str, learn_more: str) -> str:
    """Return the end of a page of help: command lines to try, and where to read on."""
    return "\n".join(["Examples:", *(f"  {line}" for line in examples), "", "Learn more:", f"  {learn_more}"])


def complete_models(incomplete: str) -> list[str]:
    """Return the names of models that begin so, for the shell."""
    from mvkit.models.registry import list_models

    return [name for name in list_models() if name.startswith(incomplete)]


def complete_datasets(incomplete: str) -> list[str]:
    """Return the names of datasets that begin so, for the shell."""
    from mvkit.neural.open import DATASETS

    return [name for name in DATASETS if name.startswith(incomplete)]


def complete_areas(incomplete: str) -> list[str]:
    """Return lists of areas whose last one begins so, for the shell (``VISp,VISl``)."""
    from mvkit.neural.dataset import AREA_ORDER

    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{area}" for area in AREA_ORDER if area.startswith(last)]


_PANEL = "Input of the network"

InputSize = Annotated[
    int | None,
    typer.Option(
        "--input-size",
        metavar="PX",
        min=1,
        help="Side of the input, also of mvkit's own networks; default: as trained.",
        rich_help_panel=_PANEL,
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        metavar="R,G,B", help="Subtracted from values in [0, 1]; one number or three.", rich_help_panel=_PANEL
    ),
]
Std = Annotated[
    str | None,
    typer.Option(metavar="R,G,B", help="Divided by, after --mean.", rich_help_panel=_PANEL),
]
Grey = Annotated[bool, typer.Option("--grey", help="Make colour images grey first.", rich_help_panel=_PANEL)]


def input_options(input_size: int | None, mean: str | None, std: str | None, *, grey: bool) -> InputOptions:
    """Read the options as they were typed.

    Raises
    ------
    UsageError
        If a mean or deviation is no list of numbers.
    """
    from mvkit.models.preprocessing import InputOptions

    return InputOptions(input_size, _numbers("--mean", mean), _numbers("--std", std), grey or None)


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} must be one number or three with commas between, got '{text}'") from None


JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout.", rich_help_panel=OUTPUT)
]
HomeOption = Annotated[
    str | None,
    typer.Option(
        "--home",
        metavar="DIR",
        help="Where mvkit keeps its files (default: $MVKIT_HOME).",
        rich_help_panel=MACHINE,
    ),
]


def print_json(document: Mapping[str, object]) -> None:
    """Print one JSON document on stdout; NaN becomes null so that every parser reads it."""
    sys.stdout.write(json.dumps(plain(document), indent=2, allow_nan=False) + "\n")


def print_line(text: str) -> None:
    """Print a result line on stdout."""
    _write(sys.stdout, text + "\n")


def note(text: str) -> None:
    """Print a remark for the person watching, on stderr."""
    _write(sys.stderr, text + "\n")


def plain_table(*columns: str) -> Table:
    """Return an empty table with a line below its head; a column named ``size>`` is flush right.

    Names in the first column are not broken over lines.
    """
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for index, name in enumerate(columns):
        table.add_column(
            name.removesuffix(">"),
            justify="right" if name.endswith(">") else "left",
            overflow="fold",
            no_wrap=index == 0,
        )
    return table


def print_renderable(renderable: object) -> None:
    """Print a rich table or text on stdout; NO_COLOR and pipes are honoured by rich.

    Brackets and colons in names are no markup.
    """
    from rich.console import Console

    console = Console(width=print_width(), markup=False, emoji=False)
    with console.capture() as captured:
        console.print(renderable)
    _write(sys.stdout, captured.get())


def _write(stream: TextIO, text: str) -> None:
    """Write text; characters that the stream's encoding does not know are escaped."""
    encoding = stream.encoding or "utf-8"
    stream.write(printable(text).encode(encoding, "backslashreplace").decode(encoding))


def print_width() -> int:
    """Return the columns of the terminal; files and pipes get 160."""
    from rich.console import Console

    console = Console()
    return console.width if console.is_terminal else 160
