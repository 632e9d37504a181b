"""What a scoring run prints, from top to bottom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mvkit.report.best_layers import best_layer_table, best_layer_title, missing_intervals, no_choice
from mvkit.report.comparison_table import comparison_tables
from mvkit.report.dropped import dropped_halvings
from mvkit.report.extrapolation_table import extrapolation_lines, extrapolation_table
from mvkit.report.headline import headline
from mvkit.report.outcome import ScoreRun
from mvkit.report.overview import overview_table, overview_title
from mvkit.report.protocol_line import described_mapping, protocol_lines
from mvkit.report.score_table import score_table
from mvkit.report.wording import CHOICES, counted_words, has_units, with_interval

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mvkit.scoring import Scores

#: Columns that a table of six areas needs with each s.e.m. beside its median.
_WIDE = 125


def run_page(run: ScoreRun, *, width: int) -> Iterator[str | RenderableType]:
    """Yield the lines and tables of a run in the order of printing; text is to be printed as a line.

    The headline's choice of layers comes first, the other one after it, each in a table of its own.

    Parameters
    ----------
    run
        The run.
    width
        Columns of the terminal.
    """
    several = len(run.models) > 1
    protocol = protocol_lines(run.scores)
    if several:
        yield from (*protocol, "")
    for name, scores in run.models.items():
        words = headline(scores, table2=run.table2.get(name))
        # Of several models the protocol is the same, and stands above them all.
        yield from words.above[: -len(protocol)] if several else words.above
        yield ""
        yield from _tables(run, name, scores, narrow=width < _WIDE)
        yield from (*words.below, "")
    if run.ceiling is not None:
        yield from _ceiling_words(run.ceiling)
        yield ""
    if run.comparison is not None:
        yield from (_title(overview_title(run)), overview_table(run), "")
        for title, table in comparison_tables(run.comparison, units=has_units(run.scores)).items():
            yield from (_title(title), table, "")
    if run.extrapolation is not None:
        settings = run.extrapolation.settings
        yield _title(f"ceiling ({settings.ceiling}) over the number of {run.extrapolation.over}")
        yield extrapolation_table(run.extrapolation)
        yield from (*extrapolation_lines(run.extrapolation), "")


def _tables(run: ScoreRun, name: str, scores: Scores, *, narrow: bool) -> Iterator[str | RenderableType]:
    yield score_table(scores, ceiling=run.ceiling, narrow=narrow)
    yield ""
    first = scores.settings.layer_choice
    both = (first, "held-out" if first == "paper" else "paper")
    for choice in both[:1] if len(scores.layers) == 1 else both:
        why = no_choice(scores, choice)
        if why:
            yield from (f"no best layers {CHOICES[choice]}: {why}", "")
            continue
        yield _title(best_layer_title(scores, choice))
        yield best_layer_table(scores, choice, run.fractions.get(name))
        yield from (*missing_intervals(scores, choice), "")


def _ceiling_words(ceiling: Scores) -> Iterator[str]:
    row = ceiling.best_layers().to_dict("records")[-1]
    value = with_interval(row["median"], row["low"], row["high"]) or "none"
    yield (
        f"ceiling between animals ({ceiling.layers[0]}, {described_mapping(ceiling.settings)}), all areas: "
        f"median {value} ({counted_words(row, units=has_units(ceiling))})"
    )
    yield from missing_intervals(ceiling, "paper")
    yield from filter(None, [dropped_halvings(ceiling)])


def _title(text: str) -> RenderableType:
    from rich.text import Text

    return Text(text, style="bold")
