"""Recordings in long and wide tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from mvkit.errors import DataError, UsageError
from mvkit.neural import NeuralDataset
from mvkit.neural.own.recordings import import_recordings
from mvkit.neural.own.request import ImportSettings
from mvkit.neural.own.tables import exact_whole_number


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """A folder of six pictures, scene1.png to scene12.png."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    for index in (1, 2, 3, 10, 11, 12):
        Image.fromarray(np.full((4, 5), index, np.uint8)).save(folder / f"scene{index}.png")
    return folder


@pytest.fixture
def long() -> tuple[pd.DataFrame, dict[tuple[str, str], NDArray[np.float64]]]:
    """A shuffled table of two animals in two areas, with a missing row, and the arrays in it."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    truth = {}
    for area, animal, n_units in (("VISp", "m10", 3), ("VISp", "m9", 2), ("LM", "m9", 4)):
        values = rng.normal(size=(4, 6, n_units))
        truth[area, animal] = values
        for trial, image, unit in np.ndindex(values.shape):
            cell = {
                "trial": trial + 1,
                "image": image,
                "unit": 5 * unit + 100,
                "response": values[trial, image, unit],
            }
            rows.append({**cell, "area": area, "animal": animal})
    table = pd.DataFrame(rows)
    gone = (table.area == "LM") & (table.trial == 2) & (table.image == 3) & (table.unit == 105)
    truth["LM", "m9"][1, 3, 1] = np.nan
    return table[~gone].sample(frac=1, random_state=0), truth


def read(path: Path, **settings: Any) -> tuple[NeuralDataset, str]:
    """Import; return the dataset and the notes as one text."""
    imported = import_recordings([path], ImportSettings(**settings))
    return imported.dataset, "\n".join(imported.notes)


def assert_read(found: Any, expected: Any) -> None:
    """The same numbers; before 3.0, pandas rounded the last digits of what it read in a CSV file."""
    last_digits = 0.0 if int(pd.__version__.split(".")[0]) >= 3 else 1e-14
    np.testing.assert_allclose(found, expected, rtol=last_digits, atol=last_digits)


def check(dataset: NeuralDataset, truth: dict[tuple[str, str], NDArray[np.float64]]) -> None:
    """Compare all recordings."""
    assert {(one.area, one.animal) for one in dataset.recordings} == truth.keys()
    for one in dataset.recordings:
        expected = truth[one.area, one.animal]
        assert_read(one.responses, expected)
        assert one.unit_ids.tolist() == [5 * unit + 100 for unit in range(expected.shape[2])]


@pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz", "parquet"])
def test_long_tables(ending: str, tmp_path: Path, scenes: Path, long: Any) -> None:
    table, truth = long
    path = tmp_path / f"mine.{ending}"
    if ending == "parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False, sep="\t" if ending == "tsv" else ",")
    dataset, notes = read(path, stimuli=str(scenes))
    check(dataset, truth)
    # Animals are numbered in the order of their names.
    assert [(one.area, one.specimen, one.animal) for one in dataset.recordings] == [
        ("VISp", 1, "m9"),
        ("VISp", 2, "m10"),
        ("LM", 1, "m9"),
    ]
    np.testing.assert_array_equal(dataset.stimuli[:, 0, 0], [1, 2, 3, 10, 11, 12])
    columns = ("image", "trial", "unit", "response", "area", "animal")
    assert notes.splitlines()[0] == f"columns: {', '.join(f'{name} {name!r}' for name in columns)}"


def test_columns_of_other_names_and_images_by_name(tmp_path: Path, scenes: Path, long: Any) -> None:
    table, truth = long
    names = np.array(["scene1", "scene2.png", "scene3", "scene10", "scene11", "scene12"])
    renamed = table.assign(image=names[table["image"]]).rename(
        columns={"image": "picture", "trial": "rep", "unit": "roi", "response": "dff", "animal": "who"}
    )
    path = tmp_path / "mine.csv"
    renamed.to_csv(path, index=False)
    keys = {
        "image_ids": "picture",
        "trial_ids": "rep",
        "unit_ids": "roi",
        "responses": "dff",
        "animal": "who",
    }
    dataset, _ = read(path, stimuli=str(scenes), **keys)
    check(dataset, truth)
    with pytest.raises(
        DataError, match=r"column 'picture': no stimulus is called 'scene4' \(valid: scene1, "
    ):
        renamed.assign(picture="scene4").to_csv(path, index=False)
        read(path, stimuli=str(scenes), **keys)


def test_trials_that_count_presentations_or_are_not_given(tmp_path: Path, scenes: Path) -> None:
    values = np.random.default_rng(1).normal(size=(4, 6, 2))
    order = np.random.default_rng(2).permutation(24)
    rows = [
        {
            "trial": shown,
            "image": one % 6,
            "unit": f"u{8 + 2 * unit}",
            "response": values[one // 6, one % 6, unit],
        }
        for shown, one in enumerate(order)
        for unit in range(2)
    ]
    path = tmp_path / "mine.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    expected = np.empty_like(values)
    for image in range(6):
        own = [one // 6 for one in order if one % 6 == image]
        expected[:, image] = values[own, image]
    dataset, notes = read(path, stimuli=str(scenes), area="V1", animal="4")
    assert_read(dataset.recordings[0].responses, expected)
    assert "trial numbers count presentations" in notes
    # By value, not by letters.
    assert dataset.recordings[0].units["unit_name"].tolist() == ["u8", "u10"]
    assert dataset.recordings[0].specimen == 4
    pd.DataFrame(rows).drop(columns="trial").to_csv(path, index=False)
    dataset, notes = read(path, stimuli=str(scenes), area="V1", animal="4")
    assert_read(dataset.recordings[0].responses, expected)
    assert "trials in their order" in notes


def test_wide_tables(tmp_path: Path, scenes: Path) -> None:
    values = np.random.default_rng(3).normal(size=(4, 6, 3))
    rows = [
        {"trial": trial, "image": image, **{f"u{unit}": values[trial, image, unit] for unit in range(3)}}
        for trial, image in np.ndindex(4, 6)
    ]
    table = pd.DataFrame(rows).assign(speed=1.0, animal="m1")
    path = tmp_path / "mine.parquet"
    table.to_parquet(path)
    dataset, notes = read(path, stimuli=str(scenes), area="V1", responses="u*")
    assert_read(dataset.recordings[0].responses, values)
    assert dataset.recordings[0].units["unit_name"].tolist() == ["u0", "u1", "u2"]
    assert "a column for each unit" in notes
    dataset, notes = read(path, stimuli=str(scenes), area="anima")
    assert dataset.recordings[0].units["unit_name"].tolist() == ["u0", "u1", "u2", "speed"]
    assert "area: 'anima' is taken for a name; is 'animal', which the file has, meant?" in notes
    with pytest.raises(UsageError, match=r"no column fits 'x.'"):
        read(path, stimuli=str(scenes), area="V1", responses="x*")


def test_refusals_name_the_line(tmp_path: Path, scenes: Path, long: Any) -> None:
    table, _ = long
    table = table.reset_index(drop=True)
    path = tmp_path / "mine.csv"

    def refuse(
        changed: pd.DataFrame, message: str, kind: type[Exception] = DataError, **settings: Any
    ) -> None:
        changed.to_csv(path, index=False)
        with pytest.raises(kind, match=message):
            read(path, **{"stimuli": str(scenes), **settings})

    def change(column: str, value: Any) -> pd.DataFrame:
        changed = table.astype({column: object})
        changed.loc[3, column] = value
        return changed

    refuse(
        change("response", np.inf), "mine.csv: line 5: response is infinite; leave missing responses empty"
    )
    refuse(change("response", "x"), "mine.csv: line 5: response is 'x', expected a number")
    refuse(change("area", None), "mine.csv: line 5: area is missing")
    refuse(change("unit", None), "mine.csv: line 5: unit is missing")
    refuse(change("trial", None), "mine.csv: line 5: trial is missing")
    refuse(change("image", 6), "column 'image': image 6 at presentation 3")
    refuse(change("image", 2.5), "2.5 is no number of an image")
    twice = pd.concat([table, table.iloc[[7]]])
    refuse(twice, f"line {len(table) + 2}: the same unit, image and trial as line 9")
    refuse(
        table.drop(columns="image"),
        "which column has the image\\? give --image-ids COLUMN\ncolumns: trial, unit",
        UsageError,
    )
    refuse(table.drop(columns="response"), "which column has the responses", UsageError)
    refuse(table.drop(columns="area"), "which area\\? give --area NAME", UsageError)
    refuse(table, "has no column 'imag'; did you mean 'image'", UsageError, image_ids="imag")
    refuse(table, "which stimuli\\? give --stimuli", UsageError, stimuli=None)
    refuse(table[:0], "has no rows")
    path.write_text("a;b\n1;2\n")
    with pytest.raises(UsageError, match="columns: a, b"):
        read(path, stimuli=str(scenes))
    (tmp_path / "mine.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"mine.parquet: not a readable table"):
        read(tmp_path / "mine.parquet")


def test_images_by_the_numbers_of_files(tmp_path: Path) -> None:
    folder = tmp_path / "numbered"
    folder.mkdir()
    for number in (7, 8, 30):
        Image.fromarray(np.full((2, 2), number, np.uint8)).save(folder / f"{number:03}.png")
    values = np.random.default_rng(0).normal(size=(2, 3, 2))
    rows = [
        {
            "trial": trial,
            "image": (30, 7, 8)[image],
            "u0": values[trial, image, 0],
            "u1": values[trial, image, 1],
        }
        for trial, image in np.ndindex(2, 3)
    ]
    path = tmp_path / "mine.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    dataset, notes = read(path, stimuli=str(folder), area="V1")
    assert_read(dataset.recordings[0].responses, values[:, [1, 2, 0]])
    assert dataset.frame_ids.tolist() == [7, 8, 30]
    assert "images are matched by the numbers that their files are called" in notes


def text_table(
    frame: pd.DataFrame, *, decimal: str = ".", separator: str = ",", end: str = "\n", beginning: str = ""
) -> str:
    """A long table as text."""
    text = frame.to_csv(index=False, sep=separator, decimal=decimal, lineterminator=end)
    return beginning + text


@pytest.mark.parametrize(
    ("options", "encoding", "name"),
    [
        ({}, "utf-8-sig", "mine.csv"),
        ({"end": "\r\n"}, "utf-8", "mine.csv"),
        ({"separator": ";"}, "utf-8", "mine.csv"),
        ({"separator": ";", "decimal": ",", "end": "\r\n"}, "utf-8-sig", "mine.csv"),
        ({"separator": ";", "decimal": ",", "beginning": "sep=;\r\n"}, "utf-8", "mine.csv"),
        ({"separator": "\t"}, "utf-8", "mine.csv"),
        ({"separator": "\t", "decimal": ",", "end": "\r\n"}, "utf-16", "mine.csv"),
        ({"separator": "\t", "decimal": ","}, "utf-8", "mine.tsv"),
    ],
)
def test_tables_of_spreadsheet_programs(
    options: dict[str, str],
    encoding: str,
    name: str,
    long: tuple[pd.DataFrame, dict[tuple[str, str], NDArray[np.float64]]],
    scenes: Path,
    tmp_path: Path,
) -> None:
    table, truth = long
    (tmp_path / name).write_bytes(text_table(table, **options).encode(encoding))
    dataset, _ = read(tmp_path / name, stimuli=str(scenes))
    check(dataset, truth)


def test_empty_rows_and_columns_at_the_ends(
    long: tuple[pd.DataFrame, dict[tuple[str, str], NDArray[np.float64]]], scenes: Path, tmp_path: Path
) -> None:
    table, truth = long
    lines = table.to_csv(index=False).splitlines()
    path = tmp_path / "mine.csv"
    path.write_text("".join(f"{line},,\n" for line in [*lines, ",,,,,", ",,,,,"]))
    dataset, _ = read(path, stimuli=str(scenes))
    check(dataset, truth)
    path.write_text("".join(f"{line}\n" for line in [lines[0], "", *lines[1:9], "1,0,100,x,VISp,m10"]))
    with pytest.raises(DataError, match="line 11: response is 'x', expected a number"):
        read(path, stimuli=str(scenes))


HEADER = "image,trial,u1,u2\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        # Never a number that is not the one meant, nor a unit that is left out.
        (
            HEADER + "0,1,0,5,0,7\n1,1,0,6,0,8\n",
            "mine.csv: rows have more fields than the header has names\nare",
        ),
        (HEADER + "0,1,0,5,2\n1,1,0,6,3\n", "mine.csv: rows have more fields than the header has names"),
        (HEADER + "0,1,5,7\n1,1,#DIV/0!,8\n", "mine.csv: line 3: u1 is '#DIV/0!', expected a number"),
        (
            HEADER + '0,1,"1,234.5",7\n1,1,"2,234.5",8\n',
            "mine.csv: line 2: u1 is '1,234.5', expected a number",
        ),
        (HEADER + '0,1,"0,5",7\n1,1,"0,6",8\n', "mine.csv: line 2: u1 is '0,5', expected a number"),
        (HEADER + "0,1,5 %,7\n1,1,6 %,8\n", "mine.csv: line 2: u1 is '5 %', expected a number"),
        ("image,trial,u1,u1\n0,1,5,7\n", "mine.csv: two columns are called 'u1'"),
        (
            ",image,trial,u1\n0,0,1,5\n1,1,1,6\n",
            "mine.csv: column 1 has no name; are its values the numbers of",
        ),
        (
            "image;trial;u1;u2\n0;1;0,5;7.5\n1;1;0,6;8\n",
            "mine.csv: line 2: u1 is '0,5', line 2: u2 is '7.5'\nwhich is the decimal sign, comma or point?",
        ),
        ("image;trial;u1\n0;1;1.234\n1;1;567\n", "mine.csv: line 2: u1 is '1.234': are there thousands?\n"),
        ("image;trial;u1\n0;1;1,234\n1;1;567\n", "mine.csv: line 2: u1 is '1,234': are there thousands?\n"),
        ("image;trial;u1\n0;1;1.234,5\n1;1;567\n", "mine.csv: line 2: u1 is '1.234,5', expected a number"),
        (
            "image,trial,unit,response\n0,1,7.15E+08,1\n0,1,7.16E+08,2\n1,1,7.15E+08,1\n1,1,7.16E+08,2\n",
            "mine.csv: line 2: unit: '7.15E+08' is no whole number with all its digits",
        ),
        ("image,trial,caf\xe9\n0,1,2\n", "mine.csv: line 1 is not UTF-8; save it as CSV (UTF-8)"),
        ("PK\x03\x04\x00", "mine.csv: not a table in text; of a spreadsheet, save the sheet as CSV (UTF-8)"),
    ],
)
def test_never_a_wrong_number_in_silence(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(text.encode("latin-1"))
    np.save(tmp_path / "images.npy", np.zeros((2, 4, 5), np.uint8))
    with pytest.raises(DataError) as caught:
        read(path, stimuli=str(tmp_path / "images.npy"), area="VISp", animal="m")
    assert str(caught.value).replace(f"{tmp_path}/", "").startswith(words)


@pytest.mark.parametrize(
    ("text", "number"),
    [("715093703", 715093703), ("715093703.0", 715093703), ("7.15093703E+8", 715093703), ("-3", -3)],
)
def test_whole_numbers_as_spreadsheets_show_them(text: str, number: int) -> None:
    assert exact_whole_number(text) == number


@pytest.mark.parametrize("text", ["", "x", "1.5", "7.15E+08", "7E8", "1_000", "1,000", "1e-3", "nan", "inf"])
def test_what_is_no_whole_number(text: str) -> None:
    with pytest.raises(ValueError, match="is no whole number"):
        exact_whole_number(text)
