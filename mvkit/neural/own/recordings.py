"""Recordings of one's own in files of other programs, read as a dataset.

Arrays (.npz, .npy, .mat, .h5), tables (.csv, .tsv, .parquet) and spikes (.nwb) all become responses
(n_trials, n_images, n_units) per area and animal. Names of keys and files may hold ``{area}`` and
``{animal}``: what stands there names the area or animal of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError, UsageError, option_name, valid_names, wording
from mvkit.files import inspect_file, list_files, natural_key
from mvkit.machine import time_limit
from mvkit.neural.dataset import NeuralDataset
from mvkit.neural.grey_images import GreyImages
from mvkit.neural.own.array_files import ARRAY_SUFFIXES
from mvkit.neural.own.arrays import is_neural_file, read_arrays
from mvkit.neural.own.request import (
    PLACEHOLDER,
    ImportedRecordings,
    ImportSettings,
    Notes,
    Part,
    Source,
    count,
    name_pattern,
)
from mvkit.neural.own.spikes import NWB_SUFFIX, read_spikes
from mvkit.neural.own.tables import TABLE_SUFFIXES, read_table
from mvkit.paths import expand

SUFFIXES = (*ARRAY_SUFFIXES, *TABLE_SUFFIXES, NWB_SUFFIX)


def import_recordings(
    sources: Sequence[str | Path], settings: ImportSettings | None = None, *, name: str = "recordings"
) -> ImportedRecordings:
    """Read recordings from files of other programs.

    Parameters
    ----------
    sources
        Files, folders of files, or paths with ``{area}``, ``{animal}`` or ``*``.
    settings
        Where in the files the parts are.
    name
        Name of the dataset.

    Returns
    -------
    ImportedRecordings
        With stimuli as 8-bit grey, responses NaN where a trial is missing.

    Raises
    ------
    UsageError
        If a key is unknown or missing, or the order of axes is wrong or open; says what would do.
    DataError
        If a file is damaged, or values cannot be used; says where.

    Examples
    --------
    >>> from mvkit.neural import ImportSettings, import_recordings
    >>> settings = ImportSettings(responses="values_{animal}", stimuli="scenes")
    >>> imported = import_recordings(["lab_{area}.npz"], settings)  # doctest: +SKIP
    >>> imported.dataset.save("lab.h5")  # doctest: +SKIP
    """
    settings = settings or ImportSettings()
    files = _find_sources(sources, stimuli=settings.stimuli)
    _check_kinds(files, settings)
    notes = Notes()
    stimuli: GreyImages | None = None
    parts: list[Part] = []
    for source in files:
        suffix = source.path.suffix.lower()
        reader = (
            read_spikes if suffix == NWB_SUFFIX else read_table if _is_table(source.path) else read_arrays
        )
        own, new = reader(source, settings, stimuli, notes)
        if stimuli is not None and own is not stimuli and not np.array_equal(own.images, stimuli.images):
            raise DataError(f"{source.path}: its stimuli are not those of {files[0].path}")
        stimuli = stimuli or own
        parts += new
    if stimuli is None:
        raise DataError("there are no recordings")
    notes.add(f"stimuli: {_describe_images(stimuli)}")
    is_nwb = all(source.path.suffix.lower() == NWB_SUFFIX for source in files)
    measure = settings.units_of_measure or ("spikes/s" if is_nwb else "a.u.")
    dataset = _assemble(parts, stimuli, settings.areas, notes, name=name, units_of_measure=measure)
    provenance = {
        "source": "own recordings",
        "files": [str(source.path) for source in files],
        "notes": list(notes.sentences),
    }
    return ImportedRecordings(replace(dataset, provenance=provenance), tuple(notes.sentences))


def _check_kinds(files: Sequence[Source], settings: ImportSettings) -> None:
    """Check that no setting is for another kind of file than there is."""
    kinds = {
        "NWB" if one.path.suffix.lower() == NWB_SUFFIX else "tables" if _is_table(one.path) else "arrays"
        for one in files
    }
    given = {
        option_name("window_ms"): ("NWB", settings.window_ms),
        option_name("presentations"): ("NWB", settings.presentations),
        option_name("axes"): ("arrays", settings.axes),
    }
    for option, (kind, value) in given.items():
        if value is not None and kind not in kinds:
            raise UsageError(f"{option}: only for {kind}, not for {files[0].path}")


def _describe_images(stimuli: GreyImages) -> str:
    n_images, height, width = stimuli.images.shape
    note = f"; {stimuli.note}" if stimuli.note else ""
    return f"{n_images} images, {width} x {height} px{note}"


def _find_sources(given: Sequence[str | Path], *, stimuli: str | None) -> list[Source]:
    """Return the files that paths, folders and patterns stand for, without that of the stimuli."""
    of_stimuli = {expand(one) for one in (stimuli, (stimuli or "").rpartition(":")[0]) if one}
    found: dict[Path, Source] = {}
    for one in given:
        path = expand(one)
        if path.is_dir():
            listed = [file.path for file in list_files(path, SUFFIXES, levels=0)]
            ordered = sorted(listed, key=lambda file: natural_key(file.name))
            # One may have been made of the others.
            ordered = [one for one in ordered if one not in of_stimuli and not is_neural_file(one)]
            matches = [Source(file, {}) for file in ordered]
            if not matches:
                raise DataError(f"{path}: no {', '.join(SUFFIXES)} directly in this folder")
        elif not path.exists() and PLACEHOLDER.search(str(path)):
            pattern = name_pattern(str(path))
            wildcard = PLACEHOLDER.sub("*", str(path))
            anchor = Path(path.anchor or ".")
            found_by_it = anchor.glob(wildcard.removeprefix(path.anchor))
            names = sorted(map(str, found_by_it), key=natural_key)
            with time_limit(
                1.0, UsageError(f"{path}: takes too long to match; write fewer * one after another")
            ):
                pairs = [(name, pattern.fullmatch(name)) for name in names]
            matches = [Source(Path(name), match.groupdict()) for name, match in pairs if match]
            if not matches:
                raise UsageError(f"{path}: no file fits this pattern")
        else:
            matches = [Source(path, {})]
        for source in matches:
            if problem := inspect_file(source.path).problem:
                raise DataError(f"{source.path}: {problem}")
            if not _is_table(source.path) and source.path.suffix.lower() not in SUFFIXES:
                is_sheet = source.path.suffix.lower() in (".xlsx", ".xls", ".ods")
                hint = "\nsave the sheet of a spreadsheet as CSV (UTF-8)" if is_sheet else ""
                raise UsageError(f"{source.path}: the name must end in {', '.join(SUFFIXES)}{hint}")
            if is_neural_file(source.path):
                command = f"mvkit score gabor --dataset {source.path}"
                raise UsageError(f"{source.path}: is a neural file already; use it: {command}")
            found.setdefault(source.path, source)
    return list(found.values())


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in TABLE_SUFFIXES or path.name.lower().endswith((".csv.gz", ".tsv.gz"))


def _assemble(
    parts: Sequence[Part],
    stimuli: GreyImages,
    areas: Sequence[str],
    notes: Notes,
    *,
    name: str,
    units_of_measure: str,
) -> NeuralDataset:
    """Return the dataset, without units and images that have no response."""
    present = {part.area for part in parts}
    if areas and not present & set(areas):
        raise UsageError(f"no units of {', '.join(areas)}\n{valid_names(areas[0], sorted(present))}")
    responses: dict[str, dict[str, NDArray[Any]]] = {}
    labels: dict[str, dict[str, NDArray[Any]]] = {}
    sources: dict[tuple[str, str], str] = {}
    n_silent = n_idle = 0
    was_shown = np.zeros(len(stimuli.images), dtype=np.bool_)
    for part in parts:
        if areas and part.area not in areas:
            continue
        key = (part.area, part.animal)
        if key in sources:
            raise DataError(
                f"{part.source} and {sources[key]} both have {part.area} of animal {part.animal}; "
                f"name the animals apart ({{animal}} in {wording('--from', 'files')} or "
                f"{option_name('responses')}, or {option_name('animal')} KEY)"
            )
        sources[key] = part.source
        values = part.values
        _check_finite(part)
        missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, dtype=np.bool_)
        heard = ~missing.all(axis=(0, 1))
        if not heard.any():
            raise DataError(f"{part.source}: {part.area} of animal {part.animal} has no response at all")
        n_silent += int((~heard).sum())
        run = ~missing.all(axis=(1, 2))
        n_idle += int((~run).sum())
        was_shown |= ~missing.all(axis=(0, 2))
        responses.setdefault(part.area, {})[part.animal] = values[run][:, :, heard]
        if part.unit_labels is not None:
            labels.setdefault(part.area, {})[part.animal] = part.unit_labels[heard]
    if n_idle:
        notes.add(f"{count(n_idle, 'trial')} without any response left out")
    n_single = sum(len(values) == 1 for of_area in responses.values() for values in of_area.values())
    if n_single:
        notes.add(
            f"{count(n_single, 'recording')} of one trial: no reliability, and no score corrected for noise"
        )
    if n_silent:
        notes.add(f"{count(n_silent, 'unit')} without any response left out")
    if not was_shown.all():
        notes.add(f"{count(int((~was_shown).sum()), 'stimulus', 'stimuli')} without any response left out")
        for of_area in responses.values():
            for animal, values in of_area.items():
                of_area[animal] = values[:, was_shown]
    stems = [one.rpartition(".")[0] for one in stimuli.names]
    are_numbered = (
        bool(stems) and all(stem.isdecimal() for stem in stems) and len(set(map(int, stems))) == len(stems)
    )
    frames = np.array([int(stem) for stem in stems]) if are_numbered else np.arange(len(stimuli.images))
    return NeuralDataset.from_arrays(
        responses,  # type: ignore[arg-type]
        stimuli.images[was_shown],
        unit_ids=labels or None,  # type: ignore[arg-type]
        frame_ids=frames[was_shown],
        name=name,
        units_of_measure=units_of_measure,
    )


def _check_finite(part: Part) -> None:
    if part.values.dtype.kind == "f" and np.isinf(part.values).any():
        trial, image, unit = np.argwhere(np.isinf(part.values))[0].tolist()
        n_infinite = int(np.isinf(part.values).sum())
        raise DataError(
            f"{part.source}: {part.area} of animal {part.animal}: infinity at trial {trial}, image {image}, "
            f"unit {unit} (counted from 0; {n_infinite} in all); mark missing trials with NaN"
        )
