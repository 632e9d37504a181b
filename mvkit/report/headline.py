"""The few sentences around a table of scores: what was scored, how, and what has no score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mvkit.report.dropped import dropped_halvings
from mvkit.report.protocol_line import protocol_lines
from mvkit.report.wording import CHOICES, counted_words, has_units, is_pooled, noun, percent, with_interval
from mvkit.scoring.results import ALL_AREAS

if TYPE_CHECKING:
    import pandas

    from mvkit.report.table2 import Table2Comparison
    from mvkit.scoring import Scores

#: Reasons that are printed; the rest is in the table of units.
MOST_REASONS = 4

#: A corrected correlation this large says that the correction failed, not that the model is good.
EXTREME = 2.0


@dataclass(frozen=True)
class Headline:
    """Lines to print around the tables.

    Attributes
    ----------
    above
        What was scored and how.
    below
        The result over all areas, the paper's value, and what has no score and why.
    """

    above: tuple[str, ...]
    below: tuple[str, ...]


def headline(scores: Scores, *, table2: Table2Comparison | None = None) -> Headline:
    """Put a score run into words.

    Parameters
    ----------
    scores
        The scores.
    table2
        The paper's Table 2 value of this model and what differs from it, or None where the paper has none.
    """
    context = scores.context
    table = scores.table()
    above = (
        f"{context.get('model', 'features')} on {describe_dataset(context)}: {_size(scores, table)}, "
        f"selection {describe_selection(context)}",
        *_network(context),
        *protocol_lines(scores),
    )
    below = [_overall(scores)]
    if table2 is not None:
        below.append(table2.line())
    skipped = context.get("skipped_areas")
    if isinstance(skipped, Mapping):
        below += [f"skipped {area}: {why}" for area, why in skipped.items()]
    below += [*_unscored(scores, table), *_extreme(scores, table)]
    return Headline(above, tuple(below))


def _network(context: Mapping[str, object]) -> tuple[str, ...]:
    """Say which checkpoint was scored and how large its images were."""
    network = context.get("network")
    return (f"{context.get('model')}: {network}",) if network else ()


def describe_dataset(context: Mapping[str, object]) -> str:
    """Name the dataset; simulated recordings are called so, in capitals, wherever they appear."""
    name = str(context.get("dataset", "recordings"))
    return "the SIMULATED dataset" if name == "simulated" else name


def describe_selection(context: Mapping[str, object]) -> str:
    """Name the selection of units in a word or two."""
    selection = context.get("selection")
    if not isinstance(selection, Mapping):
        return "as given"
    name = str(selection.get("name", "custom"))
    if name == "paper" and selection.get("applied", True):
        return f"{name} (not checked against the paper's text)"
    return name if selection.get("applied", True) else f"{name} ({selection.get('note', 'not applied')})"


def _size(scores: Scores, table: pandas.DataFrame) -> str:
    rows = table.drop_duplicates(["area", "specimen", "unit_id"])
    if has_units(scores):
        return f"{len(rows)} units, {rows['specimen'].nunique()} animals"
    if is_pooled(scores):
        return f"{len(rows)} areas, each with the units of all its animals pooled"
    return (
        f"{len(rows)} populations (the units of an animal in an area), {rows['specimen'].nunique()} animals"
    )


def _overall(scores: Scores) -> str:
    best = scores.headline_layers().to_dict("records")
    row = next(row for row in best if row["area"] == ALL_AREAS)
    value = with_interval(row["median"], row["low"], row["high"]) or "none"
    only = len(scores.layers) == 1
    layers = "one layer" if only else f"each with its best layer, {CHOICES[scores.settings.layer_choice]}"
    units = has_units(scores)
    if is_pooled(scores):
        about = f"{row['n_units']} {noun(scores)}"
    else:
        over = "animals and units" if units else "animals"
        interval = f"{percent(scores.settings.confidence)} interval over {over}; " if "[" in value else ""
        about = f"{interval}{counted_words(row, units=units)}"
    return f"all areas, {layers}: median {value} ({about})"


def _pairs(scores: Scores) -> str:
    return "unit-layer pairs" if has_units(scores) else "population-layer pairs"


def _extreme(scores: Scores, table: pandas.DataFrame) -> list[str]:
    """Say which scores cannot be correlations: they make the s.e.m. meaningless, but hardly move a median."""
    beyond = table[table["score"].abs() > EXTREME]
    if beyond.empty:
        return []
    rows = len(beyond.drop_duplicates(["area", "specimen", "unit_id"]))
    of = f" (units: {rows})" if has_units(scores) else ""
    return [
        f"scores beyond ±{EXTREME:g}: {len(beyond)} of {len(table)} {_pairs(scores)}{of}; "
        "in some halvings a reliability near 0 divides them. The medians hold, the s.e.m. does not"
    ]


def _unscored(scores: Scores, table: pandas.DataFrame) -> list[str]:
    missing = table[table["score"].isna()]
    lines = []
    if len(missing):
        counts = missing["reason"].value_counts()
        reasons = "; ".join(f"{reason}: {count}" for reason, count in counts.iloc[:MOST_REASONS].items())
        if len(counts) > MOST_REASONS:
            reasons += f"; other reasons, see the column 'reason': {counts.iloc[MOST_REASONS:].sum()}"
        lines.append(f"without a score: {len(missing)} of {len(table)} {_pairs(scores)} ({reasons})")
    return [*lines, *filter(None, [dropped_halvings(scores)])]
