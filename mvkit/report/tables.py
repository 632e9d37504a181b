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

#: The same at greater length.
EXPLAINED = {
    "paper": CHOICES["paper"],
    "held-out": "held-out: chosen on some image splits, scored on the others",
}


def has_units(scores: Scores) -> bool:
    """Tell whether rows are units; those of similarities are whole populations."""
    return not bool((scores.columns["unit_id"] == POPULATION).all())


def is_pooled(scores: Scores) -> bool:
    """Tell whether a row is the units of all animals of an area, which leaves no animals to count."""
    return scores.settings.pools_animals


def noun(scores: Scores) -> str:
    """Name what is counted where there are no units."""
    return "pooled populations" if is_pooled(scores) else "animals"


def median_and_sem(row: Row, *, gap: str = " ± ") -> str:
    """Write ``0.413 ± 0.010``, an s.e.m. above 1 as ``>1``; only the median without one; "" without both."""
    if math.isnan(row["median"]):
        return ""
    sem = ">1" if row["sem"] > 1 else f"{row['sem']:.3f}"
    return f"{row['median']:z.3f}" + ("" if math.isnan(row["sem"]) else f"{gap}{sem}")


def with_interval(value: float, low: float, high: float, *, digits: int = 3, signed: bool = False) -> str:
    """Write ``0.413 [0.381, 0.442]``; only the value if there is no interval, "" if there is no value."""
    if math.isnan(value):
        return ""
    text = f"{value:+z.{digits}f}" if signed else f"{value:z.{digits}f}"
    if math.isnan(low) or math.isnan(high):
        return text
    return f"{text} [{low:z.{digits}f}, {high:z.{digits}f}]"


def counted(row: Row, *, units: bool) -> str:
    """Write how many there are: ``103 (8)`` units and animals, or animals only."""
    return f"{int(row['n_units'])} ({int(row['n_animals'])})" if units else str(int(row["n_animals"]))


def counted_words(row: Row, *, units: bool) -> str:
    """Write how many there are: ``103 units, 8 animals``, or animals only."""
    return (f"{row['n_units']} units, " if units else "") + f"{row['n_animals']} animals"


def area_name(area: object) -> str:
    """Name an area, or all of them."""
    return "all areas" if area == ALL_AREAS else str(area)


def percent(confidence: float) -> str:
    """Write a confidence: ``95 %``."""
    return f"{100 * confidence:g} %"


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

    cells = _score_cells(scores)
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
        of_ceiling = {area: row for (_, area), row in _score_cells(ceiling).items()}
        label = Text(f"ceiling ({ceiling.layers[0]})")
        table.add_row(label, *[_cell(of_ceiling.get(area), gap=gap) for area in areas], style="italic")
    table.add_section()
    units = (("units", "n_units"),) if has_units(scores) else ()
    last = (noun(scores), "n_units" if is_pooled(scores) else "n_animals")
    for words, column in (*units, last):
        table.add_row(words, *[str(_most(cells, layers, area, column)) for area in areas], style="dim")
    return table


def _score_cells(scores: Scores) -> _Cells:
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
