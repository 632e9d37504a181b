"""The feature file: round trips, laziness, damage."""

from __future__ import annotations

import os
import resource
import shutil
from urllib.parse import unquote

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvkit.errors import DataError
from mvkit.features import extract_to_file, read_features
from mvkit.features.feature_file import escape
from mvkit.models.preprocessing import Preprocessing


@pytest.fixture()
def feature_file(prepared, pictures, tmp_path):
    path = tmp_path / "features.h5"
    extract_to_file(prepared, pictures, path, "*", batch_size=3)
    return path


@pytest.mark.parametrize(
    ("layer", "stored"),
    [
        ("VISp2/3", "VISp2%2F3"),
        ("50%", "50%25"),
        (".", "%2E"),
        ("features.3", "features.3"),
        ("%2F", "%252F"),
    ],
)
def test_names_are_escaped_without_collisions(layer, stored):
    assert escape(layer) == stored


@given(st.text(alphabet="aB2/%. é"))
def test_escaped_names_are_url_quoting_without_slashes(layer):
    assert "/" not in escape(layer)
    assert unquote(escape(layer)) == layer


def test_the_file_is_plain_hdf5_with_what_is_needed_to_read_it_elsewhere(feature_file, prepared):
    with h5py.File(feature_file) as file:
        assert file.attrs["mvkit_format"] == "mvkit-features"
        assert file.attrs["model"] == "toy"
        stored = file["layers/VISp2%2F3"]
        assert stored.attrs["layer"] == "VISp2/3"
        assert tuple(stored.attrs["shape"]) == (4, 3, 3)
        assert stored.shape == (7, 36)
        assert stored.fletcher32


def test_a_full_disk_is_noticed_before_writing(prepared, pictures, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(DataError, match=r"no room for .* MB of features"):
            extract_to_file(prepared, pictures, tmp_path / "features.h5", "*")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_noticed_where_space_cannot_be_reserved(prepared, pictures, tmp_path, monkeypatch):
    # As on macOS.
    monkeypatch.delattr(os, "posix_fallocate")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=4096))
    with pytest.raises(DataError, match=r"no room for .* MB of features \(No space left"):
        extract_to_file(prepared, pictures, tmp_path / "features.h5", "*")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**9))
    extract_to_file(prepared, pictures, tmp_path / "features.h5", "*")
    assert set(read_features(tmp_path / "features.h5"))


@pytest.mark.parametrize("batch_size", [1, 5, 48, 64])
def test_the_file_is_hardly_larger_than_its_values(prepared, tmp_path, batch_size):
    prepared.preprocess = Preprocessing(64, 64, None, (0.0,) * 3, (1.0,) * 3)
    images = np.random.default_rng(0).integers(0, 256, (118, 64, 64), dtype=np.uint8)
    report = extract_to_file(prepared, images, tmp_path / "f.h5", "conv", batch_size=batch_size)
    assert report.path.stat().st_size < 1.15 * report.layers[0].n_bytes(118)


def test_text_ids_survive(prepared, tmp_path):
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("ä 1.png", "b.png"):
        Image.new("L", (9, 9)).save(folder / name)
    extract_to_file(prepared, folder, tmp_path / "features.h5")
    assert read_features(tmp_path / "features.h5").image_ids == ("b.png", "ä 1.png")


def test_lazy_layers_are_read_when_asked_for(feature_file):
    eager, lazy = read_features(feature_file), read_features(str(feature_file), lazy=True)
    feature_file.rename(feature_file.with_name("away.h5"))
    assert list(lazy) == list(eager)
    with pytest.raises(DataError, match="no such feature file"):
        lazy["conv"]
    feature_file.with_name("away.h5").rename(feature_file)
    for layer in eager:
        np.testing.assert_array_equal(lazy[layer], eager[layer])
    with pytest.raises(KeyError):
        lazy["nothing"]


def test_a_missing_file_and_files_of_another_kind_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such feature file"):
        read_features(tmp_path / "none.h5")
    text = tmp_path / "text.h5"
    text.write_text("<html>")
    with pytest.raises(DataError, match="damaged, or not a feature file"):
        read_features(text)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(DataError, match="not a feature file of mvkit"):
        read_features(tmp_path / "other.h5")


def test_a_newer_version_is_refused(feature_file):
    with h5py.File(feature_file, "r+") as file:
        file.attrs["mvkit_format_version"] = 99
    with pytest.raises(DataError, match="version 99 is newer"):
        read_features(feature_file)


@pytest.mark.parametrize("kept", [0, 0.02, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_refused(feature_file, kept):
    with h5py.File(feature_file, "r+"):
        pass  # HDF5 cuts off the checksum, and what fills up the block before it
    whole = feature_file.read_bytes()
    feature_file.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(DataError, match=r"damaged|an empty file"):
        read_features(feature_file)


def test_a_flipped_bit_in_the_values_is_noticed(feature_file):
    whole = bytearray(feature_file.read_bytes())
    with h5py.File(feature_file) as file:
        offset = file["layers/conv"].id.get_chunk_info(0).byte_offset
    whole[offset + 10] ^= 1
    feature_file.write_bytes(bytes(whole))
    with pytest.raises(DataError, match="damaged"):
        read_features(feature_file)
    # As another program would write the file, without mvkit's checksum.
    feature_file.write_bytes(bytes(whole[:-1]))
    lazy = read_features(feature_file, lazy=True)
    with pytest.raises(DataError, match="damaged"):
        lazy["conv"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.pop("image_ids"),
        lambda file: file.pop("layers"),
        lambda file: file.attrs.pop("weights_id"),
        lambda file: file.attrs.update({"preprocessing": "{"}),
        lambda file: file["layers/conv"].attrs.update({"shape": np.array([4, 4])}),
        lambda file: file["layers/conv"].attrs.pop("position"),
    ],
)
def test_missing_or_contradicting_parts_are_refused(feature_file, spoil):
    with h5py.File(feature_file, "r+") as file:
        spoil(file)
    with pytest.raises(DataError, match=r"features\.h5: damaged"):
        read_features(feature_file)


@pytest.mark.parametrize(
    ("where", "attribute", "value"),
    [
        ("layers/VISp2%2F3", "_FillValue", np.float32(-9999)),
        ("layers/VISp2%2F3", "scale_factor", 0.5),
        ("image_ids", "missing_value", -1),
        ("image_ids", "add_offset", 7),
    ],
)
def test_numbers_packed_by_another_program_are_refused_by_attribute(feature_file, where, attribute, value):
    with h5py.File(feature_file, "r+") as file:
        file[where].attrs[attribute] = value
    with pytest.raises(DataError, match=f"saved by another program with '{attribute}'"):
        read_features(feature_file)


def test_image_ids_of_other_types_are_whole_numbers_or_refused(feature_file):
    expected = read_features(feature_file).provenance.image_ids
    for ids in (np.array(expected, dtype="f8"), np.array(expected, dtype=">i2")):
        with h5py.File(feature_file, "r+") as file:
            del file["image_ids"]
            file["image_ids"] = ids
        assert read_features(feature_file).provenance.image_ids == expected
    with h5py.File(feature_file, "r+") as file:
        del file["image_ids"]
        file["image_ids"] = np.array(expected) + 0.5
    with pytest.raises(DataError, match="image_ids must be whole numbers"):
        read_features(feature_file)
