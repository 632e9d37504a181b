"""Files written from plain arrays come back number for number, and wrong arrays are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mvkit.errors import DataError
from mvkit.neural import Recording, open_dataset, write_neural_file

STIMULI = np.random.RandomState(0).randint(0, 256, size=(6, 8, 9)).astype(np.uint8)


def recording(
    area: str = "VISp",
    specimen: int = 1,
    *,
    n_trials: int = 4,
    n_units: int = 3,
    first_id: int = 0,
    **more: object,
) -> Recording:
    draws = np.random.RandomState(specimen)
    values = draws.poisson(3.0, size=(n_trials, 6, n_units)).astype(np.float32)
    values[0, 0] = np.nan
    return Recording.from_arrays(
        values, unit_ids=first_id + np.arange(n_units), area=area, specimen=specimen, **more
    )


def write(path: Path, *recordings: Recording, **more: object) -> Path:
    arguments = {"stimuli": STIMULI, "units_of_measure": "spikes/s", **more}
    return write_neural_file(path, recordings, **arguments)


def test_round_trip_is_exact_with_unequal_trials_and_shared_specimens(tmp_path: Path) -> None:
    written = [
        recording("VISl", 2, n_trials=5),
        recording("VISp", 2, n_trials=5, first_id=50, n_units=150),
        recording("VISp", 1, n_trials=3, units={"depth": [1.5, np.nan, 3.0]}),
    ]
    path = write(tmp_path / "mine.h5", *written, frame_ids=[5, 3, 1, 9, 7, 0], source="a test")
    data = open_dataset(path)
    assert data.name == "mine"
    assert data.units_of_measure == "spikes/s"
    assert data.frame_ids.tolist() == [5, 3, 1, 9, 7, 0]
    np.testing.assert_array_equal(data.stimuli, STIMULI)
    assert data.areas == ("VISp", "VISl")
    assert data.specimens("VISp") == (1, 2)
    for original in written:
        back = data.recording(original.area, original.specimen)
        np.testing.assert_array_equal(back.responses, original.responses)
        assert back.responses.dtype == np.float32
        np.testing.assert_array_equal(back.unit_ids, original.unit_ids)
        assert back.time_bins is None
    np.testing.assert_array_equal(data.recording("VISp", 1).units["depth"], [1.5, np.nan, 3.0])
    assert np.isnan(data.recording("VISp", 2).units["depth"]).all()
    assert data.provenance["source"] == "a test"


def test_selection_is_reported_as_not_applied_without_reliabilities(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.h5", recording(n_units=1), recording(specimen=2, n_units=9))
    data = open_dataset(path)
    assert data.n_units == 10
    assert data.selection["applied"] is False
    assert data.selection["note"] == (
        "every unit, because the file has no reliabilities (measure them: mvkit fetch reliability FILE)"
    )


def test_a_reliability_column_is_selected_on(tmp_path: Path) -> None:
    units = {"reliability_mean": [0.74, 0.75, np.nan], "p_run_mod_ns": [0.9, np.nan, 0.9]}
    path = write(tmp_path / "mine.h5", recording(units=units))
    data = open_dataset(path)
    assert data.selection["applied"] is True
    assert data.recordings[0].unit_ids.tolist() == [1]
    assert open_dataset(path, selection="paper").recordings[0].unit_ids.tolist() == [0, 1]
    assert open_dataset(path, selection="none").recordings[0].unit_ids.tolist() == [0, 1, 2]


def test_float64_values_are_kept_and_text_columns_too(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    values = np.random.RandomState(3).standard_normal((2, 6, 2))
    mouse = Recording.from_arrays(
        values, unit_ids=[4, 2], area="VISp", specimen=1, units={"layer": ["L4", "L2/3"]}
    )
    path = write(tmp_path / "wide.h5", mouse, units_of_measure="dF/F", name="two photon")
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["responses"][...], values)
    data = open_dataset(str(path))
    assert data.name == "two photon"
    np.testing.assert_array_equal(data.responses(), values.astype(np.float32))
    assert data.unit_table()["layer"].tolist() == ["L4", "L2/3"]
    assert data.unit_table()["unit_id"].tolist() == [4, 2]


def test_xarray_opens_the_file(tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    path = write(tmp_path / "mine.h5", recording(n_trials=3), recording("VISl", 1, n_trials=4))
    with xarray.open_dataset(path, engine="h5netcdf") as opened:
        assert opened["responses"].dims == ("trials", "frame_id", "units")
        assert opened["visual_area"].to_numpy().tolist() == ["VISp"] * 3 + ["VISl"] * 3
        assert opened["n_trials"].to_numpy().tolist() == [3] * 3 + [4] * 3
        expected = open_dataset(path).responses()
        np.testing.assert_array_equal(opened["responses"].to_numpy(), expected)
        np.testing.assert_array_equal(opened["stimuli"].to_numpy(), STIMULI)


def broken(**changes: object) -> Recording:
    arguments = {"values": np.ones((2, 6, 2)), "unit_ids": [1, 2], "area": "VISp", "specimen": 8, **changes}
    values = arguments.pop("values")
    return Recording.from_arrays(values, **arguments)


INFINITE = np.where(np.arange(2) == 1, np.inf, np.ones((2, 6, 2)))
SILENT = np.where(np.arange(2) == 1, np.nan, np.ones((2, 6, 2)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unit_ids": [3, 3]}, r"VISp/8: unit_ids: 3 occurs more than once"),
        ({"values": INFINITE}, r"VISp/8: values hold infinity"),
        ({"values": SILENT}, r"VISp/8: values of unit 2 are all NaN"),
        ({"values": np.ones((2, 7, 2))}, r"VISp/8: values have 7 images \(second axis\), stimuli 6"),
        ({"values": np.ones((0, 6, 2))}, r"VISp/8: values are empty"),
        ({"area": " "}, r"area is empty"),
        ({"units": {"n_trials": [1, 2]}}, r"VISp/8: column 'n_trials' is written by mvkit itself"),
        (
            {"units": {"when": np.array(["2020", "2021"], dtype="M8[Y]")}},
            r"column 'when' has type datetime64",
        ),
        ({"units": {"a/b": [1, 2]}}, r"column 'a/b' cannot be stored"),
    ],
)
def test_wrong_recordings_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = tmp_path / "never.h5"
    with pytest.raises(DataError, match=message):
        write(path, recording(), broken(**changes))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"stimuli": STIMULI.astype(float)}, r"stimuli must be uint8 .* not float64"),
        ({"stimuli": np.zeros((6, 8, 9, 3), np.uint8)}, r"grey, not uint8 \(6, 8, 9, 3\)"),
        ({"units_of_measure": ""}, r"units_of_measure is empty"),
        ({"frame_ids": [1, 1, 2, 3, 4, 5]}, r"6 different whole numbers"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, more: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        write(tmp_path / "never.h5", recording(), **more)
    assert list(tmp_path.iterdir()) == []


def test_two_of_a_kind_and_nothing_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"VISp/1: given twice"):
        write(tmp_path / "never.h5", recording(first_id=0), recording(first_id=9))
    with pytest.raises(DataError, match=r"no recordings"):
        write(tmp_path / "never.h5")
    text = recording("VISl", 1, units={"layer": ["a", "b", "c"]})
    with pytest.raises(
        DataError, match=r"'layer' is text in recording VISl/1 but numbers in recording VISp/1"
    ):
        write(tmp_path / "never.h5", text, recording(units={"layer": [1, 2, 3]}))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.h5", recording())
    before = path.read_bytes()
    with pytest.raises(DataError):
        write(path, recording(), broken(unit_ids=[3, 3]))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.h5"]


def both(values: object, **changes: object) -> list[Recording]:
    """The same recording from each constructor."""
    given = {"area": "VISp", "specimen": 8, "unit_ids": np.arange(2), **changes}
    return [Recording(responses=values, **given), Recording.from_arrays(values, **given)]


FLOATS = np.random.RandomState(5).uniform(0.5, 9, (3, 6, 2))


@pytest.mark.parametrize(
    ("values", "stored"),
    [
        (FLOATS.astype(np.float32), np.float32),
        (FLOATS.astype(np.float32).tolist(), np.float32),
        (FLOATS.astype(">f4"), np.float32),
        (FLOATS.astype(np.float32).astype(np.float64), np.float32),
        (FLOATS.astype(np.float16), np.float32),
        (FLOATS, np.float64),
        (FLOATS.astype(">f8"), np.float64),
        (np.asfortranarray(FLOATS), np.float64),
        ((FLOATS * 9).astype(np.int64) + 2**24, np.float64),
        ((FLOATS * 9).astype(">u2"), np.float32),
    ],
)
def test_values_come_back_as_given(tmp_path: Path, values: object, stored: type) -> None:
    import h5py

    for made in both(values):
        assert made.responses.dtype == stored
        assert made.responses.dtype.isnative
        np.testing.assert_array_equal(made.responses, np.asarray(values))
        path = write(tmp_path / "a.h5", made)
        with h5py.File(path) as file:
            assert file["responses"].dtype == stored
            np.testing.assert_array_equal(file["responses"][...], np.asarray(values))


def test_what_is_masked_is_missing() -> None:
    mask = np.zeros((3, 6, 2), dtype=bool)
    mask[1, 2] = True
    for dtype in ("f4", "f8", ">f8", "i4", "u1"):
        values = np.ma.array(np.full((3, 6, 2), 7, dtype=dtype), mask=mask, fill_value=99)
        for given in (values, list(values)):
            for made in both(given):
                np.testing.assert_array_equal(made.responses, np.where(mask, np.nan, 7.0))
    columns = {
        "depth": np.ma.array([1, 2], mask=[True, False]),
        "layer": np.ma.array(["L4", "L5"], mask=[False, True]),
        "cre": [b"Slc17a7", None],
        "snr": np.array([1.5, None], dtype=object),
    }
    for made in both(FLOATS, units=columns):
        np.testing.assert_array_equal(made.units["depth"], [np.nan, 2])
        assert made.units["layer"].tolist() == ["L4", ""]
        assert made.units["cre"].tolist() == ["Slc17a7", ""]
        np.testing.assert_array_equal(made.units["snr"], [1.5, np.nan])


@pytest.mark.parametrize(
    "ids",
    [
        [5, 3],
        (5, 3),
        np.array([5, 3], dtype=np.uint64),
        np.array([5, 3], dtype=">i4"),
        np.array([5.0, 3.0]),
        np.array([5, 3], dtype=object),
        np.ma.array([5, 3], mask=False),
    ],
)
def test_whole_numbers_of_every_kind_are_ids(ids: object) -> None:
    for made in both(FLOATS, unit_ids=ids, specimen=np.float64(7), area=b"VISp"):
        assert (made.unit_ids.dtype, made.unit_ids.tolist()) == (np.dtype(np.int64), [5, 3])
        assert (type(made.specimen), made.specimen) == (int, 7)
        assert (type(made.area), made.area, made.label) == (str, "VISp", "recording VISp/7")


REFUSED = [
    ({"unit_ids": [1.2, 1.4]}, r"VISp/8: unit_ids must be whole numbers, not float64 \(1.2, 1.4\)"),
    ({"unit_ids": [1.0, np.nan]}, "VISp/8: unit_ids must be whole numbers; 1 are missing"),
    ({"unit_ids": np.ma.array([1, 2], mask=[0, 1])}, "VISp/8: unit_ids must be whole numbers; 1 are missing"),
    ({"unit_ids": np.array([2**63 + 1, 2], dtype="u8")}, "VISp/8: unit_ids are too large"),
    ({"unit_ids": [2**70, 2]}, "VISp/8: unit_ids are too large"),
    ({"unit_ids": np.array([950911932, 2], "f4")}, "VISp/8: unit_ids .* float32 cannot hold all of them"),
    ({"unit_ids": [2.0**60, 2.0]}, "VISp/8: unit_ids .* float64 cannot hold all of them"),
    ({"unit_ids": ["a", "b"]}, "VISp/8: unit_ids must be whole numbers, not text"),
    ({"unit_ids": [True, False]}, "VISp/8: unit_ids must be whole numbers, not bool"),
    ({"unit_ids": [3, 3]}, "VISp/8: unit_ids: 3 occurs more than once"),
    ({"unit_ids": [1, 2, 3]}, r"VISp/8: unit_ids has shape \(3,\)"),
    ({"specimen": 1.9}, "VISp/1.9: specimen must be a whole number, not 1.9"),
    ({"specimen": "mouse_A"}, "VISp/mouse_A: specimen must be a whole number, not 'mouse_A'"),
    ({"specimen": np.nan}, "VISp/nan: specimen must be a whole number"),
    ({"specimen": None}, "VISp/None: specimen must be a whole number, not None"),
    ({"specimen": True}, "VISp/True: specimen must be a whole number"),
    ({"specimen": 2**63}, "specimen are too large"),
    ({"area": 3}, "3/8: area must be text, not 3"),
    ({"area": b"\xff"}, "area is not UTF-8"),
    ({"values": FLOATS.astype(bool)}, "VISp/8: (values|responses) must be numbers, not bool"),
    ({"values": FLOATS.astype(complex)}, "VISp/8: (values|responses) must be numbers, not complex128"),
    ({"values": FLOATS.astype(object)}, "VISp/8: (values|responses) must be numbers, not object"),
    ({"values": FLOATS.astype(str)}, "VISp/8: (values|responses) must be numbers, not text"),
    # numpy before 1.24 makes an array of lists of it.
    ({"values": [[[1.0, 2.0], [3.0]]]}, "VISp/8: (values|responses) (cannot be made an array|.* not object)"),
    ({"values": np.full((3, 6, 2), 2**53 + 1)}, "VISp/8: responses of type int64 are beyond what float64"),
    ({"units": {"x": np.array([1, "a"], dtype=object)}}, "VISp/8: column 'x' mixes numbers"),
    ({"units": {"x": [1, 2, 3]}}, "VISp/8: column 'x' has shape"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
@pytest.mark.parametrize("make", [Recording, Recording.from_arrays])
def test_both_constructors_refuse_what_would_be_changed(
    make: Callable[..., Recording], changes: dict[str, object], message: str
) -> None:
    given = {"area": "VISp", "specimen": 8, "unit_ids": np.arange(2), "values": FLOATS, **changes}
    name = "values" if make == Recording.from_arrays else "responses"
    given[name] = given.pop("values")
    with pytest.raises(DataError, match=message):
        make(**given)


def test_large_numbers_are_not_rounded_beside_missing_ones(tmp_path: Path) -> None:
    large = recording("VISl", 1, units={"session": [2**60 + 1, 2, 3]})
    path = write(tmp_path / "a.h5", large)
    assert open_dataset(path).unit_table()["session"].tolist() == [2**60 + 1, 2, 3]
    with pytest.raises(
        DataError, match=r"column 'session': whole numbers of recording VISl/1 are beyond 2\*\*53"
    ):
        write(tmp_path / "b.h5", large, recording(first_id=9))


def test_masked_stimuli_and_bytes_beside_recordings(tmp_path: Path) -> None:
    masked = np.ma.array(STIMULI, mask=np.zeros(STIMULI.shape, dtype=bool))
    path = write(
        tmp_path / "a.h5", recording(), stimuli=masked, units_of_measure=b"dF/F", frame_ids=np.arange(6.0)
    )
    data = open_dataset(path)
    assert data.units_of_measure == "dF/F"
    assert data.frame_ids.tolist() == list(range(6))
    np.testing.assert_array_equal(data.stimuli, STIMULI)
    masked.mask[0, 0, 0] = True
    with pytest.raises(DataError, match="stimuli have masked pixels"):
        write(tmp_path / "b.h5", recording(), stimuli=masked)
    with pytest.raises(DataError, match="frame_ids must be whole numbers"):
        write(tmp_path / "b.h5", recording(), frame_ids=np.arange(6) / 2)


@pytest.mark.realdata
def test_real_recordings_round_trip(real_recordings: Path, tmp_path: Path) -> None:
    """All real specimens, with their own trial counts and some in several areas."""
    originals = {}
    for file in sorted(real_recordings.glob("responses_*.npz")):
        area = file.stem.removeprefix("responses_")
        with np.load(file) as arrays:
            for key in [key for key in arrays.files if key.startswith("values_")]:
                specimen = int(key.removeprefix("values_"))
                originals[area, specimen] = Recording.from_arrays(
                    arrays[key], unit_ids=arrays[f"unit_id_{specimen}"], area=area, specimen=specimen
                )
    assert originals
    n_images = next(iter(originals.values())).n_images
    stimuli = np.zeros((n_images, 8, 8), dtype=np.uint8)
    path = write_neural_file(
        tmp_path / "real.h5", list(originals.values()), stimuli=stimuli, units_of_measure="spikes/s"
    )
    data = open_dataset(path)
    assert {(rec.area, rec.specimen) for rec in data.recordings} == set(originals)
    for back in data.recordings:
        original = originals[back.area, back.specimen]
        np.testing.assert_array_equal(back.responses, original.responses)
        np.testing.assert_array_equal(back.unit_ids, original.unit_ids)
