"""The few sentences around a table of scores: what was scored, how, and what it came to."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mvkit.scoring.results import ALL_AREAS

if TYPE_CHECKING:
    import pandas

    from mvkit.scoring import Scores


#: A row of a summary: column -> value.
Row = dict[Hashable, Any]

#: A corrected correlation this large says that the correction failed, not that the model is good.
EXTREME = 2.0


@dataclass(frozen=True)
class Headline:
    """Lines to print around the table.

    Attributes
    ----------
    above
        What was scored and how.
    below
        The result over all areas, the paper's value, and what has no score and why.
    """

    above: tuple[str, ...]
    below: tuple[str, ...]


def headline(scores: Scores, *, table2: float | None = None) -> Headline:
    """Put a score run into words.

    Parameters
    ----------
    scores
        The scores.
    table2
        The paper's Table 2 value of this model (median noise-corrected predictivity over all areas,
        Neuropixels, the paper's selection), or None where the paper has none.
    """
    context = scores.context
    settings = scores.settings
    table = scores.table()
    per_unit = table.drop_duplicates(["area", "specimen", "unit_id"])
    above = [
        f"{context.get('model', 'features')} on {describe_dataset(context)}: {len(per_unit)} units, "
        f"{per_unit['specimen'].nunique()} animals, selection {describe_selection(context)}",
        f"{settings.mapping.upper()}, {settings.n_components} components, {settings.n_splits} image splits "
        f"x {settings.n_halves} trial halvings, corrected for noise; median ± s.e.m. over units",
    ]
    best = scores.best_layers().to_dict("records")
    below = [*(_best_layers(best) if len(scores.layers) > 1 else ()), _overall(best, table2)]
    skipped = context.get("skipped_areas")
    if isinstance(skipped, Mapping):
        below += [f"skipped {area}: {why}" for area, why in skipped.items()]
    below += [*_unscored(table), *_extreme(table)]
    return Headline(tuple(above), tuple(below))


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
    return name if selection.get("applied", True) else f"{name} ({selection.get('note', 'not applied')})"


def _best_layers(best: list[Row]) -> list[str]:
    rows = [row for row in best if row["area"] != ALL_AREAS and row["layer"]]
    names = {str(row["layer"]) for row in rows}
    if len(names) == 1 and len(rows) > 1:
        return [f"best layer in every area: {names.pop()}"]
    return ["best layer: " + ", ".join(f"{row['area']} {row['layer']}" for row in rows)] if rows else []


def _overall(best: list[Row], table2: float | None) -> str:
    row = next(row for row in best if row["area"] == ALL_AREAS)
    paper = f"; the paper's Table 2 has {table2:.3f} on its own selection" if table2 is not None else ""
    value = median_and_sem(row) or "none"
    return (
        f"all areas, each with its best layer (chosen on the test images, as in the paper): {value} "
        f"over {row['n_units']} units{paper}"
    )


def median_and_sem(row: Row, *, gap: str = " ± ") -> str:
    """Write ``0.413 ± 0.010``, an s.e.m. above 1 as ``>1``; only the median without one; "" without both."""
    if math.isnan(row["median"]):
        return ""
    sem = ">1" if row["sem"] > 1 else f"{row['sem']:.3f}"
    return f"{row['median']:.3f}" + ("" if math.isnan(row["sem"]) else f"{gap}{sem}")


def _extreme(table: pandas.DataFrame) -> list[str]:
    """Say which scores cannot be correlations: they make the s.e.m. meaningless, but hardly move a median."""
    beyond = table[table["score"].abs() > EXTREME]
    if beyond.empty:
        return []
    units = len(beyond.drop_duplicates(["area", "specimen", "unit_id"]))
    return [
        f"scores beyond ±{EXTREME:g}: {len(beyond)} of {len(table)} unit-layer pairs (units: {units}); "
        "in some halvings a reliability near 0 divides them. The medians hold, the s.e.m. does not"
    ]


def _unscored(table: pandas.DataFrame) -> list[str]:
    missing = table[table["score"].isna()]
    lines = []
    if len(missing):
        counts = missing["reason"].value_counts()
        reasons = "; ".join(f"{reason}: {count}" for reason, count in counts.items())
        lines.append(f"without a score: {len(missing)} of {len(table)} unit-layer pairs ({reasons})")
    dropped = int(table["halves_dropped"].sum())
    total = dropped + int(table["halves_used"].sum())
    if dropped and total:
        lines.append(f"halvings dropped: {dropped} of {total} ({100 * dropped / total:.1f} %)")
    return lines
