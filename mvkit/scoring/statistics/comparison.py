"""Which of several models predicts better, as far as the data can tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mvkit.errors import UsageError
from mvkit.jsonable import plain
from mvkit.scoring.intervals import (
    METHOD,
    NO_UNITS,
    Interval,
    draws_of,
    median_interval,
    p_value,
)
from mvkit.scoring.layer_choice import ChosenUnits
from mvkit.scoring.statistics.holm import holm
from mvkit.scoring.statistics.pairing import paired_units
from mvkit.scoring.statistics.same_protocol import require_same_protocol
from mvkit.scoring.statistics.sentences import sentence

if TYPE_CHECKING:
    import pandas as pd

    from mvkit.scoring.results import Scores
    from mvkit.scoring.settings import ScoreSettings

#: What Holm's correction is over.
FAMILY = "all pairs of models within one area; the row of all areas is a family of its own"


@dataclass(frozen=True)
class PairDifference:
    """Two models in one area.

    Attributes
    ----------
    area
        Area, or ``"all"``: the units of all areas, each with the layer of its own area.
    first, second
        Names.
    difference
        Median over units of (first - second).
    low, high
        Its confidence interval over animals and units.
    p, p_holm
        Two-sided p value of "the median difference is 0", and corrected for the pairs of the area.
    resolved
        Whether ``p_holm`` is below 1 - confidence.
    n_units, n_animals
        Units with a score from both, and their animals.
    n_left_out
        Units without a score from one of the two.
    reason
        Why there is no interval, or "".
    """

    area: str
    first: str
    second: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    resolved: bool
    n_units: int
    n_animals: int
    n_left_out: int
    reason: str


@dataclass(frozen=True)
class Comparison:
    """All pairs of several models.

    Attributes
    ----------
    models
        Names in the order given.
    choice
        Which layers: ``"paper"`` or ``"held-out"``.
    confidence
        Of the intervals; 1 - confidence is the level of the tests.
    same_protocol
        False where results of different protocols were compared on demand.
    pairs
        By area, then pair.
    """

    models: tuple[str, ...]
    choice: str
    confidence: float
    same_protocol: bool
    pairs: tuple[PairDifference, ...]

    def table(self) -> pd.DataFrame:
        """Return one row per area and pair; columns: the fields of :class:`PairDifference`, ``choice``."""
        import pandas as pd

        columns = list(PairDifference.__dataclass_fields__)
        table = pd.DataFrame([vars(pair) for pair in self.pairs], columns=columns)
        table.insert(1, "choice", self.choice)
        return table

    def sentences(self) -> list[str]:
        """Return a plain statement per area and pair, and first a warning where protocols differ."""
        warning = (
            []
            if self.same_protocol
            else ["these results are of different protocols; differences may be theirs"]
        )
        return [*warning, *(sentence(pair) for pair in self.pairs)]

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain JSON values (NaN becomes None)."""
        return {
            "models": list(self.models),
            "choice": self.choice,
            "confidence": self.confidence,
            "same_protocol": self.same_protocol,
            "intervals": METHOD,
            "test": "Student's t over animals on the interval's standard error, two-sided",
            "holm_family": FAMILY,
            "pairs": [{name: plain(value) for name, value in vars(pair).items()} for pair in self.pairs],
            "sentences": self.sentences(),
        }


def compare_models(
    scores: Mapping[str, Scores],
    *,
    choice: str | None = None,
    different_protocols: Literal["refuse", "allow"] = "refuse",
) -> Comparison:
    """Compare models pairwise by the differences of their scores of the same units.

    Units are matched by area, specimen and unit id, each with the score from the layer chosen for its area.
    Interval and test of the median difference treat animals as the sample: see
    :func:`~mvkit.scoring.intervals.median_interval` and
    :func:`~mvkit.scoring.intervals.p_value`. p values are corrected by Holm for the pairs of an
    area. Areas are not corrected for one another: each is a question of its own, and the answer over all
    areas has a row of its own.

    Parameters
    ----------
    scores
        Name of a model -> its scores, at least two.
    choice
        ``"paper"`` or ``"held-out"``; None means ``settings.layer_choice``, which must then be the same.
    different_protocols
        ``"allow"`` compares results of different protocols and says so in every output.

    Raises
    ------
    UsageError
        Fewer than two models, different protocols (names the fields) or layer choices, an unknown choice.
    """
    from mvkit.scoring.results import ALL_AREAS

    names = tuple(scores)
    if len(names) < 2:
        raise UsageError(f"a comparison needs two models, got {len(names)}")
    if different_protocols not in ("refuse", "allow"):
        raise UsageError(f"different_protocols={different_protocols!r}: must be 'refuse' or 'allow'")
    first = scores[names[0]]
    if different_protocols == "refuse":
        for name in names[1:]:
            require_same_protocol((names[0], first), (name, scores[name]))
    chosen_by = _common_choice(scores) if choice is None else choice
    units = {name: of_model.chosen_units(chosen_by) for name, of_model in scores.items()}
    areas = tuple(dict.fromkeys(area for of_model in scores.values() for area in of_model.areas))
    pairs: list[PairDifference] = []
    for area in (*areas, ALL_AREAS):
        pairs += _pairs_of_area(area, areas if area == ALL_AREAS else (area,), units, first.settings)
    return Comparison(
        names,
        chosen_by,
        first.settings.confidence,
        len({of_model.digest() for of_model in scores.values()}) == 1,
        tuple(pairs),
    )


def _common_choice(scores: Mapping[str, Scores]) -> str:
    choices = {name: of_model.settings.layer_choice for name, of_model in scores.items()}
    if len(set(choices.values())) > 1:
        raise UsageError(
            "layer_choice differs: "
            + ", ".join(f"{name} {choice}" for name, choice in choices.items())
            + "\ngive choice='paper' or choice='held-out'"
        )
    return next(iter(choices.values()))


def _pairs_of_area(
    area: str,
    areas: Sequence[str],
    units: Mapping[str, Mapping[str, ChosenUnits]],
    settings: ScoreSettings,
) -> list[PairDifference]:
    found = []
    draws = draws_of(settings)
    for first, second in combinations(units, 2):
        paired = paired_units((units[first], units[second]), areas)
        differences = paired.columns[0] - paired.columns[1]
        interval = median_interval(differences, paired.specimen, settings, areas=paired.area, draws=draws)
        centre = float(np.median(differences)) if differences.size else math.nan
        p = p_value(centre, interval, settings)
        reason = interval.reason
        if reason == NO_UNITS:
            missing = (
                units[name][one].reason for name in (first, second) for one in areas if one in units[name]
            )
            reason = next((why for why in missing if why), "no unit with a score from both")
        found.append((first, second, centre, interval, p, paired.n_left_out, reason))
    adjusted = holm(np.array([p for _, _, _, _, p, _, _ in found]))
    return [
        _difference((area, first, second), centre, interval, (p, float(p_holm)), left_out, reason, settings)
        for (first, second, centre, interval, p, left_out, reason), p_holm in zip(
            found, adjusted, strict=True
        )
    ]


def _difference(
    names: tuple[str, str, str],
    centre: float,
    interval: Interval,
    p_values: tuple[float, float],
    n_left_out: int,
    reason: str,
    settings: ScoreSettings,
) -> PairDifference:
    return PairDifference(
        *names,
        centre,
        interval.low,
        interval.high,
        *p_values,
        bool(p_values[1] < 1.0 - settings.confidence),
        interval.n_units,
        interval.n_animals,
        n_left_out,
        reason,
    )
