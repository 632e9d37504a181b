"""Comparisons of results of the same protocol, unit by unit: several models, or a model and a ceiling."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mvkit.display import drawing, html_table
from mvkit.errors import DataError, UsageError
from mvkit.files import plain, shorten
from mvkit.scoring.intervals import (
    METHOD,
    NO_UNITS,
    Statistic,
    median_interval,
    p_value,
    statistic_interval,
)
from mvkit.scoring.layer_choice import ChosenUnits
from mvkit.scoring.results import ALL_AREAS, Scores
from mvkit.scoring.settings import ScoreSettings

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

#: Tests that Holm's correction counts together.
FAMILY = "all pairs of models within one area; the row of all areas is a family of its own"
NO_CEILING = "the median ceiling of these units is not above zero"
_ABSENT = "(absent)"
_ONE_NETWORK: NDArray[np.float64] = np.empty(0)
_LONGEST = 40
#: Models that one line about a comparison has room for.
_MOST_MODELS = 8
_LEAST_P = 0.001


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


@dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
        """Describe the comparison: models, and how many differences the data resolve."""
        names = ", ".join(shorten(name, _LONGEST) for name in self.models[:_MOST_MODELS])
        more = f", ... {len(self.models)} models" if len(self.models) > _MOST_MODELS else ""
        n_resolved = sum(pair.resolved for pair in self.pairs)
        return f"Comparison({names}{more}: {n_resolved} of {len(self.pairs)} differences resolved)"

    def _repr_html_(self) -> str:
        """Return a small table for notebooks: a row per area and pair."""
        rows = [
            (
                "all areas" if pair.area == ALL_AREAS else pair.area,
                pair.first,
                pair.second,
                pair.difference,
                pair.low,
                pair.high,
                "" if math.isnan(pair.p_holm) else _p_text(pair.p_holm).removeprefix("= "),
                _verdict(pair),
            )
            for pair in self.pairs
        ]
        percent = f"{100 * self.confidence:g} %"
        columns = ("area", "first", "second", "first - second", "low", "high", "p (Holm)", "")
        note = f"medians over units of paired differences, {percent} intervals over animals and units"
        return html_table(
            f"{len(self.models)} models compared", columns, rows, note=". ".join([note, *self._warning()])
        )

    def plot(self, *, width_in: float = 7.2) -> Figure:
        """Draw the difference of every pair with its interval, a panel per area.

        Parameters
        ----------
        width_in
            Width in inches.

        Returns
        -------
        Figure
            Of matplotlib.
        """
        return drawing("draw_differences", "mvkit.report.differences")(self, width_in=width_in)

    def table(self) -> pd.DataFrame:
        """Return one row per area and pair; columns: the fields of :class:`PairDifference`, ``choice``."""
        import pandas as pd

        columns = list(PairDifference.__dataclass_fields__)
        table = pd.DataFrame([vars(pair) for pair in self.pairs], columns=columns)
        table.insert(1, "choice", self.choice)
        return table

    def sentences(self) -> list[str]:
        """Return a plain statement per area and pair, and first a warning where protocols differ."""
        return [*self._warning(), *(sentence(pair) for pair in self.pairs)]

    def _warning(self) -> list[str]:
        if self.same_protocol:
            return []
        return ["these results are of different protocols; differences may be theirs"]

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
        ``"allow"`` compares results of different protocols, with a note in every output.

    Returns
    -------
    Comparison
        All pairs of models in every area, and over all areas.

    Raises
    ------
    UsageError
        Fewer than two models, different protocols (names the fields) or layer choices, an unknown choice.
    """
    names = tuple(scores)
    if len(names) < 2:
        raise UsageError(f"a comparison needs two models, got {len(names)}")
    if different_protocols not in ("refuse", "allow"):
        raise UsageError(f"different_protocols={different_protocols!r}: must be 'refuse' or 'allow'")
    first = scores[names[0]]
    if different_protocols == "refuse":
        for name in names[1:]:
            check_same_protocol((names[0], first), (name, scores[name]))
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
    pairs = []
    for first, second in combinations(units, 2):
        paired = pair_units((units[first], units[second]), areas)
        differences = paired.columns[0] - paired.columns[1]
        interval = median_interval(
            differences,
            paired.specimen,
            settings,
            areas=paired.area,
            networks=[group[:, 0] - group[:, 1] for group in paired.networks],
        )
        centre = float(np.median(differences)) if differences.size else math.nan
        reason = interval.reason
        if reason == NO_UNITS:
            missing = (
                units[name][one].reason for name in (first, second) for one in areas if one in units[name]
            )
            reason = next((why for why in missing if why), "no unit with a score from both")
        pair = PairDifference(
            area=area,
            first=first,
            second=second,
            difference=centre,
            low=interval.low,
            high=interval.high,
            p=p_value(centre, interval, settings),
            p_holm=math.nan,
            resolved=False,
            n_units=interval.n_units,
            n_animals=interval.n_animals,
            n_left_out=paired.n_left_out,
            reason=reason,
        )
        pairs.append(pair)
    adjusted = holm(np.array([pair.p for pair in pairs])).tolist()
    return [
        replace(pair, p_holm=p, resolved=p < 1.0 - settings.confidence)
        for pair, p in zip(pairs, adjusted, strict=True)
    ]


def holm(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjust p values so that the chance of any false rejection in the family stays at the level.

    Holm 1979, Scand. J. Stat. 6:65: the k-th smallest of m is multiplied by m - k + 1, made at least as large
    as the one before, and at most 1. NaN is no test: it stays NaN and is not counted.

    Parameters
    ----------
    p_values
        float64 (n_tests,).
    """
    adjusted = np.full(p_values.shape, np.nan)
    tests = np.flatnonzero(~np.isnan(p_values))
    order = tests[np.argsort(p_values[tests], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p_values[order]), 1.0)
    return adjusted


def fraction_of_ceiling(scores: Scores, ceiling: Scores, *, choice: str | None = None) -> pd.DataFrame:
    """Divide the median score of each area by the median ceiling of the same units.

    Parameters
    ----------
    scores
        Scores of a model.
    ceiling
        Consistency between animals of the same protocol, with one layer
        (:func:`mvkit.scoring.ceilings.measure_ceiling`).
    choice
        Which layers of the model: ``"paper"`` or ``"held-out"``; None means ``settings.layer_choice``.

    Returns
    -------
    DataFrame
        Per area of the scores, and ``"all"`` for the units of all areas pooled: ``area``, ``choice``,
        ``fraction``, ``low``, ``high`` (hierarchical bootstrap with shared draws, see
        :func:`~mvkit.scoring.intervals.statistic_interval`), ``n_units`` and ``n_animals`` that
        have a score and a ceiling, ``reason`` for NaN, or "".

    Raises
    ------
    UsageError
        If the protocols differ (names the fields), the ceiling has several layers, or the choice is unknown.
    """
    import pandas as pd

    check_same_protocol(("the scores", scores), ("the ceiling", ceiling))
    if len(ceiling.layers) != 1:
        raise UsageError(f"a ceiling has one layer, this one has {len(ceiling.layers)}: are these scores?")
    name = scores.settings.layer_choice if choice is None else choice
    chosen, limits = scores.chosen_units(name), ceiling.chosen_units("paper")
    rows = []
    for area in (*scores.areas, ALL_AREAS):
        areas = scores.areas if area == ALL_AREAS else (area,)
        units = pair_units((chosen, limits), areas)
        why = "; ".join(
            dict.fromkeys(
                result[one].reason
                for one in areas
                for result in (chosen, limits)
                if one in result and result[one].reason
            )
        )
        rows.append({"area": area, "choice": name, **_fraction(units, scores.settings, why)})
    return pd.DataFrame(rows)


def _fraction(units: PairedUnits, settings: ScoreSettings, why: str) -> dict[str, float | int | str]:
    n_units, n_animals = units.columns.shape[1], len(np.unique(units.specimen))
    counts = {"n_units": n_units, "n_animals": n_animals}
    nothing = {"fraction": math.nan, "low": math.nan, "high": math.nan, **counts}
    if not n_units:
        return {**nothing, "reason": why or NO_UNITS}
    medians = np.median(units.columns, axis=1)
    if not medians[1] > 0.0:
        return {**nothing, "reason": NO_CEILING}
    interval = statistic_interval(
        units.columns, units.specimen, RATIO, settings, areas=units.area, networks=units.networks
    )
    fraction = float(medians[0] / medians[1])
    return {
        "fraction": fraction,
        "low": interval.low,
        "high": interval.high,
        **counts,
        "reason": interval.reason,
    }


def _gradient(medians: NDArray[np.float64]) -> NDArray[np.float64]:
    score, ceiling = medians
    return np.array([1.0 / ceiling, -score / ceiling**2])


#: Median score over median ceiling.
RATIO = Statistic(lambda medians: medians[0] / medians[1], _gradient)


@dataclass(frozen=True)
class PairedUnits:
    """Values of the same units from several results.

    Attributes
    ----------
    columns
        float64 (n_results, n_units), without NaN.
    specimen
        int64 (n_units,).
    area
        int64 (n_units,): index among the requested areas.
    n_left_out
        Units that are in some result but without a score in at least one of them.
    networks
        For each result of pooled networks float64 (n_networks, n_results, n_units): by how much each network
        differs from the result, 0 in the other results.
    """

    columns: NDArray[np.float64]
    specimen: NDArray[np.int64]
    area: NDArray[np.int64]
    n_left_out: int
    networks: tuple[NDArray[np.float64], ...] = ()


def pair_units(results: Sequence[Mapping[str, ChosenUnits]], areas: Sequence[str]) -> PairedUnits:
    """Match units by (area, specimen, unit_id): only those with a score in every result.

    Raises
    ------
    DataError
        If a result holds a unit twice.
    """
    tables = [_scores_by_unit(result, areas) for result in results]
    everything = dict.fromkeys(unit for table in tables for unit in table)
    units = [
        unit
        for unit in everything
        if all(unit in table and not math.isnan(table[unit][0]) for table in tables)
    ]
    columns = np.array([[table[unit][0] for unit in units] for table in tables], dtype=np.float64)
    columns = columns.reshape(len(tables), -1)
    specimen = np.array([specimen for _, specimen, _ in units], dtype=np.int64)
    area = np.array([areas.index(name) for name, _, _ in units], dtype=np.int64)
    networks = []
    for index, (table, result) in enumerate(zip(tables, results, strict=True)):
        n_networks = max((len(of_area.networks) for of_area in result.values()), default=0)
        if n_networks and units:
            deviations = np.zeros((n_networks, *columns.shape))
            deviations[:, index] = np.stack([table[unit][1] for unit in units], axis=1) - columns[index]
            networks.append(deviations)
    return PairedUnits(columns, specimen, area, len(everything) - len(units), tuple(networks))


def _scores_by_unit(
    result: Mapping[str, ChosenUnits], areas: Sequence[str]
) -> dict[tuple[str, int, int], tuple[float, NDArray[np.float64]]]:
    """Return (area, specimen, unit) -> score, and those of each of pooled networks."""
    table: dict[tuple[str, int, int], tuple[float, NDArray[np.float64]]] = {}
    for area in areas:
        if area not in result:
            continue
        units = result[area]
        for position, (specimen, unit, score) in enumerate(
            zip(units.specimen.tolist(), units.unit_id.tolist(), units.score.tolist(), strict=True)
        ):
            key = (area, specimen, unit)
            if key in table:
                raise DataError(
                    f"area {area}, specimen {specimen}: unit {unit} is there twice; "
                    "units cannot be matched between results"
                )
            table[key] = score, units.networks[:, position] if len(units.networks) else _ONE_NETWORK
    return table


def check_same_protocol(first: tuple[str, Scores], second: tuple[str, Scores]) -> None:
    """Check that two named results have the same protocol.

    Raises
    ------
    UsageError
        Naming every field that differs, with both values.
    """
    differences = protocol_differences(first[1], second[1])
    if differences:
        fields = "; ".join(
            f"{name}: {_shorten(left)} and {_shorten(right)}" for name, (left, right) in differences.items()
        )
        raise UsageError(
            f"{first[0]} and {second[0]} are of different protocols and cannot be compared: {fields}\n"
            "score them again with the same settings and recordings"
        )


def protocol_differences(first: Scores, second: Scores) -> dict[str, tuple[Any, Any]]:
    """Return field -> both values, where two protocols differ (:meth:`Scores.protocol`).

    A field that is a mapping, such as the selection of units, is compared entry by entry
    (``"selection.min_reliability"``).
    """
    left, right = _flat(first.protocol()), _flat(second.protocol())
    return {
        name: (left.get(name, _ABSENT), right.get(name, _ABSENT))
        for name in dict.fromkeys([*left, *right])
        if left.get(name, _ABSENT) != right.get(name, _ABSENT)
    }


def _flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _shorten(value: Any) -> str:
    text = value if value == _ABSENT else json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def sentence(pair: PairDifference) -> str:
    """Describe a difference in a sentence.

    For instance ``"A and B, VISp: difference .012 [-.010, .034], not resolved by these data (p = .31,
    5 animals)"``; ``p`` is the one corrected for the number of pairs.
    """
    where = "all areas" if pair.area == "all" else pair.area
    names = f"{pair.first} and {pair.second}, {where}"
    if math.isnan(pair.difference):
        return f"{names}: no difference can be given ({pair.reason})"
    value = f"{names}: difference {short(pair.difference)}"
    if pair.reason:
        return f"{value}, no interval ({pair.reason})"
    value += f" [{short(pair.low)}, {short(pair.high)}]"
    evidence = f"(p {_p_text(pair.p_holm)}, {pair.n_animals} animals)"
    if not pair.resolved:
        return f"{value}, not resolved by these data {evidence}"
    better = pair.first if pair.difference > 0 else pair.second
    return f"{value}, {better} predicts better {evidence}"


def _verdict(pair: PairDifference) -> str:
    if pair.reason:
        return pair.reason
    better = pair.first if pair.difference > 0 else pair.second
    return f"{better} is higher" if pair.resolved else "not resolved"


def short(value: float) -> str:
    """Write three decimals without the zero before the point: ``.012``, ``-.010``, ``1.250``."""
    text = f"{value:.3f}"
    if float(text) == 0.0:
        return ".000"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def _p_text(p: float) -> str:
    if p < _LEAST_P:
        return f"< {short(_LEAST_P)}"
    # Three decimals near the levels of tests, else two.
    text = f"{p:.2f}" if p >= 0.1 else f"{p:.3f}"
    return f"= {text.replace('0.', '.', 1) if text.startswith('0.') else text}"
