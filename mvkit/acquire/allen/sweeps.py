"""Responses of imaged cells to presentations of images: mean sweep responses, as AllenSDK defines them.

A sweep is measured in samples of the microscope. With L the length of a presentation (7 samples, 0.25 s), F0
is the mean of the 4 L samples before onset, and the response the mean of 100 * (F / F0 - 1), per cent, over
the 2 L samples from onset on. F is fluorescence without overlapping cells and neuropil.
A test compares this with ``NaturalScenes.mean_sweep_response`` of AllenSDK 2.16, which keeps every sweep.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvkit.acquire.allen.presentations import Presentations, order_presentations
from mvkit.errors import DataError

#: Lengths of a presentation before onset that F0 is taken of, and from onset on that are averaged.
BASELINE_LENGTHS, RESPONSE_LENGTHS = 4, 2


@dataclass(frozen=True, eq=False)
class Sweeps:
    """Presentations in samples of the microscope.

    Attributes
    ----------
    start
        int64 (n_presentations,), ascending: sample of onset.
    length
        Samples of a presentation.
    shown
        The same presentations: which image and which trial each is.
    """

    start: NDArray[np.int64]
    length: int
    shown: Presentations

    def arranged(self, means: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return values (n_presentations, n_units) as (n_trials, n_frames, n_units), NaN = missing."""
        shape = (self.shown.n_trials, len(self.shown.frame_ids), means.shape[1])
        arranged: NDArray[np.float64] = np.full(shape, np.nan)
        arranged[self.shown.trial_index, self.shown.frame_index] = means
        return arranged


def order_sweeps(
    frames: NDArray[np.float64], start: NDArray[np.int64], end: NDArray[np.int64], n_samples: int
) -> Sweeps:
    """Number the presentations of every image in the order of time.

    A presentation whose baseline, or whole response, lies outside the recording counts as never made.

    Parameters
    ----------
    frames
        float64 (n,), image shown; negative (grey) ones are dropped.
    start, end
        int64 (n,), samples of onset and end.
    n_samples
        Samples of the recording.

    Raises
    ------
    DataError
        If nothing valid remains, or the length of a presentation cannot be told.
    """
    if len(start) < 2:
        raise DataError(f"{len(start)} presentation(s): too few to tell how long they are")
    order = np.lexsort((end, start))
    frames, start, end = frames[order], start[order], end[order]
    # AllenSDK takes the second one's; they vary by a sample.
    length = int(end[1] - start[1])
    if length < 1:
        raise DataError(f"a presentation lasts {length} samples")
    outside = (start < BASELINE_LENGTHS * length) | (start >= n_samples)
    shown = order_presentations(start.astype(np.float64), frames, outside)
    return Sweeps(shown.onset_s.astype(np.int64), length, shown)


def mean_sweep_responses(traces: NDArray[np.floating], sweeps: Sweeps) -> NDArray[np.float64]:
    """Average what follows every onset, relative to what precedes it.

    Parameters
    ----------
    traces
        (n_units, n_samples), corrected fluorescence.
    sweeps
        From :func:`order_sweeps`.

    Returns
    -------
    NDArray
        float64 (n_presentations, n_units), per cent dF/F. A response that the recording's end cuts is the
        mean of what is there, as in AllenSDK. NaN where F holds NaN or F0 is 0.
    """
    n_samples = traces.shape[1]
    baseline = np.arange(-BASELINE_LENGTHS * sweeps.length, 0)
    response = np.arange(RESPONSE_LENGTHS * sweeps.length)
    whole = sweeps.start + len(response) <= n_samples
    means: NDArray[np.float64] = np.full((len(sweeps.start), len(traces)), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        for unit, raw in enumerate(traces):
            trace = raw.astype(np.float64)
            rest = trace[sweeps.start[:, None] + baseline].mean(axis=1)
            after = trace[sweeps.start[whole, None] + response]
            means[whole, unit] = (100 * (after / rest[whole, None] - 1)).mean(axis=1)
            for one in np.flatnonzero(~whole):
                means[one, unit] = (100 * (trace[sweeps.start[one] :] / rest[one] - 1)).mean()
    means[~np.isfinite(means)] = np.nan
    return means
