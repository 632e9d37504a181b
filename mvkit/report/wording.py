"""Words and numbers that several parts of the report share."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

from mvkit.scoring.results import ALL_AREAS, POPULATION

if TYPE_CHECKING:
    from mvkit.scoring import Scores

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
