"""The best layer of every area, by one way of choosing it at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mvkit.report.wording import (
    CHOICES,
    EXPLAINED,
    Row,
    area_name,
    counted,
    has_units,
    is_pooled,
    noun,
    percent,
    with_interval,
)
from mvkit.scoring.results import ALL_AREAS, BEST_PER_AREA

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table
    from rich.text import Text

    from mvkit.scoring import Scores

#: Digits of a fraction of the ceiling.
_FRACTION_DIGITS = 2


def best_layer_table(scores: Scores, choice: str, fractions: pd.DataFrame | None = None) -> Table:
    """Lay out the best layer of every area under one choice, with intervals and numbers.

    Parameters
    ----------
    scores
        The scores.
    choice
        ``"paper"`` or ``"held-out"``; :func:`best_layer_title` says which in words.
    fractions
        Fractions of the ceiling, see :func:`mvkit.scoring.comparison.fraction_of_ceiling`; only
        those of the same choice are shown.
    """
    from rich.table import Table
    from rich.text import Text

    best = _best(scores, choice)
    of_ceiling = _of_choice(fractions, choice)
    units = has_units(scores)
    interval = percent(scores.settings.confidence)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("area", no_wrap=True)
    table.add_column("layer", overflow="fold")
    table.add_column(f"median [{interval}]", justify="right", no_wrap=True)
    table.add_column(
        "units\n(animals)" if units else noun(scores).replace(" ", "\n"), justify="right", no_wrap=True
    )
    if of_ceiling:
        table.add_column(f"of the ceiling\n[{interval}]", justify="right", no_wrap=True)
    for row in best.to_dict("records"):
        area = str(row["area"])
        last = [_fraction(of_ceiling.get(area))] if of_ceiling else []
        table.add_row(
            area_name(area),
            Text(_layer(row)),
            Text(with_interval(row["median"], row["low"], row["high"]) or "no score"),
            str(row["n_units"]) if is_pooled(scores) else counted(row, units=units),
            *last,
        )
    return table


def best_layer_title(scores: Scores, choice: str) -> str:
    """Return what stands above such a table."""
    if len(scores.layers) == 1:
        return f"the only layer: {CHOICES['paper']} and {CHOICES['held-out']} are the same"
    return f"best layer, {EXPLAINED[choice]}"


def no_choice(scores: Scores, choice: str) -> str:
    """Say why no layer at all can be chosen, or ""."""
    best = _best(scores, choice)
    chosen = best[(best["area"] != ALL_AREAS) & (best["layer"] != "")]
    return "" if len(chosen) else "; ".join(dict.fromkeys(best["reason"][best["reason"] != ""]))


def missing_intervals(scores: Scores, choice: str) -> list[str]:
    """Say for which areas there is no interval, or no layer, and why."""
    best = _best(scores, choice)
    areas: dict[str, list[str]] = {}
    for row in best.to_dict("records"):
        if row["reason"]:
            areas.setdefault(str(row["reason"]), []).append(area_name(row["area"]))
    if is_pooled(scores):
        return ["no intervals: the animals of an area are pooled into one population"]
    return [f"no interval for {', '.join(names)}: {reason}" for reason, names in areas.items()]


def _best(scores: Scores, choice: str) -> pd.DataFrame:
    return scores.best_layers() if choice == "paper" else scores.held_out_layers()


def _of_choice(fractions: pd.DataFrame | None, choice: str) -> Mapping[str, Row]:
    if fractions is None:
        return {}
    return {str(row["area"]): row for row in fractions.to_dict("records") if row["choice"] == choice}


def _layer(row: Row) -> str:
    return "each area's own" if row["layer"] == BEST_PER_AREA else str(row["layer"])


def _fraction(row: Row | None) -> Text:
    from rich.text import Text

    if row is None:
        return Text("")
    return Text(with_interval(row["fraction"], row["low"], row["high"], digits=_FRACTION_DIGITS) or "none")
