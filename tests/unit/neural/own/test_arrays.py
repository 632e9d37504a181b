"""Recordings in NumPy's and MATLAB's files, in the layouts that these programs write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray
from PIL import Image

from mvkit.errors import DataError, UsageError
from mvkit.neural import NeuralDataset, open_dataset
from mvkit.neural.own.array_files import open_arrays
from mvkit.neural.own.recordings import import_recordings
from mvkit.neural.own.request import ImportSettings

#: (n_trials, n_images, n_units); all differ, so that one order of axes fits.
SHAPE = (5, 6, 4)


@pytest.fixture
def values() -> NDArray[np.float64]:
    """Responses with values that float32 cannot hold, a negative one, and a missing trial."""
    values = np.random.default_rng(0).normal(size=SHAPE)
    values[2, 3, 1] = np.nan
    return values


@pytest.fixture
def stimuli() -> NDArray[np.uint8]:
    """Grey images, not square."""
    return np.random.default_rng(1).integers(0, 256, (6, 7, 9), dtype=np.uint8)


def write_v73(path: Path, **variables: Any) -> Path:
    """Write arrays as MATLAB does with -v7.3: axes reversed, text as numbers, cells as references."""
    with h5py.File(path, "w", userblock_size=512) as file:

        def add(group: h5py.Group, name: str, value: Any) -> None:
            if isinstance(value, str):
                codes = np.frombuffer(value.encode("utf-16-le"), "<u2").reshape(-1, 1)
                group[name] = codes
                group[name].attrs["MATLAB_class"] = np.bytes_("char")
            elif isinstance(value, list):
                references = []
                for index, element in enumerate(value):
                    add(file.require_group("#refs#"), f"{name}{index}", element)
                    references.append(file[f"#refs#/{name}{index}"].ref)
                data = np.array(references, dtype=h5py.ref_dtype).reshape(-1, 1)
                group.create_dataset(name, data=data, dtype=h5py.ref_dtype)
                group[name].attrs["MATLAB_class"] = np.bytes_("cell")
            elif isinstance(value, dict):
                struct = group.create_group(name)
                struct.attrs["MATLAB_class"] = np.bytes_("struct")
                for part, inner in value.items():
                    add(struct, part, inner)
            else:
                array = np.asarray(value)
                is_bool = array.dtype == bool
                group[name] = np.atleast_2d(array).T.astype(np.uint8 if is_bool else array.dtype)
                kind = (
                    "logical"
                    if is_bool
                    else {"f8": "double", "u1": "uint8"}.get(array.dtype.str[1:], "int64")
                )
                group[name].attrs["MATLAB_class"] = np.bytes_(kind)

        for name, value in variables.items():
            add(file, name, value)
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(116) + b"\0" * 8 + b"\x00\x02IM")
    return path


def write(path: Path, kind: str, **variables: Any) -> Path:
    """Write variables in a format; texts in lists are cell arrays in MATLAB's."""
    if kind == "npz":
        path = path.with_suffix(".npz")
        np.savez(path, **variables)
    elif kind == "h5":
        path = path.with_suffix(".h5")
        with h5py.File(path, "w") as file:
            for name, value in variables.items():
                file[name] = value
    elif kind == "v73":
        path = write_v73(path.with_suffix(".mat"), **variables)
    else:
        path = path.with_suffix(".mat")
        cells = {
            name: np.array(value, dtype=object).reshape(1, -1) if isinstance(value, list) else value
            for name, value in variables.items()
        }
        scipy.io.savemat(path, cells, do_compression=kind == "v7")
    return path


def read(*paths: Path | str, **settings: Any) -> tuple[NeuralDataset, str]:
    """Import; return the dataset and the notes as one text."""
    imported = import_recordings(list(paths), ImportSettings(**settings))
    return imported.dataset, "\n".join(imported.notes)


@pytest.mark.parametrize("kind", ["npz", "h5", "v5", "v7", "v73"])
def test_every_format_gives_the_same_values(
    kind: str, tmp_path: Path, values: NDArray[np.float64], stimuli: NDArray[np.uint8]
) -> None:
    texts = ["VISp", "VISl", "VISp", "other"]
    variables = {"resp": values, "im": stimuli, "cells": np.array([7.0, 9.0, 8.0, 5.0]), "where": texts}
    path = write(tmp_path / "mine", kind, **variables)
    dataset, notes = read(
        path, responses="resp", stimuli="im", unit_ids="cells", area="where", animal="mouse 1"
    )
    assert [(one.area, one.animal, one.specimen) for one in dataset.recordings] == [
        ("VISp", "mouse 1", 1),
        ("VISl", "mouse 1", 1),
        ("other", "mouse 1", 1),
    ]
    for one, units in zip(dataset.recordings, ([0, 2], [1], [3]), strict=True):
        np.testing.assert_array_equal(one.responses, values[:, :, units])
        np.testing.assert_array_equal(one.unit_ids, np.array([7, 9, 8, 5])[units])
    np.testing.assert_array_equal(dataset.stimuli, stimuli)
    assert notes == (
        "axes: trials,images,units (6 images fit the second axis, ids of units the third)\n"
        "stimuli: 6 images, 9 x 7 px"
    )
    target = dataset.save(tmp_path / "saved.h5")
    again = open_dataset(target, selection="none")
    assert [one.animal for one in again.recordings] == ["mouse 1"] * 3
    np.testing.assert_array_equal(again.recordings[0].responses, values[:, :, [0, 2]].astype(np.float32))
    assert again.provenance["files"] == [str(path)]


@pytest.mark.parametrize("kind", ["v5", "v73"])
def test_structs_cells_and_char_of_matlab(
    kind: str, tmp_path: Path, values: NDArray[np.float64], stimuli: NDArray[np.uint8]
) -> None:
    data = {"mouse": {"name": "Ada é", "resp": values, "good": np.array([True, False])}}
    path = write(tmp_path / "mine", kind, **data, stimuli=np.moveaxis(stimuli, 0, 2))
    with open_arrays(path) as file:
        assert set(file.shapes) == {"mouse.name", "mouse.resp", "mouse.good", "stimuli"}
        assert file.read("mouse.name").item() == "Ada é"
        assert file.read("mouse.good").ravel().tolist() == [True, False]
    dataset, notes = read(path, responses="mouse.resp", area="V1", animal="mouse.name")
    assert dataset.recordings[0].label == "recording V1/Ada é"
    np.testing.assert_array_equal(dataset.recordings[0].responses, values)
    np.testing.assert_array_equal(dataset.stimuli, stimuli)
    assert "the last axis of (7, 9, 6) has the images" in notes


@pytest.mark.parametrize("kind", ["v5", "v73"])
def test_cells_of_arrays_are_animals(
    kind: str, tmp_path: Path, values: NDArray[np.float64], stimuli: NDArray[np.uint8]
) -> None:
    if kind == "v5":
        cells = np.empty((1, 2), dtype=object)
        cells[0, 0], cells[0, 1] = values, values[:4] + 1
        scipy.io.savemat(tmp_path / "mine.mat", {"resp": cells, "stimuli": stimuli})
    else:
        write_v73(tmp_path / "mine.mat", resp=[values, values[:4] + 1], stimuli=stimuli)
    dataset, _ = read(tmp_path / "mine.mat", responses="resp({animal})", area="V1")
    assert [(one.specimen, one.n_trials) for one in dataset.recordings] == [(1, 5), (2, 4)]
    np.testing.assert_array_equal(dataset.recordings[1].responses, values[:4] + 1)


@pytest.mark.parametrize("kind", ["v5", "v73"])
def test_matlab_drops_a_last_axis_of_length_one(
    kind: str, tmp_path: Path, values: NDArray[np.float64], stimuli: NDArray[np.uint8]
) -> None:
    path = write(tmp_path / "mine", kind, responses=values[:, :, 0], stimuli=stimuli)
    dataset, _ = read(path, axes=("trials", "images", "units"), area="V1", animal="7")
    np.testing.assert_array_equal(dataset.recordings[0].responses, values[:, :, :1])
    assert dataset.recordings[0].specimen == 7


def test_rows_of_presentations(
    tmp_path: Path, values: NDArray[np.float64], stimuli: NDArray[np.uint8]
) -> None:
    rng = np.random.default_rng(2)
    images = np.repeat(np.arange(6), 5)
    trials = np.tile(np.arange(5), 6)
    order = rng.permutation(30)
    images, trials = images[order], trials[order]
    rows = values[trials, images]
    path = write(
        tmp_path / "mine", "npz", responses=rows, image_ids=images + 1, trial=trials, stimuli=stimuli
    )
    dataset, notes = read(path, area="V1")
    np.testing.assert_array_equal(dataset.recordings[0].responses, values)
    assert "ids of images are counted from 1" in notes
    assert "animals: named after the files" in notes
    assert dataset.recordings[0].animal == "mine"
    # Without trials, presentations of an image are counted as they come.
    np.savez(tmp_path / "mine.npz", responses=rows[:29], images=images[:29], stimuli=stimuli)
    dataset, _ = read(path, area="V1")
    counts = np.isfinite(dataset.recordings[0].responses[:, :, 0]).sum(axis=0)
    assert sorted(counts.tolist())[0] == 4
    first = int(np.flatnonzero(images == images[0])[0])
    np.testing.assert_array_equal(dataset.recordings[0].responses[0, images[0]], rows[first])


def test_units_without_an_area_are_left_out(
    tmp_path: Path, values: NDArray[np.float64], stimuli: NDArray[np.uint8]
) -> None:
    np.savez(tmp_path / "a.npz", responses=values, stimuli=stimuli, area=np.array(["V1", "", "V1", "nan"]))
    dataset, notes = read(tmp_path / "a.npz")
    np.testing.assert_array_equal(dataset.recordings[0].responses, values[:, :, [0, 2]])
    assert "2 units without an area left out" in notes
    # A single trial can be stored, and is told.
    np.savez(tmp_path / "a.npz", responses=values[:1], stimuli=stimuli)
    dataset, notes = read(tmp_path / "a.npz", area="V1")
    assert dataset.recordings[0].n_trials == 1
    assert "1 recording of one trial: no reliability, and no score corrected for noise" in notes


def test_patterns_of_names_and_files(tmp_path: Path, stimuli: NDArray[np.uint8]) -> None:
    rng = np.random.default_rng(3)
    made = {}
    for area, animals in {"VISp": (11, 2), "VISl": (2,)}.items():
        arrays = {f"values_{animal}": rng.normal(size=(3, 6, 2)).astype("f4") for animal in animals}
        ids = {f"id_{animal}": np.array([animal, animal + 1]) for animal in animals}
        np.savez(tmp_path / f"resp_{area}.npz", **arrays, **ids)
        made |= {(area, animal): arrays[f"values_{animal}"] for animal in animals}
    folder = tmp_path / "scenes"
    folder.mkdir()
    for index, image in enumerate(stimuli):
        Image.fromarray(image).save(folder / f"{index + 20}.png")
    dataset, notes = read(
        tmp_path / "resp_{area}.npz",
        responses="values_{animal}",
        unit_ids="id_{animal}",
        stimuli=str(folder),
        units_of_measure="spikes/s",
    )
    assert [(one.area, one.specimen) for one in dataset.recordings] == [
        ("VISp", 2),
        ("VISp", 11),
        ("VISl", 2),
    ]
    for one in dataset.recordings:
        np.testing.assert_array_equal(one.responses, made[one.area, one.specimen])
        assert one.unit_ids.tolist() == [one.specimen, one.specimen + 1]
        assert "animal" not in one.units
    assert dataset.frame_ids.tolist() == [20, 21, 22, 23, 24, 25]
    assert dataset.units_of_measure == "spikes/s"
    assert notes.count("axes:") == 1
    # The two areas of a folder would be one animal's twice.
    with pytest.raises(DataError, match=r"resp_VISp.npz: 'values_2' and .*resp_VISl.npz: 'values_2' both"):
        read(tmp_path, responses="values_{animal}", stimuli=str(folder), area="V1")


def test_units_images_and_trials_without_responses_are_left_out(
    tmp_path: Path, stimuli: NDArray[np.uint8]
) -> None:
    values = np.random.default_rng(4).normal(size=SHAPE)
    values[:, :, 2] = np.nan
    values[:, 5] = np.nan
    values[1] = np.nan
    path = write(tmp_path / "mine", "npz", responses=values, stimuli=stimuli)
    dataset, notes = read(path, area="V1")
    kept = values[[0, 2, 3, 4]][:, :5][:, :, [0, 1, 3]]
    np.testing.assert_array_equal(dataset.recordings[0].responses, kept)
    np.testing.assert_array_equal(dataset.stimuli, stimuli[:5])
    assert dataset.frame_ids.tolist() == [0, 1, 2, 3, 4]
    for part in (
        "1 unit without any response left out",
        "1 stimulus without any response left out",
        "1 trial without any response left out",
    ):
        assert part in notes


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (("trials", "images", "units"), "give --axes images,trials,units$"),
        (
            None,
            r"give --axes images,trials,units \(5 trials, 4 units\) or images,units,trials \(5 units",
        ),
        (("trials", "time", "units"), "unknown axis 'time'"),
        (("images", "units"), "axes images,units: give trials,images,units in their order"),
        (("presentations", "units"), "'responses' are .*3 axes, and presentations,units names 2"),
    ],
)
def test_a_wrong_order_of_axes_is_diagnosed(
    axes: tuple[str, ...] | None,
    message: str,
    tmp_path: Path,
    values: NDArray[np.float64],
    stimuli: NDArray[np.uint8],
) -> None:
    path = write(tmp_path / "mine", "npz", responses=values.transpose(1, 0, 2), stimuli=stimuli)
    with pytest.raises(UsageError, match=message) as error:
        read(path, axes=axes, area="V1")
    if "6 images" in str(error.value):
        assert "'responses' are (6, 5, 4); 6 images fit the first axis: give" in str(error.value)


def test_the_order_of_axes_is_found_by_ids(
    tmp_path: Path, values: NDArray[np.float64], stimuli: NDArray[np.uint8]
) -> None:
    turned = values.transpose(2, 0, 1)
    path = write(tmp_path / "mine", "npz", responses=turned, stimuli=stimuli, unit_ids=np.array(list("dcba")))
    dataset, notes = read(path, area="V1")
    np.testing.assert_array_equal(dataset.recordings[0].responses, values)
    assert dataset.recordings[0].units["unit_name"].tolist() == ["d", "c", "b", "a"]
    assert dataset.recordings[0].unit_ids.tolist() == [0, 1, 2, 3]
    assert "axes: units,trials,images (6 images fit the third axis, ids of units the first)" in notes


def test_refusals_say_where_and_what_to_do(
    tmp_path: Path, values: NDArray[np.float64], stimuli: NDArray[np.uint8]
) -> None:
    path = tmp_path / "mine.npz"

    def refuse(
        message: str, *, kind: type[Exception] = UsageError, settings: Any = (), **arrays: Any
    ) -> None:
        np.savez(path, **arrays)
        with pytest.raises(kind, match=message):
            read(path, **{"area": "V1", **dict(settings)})

    both = {"responses": values, "stimuli": stimuli}
    infinite = values.copy()
    infinite[3, 2, 1] = np.inf
    refuse(
        r"mine.npz: 'responses': V1 of animal mine: infinity at trial 3, image 2, unit 1 \(counted from 0;",
        kind=DataError,
        **{**both, "responses": infinite},
    )
    refuse(
        r"has no 'respons'; did you mean 'responses'\?\nit holds: responses \(5, 6, 4\), stimuli \(6, 7, 9\)",
        settings={"responses": "respons"},
        **both,
    )
    refuse("which area\\? give --area NAME", settings={"area": None}, **both)
    refuse("which stimuli\\? give --stimuli KEY", responses=values)
    refuse(
        "--stimuli nowhere: neither a key of the file, a folder nor a file",
        settings={"stimuli": "nowhere"},
        **both,
    )
    refuse(
        r"which array holds the responses\? give --responses KEY, or 'r_{animal}' for 2 arrays",
        r_1=values,
        r_2=values,
        stimuli=stimuli,
    )
    refuse("two axes, but single trials are needed", kind=DataError, **{**both, "responses": values[0]})
    refuse("4 axes; average over time first", kind=DataError, **{**both, "responses": values[None]})
    refuse("fit no axis: stimuli or ids are not those", responses=values, stimuli=stimuli[:3, :2])
    refuse("holds text, expected numbers", kind=DataError, **{**both, "responses": np.array(["a"])})
    refuse(
        "'responses' holds pickled Python objects", kind=DataError, **{**both, "responses": np.array([None])}
    )
    refuse("{mouse} is unknown; {area} and {animal} are known", settings={"responses": "{mouse}"}, **both)
    refuse("no units of VISl\nvalid: V1", settings={"areas": ("VISl",)}, **both)
    refuse(
        "image 9 at presentation 2, but there are 6 stimuli",
        kind=DataError,
        responses=values[0],
        image_ids=[0, 1, 9, 2, 3, 5],
        stimuli=stimuli,
    )
    refuse("3 ids of units fit no axis", **both, unit_ids=[1, 2, 3])
    refuse("'responses' is empty: shape", kind=DataError, **{**both, "responses": values[:0]})
    refuse("too few axes; give trials,images,units", kind=DataError, **{**both, "responses": values[0, 0]})
    refuse("--window-ms: only for NWB, not for .*mine.npz", settings={"window_ms": (0, 9)}, **both)
    refuse(
        "--image-ids and --trial-ids are for presentations,units", settings={"trial_ids": "stimuli"}, **both
    )
    refuse(
        "the animal of unit 1 .counted from 0. is missing",
        kind=DataError,
        **both,
        animal=np.array(list("a cd")),
    )
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"mine.npz: not a readable NumPy file"):
        read(path)
    for name in ("mine.mat", "mine.h5"):
        (tmp_path / name).write_bytes(b"nothing" * 100)
        with pytest.raises(DataError, match=f"{name}: not a readable (MATLAB|HDF5) file"):
            read(tmp_path / name)
    with pytest.raises(DataError, match=r"none.npz: no such file"):
        read(tmp_path / "none.npz")
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UsageError, match=r"mine.txt: the name must end in .npy, .npz, .mat"):
        read(tmp_path / "mine.txt")
    with pytest.raises(UsageError, match="no file fits this pattern"):
        read(tmp_path / "x_{animal}.npz")


def test_a_neural_file_is_not_imported(
    tmp_path: Path, values: NDArray[np.float64], stimuli: NDArray[np.uint8]
) -> None:
    path = NeuralDataset.from_arrays({"VISp": values}, stimuli).save(tmp_path / "x.h5")
    with pytest.raises(UsageError, match="is a neural file already; use it: mvkit score gabor --dataset"):
        read(path)
    # But its stimuli may be those of others.
    np.savez(tmp_path / "y.npz", responses=values)
    dataset, _ = read(tmp_path / "y.npz", stimuli=str(path), area="V1")
    np.testing.assert_array_equal(dataset.stimuli, stimuli)


def test_stimuli_of_two_files_must_agree(
    tmp_path: Path, values: NDArray[np.float64], stimuli: NDArray[np.uint8]
) -> None:
    np.savez(tmp_path / "a.npz", responses=values, stimuli=stimuli)
    np.savez(tmp_path / "b.npz", responses=values, stimuli=stimuli)
    dataset, _ = read(tmp_path, area="V1")
    assert [(one.specimen, one.animal) for one in dataset.recordings] == [(1, "a"), (2, "b")]
    np.savez(tmp_path / "b.npz", responses=values, stimuli=stimuli[::-1])
    with pytest.raises(DataError, match=r"b.npz: its stimuli are not those of .*a.npz"):
        read(tmp_path, area="V1")


def test_folders_pass_over_neural_files(
    tmp_path: Path, values: NDArray[np.float64], stimuli: NDArray[np.uint8]
) -> None:
    NeuralDataset.from_arrays({"VISp": values}, stimuli).save(tmp_path / "before.h5")
    np.savez(tmp_path / "m1.npz", responses=values, stimuli=stimuli)
    dataset, _ = read(tmp_path, area="V1")
    assert [one.animal for one in dataset.recordings] == ["m1"]
    # And over the file of stimuli.
    np.save(tmp_path / "scenes.npy", stimuli[::-1])
    dataset, _ = read(tmp_path, area="V1", stimuli=str(tmp_path / "scenes.npy"))
    np.testing.assert_array_equal(dataset.stimuli, stimuli[::-1])


def test_objects_of_matlab_are_refused_by_name(tmp_path: Path, stimuli: NDArray[np.uint8]) -> None:
    path = write_v73(tmp_path / "mine.mat", responses=np.zeros(6), stimuli=stimuli)
    with h5py.File(path, "r+") as file:
        file["responses"].attrs["MATLAB_object_decode"] = 3
    with pytest.raises(DataError, match="'responses' is an object of MATLAB, which only MATLAB reads"):
        read(path, area="V1")


def test_the_axis_of_images_is_found_by_responses_or_ids(tmp_path: Path, values: NDArray[np.float64]) -> None:
    # Pictures as tall as there are units, and taller than there are images; the images are last.
    tall = np.random.default_rng(0).integers(0, 256, (4, 9, 6), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", responses=values, stimuli=tall)
    dataset, _ = read(tmp_path / "a.npz", area="V1")
    np.testing.assert_array_equal(dataset.stimuli, np.moveaxis(tall, 2, 0))
    np.testing.assert_array_equal(dataset.recordings[0].responses, values)
    taller = np.random.default_rng(0).integers(0, 256, (20, 9, 6), dtype=np.uint8)
    images = np.tile(np.arange(6), 5)
    np.savez(tmp_path / "b.npz", responses=values.reshape(30, 4), image_ids=images, stimuli=taller)
    dataset, _ = read(tmp_path / "b.npz", area="V1")
    np.testing.assert_array_equal(dataset.stimuli, np.moveaxis(taller, 2, 0))
    np.testing.assert_array_equal(dataset.recordings[0].responses, values)


def test_links_to_groups_around_and_datasets_without_values(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "odd.h5", "w") as file:
        file.create_dataset("nothing", data=h5py.Empty("f4"))
        file["group/rates"] = np.zeros((2, 3))
        file["group/inner/around"] = h5py.SoftLink("/group")
        file["all"] = h5py.SoftLink("/")
    with open_arrays(tmp_path / "odd.h5") as opened:
        assert opened.shapes["group.rates"] == (2, 3)
        assert opened.shapes["nothing"] == ()
        with pytest.raises(DataError, match="'nothing' is an empty dataset, without values"):
            opened.read("nothing")
