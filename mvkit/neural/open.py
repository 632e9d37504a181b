"""Open a dataset by name or path: select units, and average their responses over time bins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit import paths
from mvkit.errors import DataError
from mvkit.neural import neural_file as layout
from mvkit.neural.dataset import NeuralDataset, Recording
from mvkit.neural.neural_file import ID_COLUMNS, NeuralFileContents, OpenNeuralFile, open_neural_file
from mvkit.neural.reliability import MEASURING_COMMAND, RELIABILITY, RELIABILITY_PER_BIN
from mvkit.neural.selection import (
    PRESET_SOURCES,
    PRESETS,
    AreaSelection,
    SelectionSettings,
    SpecimenChoice,
    UnitFacts,
    explain_exclusions,
    for_own_recordings,
    resolve_selection,
    select_units,
)

DATASETS = paths.DATASETS
#: Those of the paper, for which its rule of how many units a recording needs was made.
PUBLISHED = ("neuropixels", "calcium")

#: Names of the p value of running modulation: Neuropixels, calcium.
RUN_P_COLUMNS = ("run_pval_ns", "p_run_mod_ns")
RecordingKey = tuple[str, int]


@dataclass(frozen=True, eq=False)
class RecordingUnits:
    """Units of one recording and the bins to average over.

    Attributes
    ----------
    units
        int64 (n_units,), positions in the file, ascending.
    time_bins
        Consecutive bin indices; None where the file has no time axis.
    n_trials
        Trials to read; those beyond are padding.
    """

    units: NDArray[np.int64]
    time_bins: tuple[int, ...] | None
    n_trials: int


def open_dataset(
    name_or_path: str | Path,
    *,
    selection: str | SelectionSettings = "code",
    home: Path | None = None,
) -> NeuralDataset:
    """Open recordings: select units and average their responses over time.

    Reliabilities and unit columns are read first, then only the units and time
    bins that are selected. Memory is that of the result, 4 bytes per trial, image
    and selected unit, plus about 40 MB; ``selection="none"`` on the published
    Neuropixels recordings (about 8,000 units) takes about 0.2 GB.

    Parameters
    ----------
    name_or_path
        ``"neuropixels"``, ``"calcium"`` (fetched before with ``mvkit fetch
        neural``), ``"simulated"`` (made in memory if it was not fetched), or
        the path of a neural file.
    selection
        ``"code"`` (default): thresholds of the published code; its rule that a recording needs as many
        units as three of four have (``min_units: q3``) is for the published recordings only. ``"paper"``:
        a reliability of 0.3 for every unit, perhaps a misreading of the median
        criterion, see :data:`mvkit.neural.selection.PRESETS`.
        ``"none"``: every unit.
        Or :class:`SelectionSettings`. Thresholds on reliabilities need a
        file that has them (``mvkit fetch reliability FILE`` measures them);
        of any other file every unit is selected, which is then selection ``"none"`` with a note in
        ``NeuralDataset.selection``.
    home
        mvkit's home directory (default: ``MVKIT_HOME`` or the platform's).

    Returns
    -------
    NeuralDataset
        Responses float32 in the file's units of measure.

    Raises
    ------
    UsageError
        If the name of the dataset or selection is unknown.
    DataError
        If the file is missing, damaged or no neural file, or no unit passes.
    """
    resolved = resolve_selection(selection)
    with open_file(name_or_path, home=home) as file:
        return _select_and_read(file, *resolved)


@contextmanager
def open_file(name_or_path: str | Path, *, home: Path | None = None) -> Iterator[OpenNeuralFile]:
    """Open the neural file of a dataset; the simulated one is made in memory if it was not fetched.

    Parameters
    ----------
    name_or_path, home
        As for :func:`open_dataset`.

    Raises
    ------
    UsageError
        If the name of the dataset is unknown.
    DataError
        If the file is missing, damaged or no neural file.
    """
    path = paths.locate_dataset(name_or_path, home)
    if path is None:
        from mvkit.neural.simulated import simulated_contents

        contents, stored = simulated_contents()
        yield OpenNeuralFile(Path("in memory"), contents, stored)
        return
    with open_neural_file(path) as file:
        yield file


def read_unit_facts(name_or_path: str | Path, *, home: Path | None = None) -> tuple[str, UnitFacts]:
    """Read the name of a dataset, and areas, animals, reliabilities and time bins of its units.

    Parameters
    ----------
    name_or_path, home
        As for :func:`open_dataset`.

    Raises
    ------
    UsageError, DataError
        As :func:`open_file`; also if unit columns are missing.
    """
    with open_file(name_or_path, home=home) as file:
        return file.contents.dataset, unit_facts(file.contents, _units_with_ids(file))


def _select_and_read(file: OpenNeuralFile, name: str, settings: SelectionSettings) -> NeuralDataset:
    contents = file.contents
    with_ids = _units_with_ids(file)
    facts = unit_facts(contents, with_ids)
    if contents.dataset not in PUBLISHED:
        settings = for_own_recordings(settings)
    note = _why_not_applicable(facts, settings)
    if note:
        name = "none"
        settings = PRESETS["none"].model_copy(update={"time_window_s": settings.time_window_s})
    outcome = select_units(facts, settings)
    chosen = {
        (area, choice.specimen): _recording_units(contents, choice, with_ids)
        for area, selection in outcome.items()
        for choice in selection.selected
    }
    if not chosen:
        raise DataError(
            f"{file.path}: no unit passes selection '{name}'; "
            "loosen it (selection 'paper' or 'none', or other thresholds)"
        )
    averages = read_averages(file, chosen)
    further = {key: column for key, column in contents.unit_columns.items() if key not in ID_COLUMNS}
    try:
        recordings = [
            Recording(
                area=area,
                specimen=specimen,
                unit_ids=np.asarray(contents.unit_columns["unit_id"][part.units], dtype=np.int64),
                responses=averages[area, specimen],
                time_bins=part.time_bins,
                units={key: column[part.units] for key, column in further.items() if key != "n_trials"},
            )
            for (area, specimen), part in chosen.items()
        ]
    except DataError as error:
        raise DataError(f"{file.path}: {error}") from error
    return NeuralDataset(
        name=contents.dataset,
        stimuli=contents.stimuli,
        frame_ids=contents.frame_ids,
        frame_rate_hz=contents.frame_rate_hz,
        field_of_view_deg=contents.field_of_view_deg,
        units_of_measure=contents.units_of_measure,
        recordings=tuple(recordings),
        skipped={
            area: _why_skipped(selection) for area, selection in outcome.items() if not selection.selected
        },
        provenance={**contents.provenance, "file": str(file.path)},
        selection=_report(name, settings, note, outcome, contents.n_units - len(with_ids)),
        selection_outcome=explain_exclusions(
            facts, settings, outcome, np.asarray(contents.unit_columns["unit_id"][with_ids], dtype=np.int64)
        ),
    )


def _units_with_ids(file: OpenNeuralFile) -> NDArray[np.int64]:
    """Return the positions of units whose id, specimen and area are known."""
    columns = file.contents.unit_columns
    known = np.ones(file.contents.n_units, dtype=bool)
    for name in ID_COLUMNS:
        if name not in columns:
            raise DataError(f"{file.path}: unit column '{name}' is missing from the neural file")
        column = columns[name]
        known &= column != "" if column.dtype.kind in "UO" else ~np.isnan(column)
    return np.flatnonzero(known)


def unit_facts(contents: NeuralFileContents, units: NDArray[np.int64] | None = None) -> UnitFacts:
    """Return the facts by which units are selected: areas, specimens, reliabilities, p values.

    Parameters
    ----------
    contents
        Of an open neural file.
    units
        Positions to take, None for all; their specimen and area must be known.
    """
    units = np.arange(contents.n_units) if units is None else units
    columns = contents.unit_columns
    if contents.time_s is None:
        column = columns.get(RELIABILITY)
        reliability = None if column is None else np.asarray(column[units], dtype=np.float64)
    else:
        per_bin = contents.reliabilities.get(RELIABILITY_PER_BIN)
        reliability = None if per_bin is None else per_bin[:, units]
    run_p = next((columns[name] for name in RUN_P_COLUMNS if name in columns), None)
    return UnitFacts(
        areas=columns["visual_area"][units].astype(str),
        specimens=columns["specimen_id"][units].astype(np.int64),
        reliability=reliability,
        run_p=None if run_p is None else np.asarray(run_p[units], dtype=np.float64),
        time_s=contents.time_s,
    )


def _why_not_applicable(facts: UnitFacts, settings: SelectionSettings) -> str:
    """Return why the selection cannot be applied to this file, or ""."""
    if facts.reliability is not None:
        return ""
    if facts.time_s is None:
        needed = settings.min_mean_reliability is not None
    else:
        needed = settings.min_reliability is not None or settings.min_median_reliability is not None
    if not needed:
        return ""
    return f"every unit, because the file has no reliabilities (measure them: {MEASURING_COMMAND})"


def _recording_units(
    contents: NeuralFileContents, choice: SpecimenChoice, with_ids: NDArray[np.int64]
) -> RecordingUnits:
    units = with_ids[choice.units]
    n_trials = int(trial_counts(contents)[units].max())
    return RecordingUnits(units=units, time_bins=choice.time_bins, n_trials=n_trials)


def _why_skipped(selection: AreaSelection) -> str:
    reasons = [f"{specimen}: {reason}" for specimen, reason in selection.excluded.items()]
    shown = "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more" if len(reasons) > 3 else "")
    return f"no specimen passes the selection ({shown})"


def _report(
    name: str,
    settings: SelectionSettings,
    note: str,
    outcome: Mapping[str, AreaSelection],
    n_without_ids: int,
) -> dict[str, object]:
    """Describe the selection in plain data, for results and summaries."""
    excluded = {
        area: {str(specimen): reason for specimen, reason in selection.excluded.items()}
        for area, selection in outcome.items()
        if selection.excluded
    }
    single = {area: list(one.single_bin) for area, one in outcome.items() if one.single_bin}
    return {
        "name": name,
        "source": PRESET_SOURCES[name],
        "settings": settings.model_dump(mode="json"),
        "applied": not note,
        "note": note,
        "dropped": excluded,
        "averaged_over_one_bin": single,
        "units_without_identity": n_without_ids,
    }


def read_averages(
    file: OpenNeuralFile, requested: Mapping[RecordingKey, RecordingUnits]
) -> dict[RecordingKey, NDArray[np.float32]]:
    """Read and average the responses of several recordings in one pass over the file.

    Each compressed chunk that holds a requested unit is read once, and only the
    bins in use; besides the result (float32) a slab of one chunk row is in
    memory (about 40 MB for the published Neuropixels file).

    Parameters
    ----------
    file
        The open neural file.
    requested
        (Area, specimen) -> units, bins and number of trials.

    Returns
    -------
    dict
        (Area, specimen) -> float32 (n_trials, n_images, n_units), averaged in float64.

    Raises
    ------
    DataError
        If a chunk of the file cannot be read.
    """
    n_images = len(file.contents.frame_ids)
    averages = {
        key: np.full((part.n_trials, n_images, len(part.units)), np.nan, dtype=np.float32)
        for key, part in requested.items()
    }
    chunk = getattr(file.stored, "chunks", None) or layout.chunk_shape(file.contents)
    # Of another library's thin chunks several are read at a time.
    rows = chunk[0] * max(1, layout.CHUNK[layout.TRIALS] // chunk[0])
    columns = chunk[-1] * max(1, layout.CHUNK[layout.UNITS] // chunk[-1])
    for first_unit in range(0, file.contents.n_units, columns):
        in_chunk = {
            key: (part, np.flatnonzero((part.units >= first_unit) & (part.units < first_unit + columns)))
            for key, part in requested.items()
        }
        in_chunk = {key: (part, positions) for key, (part, positions) in in_chunk.items() if len(positions)}
        if not in_chunk:
            continue
        used = [index for part, _ in in_chunk.values() for index in part.time_bins or ()]
        bins = (slice(min(used), max(used) + 1),) if used else ()
        for first_trial in range(0, max(part.n_trials for part, _ in in_chunk.values()), rows):
            trials = slice(first_trial, first_trial + rows)
            index = (trials, slice(None), *bins, slice(first_unit, first_unit + columns))
            slab = _read_stored(file, index, f"trials {trials.start} to {trials.stop - 1}")
            for key, (part, positions) in in_chunk.items():
                last_trial = min(first_trial + rows, part.n_trials)
                part_slab = slab[: max(0, last_trial - first_trial)][..., part.units[positions] - first_unit]
                averages[key][first_trial:last_trial, :, positions] = _average(
                    file, part_slab, part.time_bins, min(used, default=0)
                )
    return averages


def _average(
    file: OpenNeuralFile, stored: NDArray[Any], time_bins: tuple[int, ...] | None, first_bin: int
) -> NDArray[Any]:
    if time_bins is None:
        return file.decode(stored)
    chosen = stored[:, :, np.array(time_bins) - first_bin]
    return (
        average_counts_over_bins(chosen)
        if file.contents.holds_counts
        else average_over_bins(file.decode(chosen))
    )


def average_over_bins(responses: NDArray[np.floating]) -> NDArray[np.float64]:
    """Average responses over time bins.

    Parameters
    ----------
    responses
        (n_trials, n_images, n_bins, n_units); NaN = missing.

    Returns
    -------
    float64 (n_trials, n_images, n_units)
        Mean of the bins that are there; NaN where none is.
    """
    present = ~np.isnan(responses)
    count = present.sum(axis=2)
    total = np.where(present, responses, 0).sum(axis=2, dtype=np.float64)
    average: NDArray[np.float64] = np.full(total.shape, np.nan)
    np.divide(total, count, out=average, where=count > 0)
    return average


def average_counts_over_bins(counts: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Average stored counts over time bins, in spikes/s.

    Gives what :func:`average_over_bins` gives for the decoded counts, three
    times as fast, since whole numbers are summed as stored.

    Parameters
    ----------
    counts
        Stored counts (n_trials, n_images, n_bins, n_units); 255 = missing.
    """
    n_missing = (counts == layout.MISSING_COUNT).sum(axis=2)
    total = counts.sum(axis=2, dtype=np.int64) - layout.MISSING_COUNT * n_missing
    n_present = counts.shape[2] - n_missing
    average: NDArray[np.float64] = np.full(total.shape, np.nan)
    np.divide(total * float(layout.COUNT_SCALE), n_present, out=average, where=n_present > 0)
    return average


def trial_counts(contents: NeuralFileContents) -> NDArray[np.int64]:
    """Return the number of trials of each unit, int64 (n_units,); further ones in the file are padding."""
    n_trials = len(contents.trials)
    column = contents.unit_columns.get("n_trials")
    # In another order of the trials, padding is not at the end.
    if column is None or column.dtype.kind not in "iuf" or (np.diff(contents.trials) <= 0).any():
        return np.full(contents.n_units, n_trials, dtype=np.int64)
    known = np.where(np.isnan(column), n_trials, column)
    return np.clip(known, 0, n_trials).astype(np.int64)


def blocks(file: OpenNeuralFile) -> Iterator[tuple[slice, slice]]:
    """Yield (time bins, units) of blocks that cover the responses and follow the file's chunks.

    Without a time axis the bins are ``slice(0, 1)``. A block of the usual chunks has 5 bins and 128 units.
    """
    contents = file.contents
    usual = layout.chunk_shape(contents)
    chunk = file.stored.chunks or usual
    n_bins = 1 if contents.time_s is None else len(contents.time_s)
    # Chunks of another writer may be larger than memory.
    n_units_here = min(chunk[-1], layout.CHUNK[layout.UNITS])
    n_bins_here = 1 if contents.time_s is None else min(chunk[2], layout.CHUNK[layout.TIME])
    for unit in range(0, contents.n_units, n_units_here):
        for time_bin in range(0, n_bins, n_bins_here):
            yield (
                slice(time_bin, min(time_bin + n_bins_here, n_bins)),
                slice(unit, min(unit + n_units_here, contents.n_units)),
            )


def read_block(file: OpenNeuralFile, bins: slice, units: slice) -> NDArray[np.floating]:
    """Read all trials and images of a block, decoded; NaN = missing.

    Parameters
    ----------
    file
        The open neural file.
    bins, units
        A block of :func:`blocks`.

    Returns
    -------
    ndarray
        (n_trials, n_images, n_bins, n_units) in the file's units of measure; one bin without a time axis.

    Raises
    ------
    DataError
        If the file is damaged there.
    """
    time_axis = () if file.contents.time_s is None else (bins,)
    index = (slice(None), slice(None), *time_axis, units)
    values = file.decode(_read_stored(file, index, f"units {units.start} to {units.stop - 1}"))
    return values if time_axis else values[:, :, None, :]


def _read_stored(file: OpenNeuralFile, index: tuple[slice, ...], part: str) -> NDArray[Any]:
    try:
        stored: NDArray[Any] = file.stored[index]
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{file.path}: responses of {part} cannot be read; "
            f"the file is damaged ({str(error).splitlines()[0]})"
        ) from error
    return stored
