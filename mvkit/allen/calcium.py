"""Calcium imaging experiments in NWB-1 files: mean sweep responses, as AllenSDK defines them.

A sweep is measured in samples of the microscope. With L the length of a presentation (7 samples, 0.25 s), F0
is the mean of the 4 L samples before onset, and the response the mean of 100 * (F / F0 - 1), per cent, over
the 2 L samples from onset on. F is fluorescence without overlapping cells and neuropil.

Cells, responses and their order equal AllenSDK 2.16's (``NaturalScenes.mean_sweep_response``); a test
compares the two. Traces are read some cells at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.allen.folder import CELL_ID, SessionFolder
from mvkit.allen.request import SessionRequest
from mvkit.allen.session import AREA, UNIT_ID, SessionRecording, SessionSource
from mvkit.errors import DataError, UsageError
from mvkit.neural.nwb import (
    Presentations,
    decode,
    group,
    open_nwb,
    order_presentations,
    stored_images,
    text,
    whole_numbers,
)

#: Cells read at a time.
BLOCK = 16
#: Lengths of a presentation: of the baseline F0 before onset, and of the response from onset on.
BASELINE_LENGTHS, RESPONSE_LENGTHS = 4, 2

_EXPERIMENT_NAME = re.compile(r"(?:ophys_)?(?:experiment_)?(\d+)")
_PIPELINE = "processing/brain_observatory_pipeline"
_FLUORESCENCE = f"{_PIPELINE}/Fluorescence"
_PRESENTATION = "stimulus/presentation"
_LOCATION = "general/optophysiology/imaging_plane_1/location"
_EXPERIMENT_ID = "general/session_id"
_CONTAINER_ID = "general/experiment_container_id"
_SPECIMEN_NAME = "general/specimen_name"
#: Files of this pipeline and later keep demixed traces, and neuropil in a series of its own.
_DEMIXED_SINCE = 2


class CalciumReader:
    """Reads the experiments of a folder.

    Parameters
    ----------
    folder
        Laid out as :mod:`mvkit.allen.folder` says.
    request
        Experiments without its stimulus, or of other areas, are left out.
    """

    def __init__(self, folder: Path, request: SessionRequest) -> None:
        self._folder = SessionFolder(folder)
        self._request = request

    @property
    def provenance(self) -> Mapping[str, object]:
        """The folder's name and the versions that read it."""
        return self._folder.provenance

    def sessions(self) -> tuple[SessionSource, ...]:
        """Return the experiments that showed the stimulus in the requested areas, ascending by number.

        Raises
        ------
        UsageError
            If the folder is missing or holds none.
        DataError
            If two files are of one experiment, or one is unreadable and its name has no number.
        """
        request = self._request
        return self._folder.sources(
            self._requested_number,
            lambda path, number: self._folder.experiment_tables,
            requested=f"imaging experiment with '{request.stimulus}' in {', '.join(request.areas)}",
        )

    def read(self, source: SessionSource, request: SessionRequest) -> SessionRecording:
        """Read one experiment.

        Raises
        ------
        DataError
            If the file is damaged or lacks something.
        """
        if source.path is None:
            raise DataError(f"session {source.session_id}: no file")
        with open_nwb(source.path) as file:
            number = int(text(file, _EXPERIMENT_ID))
            if number != source.session_id:
                raise DataError(f"it is experiment {number}, not {source.session_id}")
            sweeps = read_sweeps(file, request.stimulus)
            cells = whole_numbers(group(file, f"{_PIPELINE}/ImageSegmentation"), "cell_specimen_ids")
            area = text(file, _LOCATION)
            if area not in request.areas:
                cells = cells[:0]
            blocks = [mean_sweep_responses(part, sweeps) for part in _traces(file, len(cells))]
            means = np.concatenate([np.empty((len(sweeps.start), 0)), *blocks], axis=1)
            images = stored_images(file, request.stimulus, sweeps.shown.frame_ids)
            if images is None:
                raise DataError(
                    f"it has no images 'stimulus/templates/{request.stimulus}_image_stack' of 8 bits"
                )
            container = text(file, _CONTAINER_ID) if _CONTAINER_ID in file else ""
            animal = text(file, _SPECIMEN_NAME) if _SPECIMEN_NAME in file else ""
        return SessionRecording(
            session_id=number,
            specimen_id=self._folder.experiment_specimen(number, cells, animal),
            frame_ids=sweeps.shown.frame_ids,
            responses=sweeps.by_trial(means),
            present=sweeps.shown.present,
            unit_columns={
                UNIT_ID: cells,
                AREA: np.array([area] * len(cells), dtype=np.str_),
                CELL_ID: cells,
                **self._folder.cell_metrics(cells),
            },
            stimuli=images,
            provenance={
                "file": source.path.name,
                "experiment_container_id": int(container) if container.isdigit() else None,
                "presentation_samples": sweeps.length,
            },
        )

    def _requested_number(self, path: Path) -> int | None:
        """Return the number of an experiment that is to be read, None for another one."""
        name = _EXPERIMENT_NAME.fullmatch(path.stem)
        try:
            with open_nwb(path) as file:
                if str(file.attrs.get("nwb_version", "")).startswith("2"):
                    raise UsageError(
                        f"{path}: NWB 2, as DANDI has it; calcium experiments are read "
                        "as AllenSDK has them (NWB 1)"
                    )
                shown = _presentation(file, self._request.stimulus)
                if shown is None or text(file, _LOCATION) not in self._request.areas:
                    return None
                number = int(text(file, _EXPERIMENT_ID))
        except DataError:
            if name is None:
                raise
            # Reading it will fail, and be reported beside those that can be read.
            number = int(name.group(1))
        return None if self._folder.is_failed(number) else number


@dataclass(frozen=True, eq=False)
class Sweeps:
    """Presentations in samples of the microscope.

    Attributes
    ----------
    shown
        The presentations; onsets are samples.
    length
        Samples of a presentation.
    """

    shown: Presentations
    length: int

    @property
    def start(self) -> NDArray[np.int64]:
        """int64 (n_presentations,), ascending: sample of onset."""
        return self.shown.onset

    def by_trial(self, means: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return values (n_presentations, n_units) as (n_trials, n_frames, n_units), NaN = missing."""
        shape = (self.shown.n_trials, len(self.shown.frame_ids), means.shape[1])
        responses: NDArray[np.float64] = np.full(shape, np.nan)
        responses[self.shown.trial_index, self.shown.frame_index] = means
        return responses


def read_sweeps(file: Any, stimulus: str) -> Sweeps:
    """Return the presentations of a stimulus.

    Raises
    ------
    DataError
        If the experiment has none.
    """
    shown = _presentation(file, stimulus)
    if shown is None:
        raise DataError(f"no presentations of '{stimulus}'")
    frames = np.asarray(group(shown, "data")[...], dtype=np.float64).reshape(-1)
    limits = np.asarray(group(shown, "frame_duration")[...]).astype(np.int64)
    if limits.shape != (len(frames), 2):
        raise DataError(f"'{shown.name}': {len(frames)} frames, but durations of shape {limits.shape}")
    n_samples = group(file, f"{_FLUORESCENCE}/imaging_plane_1/timestamps").shape[0]
    return order_sweeps(frames, limits[:, 0], limits[:, 1], n_samples)


def order_sweeps(
    frames: NDArray[np.float64], start: NDArray[np.int64], end: NDArray[np.int64], n_samples: int
) -> Sweeps:
    """Number the presentations of every image in the order of time.

    A presentation whose baseline, or whole response, lies outside the recording counts as never made.

    Parameters
    ----------
    frames
        float64 (n,), image shown; negative (grey) ones are left out.
    start, end
        int64 (n,), samples of onset and end.
    n_samples
        Samples of the recording.

    Raises
    ------
    DataError
        If nothing valid remains, or the length of a presentation is not known.
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
    return Sweeps(order_presentations(start, frames, outside), length)


def mean_sweep_responses(traces: NDArray[np.floating], sweeps: Sweeps) -> NDArray[np.float64]:
    """Average the response after every onset, relative to the baseline before it.

    Parameters
    ----------
    traces
        (n_units, n_samples), corrected fluorescence.
    sweeps
        From :func:`order_sweeps`.

    Returns
    -------
    NDArray
        float64 (n_presentations, n_units), per cent dF/F. A response that the recording's end cuts short is
        the mean of its samples, as in AllenSDK. NaN where F holds NaN or F0 is 0.
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


def _presentation(file: Any, stimulus: str) -> Any:
    """Return the group of a stimulus, None if there is none."""
    names = (f"{_PRESENTATION}/{stimulus}", f"{_PRESENTATION}/{stimulus}_stimulus")
    return next((file[name] for name in names if name in file), None)


def _traces(file: Any, n_cells: int) -> Iterator[NDArray[Any]]:
    """Yield corrected fluorescence (some cells, n_samples) in the order of the file."""
    series = group(file, f"{_FLUORESCENCE}/imaging_plane_1")
    if _pipeline_version(file) >= _DEMIXED_SINCE:
        surround = group(file, f"{_FLUORESCENCE}/imaging_plane_1_neuropil_response")
        signal = group(file, f"{_FLUORESCENCE}/imaging_plane_1_demixed_signal/data")
        neuropil, share = group(surround, "data"), group(surround, "r")[...]
    else:
        signal, neuropil = group(series, "data"), group(series, "neuropil_traces")
        share = group(series, "r")[...]
    expected = (signal.shape[0], group(series, "timestamps").shape[0])
    if not signal.shape == neuropil.shape == expected or len(share) != expected[0] or expected[0] < n_cells:
        raise DataError(
            f"traces {signal.shape}, neuropil {neuropil.shape} and {expected[1]} times do not fit {n_cells} "
            "cells: the file is cut short?"
        )
    # Rows of one chunk are unpacked together.
    step = max(BLOCK, signal.chunks[0] if signal.chunks else 0)
    for first in range(0, n_cells, step):
        part = slice(first, min(first + step, n_cells))
        yield signal[part] - neuropil[part] * share[part, None]


def _pipeline_version(file: Any) -> int:
    """Return the first number of the pipeline's version: the last word of ``generated_by``."""
    name = "general/generated_by"
    if name not in file:
        return 0
    value = file[name][()]
    version = decode(value.reshape(-1)[-1]) if isinstance(value, np.ndarray) else decode(value)[-1:]
    try:
        return int(version.partition(".")[0])
    except ValueError as error:
        raise DataError(f"'{name}' ends with '{version}', expected a version") from error
