"""Ceilings as a function of the number of source units, or of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import UsageError
from mvkit.naming import unknown_name
from mvkit.scoring.ceilings.condensing import ALONE
from mvkit.scoring.ceilings.extrapolation_curves import N_SIZES_SATURATING
from mvkit.scoring.ceilings.extrapolation_result import AreaSizes, Extrapolation
from mvkit.scoring.ceilings.extrapolation_sizes import fewest_units, image_fault, image_sizes, unit_sizes
from mvkit.scoring.ceilings.extrapolation_targets import Over, Target, consistency_at_sizes, trial_draws
from mvkit.scoring.ceilings.measure import pairs_of
from mvkit.scoring.ceilings.sources import pooled_responses, predicting_units
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.processes import by_place
from mvkit.scoring.protocol import recordings_digest
from mvkit.scoring.results import ALL_AREAS, POPULATION
from mvkit.scoring.run import Progress, check_recordings
from mvkit.scoring.settings import RecordingLike, ScoreSettings


def extrapolate_ceiling(
    recordings: Sequence[RecordingLike],
    settings: ScoreSettings,
    over: Over,
    *,
    n_points: int = 6,
    sizes: Sequence[int] | None = None,
    n_jobs: int = 1,
    progress: Progress | None = None,
) -> Extrapolation:
    """Measure the consistency between animals with fewer source units or images, and fit curves to it.

    The paper extrapolates its ceilings with the numbers of units and of stimuli (supplementary figures S5 and
    S6, not checked against the paper's text); the curves fitted here are mvkit's own choice, see
    :mod:`mvkit.scoring.ceilings.extrapolation_curves`.

    *Units*: every halving predicts from a random sub-sample of the source units of each size. *Stimuli*:
    random subsets of the images, split anew into training and test images. Each size has as many halvings as
    a ceiling, so that the whole costs some ``n_points`` ceilings; see
    :func:`~mvkit.scoring.ceilings.extrapolation_targets.consistency_at_sizes` for the draws.

    Parameters
    ----------
    recordings
        Responses to the same images in the same order.
    settings
        The protocol. ``ceiling`` says what a source is; ``"none"`` counts as ``"holdout"``.
    over
        ``"units"`` or ``"stimuli"``.
    n_points
        Sizes, at least four: from the fewest that the mapping can use to all there are. An area with more
        source units than another has some more.
    sizes
        Sizes to measure at instead; those that cannot be are left out with a reason.
    n_jobs
        Worker processes; -1 = one per core. Results do not depend on it, to the last bit.
    progress
        Called with (done, total) target animals.

    Raises
    ------
    UsageError
        If ``over`` is unknown, there are too few points, or nothing to score.
    DataError, FitError
        As for a ceiling.
    """
    if over not in get_args(Over):
        raise unknown_name("extrapolation", over, get_args(Over))
    if n_points < N_SIZES_SATURATING:
        raise UsageError(f"n_points={n_points}: a curve needs at least {N_SIZES_SATURATING} sizes")
    if sizes is not None and (not sizes or min(sizes) < 1):
        raise UsageError(f"sizes={list(sizes)}: give numbers of {over}, at least one, all positive")
    ceiling = "holdout" if settings.ceiling == "none" else settings.ceiling
    settings = settings.model_copy(update={"ceiling": ceiling, "source_units": "all"})
    n_images = check_recordings(recordings, settings)
    targets = _targets(recordings, settings)
    areas = tuple(dict.fromkeys(recording.area for recording in recordings))
    if over == "units":
        plans = _unit_plans(areas, targets, settings, n_points, sizes)
    else:
        plans = _image_plans(areas, targets, n_images, settings, n_points, sizes)
    scores = _measured(targets, plans, over, settings, n_jobs=n_jobs, progress=progress)
    found = [_of_area(area, plans[area], targets, scores, settings) for area in areas]
    return Extrapolation(
        over=over,
        areas=(*found, _pooled(found)),
        settings=settings,
        responses_sha256=recordings_digest(recordings),
    )


@dataclass(frozen=True)
class _Plan:
    """Sizes to measure in an area, sizes that cannot be with the reason, and why there is nothing at all."""

    sizes: tuple[int, ...] = ()
    left_out: Mapping[int, str] = field(default_factory=dict)
    reason: str = ""


def _targets(recordings: Sequence[RecordingLike], settings: ScoreSettings) -> list[Target]:
    """Pair every animal with its sources; one that is alone in its area is left out."""
    sources: dict[int, list[tuple[NDArray[np.floating], ...]]] = {}
    for pair in pairs_of(recordings, settings):
        animals = tuple(recordings[index].responses for index in pair.sources)
        sources.setdefault(pair.target, []).append(animals)
    per_unit = MAPPINGS[settings.mapping].per_unit
    return [
        Target(
            area=recordings[index].area,
            specimen=recordings[index].specimen,
            unit_ids=np.asarray(recordings[index].unit_ids if per_unit else [POPULATION], dtype=np.int64),
            responses=recordings[index].responses,
            sources=tuple(of_target),
        )
        for index, of_target in sources.items()
    ]


def _unit_plans(
    areas: Sequence[str],
    targets: Sequence[Target],
    settings: ScoreSettings,
    n_points: int,
    sizes: Sequence[int] | None,
) -> dict[str, _Plan]:
    available: dict[str, int] = {}
    for target in targets:
        for animals in target.sources:
            source = pooled_responses(animals)
            n_usable = predicting_units(source, trial_draws(target, source, settings).source).size
            available[target.area] = min(n_usable, available.get(target.area, n_usable))
    chosen = unit_sizes(available, settings, n_points)
    needed = fewest_units(settings)
    plans = {area: _Plan(reason=ALONE) for area in areas}
    for area, n_available in available.items():
        wanted = [int(size) for size in (chosen[area] if sizes is None else np.unique(sizes))]
        faults = {size: _unit_fault(size, n_available, needed, settings) for size in wanted}
        few = f"{n_available} source units for some animal; {settings.mapping} needs {needed}"
        plans[area] = _plan(faults, few)
    return plans


def _unit_fault(size: int, n_available: int, needed: int, settings: ScoreSettings) -> str:
    if size < needed:
        return f"{size} source units; {settings.mapping} needs {needed}"
    return f"only {n_available} source units for some animal" if size > n_available else ""


def _image_plans(
    areas: Sequence[str],
    targets: Sequence[Target],
    n_images: int,
    settings: ScoreSettings,
    n_points: int,
    sizes: Sequence[int] | None,
) -> dict[str, _Plan]:
    wanted = [
        int(size)
        for size in (image_sizes(n_images, settings, n_points) if sizes is None else np.unique(sizes))
    ]
    faults = {
        size: f"only {n_images} images" if size > n_images else image_fault(size, settings) for size in wanted
    }
    several = {target.area for target in targets}
    return {area: _plan(faults, "no size") if area in several else _Plan(reason=ALONE) for area in areas}


def _plan(faults: Mapping[int, str], nothing: str) -> _Plan:
    kept = tuple(size for size, fault in faults.items() if not fault)
    left_out = {size: fault for size, fault in faults.items() if fault}
    return _Plan(kept, left_out, "" if kept else "; ".join(left_out.values()) or nothing)


def _measured(
    targets: Sequence[Target],
    plans: Mapping[str, _Plan],
    over: Over,
    settings: ScoreSettings,
    *,
    n_jobs: int,
    progress: Progress | None,
) -> dict[int, NDArray[np.float64]]:
    """Score every target at the sizes of its area, the most work first; keys are positions."""
    order = [place for place, target in enumerate(targets) if plans[target.area].sizes]
    order.sort(key=lambda place: -sum(part.size for source in targets[place].sources for part in source))
    return by_place(
        consistency_at_sizes,
        order,
        lambda place: (targets[place], plans[targets[place].area].sizes, over, settings),
        n_jobs=n_jobs,
        warm_up=MAPPINGS[settings.mapping].warm_up,
        progress=progress,
    )


def _of_area(
    area: str,
    plan: _Plan,
    targets: Sequence[Target],
    scores: Mapping[int, NDArray[np.float64]],
    settings: ScoreSettings,
) -> AreaSizes:
    """Put the units of an area side by side."""
    members = [place for place in sorted(scores) if targets[place].area == area]
    if not members:
        return AreaSizes.nothing(area, plan.left_out, plan.reason)
    animals = [np.full(len(targets[place].unit_ids), targets[place].specimen) for place in members]
    return AreaSizes(
        area=area,
        sizes=np.array(plan.sizes, dtype=np.int64),
        scores=np.concatenate([scores[place] for place in members], axis=1),
        animals=np.concatenate(animals).astype(np.int64),
        unit_ids=np.concatenate([targets[place].unit_ids for place in members]),
        left_out=dict(plan.left_out),
        reason="",
    )


def _pooled(areas: Sequence[AreaSizes]) -> AreaSizes:
    """Pool the units of all areas at the sizes that all of them have."""
    present = [area for area in areas if area.sizes.size]
    if not present:
        return AreaSizes.nothing(ALL_AREAS, {}, "no area has a ceiling")
    sizes = reduce(np.intersect1d, [area.sizes for area in present])
    if not sizes.size:
        return AreaSizes.nothing(ALL_AREAS, {}, "no size that all areas have")
    return AreaSizes(
        area=ALL_AREAS,
        sizes=sizes,
        scores=np.concatenate([area.scores[np.isin(area.sizes, sizes)] for area in present], axis=1),
        animals=np.concatenate([area.animals for area in present]),
        unit_ids=np.concatenate([area.unit_ids for area in present]),
        left_out={},
        reason="",
    )
