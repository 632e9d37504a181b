"""Presentations of images: which were shown when, and the spikes that fell into their time bins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError

#: Frame of the grey screen between images.
GREY = -1


@dataclass(frozen=True, eq=False)
class Presentations:
    """Valid presentations of a stimulus in one session, in order of time.

    Attributes
    ----------
    onset_s
        float64 (n_presentations,), ascending, in the session's clock.
    frame_ids
        int64 (n_frames,), ascending: images that were shown.
    frame_index
        int64 (n_presentations,): index into ``frame_ids``.
    trial_index
        int64 (n_presentations,): how many presentations of that image came before.
    """

    onset_s: NDArray[np.float64]
    frame_ids: NDArray[np.int64]
    frame_index: NDArray[np.int64]
    trial_index: NDArray[np.int64]

    @property
    def n_trials(self) -> int:
        """Largest number of presentations of an image."""
        return int(self.trial_index.max()) + 1

    @property
    def present(self) -> NDArray[np.bool_]:
        """Bool (n_trials, n_frames): False where an image was shown less often than others."""
        present = np.zeros((self.n_trials, len(self.frame_ids)), dtype=np.bool_)
        present[self.trial_index, self.frame_index] = True
        return present


def order_presentations(
    start_s: NDArray[np.float64], frames: NDArray[np.float64], masked: NDArray[np.bool_]
) -> Presentations:
    """Number the presentations of every image in the order of time.

    Parameters
    ----------
    start_s
        float64 (n,), onsets in any order.
    frames
        float64 (n,), image shown; negative (grey) and NaN ones are dropped.
    masked
        bool (n,), presentations that are not valid and count as never made.

    Raises
    ------
    DataError
        If a frame is not a whole number, or nothing valid remains.
    """
    wanted = ~masked & (frames > GREY)
    if not wanted.any():
        raise DataError("no valid presentation of an image")
    order = np.flatnonzero(wanted)[np.argsort(start_s[wanted], kind="stable")]
    shown = frames[order].astype(np.int64)
    if not np.array_equal(shown, frames[order]):
        raise DataError("frames are not whole numbers")
    frame_ids, frame_index = np.unique(shown, return_inverse=True)
    # Within a stable order by image, the place after the image's first presentation is the trial.
    by_image = np.argsort(frame_index, kind="stable")
    counts = np.bincount(frame_index)
    trial_index = np.empty(len(shown), dtype=np.int64)
    trial_index[by_image] = np.arange(len(shown)) - np.repeat(np.cumsum(counts) - counts, counts)
    return Presentations(start_s[order], frame_ids, frame_index.astype(np.int64), trial_index)


def overlapping(
    start_s: NDArray[np.float64], stop_s: NDArray[np.float64], intervals_s: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Tell which presentations overlap one of the intervals (n_intervals, 2); touching counts."""
    found = np.zeros(len(start_s), dtype=np.bool_)
    for low, high in intervals_s:
        found |= np.maximum(start_s, low) <= np.minimum(stop_s, high)
    return found


def count_spikes(
    spike_s: NDArray[np.float64], onset_s: NDArray[np.float64], edges_s: NDArray[np.float64]
) -> NDArray[np.uint16]:
    """Count the spikes of a unit in every time bin of every presentation.

    Bins are closed at both ends, as in AllenSDK's ``presentationwise_spike_counts``, by which the published
    data were made: a spike exactly on an inner edge counts in both bins beside it. An edge is the double
    ``onset + edge``.

    Parameters
    ----------
    spike_s
        float64 (n_spikes,), ascending.
    onset_s
        float64 (n_presentations,).
    edges_s
        float64 (n_bins + 1,), after onset.

    Returns
    -------
    NDArray
        uint16 (n_presentations, n_bins).
    """
    edges = onset_s[:, None] + edges_s
    before = np.searchsorted(spike_s, edges, side="left")
    until = np.searchsorted(spike_s, edges, side="right")
    return (until[:, 1:] - before[:, :-1]).astype(np.uint16)
