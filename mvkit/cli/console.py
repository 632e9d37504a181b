"""What commands share: the page of help, options, printing, progress."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TextIO, get_args, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from mvkit.display import progress_bar as progress_bar  # for all commands
from mvkit.errors import UsageError, escape_control, printable, suggest
from mvkit.files import plain
from mvkit.paths import expand

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from mvkit.models.preprocessing import InputOptions
    from mvkit.models.viewing import ViewingConditions


def split_commas(values: Sequence[str] | None) -> tuple[str, ...] | None:
    """Flatten ``["a,b", "c"]`` to ``("a", "b", "c")``; None stays None (option not given).

    Regular expressions (``re:...``) are kept whole, since commas mean something in them.
    """
    if values is None:
        return None
    parts = [part for value in values for part in ([value] if value.startswith("re:") else value.split(","))]
    return tuple(part.strip() for part in parts if part.strip()) or None


#: Columns of a terminal from which on names may be folded to fit a table; below, rows become paragraphs.
_NARROW = 60
_UNLIMITED = 10_000

#: Headings of help under which commands put their options.
PROTOCOL, OUTPUT, MACHINE = "Protocol", "Output", "Machine"

#: Help of ``--device``, the same for every command.
DEVICE_HELP = "cpu, cuda, cuda:1, mps; auto: a GPU if there is one."

#: Options whose default an environment variable gives: the variable.
_ENVIRONMENT = {"home": "MVKIT_HOME", "offline": "MVKIT_OFFLINE"}


class Command(TyperCommand):
    """A command whose ``--help`` groups options under headings and keeps the lines of its epilog.

    Headings are the ``rich_help_panel`` of the options. Rich itself would take half of the time that help
    may take.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words of the command line; errors know the command they are about."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # which class of click's, or of Typer's own click, differs by version
            if getattr(error, "ctx", ctx) is None:
                error.ctx = ctx  # type: ignore[attr-defined]
            raise

    def invoke(self, ctx: Any) -> Any:
        """Run the command; ``~`` of paths, which a shell leaves in ``--out=~/x``, is expanded before."""
        for name, hint in get_type_hints(self.callback).items():
            value = ctx.params.get(name)
            if value is not None and {Path, list[Path]} & {hint, *get_args(hint)}:
                is_one = isinstance(value, str | Path)
                ctx.params[name] = expand(value) if is_one else [expand(one) for one in value]
        return super().invoke(ctx)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what follows the command's name: ``[OPTIONS] MODEL``."""
        arguments = [one for one in self.get_params(ctx) if one.param_type_name == "argument"]
        return ["[OPTIONS]", *map(_argument_usage, arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, each under its heading, in the order of their first appearance."""
        _write_parameters(self.get_params(ctx), formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the epilog line by line."""
        if self.epilog:
            formatter.write(f"\n{self.epilog}\n")


class Group(TyperGroup):
    """Commands of commands: listed under headings, with all words of what they are for."""

    #: Heading -> names of commands, in the order of use; others stand under "Commands", as they were added.
    sections: ClassVar[Mapping[str, Sequence[str]]] = {}

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands in the order of help."""
        listed = [name for names in self.sections.values() for name in names if name in self.commands]
        return [*listed, *(name for name in self.commands if name not in listed)]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the first word names.

        Raises
        ------
        UsageError
            If there is none: names the likely one.
        """
        name = args[0]
        if not name.startswith("-") and name not in self.commands and not ctx.resilient_parsing:
            raise UsageError(self._unknown_command(ctx, name))
        return super().resolve_command(ctx, args)

    def _unknown_command(self, ctx: Any, name: str) -> str:
        path = ctx.command_path
        paths = {one: f"{path} {one}" for one in self.list_commands(ctx)}
        for one, command in self.commands.items():
            # `mvkit models` means `mvkit list models`.
            inner = getattr(command, "commands", {})
            paths |= {other: f"{path} {one} {other}" for other in inner if other not in paths}
        close = get_close_matches(name, paths, n=1, cutoff=0.6)
        meant = f"; did you mean '{paths[close[0]]}'?" if close else ""
        commands = ", ".join(self.list_commands(ctx))
        return f"there is no command '{path} {name}'{meant}\nvalid: {commands}; what each does: {path} --help"

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what follows the group's name."""
        return ["COMMAND ..."]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands under their headings, then the options."""
        headings = {name: heading for heading, names in self.sections.items() for name in names}
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = self.commands[name]
            if not command.hidden:
                text = command.short_help or (command.help or "").partition("\n\n")[0].replace("\n", " ")
                sections.setdefault(headings.get(name, "Commands"), []).append((name, text))
        widest = max(len(name) for rows in sections.values() for name, _ in rows)
        for heading, rows in sections.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(widest), text) for name, text in rows])
        _write_parameters(self.get_params(ctx), formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the epilog line by line."""
        if self.epilog:
            formatter.write(f"\n{self.epilog}\n")


def _write_parameters(parameters: Sequence[Any], formatter: Any) -> None:
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in parameters:
        if getattr(parameter, "hidden", False):
            continue
        is_argument = parameter.param_type_name == "argument"
        heading = getattr(parameter, "rich_help_panel", None) or ("Arguments" if is_argument else "Options")
        name = argument_name(parameter) if is_argument else _option_usage(parameter)
        text = " ".join((getattr(parameter, "help", None) or "").split())
        sections.setdefault(heading, []).append((name, f"{text}{_default_text(parameter)}"))
    for heading, records in sections.items():
        with formatter.section(heading):
            formatter.write_dl(records)


def argument_name(parameter: Any) -> str:
    """Return the name of an argument as usage and errors show it: ``MODEL``."""
    return str(parameter.metavar or parameter.name).strip("[].").upper()


def _argument_usage(parameter: Any) -> str:
    name = argument_name(parameter)
    if parameter.nargs != 1:
        return f"{name}..." if parameter.required else f"[{name}]..."
    return name if parameter.required else f"[{name}]"


def _option_usage(parameter: Any) -> str:
    """Return ``-o, --out DIR``; the short name first."""
    names = ", ".join(sorted(parameter.opts, key=lambda name: name.startswith("--")))
    if parameter.secondary_opts:
        return f"{names} / {', '.join(parameter.secondary_opts)}"
    value = option_value(parameter)
    return f"{names} {value}" if value else names


def option_value(parameter: Any) -> str:
    """Return what stands for the value of an option: its metavar, its choices, N or X for numbers."""
    if parameter.is_flag:
        return ""
    if parameter.metavar:
        return str(parameter.metavar)
    if choices := parameter_choices(parameter):
        return "|".join(choices)
    number = parameter_type(parameter)
    return "N" if number is int else "X" if number is float else "TEXT"


def parameter_choices(parameter: Any) -> tuple[str, ...]:
    """Return the values that an option or argument may have; none if it is no choice."""
    # Typer has its own description of types; before, it had click's.
    kind = getattr(parameter, "type_descriptor", None) or parameter.type
    return tuple(str(getattr(one, "value", one)) for one in getattr(kind, "choices", None) or ())


def parameter_type(parameter: Any) -> type | None:
    """Return int or float for an option or argument that is a number (or several), else None."""
    descriptor = getattr(parameter, "type_descriptor", None)
    if descriptor is None:
        name = str(getattr(parameter.type, "name", ""))
        return int if name.startswith("integer") else float if name.startswith("float") else None
    members = get_args(descriptor.annotation) or (descriptor.annotation,)
    return next((kind for kind in (int, float) if kind in members), None)


def _default_text(parameter: Any) -> str:
    """Return ``  [default: 100]``, with the environment variable that gives it, or ``""``."""
    parts = []
    if parameter.name in _ENVIRONMENT:
        parts.append(f"env: {_ENVIRONMENT[parameter.name]}")
    shown, default = getattr(parameter, "show_default", True), parameter.default
    if parameter.name == "home":
        from mvkit.paths import home_dir

        try:
            parts.append(f"default: {home_dir()}")
        except UsageError:
            parts.append("no default: this user has no home directory")
    elif isinstance(shown, str):
        parts.append(f"default: {shown}")
    elif shown and default not in (None, False, (), []) and parameter.name != "help":
        parts.append(f"default: {getattr(default, 'value', default)}")
    return f"  [{'; '.join(parts)}]" if parts else ""


def help_epilog(*examples: str, learn_more: str) -> str:
    """Return the end of a page of help: command lines to try, and where to read on."""
    return "\n".join(["Examples:", *(f"  {line}" for line in examples), "", "Learn more:", f"  {learn_more}"])


def complete_models(incomplete: str) -> list[str]:
    """Return the names of models that begin so, for the shell."""
    from mvkit.models.registry import list_models

    return [name for name in list_models() if name.startswith(incomplete)]


def complete_checkpoints(incomplete: str) -> list[str]:
    """Return the names of released models that begin so, for the shell."""
    from mvkit.models.registry import RELEASED

    return [name for name in RELEASED if name.startswith(incomplete)]


def complete_recipes(folder: str) -> Callable[[str], list[str]]:
    """Return what completes names of packaged recipes: in ``score/``, in ``prep/``, or ``""``, to train."""

    def complete(incomplete: str) -> list[str]:
        from mvkit.recipes import packaged_recipes

        names = [name.removeprefix(folder) for name in packaged_recipes() if name.startswith(folder)]
        return [name for name in names if name.startswith(incomplete) and "/" not in name]

    return complete


def complete_every_recipe(incomplete: str) -> list[str]:
    """Return the names of packaged recipes of all kinds that begin so, for the shell."""
    from mvkit.recipes import packaged_recipes

    return [name for name in packaged_recipes() if name.startswith(incomplete)]


def complete_datasets(incomplete: str) -> list[str]:
    """Return the names of datasets that begin so, for the shell."""
    from mvkit.paths import DATASETS

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
        help="Side of the input, also of mvkit's own networks.",
        show_default="as trained",
        rich_help_panel=_PANEL,
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        metavar="R,G,B",
        help="Subtracted from values in [0, 1]; one number or three.",
        show_default="as trained",
        rich_help_panel=_PANEL,
    ),
]
Std = Annotated[
    str | None,
    typer.Option(
        metavar="R,G,B",
        help="Divided by, after --mean.",
        show_default="as trained",
        rich_help_panel=_PANEL,
    ),
]
Grey = Annotated[bool, typer.Option("--grey", help="Make colour images grey first.", rich_help_panel=_PANEL)]
Acuity = Annotated[
    float | None,
    typer.Option(
        "--acuity",
        metavar="CPD",
        help="Blur images as by a visual acuity in cycles per degree (mice: 0.5).",
        show_default="no filter",
        rich_help_panel=_PANEL,
    ),
]
FieldOfView = Annotated[
    float | None,
    typer.Option(
        "--field-of-view",
        metavar="DEG",
        help="Visual angle of an image's width, for --acuity.",
        show_default="as the dataset says, else 120",
        rich_help_panel=_PANEL,
    ),
]
Contrast = Annotated[
    float | None,
    typer.Option(
        "--contrast",
        metavar="FACTOR",
        help="Multiply the deviations from each image's mean.",
        show_default="1",
        rich_help_panel=_PANEL,
    ),
]
FrameRate = Annotated[
    float | None,
    typer.Option(
        "--frame-rate",
        metavar="HZ",
        help="The images are the frames of a movie, for networks that take clips.",
        show_default="as the dataset says",
        rich_help_panel=_PANEL,
    ),
]


def viewing_conditions(
    acuity: float | None, field_of_view: float | None, contrast: float | None
) -> ViewingConditions | None:
    """Return the viewing conditions of the options as they were typed; None if nothing is changed.

    Raises
    ------
    UsageError
        If a number is out of range, or a field of view is given without an acuity.
    """
    from mvkit.models.viewing import ViewingConditions

    if field_of_view is not None and acuity is None:
        raise UsageError("--field-of-view has no effect without --acuity")
    viewing = ViewingConditions(acuity, field_of_view, 1.0 if contrast is None else contrast)
    return viewing if viewing.changes_images else None


def input_options(
    input_size: int | None,
    mean: str | None,
    std: str | None,
    *,
    grey: bool,
    viewing: ViewingConditions | None = None,
) -> InputOptions:
    """Read the options as they were typed.

    Raises
    ------
    UsageError
        If a mean or deviation is no list of numbers.
    """
    from mvkit.models.preprocessing import InputOptions

    return InputOptions(input_size, _numbers("--mean", mean), _numbers("--std", std), grey or None, viewing)


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} must be one number or three with commas between, got '{text}'") from None


class SelectionPreset(StrEnum):
    """Named selections of units."""

    CODE = "code"
    PAPER = "paper"
    NONE = "none"


JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout.", rich_help_panel=OUTPUT)
]
HomeOption = Annotated[
    str | None,
    typer.Option(
        "--home",
        metavar="DIR",
        help="Where mvkit keeps its files.",
        show_default=False,
        rich_help_panel=MACHINE,
    ),
]


def print_json(document: Mapping[str, object]) -> None:
    """Print one JSON document on stdout; NaN becomes null so that every parser reads it."""
    sys.stdout.write(json.dumps(plain(document), indent=2, allow_nan=False) + "\n")


def print_line(text: str) -> None:
    """Print a result line on stdout."""
    _write(sys.stdout, escape_control(text) + "\n")


def note(text: str) -> None:
    """Print a remark for the person watching, on stderr; where that is gone, the work goes on."""
    try:
        _write(sys.stderr, escape_control(text) + "\n")
    except OSError:
        flush(sys.stderr)


def open_streams() -> None:
    """Give the null device to standard streams that were closed (``>&-``), for which Python has None.

    Else the next file to be opened would get their number, and what libraries print.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))


def flush(stream: TextIO) -> bool:
    """Write what is left of a stream, and return whether that worked.

    If not (its reader has gone, its disk is full), it goes to the null device from now on: Python would try
    again at its end, and complain.
    """
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return False
    return True


def home_path(home: str | None) -> Path | None:
    """Return the folder of ``--home``; None where it was not given, for the usual one."""
    return Path(home) if home else None


def check_network(
    models: Sequence[str],
    *,
    weights: str,
    layers: str | Sequence[str] | None,
    home: str | None,
    device: str,
) -> None:
    """Check names of models, weights, layers and device before torch is imported, which takes seconds.

    Raises
    ------
    UsageError, MvkitError
        As :func:`mvkit.models.names.check_models` and :func:`mvkit.machine.check_device`.
    """
    from mvkit.machine import check_device
    from mvkit.models.names import check_models

    check_models(models, weights=weights, layers=layers, home=home_path(home))
    check_device(device)


def check_stimuli(stimuli: str | None, *, home: Path | None) -> None:
    """Check that stimuli are a dataset, a neural file or a folder of images; images stay unread.

    Raises
    ------
    UsageError, DataError
        If they are not.
    """
    from mvkit.files import list_image_folder
    from mvkit.paths import DATASETS, default_dataset, expand, is_fetched, locate_dataset

    given = default_dataset(home) if stimuli is None else stimuli
    if given in DATASETS or is_fetched(given, home):
        file = locate_dataset(given, home)
    elif not (path := expand(given)).exists():
        raise UsageError(
            f"stimuli '{given}': no such dataset, neural file or folder of images"
            f"{suggest(given, DATASETS)}\nvalid: {', '.join(DATASETS)}, or a path"
        )
    elif path.is_dir():
        list_image_folder(path)
        return
    else:
        file = path
    if file is not None:
        from mvkit.neural.neural_file import read_unit_columns

        read_unit_columns(file)


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

    Brackets and colons in names are no markup. Of a table for which the terminal is too narrow, each row
    becomes a paragraph, so that no number or name is cut.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console(width=print_width(), markup=False, emoji=False)

    def render(shown: Any) -> str:
        with console.capture() as captured:
            console.print(shown)
        return captured.get()

    text = render(renderable)
    if isinstance(renderable, Table):
        is_narrow = console.width < min(_least_width(renderable, console), _NARROW)
        if is_narrow or "\N{HORIZONTAL ELLIPSIS}" in text:
            text = render(_paragraphs(renderable))
    # Colours are rich's; a terminal obeys nothing else that names in files hold.
    pieces = re.split(r"(\x1b\[[0-9;]*m)", text) if console.is_terminal else [text]
    pieces[::2] = map(escape_control, pieces[::2])
    _write(sys.stdout, "".join(pieces))


def _least_width(table: Table, console: Console) -> int:
    """Return the columns in which a table can be printed without breaking a word."""
    from rich.measure import Measurement

    options = console.options.update(max_width=_UNLIMITED)
    words = 0
    for column in table.columns:
        sizes = [Measurement.get(console, options, cell) for cell in (column.header, *column.cells)]
        words += max(size.maximum if column.no_wrap else size.minimum for size in sizes)
    _, right, _, left = table.padding
    return words + (len(table.columns) - 1) * (left + right + (table.box is not None))


def _paragraphs(table: Table) -> Text:
    """Return the rows of a table one after the other: what a row is about, and a line for each other cell."""
    from rich.text import Text

    heads = [" ".join(str(column.header).split()) for column in table.columns]
    n_names = 1 if heads[0] else 2
    lines = [str(table.title)] if table.title else []
    for row in zip(*(column.cells for column in table.columns), strict=True):
        cells = [str(cell).strip() for cell in row]
        lines.append(" ".join(filter(None, cells[:n_names])))
        others = list(zip(heads, cells, strict=True))[n_names:]
        lines += [f"  {head}: {cell}" for head, cell in others if cell]
    return Text("\n".join(lines))


def _write(stream: TextIO, text: str) -> None:
    """Write text; characters that the stream's encoding does not know are escaped."""
    encoding = stream.encoding or "utf-8"
    stream.write(printable(text).encode(encoding, "backslashreplace").decode(encoding))


def print_width() -> int:
    """Return the columns of the terminal; files and pipes get 160, terminals that tell nonsense 20 or 80."""
    from rich.console import Console

    console = Console()
    return max(20, console.width or 80) if console.is_terminal else 160
