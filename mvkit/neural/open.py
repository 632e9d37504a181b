"""Open a dataset by name or path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mvkit import paths
from mvkit.errors import DataError, UsageError
from mvkit.naming import suggest
from mvkit.neural.averaging import Wanted, read_averages
from mvkit.neural.block_reading import trial_counts
from mvkit.neural.dataset import NeuralDataset
from mvkit.neural.layout import NeuralFileContents
from mvkit.neural.layout_reading import IDENTITY_COLUMNS, OpenNeuralFile, reading
from mvkit.neural.recording import Recording
from mvkit.neural.reliability_columns import MEASURING_COMMAND, RELIABILITY, RELIABILITY_PER_BIN
from mvkit.neural.selection import AreaSelection, SpecimenChoice, UnitFacts, select_units
from mvkit.neural.selection_settings import (
    PRESET_SOURCES,
    PRESETS,
    SelectionSettings,
    resolve_selection,
)

DATASETS = ("neuropixels", "calcium", "simulated")
#: Names of the p value of running modulation: Neuropixels, calcium.
RUN_P_COLUMNS = ("run_pval_ns", "p_run_mod_ns")
_PICKLE_ENDINGS = (".pkl", ".pkl.gz", ".pkl.xz", ".pickle")
_FILE_ENDINGS = (".h5", ".hdf5", ".nc", ".nc4")


def open_dataset(
    name_or_path: str | Path,
    *,
    selection: str | SelectionSettings = "code",
    home: Path | None = None,
) -> NeuralDataset:
    """Open recordings: select units and average their responses over time.

    Reliabilities and unit columns are read first, then only the units and time
    bins that are kept. Memory is that of the result, 4 bytes per trial, image
    and kept unit, plus about 40 MB; ``selection="none"`` on the published
    Neuropixels recordings (about 8,000 units) takes about 0.2 GB.

    Parameters
    ----------
    name_or_path
        ``"neuropixels"``, ``"calcium"`` (fetched before with ``mvkit fetch
        neural``), ``"simulated"`` (made in memory if it was not fetched), or
        the path of a neural file.
    selection
        ``"code"`` (default): thresholds of the published code. ``"paper"``:
        a reliability of 0.3 for every unit, perhaps a misreading of the median
        criterion, see :data:`mvkit.neural.selection_settings.PRESETS`.
        ``"none"``: every unit.
        Or :class:`SelectionSettings`. Thresholds on reliabilities need a
        file that has them (``mvkit fetch reliability FILE`` measures them);
        any other file is kept whole, and ``NeuralDataset.selection`` says so.
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
    path = _locate(name_or_path, home)
    if path is None:
        from mvkit.neural.simulated import simulated_contents

        contents, stored = simulated_contents()
        return _select_and_read(OpenNeuralFile(Path("in memory"), contents, stored), *resolved)
    with reading(path) as file:
        return _select_and_read(file, *resolved)


def unit_facts(contents: NeuralFileContents, units: NDArray[np.int64] | None = None) -> UnitFacts:
    """Return what the selection looks at: areas, specimens, reliabilities, p values.

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


def _locate(name_or_path: str | Path, home: Path | None) -> Path | None:
    """Return the file to open, or None to simulate."""
    if isinstance(name_or_path, str) and name_or_path in DATASETS:
        path = paths.neural_path(name_or_path, home)
        if path.is_file():
            return path
        if name_or_path == "simulated":
            return None
        raise DataError(
            f"dataset '{name_or_path}' is not there: {path}\nrun: mvkit fetch neural --dataset {name_or_path}"
        )
    path = Path(name_or_path).expanduser()
    text = str(name_or_path)
    if path.is_file():
        if text.lower().endswith(_PICKLE_ENDINGS):
            raise DataError(
                f"{path}: a pickle is not opened as a dataset\n"
                f"convert it: mvkit fetch neural --dataset neuropixels|calcium --from {path}"
            )
        return path
    if path.is_dir():
        raise DataError(f"{path}: a directory, not a neural file")
    if isinstance(name_or_path, Path) or "/" in text or text.lower().endswith(_FILE_ENDINGS):
        raise DataError(f"{path}: no such neural file")
    raise UsageError(
        f"unknown dataset '{text}'{suggest(text, DATASETS)}\n"
        f"valid: {', '.join(DATASETS)}, or the path of a neural file"
    )


def _select_and_read(file: OpenNeuralFile, name: str, settings: SelectionSettings) -> NeuralDataset:
    contents = file.contents
    identified = _identified_units(file)
    facts = unit_facts(contents, identified)
    note = _why_not_applicable(facts, settings)
    applied = (
        PRESETS["none"].model_copy(update={"time_window_s": settings.time_window_s}) if note else settings
    )
    outcome = select_units(facts, applied)
    kept = {
        (area, choice.specimen): _wanted(contents, choice, identified)
        for area, selected in outcome.items()
        for choice in selected.kept
    }
    if not kept:
        raise DataError(
            f"{file.path}: no unit passes selection '{name}'; "
            "loosen it (selection 'paper' or 'none', or other thresholds)"
        )
    averages = read_averages(file, kept)
    further = {key: column for key, column in contents.unit_columns.items() if key not in IDENTITY_COLUMNS}
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
            for (area, specimen), part in kept.items()
        ]
    except DataError as error:
        raise DataError(f"{file.path}: {error}") from error
    return NeuralDataset(
        name=contents.dataset,
        stimuli=contents.stimuli,
        frame_ids=contents.frame_ids,
        units_of_measure=contents.units_of_measure,
        recordings=tuple(recordings),
        skipped={area: _why_skipped(selected) for area, selected in outcome.items() if not selected.kept},
        provenance={**contents.provenance, "file": str(file.path)},
        selection=_report(name, settings, note, outcome, contents.n_units - len(identified)),
    )


def _identified_units(file: OpenNeuralFile) -> NDArray[np.int64]:
    """Return the positions of units whose id, specimen and area are known."""
    columns = file.contents.unit_columns
    known = np.ones(file.contents.n_units, dtype=bool)
    for name in IDENTITY_COLUMNS:
        if name not in columns:
            raise DataError(f"{file.path}: unit column '{name}' is missing from the neural file")
        column = columns[name]
        known &= column != "" if column.dtype.kind in "UO" else ~np.isnan(column)
    return np.flatnonzero(known)


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
    return f"not applied: file has no reliabilities; measure them: {MEASURING_COMMAND}"


def _wanted(contents: NeuralFileContents, choice: SpecimenChoice, identified: NDArray[np.int64]) -> Wanted:
    units = identified[choice.units]
    n_trials = int(trial_counts(contents)[units].max())
    return Wanted(units=units, time_bins=choice.time_bins, n_trials=n_trials)


def _why_skipped(selected: AreaSelection) -> str:
    reasons = [f"{specimen}: {reason}" for specimen, reason in selected.dropped.items()]
    shown = "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more" if len(reasons) > 3 else "")
    return f"no specimen passes the selection ({shown})"


def _report(
    name: str,
    settings: SelectionSettings,
    note: str,
    outcome: Mapping[str, AreaSelection],
    n_unidentified: int,
) -> dict[str, object]:
    """Describe the selection in plain data, for results and summaries."""
    dropped = {
        area: {str(specimen): reason for specimen, reason in selected.dropped.items()}
        for area, selected in outcome.items()
        if selected.dropped
    }
    single = {area: list(selected.single_bin) for area, selected in outcome.items() if selected.single_bin}
    return {
        "name": name,
        "source": PRESET_SOURCES[name],
        "settings": settings.model_dump(mode="json"),
        "applied": not note,
        "note": note,
        "dropped": dropped,
        "averaged_over_one_bin": single,
        "units_without_identity": n_unidentified,
    }
