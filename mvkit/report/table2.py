"""The paper's Table 2 beside scores: its value, and what differs from the way it was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mvkit.jsonable import plain
from mvkit.report.wording import CHOICES

#: Differences that the line names; all of them are in the structured data.
_SHOWN = 3


@dataclass(frozen=True)
class Table2Difference:
    """One thing that was done otherwise than for the paper's Table 2.

    Attributes
    ----------
    of
        ``dataset``, ``weights``, ``selection``, ``areas``, ``layers``, ``preprocessing`` or a setting's name.
    here, paper
        What it was here and for the table, as plain values.
    words
        The same in a few words.
    """

    of: str
    here: object
    paper: object
    words: str

    def to_json(self) -> dict[str, Any]:
        """Return the difference as plain JSON values."""
        return {"of": self.of, "here": plain(self.here), "paper": plain(self.paper), "words": self.words}


@dataclass(frozen=True)
class Table2Comparison:
    """A value of the paper's Table 2 and the median that stands beside it, comparable or not.

    Attributes
    ----------
    row, dataset
        Which value.
    value
        The paper's: median noise-corrected predictivity over the units of all areas, each area with the layer
        that is best on the test images.
    here
        The same median of the scores, see :meth:`mvkit.scoring.Scores.best_layers`; NaN without any score.
    differences
        What differs from the paper's way, weightiest first; the values may be compared if nothing does.
    """

    row: str
    dataset: str
    value: float
    here: float
    differences: tuple[Table2Difference, ...] = ()

    @property
    def is_comparable(self) -> bool:
        """Whether the two values were measured in the same way."""
        return not self.differences

    def line(self) -> str:
        """Quote the value, or say why it may not be compared."""
        if self.is_comparable:
            return (
                f"the paper's Table 2 has {self.value:.3f} for {self.row} on {self.dataset}; here "
                f"{self.here:.3f}, as there over the units of all areas, best layers {CHOICES['paper']}"
            )
        words = [difference.words for difference in self.differences]
        more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
        return f"the paper's Table 2 ({self.value:.3f}) is not comparable: {', '.join(words[:_SHOWN])}{more}"

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain JSON values."""
        return {
            "row": self.row,
            "dataset": self.dataset,
            "value": self.value,
            "here": plain(self.here),
            "comparable": self.is_comparable,
            "differences": [difference.to_json() for difference in self.differences],
        }
