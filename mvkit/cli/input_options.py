"""Options of preprocessing for models from elsewhere, shared by commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mvkit.errors import UsageError

if TYPE_CHECKING:
    from mvkit.models.foreign.options import InputOptions

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
    from mvkit.models.foreign.options import InputOptions

    return InputOptions(input_size, _numbers("--mean", mean), _numbers("--std", std), grey or None)


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} must be one number or three with commas between, got '{text}'") from None
