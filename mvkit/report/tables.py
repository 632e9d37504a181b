"""Tables of scores for the terminal, and the words in their cells."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

from mvkit.scoring.results import ALL_AREAS, BEST_PER_AREA, POPULATION

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table
    from rich.text import Text

    from mvkit.report.text import ScoreRun
    from mvkit.scoring import Scores
    from mvkit.scoring.comparison import Comparison
    from mvkit.scoring.extrapolation import Extrapolation


#: A row of a summary: column -> value.
Row = Mapping[Hashable, Any]

#: How best layers were chosen, in the words that go wherever their scores go.
CHOICES = {"paper": "chosen on the test images (paper)", "held-out": "held-out"}

UNRESOLVED = "not resolved by these data"

#: A p value below this is written as being below it.
_SMALLEST_P = 0.001


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
    from rich.text import Text

    cells = {(str(row["layer"]), str(row["area"])): row for row in scores.summary().to_dict("records")}
    areas = [*scores.areas, ALL_AREAS]
    # NaN, where there is no score, is not the highest.
    highest = {
        area: max((cells[layer, area]["median"] for layer in scores.layers), key=_or_lowest) for area in areas
    }
    gap = "\n±" if narrow else " ± "
    table = _new_table()
    table.add_column("layer")
    for area in areas:
        table.add_column(area_name(area), justify="right", no_wrap=True)
    best: set[str] = set()
    for layer in scores.layers:
        texts = []
        for area in areas:
            row = cells[layer, area]
            is_best = row["median"] == highest[area] and area not in best
            best.update([area] if is_best else [])
            texts.append(Text(_median_and_sem(row, gap=gap) or "no score", style="bold" if is_best else ""))
        table.add_row(Text(layer), *texts)
    if ceiling is not None:
        of_ceiling = {str(row["area"]): row for row in ceiling.summary().to_dict("records")}
        values = [
            _median_and_sem(of_ceiling[area], gap=gap) or "no score" if area in of_ceiling else ""
            for area in areas
        ]
        table.add_row(_ceiling_label(ceiling), *values, style="italic")
    table.add_section()
    counts = [("units", "n_units")] if has_units(scores) else []
    counts.append(_population_count(scores))
    for words, column in counts:
        most = [max(int(cells[layer, area][column]) for layer in scores.layers) for area in areas]
        table.add_row(words, *map(str, most), style="dim")
    return table


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
    from rich.text import Text

    of_ceiling: dict[str, Row] = {}
    if fractions is not None:
        of_ceiling = {
            str(row["area"]): row for row in fractions.to_dict("records") if row["choice"] == choice
        }
    units = has_units(scores)
    interval = percent(scores.settings.confidence)
    noun, column = _population_count(scores)
    table = _new_table()
    table.add_column("area", no_wrap=True)
    table.add_column("layer", overflow="fold")
    table.add_column(f"median [{interval}]", justify="right", no_wrap=True)
    table.add_column("units\n(animals)" if units else noun.replace(" ", "\n"), justify="right", no_wrap=True)
    if of_ceiling:
        table.add_column(f"of the ceiling\n[{interval}]", justify="right", no_wrap=True)
    for row in best_layers(scores, choice).to_dict("records"):
        fraction = of_ceiling.get(str(row["area"]))
        cells = [
            with_interval(row["median"], row["low"], row["high"]) or "no score",
            _counts(row) if units else str(row[column]),
        ]
        if fraction is not None:
            value = with_interval(fraction["fraction"], fraction["low"], fraction["high"], digits=2)
            cells.append(value or "none")
        layer = "each area's own" if row["layer"] == BEST_PER_AREA else str(row["layer"])
        table.add_row(area_name(row["area"]), Text(layer), *map(Text, cells))
    return table


def best_layer_title(scores: Scores, choice: str) -> str:
    """Return the title of such a table."""
    if len(scores.layers) == 1:
        return f"the only layer: {CHOICES['paper']} and {CHOICES['held-out']} are the same"
    if choice == "held-out":
        return "best layer, held-out: chosen on some image splits, scored on the others"
    return f"best layer, {CHOICES[choice]}"


def no_choice(scores: Scores, choice: str) -> str:
    """Return why no layer at all can be chosen, or ""."""
    best = best_layers(scores, choice)
    chosen = best[(best["area"] != ALL_AREAS) & (best["layer"] != "")]
    return "" if len(chosen) else "; ".join(dict.fromkeys(best["reason"][best["reason"] != ""]))


def missing_intervals(scores: Scores, choice: str) -> list[str]:
    """Say for which areas there is no interval, or no layer, and why."""
    if is_pooled(scores):
        return ["no intervals: the animals of an area are pooled into one population"]
    areas: dict[str, list[str]] = {}
    for row in best_layers(scores, choice).to_dict("records"):
        if row["reason"]:
            areas.setdefault(str(row["reason"]), []).append(area_name(row["area"]))
    return [f"no interval for {', '.join(names)}: {reason}" for reason, names in areas.items()]


def overview_title(run: ScoreRun) -> str:
    """Return the title of the overview."""
    return f"medians; best layers {CHOICES[run.scores.settings.layer_choice]}"


def overview_table(run: ScoreRun) -> Table:
    """Lay out the models of a run and earlier ones: a row per model, a column per area, and the ceiling.

    Every median is that of the best layer of the area, by the run's choice of layers.

    Parameters
    ----------
    run
        The run.
    """
    from rich.text import Text

    choice = run.scores.settings.layer_choice
    areas = (*run.scores.areas, ALL_AREAS)
    table = _new_table()
    table.add_column("model", overflow="fold")
    for area in areas:
        table.add_column(area_name(area), justify="right", no_wrap=True)
    for name, scores in {**run.models, **run.earlier}.items():
        table.add_row(Text(name), *_overview_cells(scores, areas, choice))
    if run.ceiling is not None:
        cells = _overview_cells(run.ceiling, areas, "paper")
        table.add_row(_ceiling_label(run.ceiling), *cells, style="italic")
    return table


def _overview_cells(scores: Scores, areas: tuple[str, ...], choice: str) -> list[Text]:
    from rich.text import Text

    rows = {str(row["area"]): row for row in best_layers(scores, choice).to_dict("records")}
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
    from rich.text import Text

    tables: dict[str, Table] = {}
    for row in comparison.table().to_dict("records"):
        title = f"{row['first']} minus {row['second']}; best layers {CHOICES[str(row['choice'])]}"
        if title not in tables:
            tables[title] = table = _new_table()
            table.add_column("area", no_wrap=True)
            difference = f"difference [{percent(comparison.confidence)}]"
            for column in (difference, "p (Holm)", "units\n(animals)" if units else "animals"):
                table.add_column(column, justify="right", no_wrap=True)
            table.add_column("verdict", overflow="fold")
        p = row["p_holm"]
        tables[title].add_row(
            area_name(row["area"]),
            Text(with_interval(row["difference"], row["low"], row["high"], signed=True) or "none"),
            "" if math.isnan(p) else f"<{_SMALLEST_P:g}" if p < _SMALLEST_P else f"{p:.3f}",
            _counts(row) if units else str(int(row["n_animals"])),
            Text(verdict(row)),
        )
    return tables


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


def extrapolation_table(extrapolation: Extrapolation) -> Table:
    """Lay out measured medians: a row per area and size.

    Parameters
    ----------
    extrapolation
        Ceilings by number of units or images.
    """
    from rich.text import Text

    table = _new_table()
    table.add_column("area", no_wrap=True)
    table.add_column(extrapolation.over, justify="right")
    interval = percent(extrapolation.settings.confidence)
    table.add_column(f"median [{interval}]", justify="right", no_wrap=True)
    table.add_column("units (animals)", justify="right")
    for row in extrapolation.table().to_dict("records"):
        median = with_interval(row["median"], row["low"], row["high"]) or str(row["reason"])
        table.add_row(area_name(row["area"]), str(int(row["size"])), Text(median), _counts(row))
    return table


def extrapolation_lines(extrapolation: Extrapolation) -> list[str]:
    """Say where the saturating curve of each area ends, or that the data do not tell."""
    lines = []
    for row in extrapolation.fits().to_dict("records"):
        if row["curve"] != "saturating":
            continue
        value = with_interval(row["asymptote"], row["asymptote_low"], row["asymptote_high"])
        result = f"asymptote {value}" if row["determined"] else f"no asymptote: {row['reason']}"
        lines.append(f"{area_name(row['area'])}: {result}")
    return [*lines, *(f"{area}: {why}" for area, why in extrapolation.skipped.items())]


def best_layers(scores: Scores, choice: str) -> pd.DataFrame:
    """Return the best layer of each area by a choice, ``"paper"`` or ``"held-out"``."""
    return scores.best_layers() if choice == "paper" else scores.held_out_layers()


def has_units(scores: Scores) -> bool:
    """Tell whether rows are units; those of similarities are whole populations."""
    return not bool((scores.columns["unit_id"] == POPULATION).all())


def is_pooled(scores: Scores) -> bool:
    """Tell whether a row is the units of all animals of an area, which leaves no animals to count."""
    return scores.settings.pools_animals


def with_interval(value: float, low: float, high: float, *, digits: int = 3, signed: bool = False) -> str:
    """Write ``0.413 [0.381, 0.442]``; only the value if there is no interval, "" if there is no value."""
    if math.isnan(value):
        return ""
    text = f"{value:+z.{digits}f}" if signed else f"{value:z.{digits}f}"
    if math.isnan(low) or math.isnan(high):
        return text
    return f"{text} [{low:z.{digits}f}, {high:z.{digits}f}]"


def count_words(row: Row, *, units: bool) -> str:
    """Write how many there are: ``103 units, 8 animals``, or animals only."""
    animals = count_noun(row["n_animals"], "animal")
    return f"{count_noun(row['n_units'], 'unit')}, {animals}" if units else animals


def count_noun(number: int, noun: str) -> str:
    """Write a number of things: ``1 unit``, ``2,586 units``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def area_name(area: object) -> str:
    """Name an area, or all of them."""
    return "all areas" if area == ALL_AREAS else str(area)


def percent(confidence: float) -> str:
    """Write a confidence: ``95 %``."""
    return f"{100 * confidence:g} %"


def _new_table() -> Table:
    """Return a table without lines."""
    from rich.table import Table

    return Table(box=None, pad_edge=False, header_style="bold")


def _median_and_sem(row: Row, *, gap: str) -> str:
    """Write ``0.413 ± 0.010``, an s.e.m. above 1 as ``>1``; only the median without one; "" without both."""
    if math.isnan(row["median"]):
        return ""
    sem = ">1" if row["sem"] > 1 else f"{row['sem']:.3f}"
    return f"{row['median']:z.3f}" + ("" if math.isnan(row["sem"]) else f"{gap}{sem}")


def _counts(row: Row) -> str:
    """Write numbers of units and animals: ``103 (8)``."""
    return f"{int(row['n_units'])} ({int(row['n_animals'])})"


def _population_count(scores: Scores) -> tuple[str, str]:
    """Name the populations that are counted, and the column of their number."""
    return ("pooled populations", "n_units") if is_pooled(scores) else ("animals", "n_animals")


def _ceiling_label(ceiling: Scores) -> Text:
    from rich.text import Text

    return Text(f"ceiling ({ceiling.layers[0]})")


def _or_lowest(median: float) -> float:
    return -math.inf if math.isnan(median) else median
