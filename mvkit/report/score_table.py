"""The table of layers by areas."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mvkit.report.headline import Row, median_and_sem
from mvkit.scoring.results import ALL_AREAS

if TYPE_CHECKING:
    from rich.table import Table

    from mvkit.scoring import Scores


def score_table(scores: Scores, *, narrow: bool = False) -> Table:
    """Lay out medians and s.e.m. over units: a row per layer, a column per area.

    The highest median of each area is bold. Two more rows give the number of
    units with a score and of animals.

    Parameters
    ----------
    scores
        The scores.
    narrow
        Whether to put each s.e.m. below its median, for terminals of 80 columns.

    Returns
    -------
    rich.table.Table
        For :class:`rich.console.Console`.
    """
    from rich.table import Table

    rows = scores.summary().to_dict("records")
    cells = {(str(row["layer"]), str(row["area"])): row for row in rows}
    layers = list(dict.fromkeys(layer for layer, _ in cells))
    areas = [area for area in dict.fromkeys(area for _, area in cells) if area != ALL_AREAS] + [ALL_AREAS]
    best = {area: _best_layer(cells, layers, area) for area in areas}
    gap = "\n±" if narrow else " ± "
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layer")
    for area in areas:
        table.add_column("all areas" if area == ALL_AREAS else area, justify="right", no_wrap=True)
    for layer in layers:
        table.add_row(
            layer, *[_cell(cells.get((layer, area)), is_best=best[area] == layer, gap=gap) for area in areas]
        )
    table.add_section()
    for label, column in (("units", "n_units"), ("animals", "n_animals")):
        table.add_row(label, *[str(_most(cells, layers, area, column)) for area in areas], style="dim")
    return table


def _cell(row: Row | None, *, is_best: bool, gap: str) -> str:
    if row is None:
        return ""
    text = median_and_sem(row, gap=gap)
    if not text:
        return "no score"
    return f"[bold]{text}[/bold]" if is_best else text


def _best_layer(cells: dict[tuple[str, str], Row], layers: list[str], area: str) -> str | None:
    scored = [
        layer for layer in layers if (layer, area) in cells and not math.isnan(cells[layer, area]["median"])
    ]
    return max(scored, key=lambda layer: float(cells[layer, area]["median"]), default=None)


def _most(cells: dict[tuple[str, str], Row], layers: list[str], area: str, column: str) -> int:
    return max((int(cells[layer, area][column]) for layer in layers if (layer, area) in cells), default=0)
