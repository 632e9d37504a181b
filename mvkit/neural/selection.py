"""Selection of units, specimens and time bins.

The rule, from the goldens' README (section 5), which describes the code
published with Nayebi et al. 2023 (PLOS Comput. Biol. 19(10):e1011506); per area:

1. A unit is selected if its split-half reliability reaches ``min_reliability`` in
   its best time bin (without a time axis: if ``reliability_mean`` reaches
   ``min_mean_reliability``), and its running modulation is not significant
   (p > ``run_p``) or unknown.
2. A specimen passes if the median reliability of its selected units reaches
   ``min_median_reliability`` in some bin. Responses are averaged over the
   longest run of consecutive such bins, or over ``time_window_s``.
3. Of these specimens those with at least ``min_units`` units remain.

Where the published code stops with an exception (no two consecutive bins
pass), this one continues: a specimen with no passing bin is excluded by step 2; one
whose passing bins are all isolated is averaged over the first of them (the
"longest run") and is listed in
:attr:`AreaSelection.single_bin`.

Without a time axis the published code also lists the specimens of which no
unit passes, and areas that have no others, with empty arrays. Nothing can be
scored with them, so here they are in :attr:`AreaSelection.without_units` and
``excluded``, never in ``passing`` or ``selected``; they count in the percentiles of
step 3 as they do there, which asks for at least one unit.

Arrays only: nothing here opens a file.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mvkit.errors import DataError, UsageError, unknown_name
from mvkit.neural.dataset import area_sort_key
from mvkit.neural.reliability import MEASURING_COMMAND
from mvkit.recipes import describe_problems

CITATION = "Nayebi et al. 2023, PLOS Comput. Biol. 19(10):e1011506"


class SelectionSettings(BaseModel):
    """Thresholds of the selection; None switches one off.

    The defaults are those of the code that accompanies the paper (goldens
    README, section 5; checked value by value in ``tests/parity``).

    Attributes
    ----------
    min_reliability
        Time-resolved files: a unit needs this split-half reliability in its
        best time bin (Spearman-Brown corrected; NaN bins are ignored).
    min_mean_reliability
        Files without a time axis: a unit needs this ``reliability_mean``.
    min_median_reliability
        Time-resolved files: bins count as responsive when the median
        reliability of a specimen's selected units reaches this. A specimen without
        such a bin is excluded, and responses are averaged over the longest run
        of consecutive such bins (the first one on ties).
    run_p
        A unit needs a p value of running modulation above this, or none.
    min_units
        A specimen needs this many selected units in the area: ``"q3"`` or
        ``"median"`` of the specimens' counts, rounded up, or a number. The default is for the
        published recordings only: of any other file a recording that was given no ``min_units``
        needs one unit, see :func:`for_own_recordings`.
    time_window_s
        Time-resolved files: average over the bins whose centres lie in this
        closed interval (seconds after onset) and not over the responsive run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_reliability: float | None = 0.5
    min_mean_reliability: float | None = 0.75
    min_median_reliability: float | None = 0.3
    run_p: float | None = Field(default=0.05, ge=0, le=1)
    min_units: Literal["q3", "median"] | int | None = "q3"
    time_window_s: tuple[float, float] | None = None

    @field_validator("min_units")
    @classmethod
    def _not_negative(cls, value: str | int | None) -> str | int | None:
        if isinstance(value, int) and value < 0:
            raise ValueError("must be 0 or more")
        return value

    @field_validator("time_window_s")
    @classmethod
    def _in_order(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not value[0] <= value[1]:
            raise ValueError("the first time must not be after the second")
        return value


#: Named selections. ``code``: defaults of the published code. ``paper``: the same steps with
#: a unit threshold of 0.3 for both kinds of recording, as given to us and not checked against the
#: paper's text. It may be a misreading: the only 0.3 in the published code is the median criterion,
#: which ``code`` has too. ``none``: every unit, averaged over every time bin.
PRESETS = {
    "code": SelectionSettings(),
    "paper": SelectionSettings(min_reliability=0.3, min_mean_reliability=0.3),
    "none": SelectionSettings(
        min_reliability=None,
        min_mean_reliability=None,
        min_median_reliability=None,
        run_p=None,
        min_units=None,
    ),
}

PRESET_SOURCES = {
    "code": f"defaults of the code published with {CITATION}",
    "paper": (
        f"{CITATION}: reliability of at least 0.3 for every unit; not checked against the paper's text, and "
        "perhaps a misreading of the median criterion"
    ),
    "none": "every unit of the file",
    "custom": "settings given by the user",
}


def for_own_recordings(settings: SelectionSettings) -> SelectionSettings:
    """Return a selection without the published rule of ``min_units``, unless that was given.

    The rule drops three of four recordings with good units; it is part of the published analysis, not of the
    quality of a recording.
    """
    if "min_units" in settings.model_fields_set:
        return settings
    return settings.model_copy(update={"min_units": None})


def resolve_selection(selection: str | SelectionSettings) -> tuple[str, SelectionSettings]:
    """Return the name and the settings of a selection.

    Parameters
    ----------
    selection
        ``"code"``, ``"paper"``, ``"none"``, or settings.

    Returns
    -------
    tuple
        Name (``"custom"`` for settings that equal no preset) and settings.

    Raises
    ------
    UsageError
        If the name is unknown.
    """
    if isinstance(selection, str):
        if selection not in PRESETS:
            raise unknown_name("selection", selection, PRESETS)
        return selection, PRESETS[selection]
    names = [name for name, preset in PRESETS.items() if preset == selection]
    return (names or ["custom"])[0], selection


def selection_with(preset: str = "code", **changes: object) -> SelectionSettings:
    """Return a preset with some thresholds changed.

    Parameters
    ----------
    preset
        ``"code"``, ``"paper"`` or ``"none"``.
    **changes
        Fields of :class:`SelectionSettings`.

    Raises
    ------
    UsageError
        If the preset or a field is unknown, or a value is out of range.
    """
    base = resolve_selection(preset)[1]
    # What was not given stays so: see for_own_recordings.
    settings = {name: getattr(base, name) for name in base.model_fields_set}
    for name in changes:
        if name not in SelectionSettings.model_fields:
            raise unknown_name("selection setting", name, SelectionSettings.model_fields)
    try:
        return SelectionSettings.model_validate({**settings, **changes})
    except ValidationError as error:
        problems = describe_problems(error, SelectionSettings)
        raise UsageError(
            "\n".join(f"selection: {'.'.join(key)}: {text}" for key, text in problems)
        ) from error


@dataclass(frozen=True, eq=False)
class UnitFacts:
    """Properties of units by which they are selected, in the source's unit order.

    Attributes
    ----------
    areas
        Text (n_units,).
    specimens
        int64 (n_units,).
    reliability
        float64 (n_bins, n_units) for time-resolved responses, (n_units,) for
        averaged ones, None where the source has none. NaN = undefined.
    run_p
        float64 (n_units,), p value of running modulation, NaN = unknown; None
        where the source has none.
    time_s
        float64 (n_bins,), bin centres; None without a time axis.
    """

    areas: NDArray[np.str_]
    specimens: NDArray[np.int64]
    reliability: NDArray[np.float64] | None
    run_p: NDArray[np.float64] | None
    time_s: NDArray[np.float64] | None


@dataclass(frozen=True, eq=False)
class SpecimenChoice:
    """Units of one specimen in one area and the bins to average (None: no time axis)."""

    specimen: int
    units: NDArray[np.int64]
    time_bins: tuple[int, ...] | None


@dataclass(frozen=True, eq=False)
class AreaSelection:
    """Outcome of the selection in one area.

    Attributes
    ----------
    passing
        Specimens with selected units that passed step 2, ascending; before step 3.
    without_units
        Specimens of which no unit was selected in step 1, ascending.
    unit_counts
        Counts of selected units that the percentiles of step 3 are taken of.
        Without a time axis, specimens with no selected unit count too (as 0).
    selected
        The specimens of ``passing`` that have enough units.
    excluded
        Specimen -> why it is not in ``selected``.
    single_bin
        Specimens that are averaged over one isolated bin.
    min_units
        Kept units that step 3 asks of a specimen.
    """

    passing: tuple[SpecimenChoice, ...]
    without_units: tuple[int, ...]
    unit_counts: tuple[int, ...]
    selected: tuple[SpecimenChoice, ...]
    excluded: Mapping[int, str]
    single_bin: tuple[int, ...]
    min_units: int = 1


@dataclass(frozen=True, eq=False)
class SpecimenMap:
    """Specimens to compare with each other.

    Attributes
    ----------
    specimens
        Ids, ascending.
    pairs
        Every unordered pair, as combinations of ``specimens``.
    num_source_units
        Smallest number of units among them (inf without specimens), the size
        to which sources are sub-sampled; -1 if not asked for.
    """

    specimens: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...]
    num_source_units: float


def select_units(facts: UnitFacts, settings: SelectionSettings) -> dict[str, AreaSelection]:
    """Apply the selection to every area.

    Parameters
    ----------
    facts
        Areas, specimens, reliabilities and p values of all units.
    settings
        Thresholds. One that needs a missing column is an error here.

    Returns
    -------
    dict
        Area -> outcome, areas in the order VISp, VISl, VISal, VISpm, VISrl,
        VISam, then others by name.

    Raises
    ------
    DataError
        If a reliability threshold is set and the source has no reliabilities.
    UsageError
        If no bin lies in ``time_window_s``, or there are no bins.
    """
    good = _reliable_units(facts, settings) & _unmodulated_units(facts, settings)
    window = _window_bins(facts.time_s, settings.time_window_s)
    areas = sorted({str(area) for area in facts.areas}, key=area_sort_key)
    return {area: _select_area(facts, settings, good & (facts.areas == area), area, window) for area in areas}


@dataclass(frozen=True, eq=False)
class SelectionOutcome:
    """Every unit of a file, and why the selection excluded it.

    Attributes
    ----------
    unit_ids, specimens
        int64 (n_units,), in the order of the file.
    areas
        Text (n_units,).
    reasons
        Text (n_units,): the first step that excluded the unit, ``"reliability"``, ``"running"`` (modulated by
        it), ``"no_responsive_bin"`` or ``"few_units"`` (of its recording, which is excluded as a whole); ""
        = kept.
    min_units
        Area -> units left that a recording needed.
    settings, threshold
        The selection, and the reliability that it asked of each unit.
    """

    unit_ids: NDArray[np.int64]
    specimens: NDArray[np.int64]
    areas: NDArray[np.str_]
    reasons: NDArray[np.str_]
    min_units: Mapping[str, int]
    settings: SelectionSettings
    threshold: float | None

    def in_areas(self, areas: Sequence[str]) -> SelectionOutcome:
        """Return the same of the units of some areas."""
        chosen = np.isin(self.areas, list(areas))
        parts = {name: getattr(self, name)[chosen] for name in ("unit_ids", "specimens", "areas", "reasons")}
        return replace(self, **parts)

    @property
    def n_units(self) -> int:
        """Number of units."""
        return len(self.unit_ids)

    @property
    def n_kept(self) -> int:
        """Number of units that were kept."""
        return int((self.reasons == "").sum())

    @property
    def n_animals(self) -> int:
        """Number of animals."""
        return len(np.unique(self.specimens))

    @property
    def n_animals_kept(self) -> int:
        """Number of animals with a unit that was kept."""
        return len(np.unique(self.specimens[self.reasons == ""]))

    def excluded(self) -> dict[str, tuple[int, int]]:
        """Return reason -> number of units excluded for it, and of their recordings."""
        recordings = np.char.add(np.char.add(self.areas, "/"), self.specimens.astype(str))
        chosen = {reason: self.reasons == reason for reason in EXCLUSION_REASONS}
        return {
            reason: (int(units.sum()), len(np.unique(recordings[units])))
            for reason, units in chosen.items()
            if units.any()
        }

    def words(self, reason: str) -> str:
        """Return a reason with its threshold in words."""
        if reason == "reliability":
            return f"below reliability {self.threshold:g}"
        if reason == "running":
            return f"modulated by running (p of at most {self.settings.run_p:g})"
        if reason == "no_responsive_bin":
            return f"without a time bin of median reliability {self.settings.min_median_reliability:g}"
        short = np.unique(self.areas[self.reasons == "few_units"]).tolist()
        needed = ", ".join(
            f"{area} needs {self.min_units[area]}" for area in sorted(short, key=area_sort_key)
        )
        rule = self.settings.min_units
        return (
            f"with too few units left ({rule}: {needed})"
            if isinstance(rule, str)
            else (f"with too few units left ({needed})")
        )

    def to_json(self) -> dict[str, object]:
        """Return the counts as plain JSON values."""
        excluded = {
            reason: {"units": n_units, "recordings": n_recordings}
            for reason, (n_units, n_recordings) in self.excluded().items()
        }
        animals = {"animals": self.n_animals, "animals_kept": self.n_animals_kept}
        return {"units": self.n_units, "units_kept": self.n_kept, **animals, "excluded": excluded}


#: Why a unit is excluded, in the order of the steps; a unit has the first that applies.
EXCLUSION_REASONS = ("reliability", "running", "no_responsive_bin", "few_units")


def explain_exclusions(
    facts: UnitFacts,
    settings: SelectionSettings,
    outcome: Mapping[str, AreaSelection],
    unit_ids: NDArray[np.int64],
) -> SelectionOutcome:
    """Find out why each unit was excluded.

    Parameters
    ----------
    facts, settings, outcome
        Arguments and result of :func:`select_units`.
    unit_ids
        int64 (n_units,), in the order of ``facts``.
    """
    reasons = np.full(len(facts.specimens), "few_units", dtype=np.dtype("U20"))
    for area, selection in outcome.items():
        responsive = [choice.specimen for choice in selection.passing]
        reasons[(facts.areas == area) & ~np.isin(facts.specimens, responsive)] = "no_responsive_bin"
        for choice in selection.selected:
            reasons[choice.units] = ""
    reasons[~_unmodulated_units(facts, settings)] = "running"
    reasons[~_reliable_units(facts, settings)] = "reliability"
    return SelectionOutcome(
        unit_ids=unit_ids,
        specimens=facts.specimens,
        areas=facts.areas,
        reasons=reasons,
        min_units={area: selection.min_units for area, selection in outcome.items()},
        settings=settings,
        threshold=reliability_threshold(facts, settings),
    )


def specimen_map(
    selection: AreaSelection, *, min_units: str | int | None = "q3", equalize: bool = False
) -> SpecimenMap:
    """Return the specimens of an area with enough units, their pairs and common unit count.

    Parameters
    ----------
    selection
        Outcome for the area.
    min_units
        As in :class:`SelectionSettings`.
    equalize
        Ask for the smallest unit count, to sub-sample sources to the same size.
    """
    needed = required_units(selection.unit_counts, min_units)
    enough = [choice for choice in selection.passing if len(choice.units) >= needed]
    specimens = tuple(choice.specimen for choice in enough)
    smallest = min((float(len(choice.units)) for choice in enough), default=math.inf)
    pairs = tuple(itertools.combinations(specimens, 2))
    return SpecimenMap(specimens, pairs, smallest if equalize else -1.0)


def required_units(unit_counts: Sequence[int], min_units: str | int | None) -> int:
    """Return the number of units a specimen needs: a rounded-up percentile, or a number; at least 1."""
    if min_units is None:
        return 1
    if isinstance(min_units, int):
        return max(1, min_units)
    if not unit_counts:
        return 1
    percentile = {"q3": 75, "median": 50}[min_units]
    return max(1, math.ceil(np.percentile(unit_counts, percentile)))


def longest_run(passing: NDArray[np.bool_]) -> tuple[int, ...]:
    """Return the indices of the longest run of True, the first one on ties, () if there is none."""
    best: tuple[int, ...] = ()
    for value, run in itertools.groupby(range(len(passing)), key=lambda index: bool(passing[index])):
        indices = tuple(run)
        if value and len(indices) > len(best):
            best = indices
    return best


def _missing_reliabilities() -> DataError:
    return DataError(
        "the selection needs split-half reliabilities, but the recordings have none\n"
        f"measure them: {MEASURING_COMMAND}"
    )


def reliability_threshold(facts: UnitFacts, settings: SelectionSettings) -> float | None:
    """Return the reliability that a selection asks of every unit of such recordings; None: any."""
    return settings.min_mean_reliability if facts.time_s is None else settings.min_reliability


def _reliable_units(facts: UnitFacts, settings: SelectionSettings) -> NDArray[np.bool_]:
    threshold = reliability_threshold(facts, settings)
    if threshold is None:
        return np.ones(len(facts.specimens), dtype=bool)
    reliable: NDArray[np.bool_] = best_reliability(facts) >= threshold
    return reliable


def _unmodulated_units(facts: UnitFacts, settings: SelectionSettings) -> NDArray[np.bool_]:
    """Tell which units running does not modulate, as far as is known."""
    if settings.run_p is None or facts.run_p is None:
        return np.ones(len(facts.specimens), dtype=bool)
    return (facts.run_p > settings.run_p) | np.isnan(facts.run_p)


def best_reliability(facts: UnitFacts) -> NDArray[np.float64]:
    """Return each unit's highest reliability, float64 (n_units,); -inf where all are NaN.

    Raises
    ------
    DataError
        If the recordings have no reliabilities; names the command that measures them.
    """
    if facts.reliability is None:
        raise _missing_reliabilities()
    known = np.where(np.isnan(facts.reliability), -np.inf, facts.reliability)
    best: NDArray[np.float64] = known if known.ndim == 1 else known.max(axis=0)
    return best


def _window_bins(
    time_s: NDArray[np.float64] | None, window_s: tuple[float, float] | None
) -> tuple[int, ...] | None:
    """Return the bins of a fixed window; None if the bins follow from the reliabilities."""
    if window_s is None:
        return None
    if time_s is None:
        raise UsageError("time_window_s: the recordings have no time bins, so that no window can be averaged")
    left, right = window_s
    bins = tuple(int(index) for index in np.flatnonzero((left <= time_s) & (time_s <= right)))
    if not bins:
        raise UsageError(
            f"time_window_s: no time bin between {left} and {right} s; "
            f"bin centres are {time_s[0]:g} ... {time_s[-1]:g} s"
        )
    return bins


def _select_area(
    facts: UnitFacts,
    settings: SelectionSettings,
    good: NDArray[np.bool_],
    area: str,
    window: tuple[int, ...] | None,
) -> AreaSelection:
    passing: list[SpecimenChoice] = []
    without_units: list[int] = []
    counts: list[int] = []
    excluded: dict[int, str] = {}
    single_bin: list[int] = []
    for specimen in np.unique(facts.specimens[facts.areas == area]).tolist():
        units = np.flatnonzero(good & (facts.specimens == specimen))
        if facts.time_s is None:
            counts.append(len(units))
        if not len(units):
            without_units.append(specimen)
            excluded[specimen] = "no unit passes"
            continue
        responsive = _responsive_bins(facts, settings.min_median_reliability, units)
        if responsive == ():
            excluded[specimen] = (
                f"median reliability of its {len(units)} selected units stays below "
                f"{settings.min_median_reliability:g} in every time bin"
            )
            continue
        if facts.time_s is not None:
            counts.append(len(units))
        if window is None and responsive is not None and len(responsive) == 1:
            single_bin.append(specimen)
        passing.append(SpecimenChoice(specimen, units, responsive if window is None else window))
    needed = required_units(counts, settings.min_units)
    for choice in passing:
        if len(choice.units) < needed:
            excluded[choice.specimen] = f"{len(choice.units)} selected units, {needed} are needed"
    return AreaSelection(
        passing=tuple(passing),
        without_units=tuple(without_units),
        unit_counts=tuple(counts),
        selected=tuple(choice for choice in passing if choice.specimen not in excluded),
        excluded=dict(sorted(excluded.items())),
        single_bin=tuple(specimen for specimen in single_bin if specimen not in excluded),
        min_units=needed,
    )


def _responsive_bins(
    facts: UnitFacts, threshold: float | None, units: NDArray[np.int64]
) -> tuple[int, ...] | None:
    """Return the longest responsive run, () if there is none, None without a time axis."""
    if facts.time_s is None:
        return None
    if threshold is None:
        return tuple(range(len(facts.time_s)))
    if facts.reliability is None:
        raise _missing_reliabilities()
    return longest_run(_median_over_units(facts.reliability[:, units]) >= threshold)


def _median_over_units(reliability: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the median over units, per bin, of (n_bins, n_units); NaN ignored, NaN where all are."""
    median = np.full(len(reliability), np.nan)
    known = ~np.isnan(reliability).all(axis=1)
    median[known] = np.nanmedian(reliability[known], axis=1)
    return median
