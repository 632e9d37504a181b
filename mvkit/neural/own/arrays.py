"""Recordings in files of arrays: responses as they are, or a row for every presentation."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError, UsageError, option_name
from mvkit.neural.grey_images import GreyImages, image_layouts, to_grey
from mvkit.neural.own.array_files import HDF5_SUFFIXES, WHOLE, ArrayFile, open_arrays
from mvkit.neural.own.presentations import by_trial_and_image, grey_of_ids, match_images
from mvkit.neural.own.request import (
    ANIMAL,
    AREA,
    IMAGE_IDS,
    PLACEHOLDER,
    RESPONSES,
    STIMULI,
    TRIAL_IDS,
    UNIT_IDS,
    ImportSettings,
    Notes,
    Part,
    Source,
    as_name,
    fill,
    missing_name,
    name_pattern,
    note_near_key,
    split_units,
    stimuli_elsewhere,
)
from mvkit.neural.response_axes import FLAT, FULL, IMAGES, PRESENTATIONS, AxisLengths, find_axes, parse_axes


def read_arrays(
    source: Source, settings: ImportSettings, stimuli: GreyImages | None, notes: Notes
) -> tuple[GreyImages, list[Part]]:
    """Read a file of arrays: the responses of every key that is asked for.

    Parameters and errors are those of :func:`mvkit.neural.own.recordings.import_recordings`.
    """
    with open_arrays(source.path) as file:
        keys = _response_keys(file, settings, notes)
        layouts = _StimulusChoice(file, settings, stimuli)
        parts = []
        for key, captured in keys.items():
            names = {**source.captured, **captured}
            parts += _array_parts(file, key, replace(source, captured=names), settings, layouts, notes)
        return layouts.images, parts


def is_neural_file(path: Path) -> bool:
    """Tell whether a file is a neural file already."""
    if path.suffix.lower() not in HDF5_SUFFIXES:
        return False
    with open_arrays(path) as file:
        return {"responses", "stimuli", "visual_area", "specimen_id", "frame_id"} <= set(file.shapes)


def _response_keys(file: ArrayFile, settings: ImportSettings, notes: Notes) -> dict[str, Mapping[str, str]]:
    """Return the names of the arrays of responses, and what each name says of area and animal."""
    if settings.responses is not None:
        key = settings.responses
        if key in file or not PLACEHOLDER.search(key):
            return {key: {}}
        pattern = name_pattern(key)
        pairs = [(name, pattern.fullmatch(name)) for name in file.shapes]
        keys: dict[str, Mapping[str, str]] = {name: match.groupdict() for name, match in pairs if match}
        if not keys:
            raise UsageError(f"{file.path}: no name fits '{key}'\n{file.describe()}")
        return keys
    for key in (*RESPONSES, WHOLE):
        if key in file:
            return {key: {}}
    deep = [
        name
        for name, shape in file.shapes.items()
        if len(shape) == 3 and name not in _stimulus_keys(settings)
    ]
    if len(deep) == 1:
        notes.add(f"responses: '{deep[0]}', the only array of three axes")
        return {deep[0]: {}}
    advice = f"give {option_name('responses')} KEY"
    start, end = _common_ends(deep)
    if len(deep) > 1 and start + end:
        advice += f", or '{start}{{animal}}{end}' for {len(deep)} arrays"
    raise UsageError(f"{file.path}: which array holds the responses? {advice}\n{file.describe()}")


def _common_ends(names: Sequence[str]) -> tuple[str, str]:
    """Return what names have in common at their start and, beyond it, at their end; digits do not count."""
    start = _common_start(names).rstrip("0123456789")
    end = _common_start([name[len(start) :][::-1] for name in names])[::-1].lstrip("0123456789")
    return start, end


def _common_start(names: Sequence[str]) -> str:
    columns = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*names, strict=False))
    return "".join(column[0] for column in columns)


def _stimulus_keys(settings: ImportSettings) -> tuple[str, ...]:
    return (*STIMULI, *([settings.stimuli] if settings.stimuli else []))


class _StimulusChoice:
    """The stimuli of a file of arrays: read, and arranged when the shape of responses is known."""

    def __init__(self, file: ArrayFile, settings: ImportSettings, known: GreyImages | None) -> None:
        self._array: NDArray[Any] | None = None
        self._images: GreyImages | None = None
        key = settings.stimuli
        if key is None:
            key = next((name for name in STIMULI if len(file.shapes.get(name, ())) > 2), None)
        if key is not None and key in file:
            self._array = file.read(key)
            self._what = f"{file.path}: '{key}'"
        elif known is not None:
            self._images = known
        elif settings.stimuli is None:
            raise UsageError(
                f"{file.path}: which stimuli? give {option_name('stimuli')} KEY|FOLDER|FILE\n"
                f"{file.describe()}"
            )
        else:
            self._array, self._images = stimuli_elsewhere(settings.stimuli, keys=list(file.shapes))
            self._what = settings.stimuli

    @property
    def images(self) -> GreyImages:
        """The images, arranged in the usual way if nothing else was asked for."""
        if self._images is None:
            self.arrange()
        if self._images is None:
            raise DataError(f"{self._what}: no images")
        return self._images

    def arrange(self, *likely: int, image_ids: NDArray[Any] | None = None) -> int:
        """Decide which axis has the images, by likely numbers or by ids of images; return their number."""
        if self._images is None and self._array is not None:
            if image_ids is not None:
                self._images = grey_of_ids(self._array, image_ids, self._what)
            else:
                sizes = [layout.n_images for layout in image_layouts(self._array.shape)]
                fitting = next((size for size in likely if size in sizes), None)
                self._images = to_grey(self._array, n_images=fitting, what=self._what)
        return len(self.images.images)


def _array_parts(
    file: ArrayFile,
    key: str,
    source: Source,
    settings: ImportSettings,
    stimuli: _StimulusChoice,
    notes: Notes,
) -> list[Part]:
    what = f"{file.path}: '{key}'"
    names = source.captured
    values = file.read(key)
    if values.dtype.kind not in "biuf":
        raise DataError(f"{what} holds text, expected numbers")
    if not values.size:
        raise DataError(f"{what} is empty: shape {values.shape}")
    labels = _labels(file, settings.unit_ids, UNIT_IDS, names)
    areas = _name_or_labels(file, settings.area, source, "area", notes)
    animals = _name_or_labels(file, settings.animal, source, "animal", notes)
    animals = source.animal_by_name(notes) if animals is None else animals
    if areas is None or animals is None:
        raise missing_name("area" if areas is None else "animal", file.path, file.describe())
    axes = None if settings.axes is None else parse_axes(settings.axes)
    is_flat = PRESENTATIONS in axes if axes is not None else values.ndim == len(FLAT)
    image_ids = _labels(file, settings.image_ids, IMAGE_IDS, names) if is_flat else None
    if not is_flat and (settings.image_ids is not None or settings.trial_ids is not None):
        raise UsageError(
            f"{what} has {values.ndim} axes; {option_name('image_ids')} and "
            f"{option_name('trial_ids')} are for presentations,units"
        )
    n_axes = len(FLAT) if image_ids is not None else len(FULL)
    if file.is_matlab and values.ndim < n_axes and not is_flat:
        # MATLAB drops last axes of length 1.
        values = values.reshape(*values.shape, *[1] * (n_axes - values.ndim))
    counts = {len(one) for one in (labels, areas, animals) if isinstance(one, np.ndarray)}
    if len(counts) > 1:
        raise DataError(f"{what}: ids, areas and animals of units differ in number: {sorted(counts)}")
    n_units = counts.pop() if counts else None

    if axes is not None and IMAGES in axes and values.ndim == len(axes):
        likely: tuple[int, ...] = (values.shape[axes.index(IMAGES)],)
    else:
        # The usual order first.
        likely = (*values.shape[1:2], *values.shape)
    n_images = stimuli.arrange(*likely, image_ids=image_ids)
    lengths = AxisLengths(n_images, n_units, None if image_ids is None else len(image_ids))
    order, note = find_axes(values.shape, lengths, axes, what=what, option=f"{option_name('axes')} ")
    notes.add(note)
    if is_flat and image_ids is not None:
        trial_ids = _labels(file, settings.trial_ids, TRIAL_IDS, names)
        arranged = values.transpose([order.index(axis) for axis in FLAT])
        shown = match_images(image_ids, stimuli.images, what, notes)
        arranged = by_trial_and_image(arranged, shown, trial_ids, n_images, what, notes)
    else:
        arranged = values.transpose([order.index(axis) for axis in FULL])
    return list(split_units(arranged, labels, areas, animals, what, notes))


def _labels(
    file: ArrayFile, key: str | None, usual: Sequence[str], names: Mapping[str, str]
) -> NDArray[Any] | None:
    """Return the array of labels of a key, or of the first usual one that is there; None for none."""
    key = fill(key, names) or next(
        (one for one in usual if one in file and len(_vector_shape(file, one)) == 1), None
    )
    if key is None:
        return None
    labels = file.read(key)
    if labels.size != max(labels.shape, default=1):
        raise DataError(f"{file.path}: '{key}' has shape {labels.shape}, expected one label each")
    return labels.reshape(-1)


def _vector_shape(file: ArrayFile, key: str) -> tuple[int, ...]:
    """Return the shape of an array without axes of length 1, but at least one axis."""
    return tuple(size for size in file.shapes[key] if size != 1) or (1,)


def _name_or_labels(
    file: ArrayFile, given: str | None, source: Source, what: str, notes: Notes
) -> str | NDArray[Any] | None:
    """Return the one area or animal of all units, an array with that of each, or None if nothing says it."""
    usual = AREA if what == "area" else ANIMAL
    given = fill(given, source.captured) or source.captured.get(what)
    given = given or next((one for one in usual if one in file), None)
    if given is None:
        return None
    if given not in file:
        note_near_key(given, what, list(file.shapes), notes)
        return given
    labels = _labels(file, given, (), {})
    if labels is None or not labels.size:
        raise DataError(f"{file.path}: '{given}' is empty")
    return as_name(labels[0]) if len(labels) == 1 else labels
