"""The table of layers by areas."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mvkit.report.wording import Row, area_name, has_units, is_pooled, median_and_sem, noun
from mvkit.scoring.results import ALL_AREAS

if TYPE_CHECKING:
    from rich.table import Table

    from mvkit.scoring import Scores

_Cells = dict[tuple[str, str], Row]


def score_table(scores: Scores, *, ceiling: Scores | None = None, narrow: bool = False) -> Table:
    """Lay out medians and s.e.m. over units: a row per layer, a column per area.

    The highest median of each area is bold. More rows give the ceiling, if there is one, and the numbers of
    units with a score and of animals.

    Parameters
    ----------
    scores
        The scores.
    ceiling
        Consistency between animals.
    narrow
        Whether to put each s.e.m. below its median, for terminals of 80 columns.

    Returns
    -------
    rich.table.Table
        For :class:`rich.console.Console`.
    """
    from rich.table import Table
    from rich.text import Text

    cells = _cells(scores)
    layers = list(dict.fromkeys(layer for layer, _ in cells))
    areas = [area for area in dict.fromkeys(area for _, area in cells) if area != ALL_AREAS] + [ALL_AREAS]
    best = {area: _best_layer(cells, layers, area) for area in areas}
    gap = "\n±" if narrow else " ± "
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layer")
    for area in areas:
        table.add_column(area_name(area), justify="right", no_wrap=True)
    for layer in layers:
        cells_of_row = [
            Text(_cell(cells.get((layer, area)), gap=gap), style="bold" if best[area] == layer else "")
            for area in areas
        ]
        table.add_row(Text(layer), *cells_of_row)
    if ceiling is not None:
        of_ceiling = {area: row for (_, area), row in _cells(ceiling).items()}
        label = Text(f"ceiling ({ceiling.layers[0]})")
        table.add_row(label, *[_cell(of_ceiling.get(area), gap=gap) for area in areas], style="italic")
    table.add_section()
    units = (("units", "n_units"),) if has_units(scores) else ()
    last = (noun(scores), "n_units" if is_pooled(scores) else "n_animals")
    for words, column in (*units, last):
        table.add_row(words, *[str(_most(cells, layers, area, column)) for area in areas], style="dim")
    return table


def _cells(scores: Scores) -> _Cells:
    return {(str(row["layer"]), str(row["area"])): row for row in scores.summary().to_dict("records")}


def _cell(row: Row | None, *, gap: str) -> str:
    return "" if row is None else median_and_sem(row, gap=gap) or "no score"


def _best_layer(cells: _Cells, layers: list[str], area: str) -> str | None:
    scored = [
        layer for layer in layers if (layer, area) in cells and not math.isnan(cells[layer, area]["median"])
    ]
    return max(scored, key=lambda layer: float(cells[layer, area]["median"]), default=None)


def _most(cells: _Cells, layers: list[str], area: str, column: str) -> int:
    return max((int(cells[layer, area][column]) for layer in layers if (layer, area) in cells), default=0)
