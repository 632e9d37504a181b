"""Several models beside one another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mvkit.report.wording import CHOICES, area_name, with_interval
from mvkit.scoring.results import ALL_AREAS

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from mvkit.report.outcome import ScoreRun
    from mvkit.scoring import Scores


def overview_title(run: ScoreRun) -> str:
    """Return what stands above the overview."""
    return f"medians; best layers {CHOICES[run.scores.settings.layer_choice]}"


def overview_table(run: ScoreRun) -> Table:
    """Lay out the models of a run and earlier ones: a row per model, a column per area, and the ceiling.

    Every median is that of the best layer of the area, by the run's choice of layers.

    Parameters
    ----------
    run
        The run.
    """
    from rich.table import Table
    from rich.text import Text

    choice = run.scores.settings.layer_choice
    areas = (*run.scores.areas, ALL_AREAS)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model", overflow="fold")
    for area in areas:
        table.add_column(area_name(area), justify="right", no_wrap=True)
    for name, scores in {**run.models, **run.earlier}.items():
        table.add_row(Text(name), *_cells(scores, areas, choice))
    if run.ceiling is not None:
        label = Text(f"ceiling ({run.ceiling.layers[0]})")
        table.add_row(label, *_cells(run.ceiling, areas, "paper"), style="italic")
    return table


def _cells(scores: Scores, areas: tuple[str, ...], choice: str) -> list[Text]:
    from rich.text import Text

    best = scores.best_layers() if choice == "paper" else scores.held_out_layers()
    rows = {str(row["area"]): row for row in best.to_dict("records")}
    texts = []
    for area in areas:
        row = rows.get(area)
        if row is None:
            texts.append(Text(""))
        elif area == ALL_AREAS:
            texts.append(Text(with_interval(row["median"], row["low"], row["high"]) or "none"))
        else:
            texts.append(Text(f"{row['median']:.3f}" if row["n_units"] else "none"))
    return texts
