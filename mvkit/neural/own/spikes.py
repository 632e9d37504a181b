"""Recordings in NWB files: spikes of sorted units, counted after each presentation of an image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError, UsageError, option_name, suggest, valid_names
from mvkit.files import natural_key
from mvkit.neural.grey_images import GreyImages, to_grey
from mvkit.neural.nwb import (
    decode,
    group,
    numbers,
    open_nwb,
    order_presentations,
    ragged_ends,
    text,
    texts,
    whole_numbers,
)
from mvkit.neural.own.presentations import grey_of_ids, match_images
from mvkit.neural.own.request import (
    AREA,
    IMAGE_IDS,
    NO_NAME,
    ImportSettings,
    Notes,
    Part,
    Source,
    as_name,
    count,
    fill,
    split_units,
    stimuli_elsewhere,
)

NWB_SUFFIX = ".nwb"
#: Areas that mean none.
_NO_AREA = (*NO_NAME, "root")
#: Time after onset in which spikes are counted where none is given.
WINDOW_MS = (0.0, 250.0)
_ELECTRODES = "general/extracellular_ephys/electrodes"
_TEMPLATES = "stimulus/templates"


def read_spikes(
    source: Source, settings: ImportSettings, stimuli: GreyImages | None, notes: Notes
) -> tuple[GreyImages, list[Part]]:
    """Read a session: spikes of the units of an area in a window after every presentation of an image.

    Parameters and errors are those of :func:`mvkit.neural.own.recordings.import_recordings`.
    """
    with open_nwb(source.path) as file:
        onset, ids, name = _nwb_presentations(file, settings, notes)
        images = _nwb_stimuli(file, settings, stimuli, ids)
        what = f"{source.path}: {name}"
        index = match_images(ids, images, what, notes)
        shown = order_presentations(onset, index.astype(np.float64), index < 0)
        units = group(file, "units")
        areas = _nwb_areas(file, units, replace(settings, area=fill(settings.area, source.captured)), notes)
        kept = np.array([area.lower() not in _NO_AREA for area in areas], dtype=np.bool_)
        if settings.areas:
            kept &= np.isin(areas, settings.areas)
        elif not kept.all():
            notes.add(f"{count(int((~kept).sum()), 'unit')} without an area left out")
        if not kept.any():
            raise DataError(f"no unit is left of areas {', '.join(sorted(set(areas.tolist()))[:12])}")
        rows = np.flatnonzero(kept)
        rates = _spike_rates(units, rows, shown.onset, settings.window_ms or WINDOW_MS)
        values = np.full((shown.n_trials, len(images.images), len(rows)), np.nan, dtype=np.float32)
        values[shown.trial_index, shown.frame_ids[shown.frame_index]] = rates
        labels = _nwb_column(units, settings.unit_ids or "id")[rows]
        animal = fill(settings.animal, source.captured) or source.captured.get("animal")
        if animal is None:
            path = "general/subject/subject_id"
            animal = text(file, path) if path in file else source.path.stem
            notes.add("animals: subject_id of each file" if path in file else "animals: names of the files")
        return images, list(split_units(values, labels, areas[rows], animal, str(source.path), notes))


def _nwb_column(table: Any, name: str) -> NDArray[Any]:
    """Return a column of an NWB table: numbers, or text."""
    column = table.get(name)
    if column is None or not hasattr(column, "dtype"):
        names = [key for key in table if hasattr(table[key], "dtype") and not key.endswith("_index")]
        raise DataError(
            f"'{table.name}' has no column '{name}'{suggest(name, names)}; {valid_names(name, names)}"
        )
    return np.asarray(column[...]) if column.dtype.kind in "iufb" else texts(table, name)


def _nwb_stimuli(
    file: Any, settings: ImportSettings, known: GreyImages | None, ids: NDArray[Any]
) -> GreyImages:
    templates = file.get(_TEMPLATES, {})
    names = list(templates)
    key = settings.stimuli
    if key is None:
        if known is not None:
            return known
        if len(names) != 1:
            listed = f"; templates in the file: {', '.join(names)}" if names else ""
            raise UsageError(
                f"{file.filename}: which stimuli? give {option_name('stimuli')} KEY|FOLDER|FILE{listed}"
            )
        key = names[0]
    if key not in names:
        if known is not None:
            return known
        array, images = stimuli_elsewhere(key, keys=names)
        if array is not None:
            return grey_of_ids(array, ids, key)
        if images is None:
            raise DataError(f"{key}: no images")
        return images
    return _nwb_template(file, templates[key], f"{_TEMPLATES}/{key}")


def _nwb_template(file: Any, node: Any, what: str) -> GreyImages:
    """Return the images of a series (a dataset ``data``), or of a container of images."""
    if "data" in node:
        return to_grey(node["data"][...], what=what)
    ordered = node.get("order_of_images")
    if ordered is not None:
        datasets = [file[reference] for reference in np.ravel(ordered[...])]
    else:
        found = [name for name in node if getattr(node[name], "ndim", 0) in (2, 3)]
        datasets = [node[name] for name in sorted(found, key=natural_key)]
    if not datasets:
        raise DataError(f"'{what}' holds no images")
    names = tuple(f"{str(one.name).rpartition('/')[2]}.image" for one in datasets)
    images = [one[...] for one in datasets]
    if len({image.shape for image in images}) > 1:
        raise DataError(f"'{what}' holds images of several sizes")
    return replace(to_grey(np.stack(images), n_images=len(images), what=what), names=names)


def _nwb_presentations(
    file: Any, settings: ImportSettings, notes: Notes
) -> tuple[NDArray[np.float64], NDArray[Any], str]:
    """Return onset in seconds and image of every presentation, and the name of their table."""
    intervals, series = file.get("intervals", {}), file.get("stimulus/presentation", {})
    name = settings.presentations
    usual = (settings.image_ids,) if settings.image_ids else IMAGE_IDS
    if name is None:
        tables = [key for key in intervals if any(one in intervals[key] for one in usual)]
        indexed = [key for key in series if _is_index_series(series[key])]
        if len(tables) + len(indexed) != 1:
            listed = [*(f"{key} ({', '.join(_columns(intervals[key]))})" for key in intervals), *series]
            raise UsageError(
                f"{file.filename}: which presentations? give {option_name('presentations')} NAME\n"
                f"it has: {'; '.join(listed[:12]) or 'none'}"
            )
        name = (tables or indexed)[0]
    if name in intervals:
        table = intervals[name]
        column = next((one for one in usual if one in table), None)
        if column is None:
            raise UsageError(
                f"{file.filename}: which column of '{name}' has the image? give "
                f"{option_name('image_ids')} COLUMN\n"
                f"columns: {', '.join(_columns(table))}"
            )
        notes.add(f"presentations: '{name}', image in column '{column}'")
        return numbers(table, "start_time"), _nwb_column(table, column), f"'{name}'"
    if name in series and "data" in series[name]:
        node = series[name]
        notes.add(f"presentations: '{name}'")
        ids = np.asarray(node["data"][...])
        if "timestamps" in node:
            return np.asarray(node["timestamps"][...], dtype=np.float64), ids, f"'{name}'"
        start = group(node, "starting_time")
        rate = float(start.attrs["rate"])
        return float(start[()]) + np.arange(len(ids)) / rate, ids, f"'{name}'"
    names = [*intervals, *series]
    raise UsageError(
        f"{file.filename}: has no presentations '{name}'{suggest(name, names)}\n{valid_names(name, names)}"
    )


def _is_index_series(node: Any) -> bool:
    return decode(node.attrs.get("neurodata_type", "")) == "IndexSeries"


def _columns(table: Any) -> list[str]:
    return [
        key for key in table if hasattr(table[key], "dtype") and not key.endswith("_index") and key != "id"
    ]


def _nwb_areas(file: Any, units: Any, settings: ImportSettings, notes: Notes) -> NDArray[np.str_]:
    """Return the area of every unit: one name, a column of units, or of the electrodes that they name."""
    n_units = len(group(units, "id"))
    given = settings.area
    if given is None:
        given = next((one for one in (*AREA, "location") if one in units), None)
    if given is not None and given in units:
        return np.array([as_name(one) for one in _nwb_column(units, given)], dtype=np.str_)
    table = file.get(_ELECTRODES)
    column = given or "location"
    if table is not None and column in table:
        rows = _electrode_rows(units, table)
        if rows is not None:
            notes.add(f"areas: column '{column}' of the electrodes")
            found = texts(table, column)
            return np.array([found[row].strip() if row >= 0 else "" for row in rows], dtype=np.str_)
    if given is None:
        raise UsageError(
            f"{file.filename}: which area? give {option_name('area')} NAME (VISp), or a column of its units\n"
            f"columns: {', '.join(_columns(units))}"
        )
    return np.full(n_units, given)


def _electrode_rows(units: Any, electrodes: Any) -> NDArray[np.int64] | None:
    """Return the row of the electrode of every unit (its first, or its peak), -1 for none."""
    n_units = len(units["id"])
    if "peak_channel_id" in units:
        row_of = {int(one): row for row, one in enumerate(whole_numbers(electrodes, "id"))}
        return np.array([row_of.get(int(one), -1) for one in whole_numbers(units, "peak_channel_id")])
    if "electrodes" not in units:
        return None
    rows = whole_numbers(units, "electrodes")
    if "electrodes_index" not in units:
        return rows
    ends = ragged_ends(units, "electrodes")
    starts = np.concatenate([[0], ends[:-1]])
    return np.array([rows[starts[one]] if ends[one] > starts[one] else -1 for one in range(n_units)])


def _spike_rates(
    units: Any, rows: NDArray[np.int64], onset_s: NDArray[np.float64], window_ms: tuple[float, float]
) -> NDArray[np.float32]:
    """Return spikes/s (n_presentations, n_units) in a window after onset; its end is not in it."""
    start, stop = window_ms
    if not start < stop:
        raise UsageError(
            f"{option_name('window_ms')} {start:g} {stop:g}: the window must end after it begins"
        )
    ends = ragged_ends(units, "spike_times")
    starts = np.concatenate([[0], ends[:-1]])
    spikes = group(units, "spike_times")
    rates = np.empty((len(onset_s), len(rows)), dtype=np.float32)
    for column, row in enumerate(rows):
        times = np.asarray(spikes[starts[row] : ends[row]], dtype=np.float64)
        if bool((np.diff(times) < 0).any()):
            times = np.sort(times)
        first, last = (np.searchsorted(times, onset_s + edge / 1000, side="left") for edge in (start, stop))
        rates[:, column] = (last - first) / ((stop - start) / 1000)
    return rates
