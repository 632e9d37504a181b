"""Everything that a scoring run yields, as the report shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from mvkit.report.table2 import Table2Comparison
    from mvkit.scoring import Scores
    from mvkit.scoring.comparison import Comparison
    from mvkit.scoring.extrapolation import Extrapolation


@dataclass(frozen=True)
class ScoreRun:
    """What a scoring run yields.

    Attributes
    ----------
    models
        Model as the user named it -> its scores, in the order given; at least one.
    table2
        Model -> the paper's value for it and what differs from how that was measured; None where the paper's
        Table 2 has no such model.
    ceiling
        Consistency between animals, one "layer", or None if none was asked for.
    fractions
        Model -> scores as fractions of the ceiling, see
        :func:`mvkit.scoring.comparison.fraction_of_ceiling`; empty without a ceiling.
    earlier
        Folder -> saved scores that were compared with.
    comparison
        Models with one another and with earlier scores, or None if there is nothing to compare.
    extrapolation
        The ceiling over numbers of units or stimuli, or None if it was not asked for.
    """

    models: Mapping[str, Scores]
    table2: Mapping[str, Table2Comparison | None]
    ceiling: Scores | None = None
    fractions: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    earlier: Mapping[str, Scores] = field(default_factory=dict)
    comparison: Comparison | None = None
    extrapolation: Extrapolation | None = None

    @property
    def scores(self) -> Scores:
        """The scores of the first model."""
        return next(iter(self.models.values()))
