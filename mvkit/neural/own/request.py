"""What an import of one's own recordings asks for, and what its readers share."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError, UsageError, option_name, suggest, valid_names, wording
from mvkit.files import IMAGE_SUFFIXES
from mvkit.neural.dataset import NeuralDataset
from mvkit.neural.grey_images import GreyImages, read_image_folder
from mvkit.neural.nwb import decode
from mvkit.neural.own.array_files import ARRAY_SUFFIXES, open_arrays
from mvkit.paths import expand

#: Names of arrays and columns that are taken where no others are given.
RESPONSES = ("responses", "response", "rate", "firing_rate")
STIMULI = ("stimuli", "images")
IMAGE_IDS = ("image_ids", "image_id", "image", "frame", "frame_id", "stimulus", "image_index", "images")
UNIT_IDS = ("unit_ids", "unit_id", "unit", "neuron", "cell")
TRIAL_IDS = ("trial_ids", "trial_id", "trial", "repeat", "repetition")
AREA = ("area", "areas", "visual_area", "brain_area")
ANIMAL = ("animal", "animals", "mouse", "subject", "specimen", "specimen_id")
#: Names that mean none.
NO_NAME = ("", "nan", "none", "null")
NEURAL_FILE_SUFFIXES = (".h5", ".hdf5", ".nc")
PLACEHOLDER = re.compile(r"\{(\w*)\}|\*")


@dataclass(frozen=True)
class ImportSettings:
    """Where the parts of recordings are in files of one's own.

    A KEY is the name of an array of the file, a column of a table, or a column of an NWB table. The usual
    names (``responses``, ``stimuli``, ``unit_ids``, ``image``, ``trial``, ``area``, ``animal``, ...) need not
    be given.

    Attributes
    ----------
    responses
        KEY of the responses; may hold ``{area}``, ``{animal}`` and ``*``, and then means several arrays. Of
        a table with a column per unit: which columns.
    axes
        Order of the axes, ``trials,images,units`` in any order or ``presentations,units``; None finds it by
        the stimuli, where one order fits.
    stimuli
        KEY, folder of images, or a file: .npy, .npz or .mat (``FILE:KEY`` where it has several), or a neural
        file.
    image_ids
        KEY of the image of each presentation: its number, counted from 0 (or 1, if that fits), or the name
        of its file.
    unit_ids
        KEY of numbers or names of the units.
    trial_ids
        KEY of the trial of each presentation; without it they are counted in order.
    area, animal
        Name, or KEY of one per unit (of a table: per row).
    presentations
        NWB: table of presentations, in ``intervals`` or ``stimulus/presentation``.
    window_ms
        NWB: spikes are counted from the first to before the second time after onset; None for 0 to 250.
    areas
        Areas to keep; empty for all.
    units_of_measure
        Of the responses; None for spikes/s of NWB files and arbitrary units (a.u.) of others.
    """

    responses: str | None = None
    axes: str | Sequence[str] | None = None
    stimuli: str | None = None
    image_ids: str | None = None
    unit_ids: str | None = None
    trial_ids: str | None = None
    area: str | None = None
    animal: str | None = None
    presentations: str | None = None
    window_ms: tuple[float, float] | None = None
    areas: tuple[str, ...] = ()
    units_of_measure: str | None = None


@dataclass(frozen=True, eq=False)
class ImportedRecordings:
    """Recordings as they were read.

    Attributes
    ----------
    dataset
        Ready to be saved.
    notes
        What was found, converted or left out, a sentence each.
    """

    dataset: NeuralDataset
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Part:
    """Responses of some units: values (n_trials, n_images, n_units) and the label of each unit, if any."""

    area: str
    animal: str
    values: NDArray[Any]
    unit_labels: NDArray[Any] | None
    source: str


@dataclass(frozen=True)
class Source:
    """A file, and what its name says."""

    path: Path
    captured: Mapping[str, str]

    def animal_by_name(self, notes: Notes) -> str | None:
        """Return the name of the file for an animal that nothing else names; None where it names areas."""
        if "area" in self.captured:
            return None
        notes.add(f"animals: named after the files ({option_name('animal')} NAME|KEY names them otherwise)")
        return self.path.name.partition(".")[0]


@dataclass
class Notes:
    """What is told of an import, each sentence once."""

    sentences: dict[str, None] = field(default_factory=dict)

    def add(self, sentence: str) -> None:
        if sentence:
            self.sentences[sentence] = None


def name_pattern(pattern: str) -> re.Pattern[str]:
    """Return the expression of a name with ``{area}``, ``{animal}`` and ``*``."""
    expression, end = "", 0
    seen: set[str] = set()
    for match in PLACEHOLDER.finditer(pattern):
        expression += re.escape(pattern[end : match.start()])
        end = match.end()
        what = match.group(1)
        if what not in (None, "area", "animal"):
            raise UsageError(f"{pattern}: {{{what}}} is unknown; {{area}} and {{animal}} are known")
        if what is None:
            expression += "[^/]*"
        else:
            expression += f"(?P={what})" if what in seen else f"(?P<{what}>[^/]+)"
            seen.add(what)
    return re.compile(expression + re.escape(pattern[end:]))


def fill(key: str | None, captured: Mapping[str, str]) -> str | None:
    """Return a key with the area and animal of a recording in place of ``{area}`` and ``{animal}``."""
    if key is None:
        return None
    for what, value in captured.items():
        key = key.replace(f"{{{what}}}", value)
    return key


def as_name(value: Any) -> str:
    """Return a name of an area or animal as text; whole numbers without a decimal point."""
    if isinstance(value, float | np.floating) and np.isfinite(value) and value == np.trunc(value):
        value = int(value)
    return str(decode(value)).strip()


def count(number: int, singular: str, plural: str = "") -> str:
    """Return a number of things in words, such as ``3 units``."""
    return f"{number:,} {singular if number == 1 else plural or f'{singular}s'}"


def note_near_key(name: str, what: str, keys: Sequence[str], notes: Notes) -> None:
    """Tell when the name of an area or animal is nearly that of an array or column."""
    near = difflib.get_close_matches(name, keys, n=1, cutoff=0.8)
    if near:
        notes.add(f"{what}: '{name}' is taken for a name; is '{near[0]}', which the file has, meant?")


def missing_name(what: str, path: Path, described: str) -> UsageError:
    """Build the error for recordings of which the area or animal is not said."""
    if what == "area":
        advice = (
            f"give {option_name('area')} NAME (VISp) or KEY, or put {{area}} in "
            f"{wording('--from', 'files')} or {option_name('responses')}"
        )
    else:
        advice = (
            f"give {option_name('animal')} NAME or KEY, or put {{animal}} in "
            f"{wording('--from', 'files')} or {option_name('responses')}"
        )
    return UsageError(f"{path}: which {what}? {advice}\n{described}")


def split_units(
    values: NDArray[Any],
    labels: NDArray[Any] | None,
    areas: str | NDArray[Any],
    animals: str | NDArray[Any],
    what: str,
    notes: Notes,
) -> Iterator[Part]:
    """Yield the units of each area and animal; those without an area are left out.

    Parameters
    ----------
    values
        Responses (n_trials, n_images, n_units).
    labels
        Numbers or names (n_units,) of units, or None.
    areas, animals
        One name, or that of each unit.
    what
        Name of the responses, for messages.
    notes
        Gets what was left out.

    Raises
    ------
    DataError
        If the animal of a unit is missing.
    """
    n_units = values.shape[2]

    def per_unit(names: str | NDArray[Any]) -> list[str]:
        return [names] * n_units if isinstance(names, str) else [as_name(one) for one in names]

    members: dict[tuple[str, str], list[int]] = {}
    n_without = 0
    for index, (area, animal) in enumerate(zip(per_unit(areas), per_unit(animals), strict=True)):
        if area.lower() in NO_NAME:
            n_without += 1
        elif animal.lower() in NO_NAME:
            raise DataError(f"{what}: the animal of unit {index} (counted from 0) is missing")
        else:
            members.setdefault((area, animal), []).append(index)
    if n_without:
        notes.add(f"{count(n_without, 'unit')} without an area left out")
    for (area, animal), units in members.items():
        own = values if len(units) == n_units else values[:, :, units]
        yield Part(area, animal, own, None if labels is None else labels[units], what)


def stimuli_elsewhere(stimuli: str, *, keys: Sequence[str]) -> tuple[NDArray[Any] | None, GreyImages | None]:
    """Read stimuli from a folder or file: an array yet to be arranged, or images."""
    path = expand(stimuli)
    name, colon, key = stimuli.rpartition(":")
    if path.is_dir():
        return None, read_image_folder(path)
    if not path.exists() and colon and expand(name).is_file():
        path = expand(name)
    else:
        key = ""
    if not path.is_file():
        keys = () if "/" in stimuli else keys
        listed = f"\n{valid_names(stimuli, keys)}" if keys else ""
        near = suggest(stimuli, keys)
        raise UsageError(
            f"{option_name('stimuli')} {stimuli}: neither a key of the file, a folder nor a "
            f"file{near}{listed}"
        )
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        raise UsageError(
            f"{option_name('stimuli')} {path}: one image; give the folder of the images, or an array of them"
        )
    if suffix not in ARRAY_SUFFIXES and suffix not in NEURAL_FILE_SUFFIXES:
        raise UsageError(
            f"{option_name('stimuli')} {path}: give a folder of images, {', '.join(ARRAY_SUFFIXES)}"
        )
    if suffix in NEURAL_FILE_SUFFIXES and not key:
        from mvkit.neural.neural_file import open_neural_file

        with open_neural_file(path) as opened:
            return None, GreyImages(opened.contents.stimuli)
    with open_arrays(path) as file:
        names = list(file.shapes)
        chosen = key or (names[0] if len(names) == 1 else next((one for one in STIMULI if one in file), ""))
        if not chosen:
            raise UsageError(
                f"{option_name('stimuli')} {path}: which array? give {path}:KEY\n{file.describe()}"
            )
        return file.read(chosen), None
