"""The pooled pseudo-population: the units of all animals of an area as if they were one animal's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.settings import RecordingLike

#: ``specimen`` of a pseudo-population.
POOLED_SPECIMEN = 0


@dataclass(frozen=True)
class PooledRecording:
    """Units of several animals side by side.

    Attributes
    ----------
    area
        Visual area.
    specimen
        :data:`POOLED_SPECIMEN`.
    unit_ids
        int64 (n_units,), animal after animal.
    responses
        (n_trials, n_images, n_units), NaN = missing.
    """

    area: str
    specimen: int
    unit_ids: NDArray[np.int64]
    responses: NDArray[np.float32]


def pooled(recordings: Sequence[RecordingLike]) -> list[PooledRecording]:
    """Pool the animals of every area.

    Trials are aligned by their position: trial ``t`` of the pool is trial ``t`` of every animal. An animal
    with fewer trials than another has NaN beyond its last one, so that its half-means average fewer trials.
    Animals were not recorded together; what trials of different animals share is their number only, and a
    halving halves all animals alike.

    Parameters
    ----------
    recordings
        Responses to the same images in the same order.

    Returns
    -------
    list of PooledRecording
        One per area, in the order in which areas first appear; units in the order given.
    """
    by_area: dict[str, list[RecordingLike]] = {}
    for recording in recordings:
        by_area.setdefault(recording.area, []).append(recording)
    return [_pool(area, members) for area, members in by_area.items()]


def _pool(area: str, members: Sequence[RecordingLike]) -> PooledRecording:
    n_trials = max(member.responses.shape[0] for member in members)
    unit_ids = np.concatenate([np.asarray(member.unit_ids, dtype=np.int64) for member in members])
    dtype = np.result_type(np.float32, *(member.responses.dtype for member in members))
    responses = np.full((n_trials, members[0].responses.shape[1], unit_ids.size), np.nan, dtype=dtype)
    first = 0
    for member in members:
        n_own_trials, _, n_units = member.responses.shape
        responses[:n_own_trials, :, first : first + n_units] = member.responses
        first += n_units
    return PooledRecording(area, POOLED_SPECIMEN, unit_ids, responses)
