"""Tables of scores for the terminal, and the words in their cells."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mvkit.errors import escape_control
from mvkit.scoring.results import ALL_AREAS, BEST_PER_AREA, POPULATION

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table
    from rich.text import Text

    from mvkit.report.text import ScoreRun
    from mvkit.scoring import Scores
    from mvkit.scoring.comparison import Comparison
    from mvkit.scoring.extrapolation import Extrapolation
    from mvkit.scoring.two_way import TwoWay


#: A row of a summary: column -> value.
Row = Mapping[Hashable, Any]

#: How best layers were chosen, in the words that go wherever their scores go.
CHOICES = {"paper": "chosen on the test images (paper)", "held-out": "held-out"}

UNRESOLVED = "not resolved by these data"

#: A p value below this is written as being below it.
_SMALLEST_P = 0.001


#: Widest column of names in the ranking; longer ones are broken.
_NAME_WIDTH = 34
#: Columns that a ranking by six areas needs with two spaces between its columns.
_WIDE = 100
#: Marks the highest median of a column where nothing can be bold.
BEST = "*"


def score_table(scores: Scores, *, ceiling: Scores | None = None) -> Table:
    """Lay out medians over units: a row per layer, a column per area.

    The highest median of each area is bold and has a star. More rows give the ceiling, if there is one, and
    the numbers of units with a score and of animals.

    Parameters
    ----------
    scores
        The scores.
    ceiling
        Consistency between animals.

    Returns
    -------
    rich.table.Table
        For :class:`rich.console.Console`.
    """
    from rich.text import Text

    cells = {(str(row["layer"]), str(row["area"])): row for row in scores.summary().to_dict("records")}
    areas = shown_areas(scores.areas)
    # NaN, where there is no score, is not the highest.
    highest = {
        area: max((cells[layer, area]["median"] for layer in scores.layers), key=_or_lowest) for area in areas
    }
    several = len(scores.layers) > 1
    table = _new_table()
    table.add_column("layer", overflow="fold")
    for area in areas:
        table.add_column(area_name(area) + (" " if several else ""), justify="right", no_wrap=True)
    best: set[str] = set()
    for layer in scores.layers:
        texts = []
        for area in areas:
            median = cells[layer, area]["median"]
            is_best = several and median == highest[area] and area not in best
            best.update([area] if is_best else [])
            text = "none" if math.isnan(median) else f"{median:z.3f}"
            mark = BEST if is_best else " " if several else ""
            texts.append(Text(f"{text}{mark}", style="bold" if is_best else ""))
        table.add_row(Text(layer), *texts)
    space = " " if several else ""
    if ceiling is not None:
        of_ceiling = {str(row["area"]): row["median"] for row in ceiling.summary().to_dict("records")}
        values = [_median(of_ceiling.get(area, math.nan)) + space for area in areas]
        table.add_row(_ceiling_label(ceiling), *values, style="italic")
    table.add_section()
    counts = [("units", "n_units")] if has_units(scores) else []
    counts.append(_population_count(scores))
    for words, column in counts:
        most = [max(int(cells[layer, area][column]) for layer in scores.layers) for area in areas]
        table.add_row(words, *(f"{number}{space}" for number in most), style="dim")
    return table


def best_layer_table(
    scores: Scores,
    choice: str,
    fractions: pd.DataFrame | None = None,
    ceiling: Scores | None = None,
) -> Table:
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
    ceiling
        Consistency between animals, whose medians get a column.
    """
    from rich.text import Text

    of_ceiling: dict[str, Row] = {}
    if fractions is not None:
        of_ceiling = {
            str(row["area"]): row for row in fractions.to_dict("records") if row["choice"] == choice
        }
    limits = (
        {}
        if ceiling is None
        else {str(row["area"]): row["median"] for row in ceiling.summary().to_dict("records")}
    )
    units, layers = has_units(scores), len(scores.layers) > 1
    interval = percent(scores.settings.confidence)
    noun, column = _population_count(scores)
    table = _new_table()
    table.add_column("area", no_wrap=True)
    if layers:
        table.add_column("best layer", overflow="fold")
    table.add_column(f"median [{interval}]", justify="right", no_wrap=True)
    table.add_column("units\n(animals)" if units else noun.replace(" ", "\n"), justify="right", no_wrap=True)
    if limits:
        table.add_column("ceiling", justify="right", no_wrap=True)
    if of_ceiling:
        table.add_column("of the\nceiling", justify="right", no_wrap=True)
    shown = shown_areas(scores.areas)
    for row in best_layers(scores, choice).to_dict("records"):
        area = str(row["area"])
        if area not in shown:
            continue
        layer = "each area's own" if row["layer"] == BEST_PER_AREA else str(row["layer"])
        cells = [
            *([layer] if layers else []),
            with_interval(row["median"], row["low"], row["high"]) or "none",
            _counts(row) if units else str(row[column]),
        ]
        if limits:
            cells.append(_median(limits.get(area, math.nan)))
        if of_ceiling:
            fraction = of_ceiling.get(area)
            value = math.nan if fraction is None else fraction["fraction"]
            cells.append("none" if math.isnan(value) else f"{100 * value:.0f} %")
        style = "bold" if area == ALL_AREAS else ""
        table.add_row(area_name(area), *map(Text, cells), style=style)
    return table


def best_layer_title(scores: Scores, choice: str) -> str:
    """Return the title of such a table."""
    if len(scores.layers) == 1:
        return f"layer {scores.layers[0]}"
    if choice == "held-out":
        return "best layer, held-out: chosen on some image splits, scored on the others"
    return f"best layer, {CHOICES[choice]}"


def no_choice(scores: Scores, choice: str) -> str:
    """Return why no layer at all can be chosen, or ""."""
    best = best_layers(scores, choice)
    chosen = best[(best["area"] != ALL_AREAS) & (best["layer"] != "")]
    return "" if len(chosen) else "; ".join(dict.fromkeys(best["reason"][best["reason"] != ""]))


def missing_intervals(scores: Scores, choice: str) -> list[str]:
    """Say for which areas there is no interval, or no layer, and why: ``VISl: 2 animals: no interval``."""
    if is_pooled(scores):
        return ["no intervals: the animals of an area are pooled into one population"]
    shown = shown_areas(scores.areas)
    areas: dict[str, list[str]] = {}
    for row in best_layers(scores, choice).to_dict("records"):
        if row["reason"] and row["area"] in shown:
            areas.setdefault(str(row["reason"]), []).append(area_name(row["area"]))
    return [f"{', '.join(names)}: {reason}" for reason, names in areas.items()]


def shown_areas(areas: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of a table: the areas and all of them, or the only one."""
    return (*areas, ALL_AREAS) if len(areas) > 1 else tuple(areas)


def ranked(run: ScoreRun) -> dict[str, Scores]:
    """Return the models of a run and earlier ones by their median over all areas, highest first.

    Where earlier scores lack areas, in the areas that all have.
    """
    everything = {**run.models, **run.earlier}
    common = [area for area in run.scores.areas if all(area in one.areas for one in everything.values())]
    narrowed = {name: scores.in_areas(common) for name, scores in everything.items()}
    choice = run.scores.settings.layer_choice
    medians = {
        name: float(best_layers(scores, choice)["median"].iloc[-1]) for name, scores in narrowed.items()
    }
    return dict(sorted(narrowed.items(), key=lambda item: -_or_lowest(medians[item[0]])))


def ranking_title(run: ScoreRun) -> str:
    """Return the title of the ranking."""
    one_layer = all(len(scores.layers) == 1 for scores in {**run.models, **run.earlier}.values())
    layers = "" if one_layer else f"; layers {CHOICES[run.scores.settings.layer_choice]}"
    over = "" if is_pooled(run.scores) else f" [{percent(run.scores.settings.confidence)} over animals]"
    return f"median{over}{layers}"


def ranking_table(run: ScoreRun, *, width: int) -> Table:
    """Lay out the models of a run and earlier ones, highest first: the median with its interval, and by area.

    Parameters
    ----------
    run
        The run.
    width
        Columns of the terminal.
    """
    from rich.text import Text

    models = ranked(run)
    first = next(iter(models.values()))
    choice = run.scores.settings.layer_choice
    areas = list(first.areas) if len(first.areas) > 1 else []
    overall = ALL_AREAS if areas else first.areas[0]
    table = _new_table(narrow=width < _WIDE)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("model", overflow="fold", max_width=_NAME_WIDTH)
    table.add_column(area_name(overall), justify="right", no_wrap=True)
    for area in areas:
        table.add_column(area, justify="right", no_wrap=True)
    for place, (name, scores) in enumerate(models.items(), start=1):
        table.add_row(str(place), Text(name), *map(Text, _ranking_cells(scores, overall, areas, choice)))
    if run.ceiling is not None:
        cells = _ranking_cells(run.ceiling, overall, areas, "paper")
        table.add_row("", _ceiling_label(run.ceiling), *map(Text, cells), style="italic")
    table.add_section()
    rows = {str(row["area"]): row for row in best_layers(first, choice).to_dict("records")}
    counts = [("units", "n_units")] if has_units(first) else []
    for words, column in (*counts, _population_count(first)):
        most = {
            area: max(
                int(row[column])
                for scores in models.values()
                for row in best_layers(scores, choice).to_dict("records")
                if row["area"] == area
            )
            for area in rows
        }
        # Below the median, not at the end of the interval.
        table.add_row("", words, str(most[overall]), *(str(most[area]) for area in areas), style="dim")
    return table


def _ranking_cells(scores: Scores, overall: str, areas: Sequence[str], choice: str) -> list[str]:
    rows = {str(row["area"]): row for row in best_layers(scores, choice).to_dict("records")}
    whole = rows.get(overall)
    first = "" if whole is None else with_interval(whole["median"], whole["low"], whole["high"]) or "none"
    return [first, *(_median(rows[area]["median"]) if area in rows else "" for area in areas)]


def verdict_lines(run: ScoreRun, comparison: Comparison) -> list[str]:
    """Say in which areas which of two models is higher."""
    rows = comparison.table().to_dict("records")
    overall = rows[-1]
    if len({row["area"] for row in rows}) == 2:
        rows = rows[-1:]
    first, second = str(overall["first"]), str(overall["second"])
    value = with_interval(overall["difference"], overall["low"], overall["high"], signed=True) or "none"
    where = "" if len(rows) == 1 else ", all areas"
    lines = [
        f"{first} minus {second}{where}: {value}{_p_words(overall['p_holm'])}: {verdict(overall)} "
        "(median of the differences of the same "
        f"{'units' if has_units(run.scores) else 'populations'})"
    ]
    if len(rows) > 1:
        verdicts: dict[str, list[str]] = {}
        for row in rows[:-1]:
            verdicts.setdefault(verdict(row), []).append(str(row["area"]))
        by_area = "; ".join(f"{words} in {', '.join(areas)}" for words, areas in verdicts.items())
        lines.append(f"by area: {by_area}")
    return lines


def verdict_matrix(comparison: Comparison, order: Sequence[str], *, width: int) -> Table:
    """Lay out over all areas whether each model (row) is higher or lower than each other one (column).

    Parameters
    ----------
    comparison
        Paired differences.
    order
        Models in the order of the ranking, whose numbers head the columns.
    width
        Columns of the terminal: where words do not fit, ``>``, ``<`` and ``-`` stand for them.
    """
    from rich.text import Text

    verdicts: dict[tuple[str, str], str] = {}
    for row in comparison.table().to_dict("records"):
        if row["area"] == ALL_AREAS:
            higher = math.copysign(1.0, row["difference"]) if row["resolved"] else 0.0
            words = {1.0: ("higher", "lower"), -1.0: ("lower", "higher"), 0.0: ("-", "-")}[higher]
            if math.isnan(row["p_holm"]):
                words = ("no test", "no test")
            verdicts[row["first"], row["second"]], verdicts[row["second"], row["first"]] = words
    name_width = min(_NAME_WIDTH, max(map(len, order)))
    symbols = {"higher": ">", "lower": "<", "no test": "no"}
    fits = name_width + 5 + 9 * len(order) <= width
    table = _new_table()
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("", overflow="fold", max_width=_NAME_WIDTH)
    for place in range(1, len(order) + 1):
        table.add_column(str(place), justify="center", no_wrap=True)
    for place, name in enumerate(order, start=1):
        cells = ["." if other == name else verdicts[name, other] for other in order]
        table.add_row(str(place), Text(name), *(cell if fits else symbols.get(cell, cell) for cell in cells))
    return table


def matrix_title(comparison: Comparison) -> str:
    """Return the title of the matrix of verdicts."""
    areas = {pair.area for pair in comparison.pairs}
    where = "over all areas " if len(areas) > 2 else ""
    return f"verdicts {where}(row against column; {percent(comparison.confidence)}, Holm; -: not resolved)"


def _p_words(p: float) -> str:
    if math.isnan(p):
        return ""
    return f", p < {_SMALLEST_P:g}" if p < _SMALLEST_P else f", p = {p:.3f}"


def score_cells(run: ScoreRun) -> tuple[list[str], list[list[str]]]:
    """Return the table for a paper: a heading per column, and a row per model.

    Models in the order given, the ceiling, and numbers of units and animals; areas, and all of them, with
    intervals.
    """
    choice = run.scores.settings.layer_choice
    models = {**run.models, **run.earlier}
    common = [area for area in run.scores.areas if all(area in one.areas for one in models.values())]
    areas = shown_areas(common)
    narrowed = {name: scores.in_areas(common) for name, scores in models.items()}
    limit = (
        None
        if run.ceiling is None
        else run.ceiling.in_areas([area for area in run.ceiling.areas if area in common])
    )
    rows = [[name, *_cells_of_areas(scores, areas, choice)] for name, scores in narrowed.items()]
    if limit is not None:
        rows.append([f"ceiling ({limit.layers[0]})", *_cells_of_areas(limit, areas, "paper")])
    first = {
        str(row["area"]): row for row in best_layers(next(iter(narrowed.values())), choice).to_dict("records")
    }
    units = has_units(run.scores)
    column = _population_count(run.scores)[1]
    counts = [_counts(first[area]) if units else str(int(first[area][column])) for area in areas]
    rows.append(["units (animals)" if units else _population_count(run.scores)[0], *counts])
    return ["model", *map(area_name, areas)], rows


def _cells_of_areas(scores: Scores, areas: Sequence[str], choice: str) -> list[str]:
    rows = {str(row["area"]): row for row in best_layers(scores, choice).to_dict("records")}
    return [
        with_interval(rows[area]["median"], rows[area]["low"], rows[area]["high"], digits=2) or "-"
        if area in rows
        else "-"
        for area in areas
    ]


def markdown_table(run: ScoreRun) -> str:
    """Return :func:`score_cells` as a Markdown table with a caption."""
    head, rows = score_cells(run)
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    table = "\n".join(
        f"| {' | '.join(_markdown(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )
    return f"{table}\n\n{_markdown(table_caption(run))}\n"


def _markdown(text: str) -> str:
    return _one_line(text).replace("<", "&lt;")


#: What LaTeX would take for a command.
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def latex_table(run: ScoreRun) -> str:
    """Return :func:`score_cells` as a LaTeX tabular with the rules of booktabs; the caption is a comment."""
    head, rows = score_cells(run)
    *body, counts = [[_latex(cell) for cell in row] for row in rows]
    lines = [
        f"% {_one_line(table_caption(run))}",
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"\toprule",
        " & ".join(map(_latex, head)) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in body),
        r"\midrule",
        " & ".join(counts) + r" \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in _one_line(text))


def _one_line(text: str) -> str:
    """Return text whose line ends would end a row or a comment, as one line without control characters."""
    return escape_control(" ".join(text.split()))


def table_caption(run: ScoreRun) -> str:
    """Say what stands in the table for a paper."""
    scores = run.scores
    over = "animals and units" if has_units(scores) else "animals"
    intervals = "" if is_pooled(scores) else f" [{percent(scores.settings.confidence)} intervals over {over}]"
    several = any(len(one.layers) > 1 for one in {**run.models, **run.earlier}.values())
    layers = f"; best layer of each area, {CHOICES[scores.settings.layer_choice]}" if several else ""
    dataset = str(scores.context.get("dataset", "recordings"))
    return f"Median score on {dataset}{intervals}{layers}. Protocol {scores.digest()[:12]}."


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
        return f"no test: {row['reason']}" if row["reason"] else "no test"
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


def two_way_table(compared: TwoWay) -> Table:
    """Lay out a two-way comparison: a row per area with its verdict.

    Parameters
    ----------
    compared
        One model and the animals.
    """
    from rich.text import Text

    table = _new_table()
    table.add_column("area", no_wrap=True)
    table.add_column("layer")
    interval = percent(compared.settings.confidence)
    for name in ("animals", "animal from model", "model from animal", "between animals"):
        table.add_column(name, justify="right")
    table.add_column(f"difference [{interval}]", justify="right", no_wrap=True)
    table.add_column("the model is")
    for row in compared.table().to_dict("records"):
        means = [f"{row[name]:.3f}" for name in ("from_model", "to_model", "between")]
        difference = with_interval(row["difference"], row["low"], row["high"]) or f"{row['difference']:.3f}"
        table.add_row(
            area_name(row["area"]),
            Text(row["layer"]),
            str(row["n_animals"]),
            *means,
            Text(difference),
            row["verdict"],
        )
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


def _new_table(*, narrow: bool = False) -> Table:
    """Return a table without lines."""
    from rich.table import Table

    padding = (0, 1, 0, 0) if narrow else (0, 1)
    return Table(box=None, pad_edge=False, header_style="bold", padding=padding)


def _median(value: float) -> str:
    """Write ``0.413``, or ``none``."""
    return "none" if math.isnan(value) else f"{value:z.3f}"


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
