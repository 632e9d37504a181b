"""Recordings in tables: a row for every response, or for every presentation with a column per unit."""

from __future__ import annotations

import codecs
import csv
import gzip
import re
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError, UsageError, option_name, suggest
from mvkit.files import check_unpacked, natural_key
from mvkit.neural.grey_images import GreyImages
from mvkit.neural.nwb import order_presentations
from mvkit.neural.own.presentations import by_trial_and_image, grey_of_ids, match_images
from mvkit.neural.own.request import (
    ANIMAL,
    AREA,
    IMAGE_IDS,
    PLACEHOLDER,
    RESPONSES,
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
    stimuli_elsewhere,
)

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
#: A table with fewer responses than this part of its cells has wrong columns.
_LEAST_FILLED = 0.02
_MOST_EMPTY_CELLS = 10_000_000
#: Bytes at the beginning of a table that are looked at: more than a header.
_HEAD_BYTES = 1 << 20
#: How pandas names columns without a name.
_UNNAMED = "Unnamed: "
_DECIMAL_COMMA, _DECIMAL_POINT = "comma", "point"
_STYLES = {
    _DECIMAL_COMMA: r"[-+]?\d*,\d+(?:[eE][-+]?\d+)?",
    _DECIMAL_POINT: r"[-+]?\d*\.\d+(?:[eE][-+]?\d+)?|[-+]?\d+(?:[.,]\d{3})+[.,]\d+",
}
_THOUSANDS = r"[-+]?[1-9]\d{0,2}(?:[.,]\d{3})+"
#: What was meant as a number: 1,234.5, 1 234, 50 %, #DIV/0!
_LIKE_NUMBER = re.compile(r"\s*[-+\u2212]?[\d.,'\s]*\d[\d.,'\s]*(?:[eE][-+]?\d+)?\s*%?|#[A-Z/0]+[!?]")
_CELL_BYTES = 8
_BLOCK_BYTES = 1 << 20


def read_table(
    source: Source, settings: ImportSettings, stimuli: GreyImages | None, notes: Notes
) -> tuple[GreyImages, list[Part]]:
    """Read a table: responses of every area and animal in it.

    Parameters and errors are those of :func:`mvkit.neural.own.recordings.import_recordings`.
    """
    table = _Table(source.path)
    image = table.find(settings.image_ids, IMAGE_IDS)
    if image is None:
        raise UsageError(
            f"{table.path}: which column has the image? give {option_name('image_ids')} COLUMN\n"
            f"{table.describe()}"
        )
    images = stimuli or _stimuli_of_table(settings, table, image)
    unit, trial = table.find(settings.unit_ids, UNIT_IDS), table.find(settings.trial_ids, TRIAL_IDS)
    area = _column_or_name(table, settings.area, AREA, source, "area", notes)
    animal = _column_or_name(table, settings.animal, ANIMAL, source, "animal", notes)
    used = [column for column in (image, trial, unit) if column is not None]
    groups = _table_groups(table, area, animal)
    response = None if unit is None else table.find(settings.responses, RESPONSES)
    if unit is not None and response is None:
        raise UsageError(
            f"{table.path}: which column has the responses? give {option_name('responses')} "
            f"COLUMN\n{table.describe()}"
        )
    in_words = [
        f"image '{image}'",
        "trials in their order" if trial is None else f"trial '{trial}'",
        "a column for each unit" if unit is None else f"unit '{unit}', response '{response}'",
        *(f"{what} '{column}'" for what, (column, known) in (("area", area), ("animal", animal)) if known),
    ]
    notes.add(f"columns: {', '.join(in_words)}")
    parts = []
    where = f"{table.path}: column '{image}'"
    shown = match_images(table.column(image), images, where, notes)
    if unit is None or response is None:
        responses = _unit_columns(
            table, settings, [*used, *_columns_of(table, area), *_columns_of(table, animal)]
        )
        for (own_area, own_animal), rows in groups.items():
            values = np.stack([table.numbers(column)[rows] for column in responses], axis=1)
            arranged = by_trial_and_image(
                values,
                shown[rows],
                None if trial is None else table.column(trial)[rows],
                len(images.images),
                where,
                notes,
            )
            parts.append(
                Part(own_area, own_animal, arranged, np.array(responses, dtype=str), str(table.path))
            )
        return images, parts
    for (own_area, own_animal), rows in groups.items():
        arranged, labels = _pivot(table, response, unit, trial, rows, shown, images, notes)
        parts.append(Part(own_area, own_animal, arranged, labels, str(table.path)))
    return images, parts


@dataclass(frozen=True)
class TextFormat:
    """How a program wrote a table as text.

    Attributes
    ----------
    encoding
        By the mark at the beginning; UTF-8 without one.
    separator
        Comma, semicolon or tab: the one that divides the header into most columns.
    n_skipped
        Lines before the header: 1 for Excel's ``sep=;``.
    columns
        The header.
    """

    encoding: str
    separator: str
    n_skipped: int
    columns: tuple[str, ...]

    @classmethod
    def of(cls, path: Path) -> TextFormat:
        """Look at the beginning of a file, which may be packed with gzip.

        Raises
        ------
        DataError
            If it is not text, or two columns have one name.
        """
        is_packed = path.name.lower().endswith(".gz")
        with gzip.open(path, "rb") if is_packed else path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        marks = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
        encoding = next((one for mark, one in marks.items() if head.startswith(mark)), "utf-8")
        if head.startswith(b"PK\x03\x04") or (b"\0" in head and encoding != "utf-16"):
            raise DataError(f"{path}: not a table in text; of a spreadsheet, save the sheet as CSV (UTF-8)")
        lines = head.decode(encoding, "replace").splitlines() or [""]
        n_skipped, given = 0, re.fullmatch(r'"?sep=(.)"?[,;]*', lines[0].strip())
        if given is not None:
            lines, n_skipped = [*lines[1:], ""], 1
        by_separator = {one: next(csv.reader([lines[0]], delimiter=one), []) for one in (",", ";", "\t")}
        separator = max(by_separator, key=lambda one: len(by_separator[one]))
        columns = tuple(name.strip() for name in by_separator[separator])
        twice = next((name for name in columns if name and columns.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"{path}: two columns are called '{twice}'")
        return cls(encoding, separator, n_skipped, columns)

    def is_local(self, frame: Any) -> bool:
        """Tell whether numbers may be written as in the country of a spreadsheet's user."""
        return (
            self.separator == ";"
            or self.encoding == "utf-16"
            or (self.separator == "\t" and _DECIMAL_COMMA in _number_styles(frame))
        )


def exact_whole_number(text: str) -> int:
    """Return the whole number that a text is: of ``715093703``, ``715093703.0``, ``7.15093703E+8``.

    Raises
    ------
    ValueError
        If it is none, or digits of it are lost (``7.15E+08``), as spreadsheets show long numbers.
    """
    match = re.fullmatch(r"([-+]?[0-9]+)(?:\.([0-9]+))?(?:[eE]\+?([0-9]+))?", text.strip())
    whole, part, power = (match[1], match[2] or "", int(match[3] or 0)) if match else ("", "", 0)
    if match is None or part[power:].strip("0") or (match[3] is not None and len(part) < power):
        raise ValueError(f"'{text}' is no whole number with all its digits")
    return int(whole + part[:power])


def _check_size(path: Path) -> None:
    """Check that a table does not unpack to vastly more than its file has."""
    n_stored = path.stat().st_size
    if path.suffix.lower() == ".parquet":
        from pyarrow import parquet

        about = parquet.read_metadata(path)
        check_unpacked(about.num_rows * about.num_columns * _CELL_BYTES, n_stored, str(path))
    elif path.suffix.lower() == ".gz":
        n_bytes = 0
        with gzip.open(path) as file:
            while block := file.read(_BLOCK_BYTES):
                n_bytes += len(block)
                check_unpacked(n_bytes, n_stored, str(path))


class _Table:
    """A table with named columns."""

    def __init__(self, path: Path) -> None:
        import pandas

        self.path = path
        self._format: TextFormat | None = None
        try:
            _check_size(path)
            if path.name.lower().endswith(".parquet"):
                frame: pandas.DataFrame = pandas.read_parquet(path)
            else:
                self._format = TextFormat.of(path)
                frame = self._read_text(self._format)
                if self._format.is_local(frame):
                    frame = self._read_local_numbers(self._format)
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such file") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: {_where_not_text(path)}; save it as CSV (UTF-8)") from error
        except (OSError, ValueError, KeyError, EOFError, MemoryError, zlib.error) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(f"{path}: not a readable table ({reason})") from error
        frame = frame.rename(columns=lambda column: str(column).strip())
        # Spreadsheets leave empty columns and rows at the ends.
        empty = [name for name in frame.columns if name.startswith(_UNNAMED) and frame[name].isna().all()]
        filled = ~frame.isna().all(axis=1)
        # Lines are counted as an editor does, with the header.
        self._first_line = 1 if self._format is None else 2 + self._format.n_skipped
        self._lines = np.flatnonzero(filled) + self._first_line
        self._frame = frame.drop(columns=empty)[filled].reset_index(drop=True)
        if self._frame.empty:
            raise DataError(f"{path}: has no rows")

    def _read_text(self, form: TextFormat, **options: Any) -> Any:
        """Read the text as pandas does; a row with more fields than the header is an error."""
        import pandas

        with warnings.catch_warnings():
            # pandas warns of lost fields, and takes them for names of rows without index_col.
            warnings.simplefilter("error", pandas.errors.ParserWarning)
            try:
                return pandas.read_csv(
                    self.path,
                    sep=form.separator,
                    encoding=form.encoding,
                    skiprows=form.n_skipped,
                    skip_blank_lines=False,
                    index_col=False,
                    low_memory=False,
                    **options,
                )
            except pandas.errors.ParserWarning as error:
                raise DataError(
                    f"{self.path}: rows have more fields than the header has names\n"
                    "are numbers written with decimal commas? separate the columns with semicolons then"
                ) from error

    def _read_local_numbers(self, form: TextFormat) -> Any:
        """Read a table in which decimal signs may be commas; DataError where that is not clear."""
        import pandas

        frame = self._read_text(form, dtype=str)
        first = 2 + form.n_skipped
        styles = _number_styles(frame)
        if len(styles) > 1:
            (row, name), (other, second) = styles[_DECIMAL_COMMA], styles[_DECIMAL_POINT]
            raise DataError(
                f"{self.path}: line {row + first}: {name} is '{frame[name][row]}', "
                f"line {other + first}: {second} is '{frame[second][other]}'\n"
                "which is the decimal sign, comma or point? write all numbers with one"
            )
        for name in frame.columns:
            numbers = pandas.to_numeric(frame[name].str.replace(",", ".", regex=False), errors="coerce")
            if (numbers.isna() & frame[name].notna()).any():
                continue
            marked = frame[name].str.contains("[.,]", na=False)
            if marked.any() and frame[name][marked].str.fullmatch(_THOUSANDS).all() and not marked.all():
                row = int(np.argmax(marked))
                raise DataError(
                    f"{self.path}: line {row + first}: {name} is '{frame[name][row]}': are there thousands?\n"
                    "save the table with numbers that are not grouped"
                )
            frame[name] = numbers
        return frame

    def describe(self) -> str:
        """Return a line that lists the columns."""
        names = list(map(str, self._frame.columns))
        more = f" and {len(names) - 12} more" if len(names) > 12 else ""
        return f"columns: {', '.join(names[:12])}{more}"

    def find(self, given: str | None, usual: Sequence[str]) -> str | None:
        """Return the column given, or the first usual one that is there; None for none."""
        if given is not None and given not in self._frame.columns and not PLACEHOLDER.search(given):
            names = list(map(str, self._frame.columns))
            raise UsageError(
                f"{self.path}: has no column '{given}'{suggest(given, names)}\n{self.describe()}"
            )
        return given or next((one for one in usual if one in self._frame.columns), None)

    def __contains__(self, name: str) -> bool:
        return name in self._frame.columns

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(map(str, self._frame.columns))

    def __len__(self) -> int:
        return len(self._frame)

    def column(self, name: str) -> NDArray[Any]:
        """Return a column of names or ids; text as objects.

        Raises
        ------
        DataError
            If digits of an id are lost, as spreadsheets show long numbers (``7.15E+08``).
        """
        values = self._values(name)
        if values.dtype.kind == "f" and self._format is not None and np.abs(values).max(initial=0) >= 1e5:
            written = self._read_text(self._format, dtype=str).rename(columns=str.strip)[name]
            for row, line in enumerate(self._lines):
                text = written[line - self._first_line]
                if isinstance(text, str) and "e" in text.lower():
                    try:
                        exact_whole_number(text.replace(",", "."))
                    except ValueError as error:
                        raise DataError(f"{self.place(row)}: {name}: {error}") from error
        return values

    def _values(self, name: str) -> NDArray[Any]:
        series = self._frame[name]
        return series.to_numpy(dtype=object if series.dtype.kind not in "biuf" else None)

    def place(self, row: int) -> str:
        """Return where a row is, for messages."""
        return f"{self.path}: {'row' if self._first_line == 1 else 'line'} {self._lines[row]}"

    def is_numeric(self, name: str) -> bool:
        """Tell whether a column holds numbers, also if some of them cannot be read."""
        values = self._values(name)
        return values.dtype.kind in "iuf" or (
            values.dtype.kind == "O"
            and any(isinstance(value, str) and _LIKE_NUMBER.fullmatch(value) for value in values)
        )

    def numbers(self, name: str) -> NDArray[Any]:
        """Return a column of numbers; DataError names the first row with something else, or infinity."""
        values = self._values(name)
        if values.dtype.kind == "O":
            import pandas

            converted = pandas.to_numeric(pandas.Series(values), errors="coerce").to_numpy(dtype=np.float64)
            bad = np.flatnonzero(np.isnan(converted) & ~pandas.isna(values))
            if len(bad):
                raise DataError(f"{self.place(int(bad[0]))}: {name} is '{values[bad[0]]}', expected a number")
            values = converted
        if values.dtype.kind == "f" and np.isinf(values).any():
            row = int(np.argmax(np.isinf(values)))
            raise DataError(f"{self.place(row)}: {name} is infinite; leave missing responses empty")
        return values


def _number_styles(frame: Any) -> dict[str, tuple[int, str]]:
    """Return the decimal signs in columns of text, each with a row and a column that has it."""
    styles: dict[str, tuple[int, str]] = {}
    for name in frame.columns:
        if frame[name].dtype.kind == "O":
            for style, pattern in _STYLES.items():
                rows = np.flatnonzero(frame[name].astype(str).str.fullmatch(pattern))
                if len(rows):
                    styles.setdefault(style, (int(rows[0]), name))
    return styles


def _where_not_text(path: Path) -> str:
    """Return the first line of a file that is not UTF-8, for messages."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return f"line {number} is not UTF-8"
    return "not UTF-8"


def _stimuli_of_table(settings: ImportSettings, table: _Table, image: str) -> GreyImages:
    if settings.stimuli is None:
        raise UsageError(f"{table.path}: which stimuli? give {option_name('stimuli')} FOLDER|FILE")
    array, images = stimuli_elsewhere(settings.stimuli, keys=())
    if array is not None:
        return grey_of_ids(array, table.column(image), settings.stimuli)
    if images is None:
        raise DataError(f"{settings.stimuli}: no images")
    return images


def _column_or_name(
    table: _Table, given: str | None, usual: Sequence[str], source: Source, what: str, notes: Notes
) -> tuple[str, bool]:
    """Return a column, or the name of the only area or animal, and whether it is a column."""
    given = fill(given, source.captured) or source.captured.get(what) or table.find(None, usual)
    if given is not None:
        if given not in table:
            note_near_key(given, what, table.columns, notes)
        return given, given in table
    by_name = source.animal_by_name(notes) if what == "animal" else None
    if by_name is None:
        raise missing_name(what, table.path, table.describe())
    return by_name, False


def _columns_of(table: _Table, named: tuple[str, bool]) -> list[str]:
    return [named[0]] if named[1] else []


def _table_groups(
    table: _Table, area: tuple[str, bool], animal: tuple[str, bool]
) -> dict[tuple[str, str], NDArray[np.int64]]:
    """Return (area, animal) -> rows."""
    import pandas

    codes, names = [], []
    for column, is_column in (area, animal):
        if not is_column:
            codes.append(np.zeros(len(table), dtype=np.int64))
            names.append([column])
            continue
        values = table.column(column)
        missing = np.flatnonzero(pandas.isna(values))
        if len(missing):
            raise DataError(f"{table.place(int(missing[0]))}: {column} is missing")
        code, unique = pandas.factorize(values)
        codes.append(code.astype(np.int64))
        names.append([as_name(one) for one in unique])
    joint = codes[0] * len(names[1]) + codes[1]
    return {
        (names[0][int(one) // len(names[1])], names[1][int(one) % len(names[1])]): np.flatnonzero(
            joint == one
        )
        for one in np.unique(joint)
    }


def _unit_columns(table: _Table, settings: ImportSettings, used: Sequence[str]) -> list[str]:
    """Return the columns of a table with one per unit."""
    others = [column for column in table.columns if column not in used]
    if settings.responses is not None:
        pattern = name_pattern(settings.responses)
        others = [column for column in others if pattern.fullmatch(column)]
        if not others:
            raise UsageError(f"{table.path}: no column fits '{settings.responses}'\n{table.describe()}")
        return others
    # A number that cannot be read makes a column text: it is an error, and no reason to leave a unit out.
    chosen = [column for column in others if table.is_numeric(column)]
    unnamed = next((column for column in chosen if column.startswith(_UNNAMED)), None)
    if unnamed is not None:
        raise DataError(
            f"{table.path}: column {table.columns.index(unnamed) + 1} has no name; are its values "
            "the numbers of rows? remove it, or name it"
        )
    if not chosen:
        raise UsageError(
            f"{table.path}: which column has the unit? give {option_name('unit_ids')} COLUMN\n"
            f"{table.describe()}"
        )
    return chosen


def _pivot(
    table: _Table,
    response: str,
    unit: str,
    trial: str | None,
    rows: NDArray[np.int64],
    image_index: NDArray[np.int64],
    stimuli: GreyImages,
    notes: Notes,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return responses (n_trials, n_images, n_units) and labels of units of some rows of a long table."""
    import pandas

    rows = rows[image_index[rows] >= 0]
    values, images = table.numbers(response)[rows], image_index[rows]
    if not len(rows):
        raise DataError(f"{table.path}: no presentation of an image")
    units = table.column(unit)[rows]
    missing = np.flatnonzero(pandas.isna(units))
    if len(missing):
        raise DataError(f"{table.place(int(rows[missing[0]]))}: {unit} is missing")
    unit_codes, labels = pandas.factorize(units, sort=units.dtype.kind != "O")
    if units.dtype.kind == "O":
        by_name = sorted(range(len(labels)), key=lambda code: natural_key(str(labels[code])))
        unit_codes, labels = np.argsort(by_name)[unit_codes], labels[by_name]
    if trial is None:
        key = unit_codes.astype(np.int64) * len(stimuli.images) + images
        trials = pandas.Series(key).groupby(key).cumcount().to_numpy()
    else:
        trials = _trials_of_rows(table.column(trial)[rows], images, table, trial, rows, notes)
    n_trials, n_images, n_units = int(trials.max()) + 1, len(stimuli.images), len(labels)
    n_cells = n_trials * n_images * n_units
    if n_cells > _MOST_EMPTY_CELLS and len(rows) < _LEAST_FILLED * n_cells:
        raise DataError(
            f"{table.path}: {len(rows)} responses for {n_trials} trials, {n_images} images, {n_units} units\n"
            f"are '{trial}', '{unit}' the right columns?"
        )
    flat = (trials * n_images + images) * n_units + unit_codes
    order = np.argsort(flat, kind="stable")
    twice = np.flatnonzero(np.diff(flat[order]) == 0)
    if len(twice):
        first, second = int(rows[order[twice[0]]]), int(rows[order[twice[0] + 1]])
        before = table.place(first).rpartition(": ")[2]
        raise DataError(f"{table.place(second)}: the same unit, image and trial as {before}")
    dtype = values.dtype if values.dtype.kind == "f" else np.dtype(np.float64)
    arranged = np.full(n_cells, np.nan, dtype=dtype)
    arranged[flat] = values
    return arranged.reshape(n_trials, n_images, n_units), np.asarray(labels)


def _trials_of_rows(
    labels: NDArray[Any],
    images: NDArray[np.int64],
    table: _Table,
    trial: str,
    rows: NDArray[np.int64],
    notes: Notes,
) -> NDArray[np.int64]:
    """Return the trial of every row, from 0, by its label."""
    import pandas

    missing = np.flatnonzero(pandas.isna(labels))
    if len(missing):
        raise DataError(f"{table.place(int(rows[missing[0]]))}: {trial} is missing")
    codes, unique = pandas.factorize(labels, sort=True)
    codes = codes.astype(np.int64)
    # A row for each unit: presentations are the pairs of trial and image.
    pairs = np.unique(codes * (int(images.max()) + 1) + images)
    if len(pairs) == len(unique) and len(np.unique(images)) > 1 and len(unique) > 1:
        image_of = pairs % (int(images.max()) + 1)
        notes.add("trial numbers count presentations: trials are numbered anew within each image")
        found = order_presentations(
            np.arange(len(unique)), image_of.astype(np.float64), np.zeros(len(unique), dtype=bool)
        )
        return found.trial_index[codes]
    return codes
