"""The ceiling over numbers of units or stimuli."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mvkit.report.wording import area_name, counted, percent, with_interval

if TYPE_CHECKING:
    from rich.table import Table

    from mvkit.scoring.extrapolation import Extrapolation


def extrapolation_table(extrapolation: Extrapolation) -> Table:
    """Lay out measured medians: a row per area and size.

    Parameters
    ----------
    extrapolation
        What was measured.
    """
    from rich.table import Table
    from rich.text import Text

    settings = extrapolation.settings
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("area", no_wrap=True)
    table.add_column(extrapolation.over, justify="right")
    table.add_column(f"median [{percent(settings.confidence)}]", justify="right", no_wrap=True)
    table.add_column("units (animals)", justify="right")
    for row in extrapolation.table().to_dict("records"):
        table.add_row(
            area_name(row["area"]),
            str(int(row["size"])),
            Text(with_interval(row["median"], row["low"], row["high"]) or str(row["reason"])),
            counted(row, units=True),
        )
    return table


def extrapolation_lines(extrapolation: Extrapolation) -> list[str]:
    """Say where the saturating curve of each area ends, or that the data do not tell."""
    lines = []
    for row in extrapolation.fits().to_dict("records"):
        if row["curve"] != "saturating":
            continue
        value = with_interval(row["asymptote"], row["asymptote_low"], row["asymptote_high"])
        found = f"asymptote {value}" if row["determined"] else f"no asymptote: {row['reason']}"
        lines.append(f"{area_name(row['area'])}: {found}")
    return [*lines, *(f"{area}: {why}" for area, why in extrapolation.skipped.items())]
