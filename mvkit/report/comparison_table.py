"""Models beside one another: paired differences, and which of them the data resolve."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mvkit.report.wording import CHOICES, Row, area_name, counted, percent, with_interval

if TYPE_CHECKING:
    from rich.table import Table

    from mvkit.scoring.comparison import Comparison

UNRESOLVED = "not resolved by these data"

#: A p value below this is written as being below it.
_SMALLEST_P = 0.001


def comparison_tables(comparison: Comparison, *, units: bool) -> dict[str, Table]:
    """Lay out every pair of models: a row per area with the difference, its interval, p and a verdict.

    Parameters
    ----------
    comparison
        Paired differences.
    units
        Whether what is paired are units; otherwise whole populations.

    Returns
    -------
    dict
        Title -> table.
    """
    pairs: dict[str, list[Row]] = {}
    for row in comparison.table().to_dict("records"):
        title = f"{row['first']} minus {row['second']}; best layers {CHOICES[str(row['choice'])]}"
        pairs.setdefault(title, []).append(row)
    return {title: _table(rows, comparison.confidence, units=units) for title, rows in pairs.items()}


def _table(rows: list[Row], confidence: float, *, units: bool) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("area", no_wrap=True)
    table.add_column(f"difference [{percent(confidence)}]", justify="right", no_wrap=True)
    table.add_column("p (Holm)", justify="right", no_wrap=True)
    table.add_column("units\n(animals)" if units else "animals", justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for row in rows:
        value = with_interval(row["difference"], row["low"], row["high"], signed=True) or "none"
        table.add_row(
            area_name(row["area"]),
            Text(value),
            _p(row["p_holm"]),
            counted(row, units=units),
            Text(verdict(row)),
        )
    return table


def verdict(row: Row) -> str:
    """Say which of two models is higher, or that these data do not resolve it.

    Parameters
    ----------
    row
        Of a comparison's table: ``first``, ``second``, ``difference``, ``p_holm``, ``resolved``,
        ``reason``.
    """
    if math.isnan(row["p_holm"]):
        return "no test" if row["n_animals"] < 2 else f"no test: {row['reason']}"
    if not row["resolved"]:
        return UNRESOLVED
    return f"{row['first'] if row['difference'] > 0 else row['second']} is higher"


def _p(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"<{_SMALLEST_P:g}" if value < _SMALLEST_P else f"{value:.3f}"
