"""Features as NumPy's archive: the same values and facts as in HDF5, read by numpy alone."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mvkit.errors import DataError, UsageError
from mvkit.features import extract, extract_to_file, read_features
from mvkit.features import feature_file as hdf5
from mvkit.features.feature_file import write_npz


@pytest.fixture()
def archive(prepared, pictures, tmp_path):
    path = tmp_path / "features.npz"
    extract_to_file(prepared, pictures, path, "*", batch_size=3)
    return path


def test_numpy_reads_it_without_pickles(archive, prepared, pictures):
    expected = extract(prepared, pictures, "*", batch_size=3)
    with np.load(archive, allow_pickle=False) as stored:
        assert stored.files == [*expected.layers, "image_ids", "metadata"]
        for layer in expected:
            assert stored[layer].dtype == np.float32
            np.testing.assert_array_equal(stored[layer], expected[layer])
        np.testing.assert_array_equal(stored["image_ids"], np.arange(7))
        described = json.loads(str(stored["metadata"]))
    assert {layer["name"]: tuple(layer["shape"]) for layer in described["layers"]} == dict(expected.shapes)
    assert "VISp2/3" in expected
    assert (described["model"], described["weights_id"]) == (expected.model_name, expected.weights_id)
    assert described["preprocessing"] == expected.preprocessing
    assert described["stimuli_digest"] == expected.provenance.stimuli_digest


@pytest.mark.parametrize("lazy", [False, True])
def test_it_reads_back_as_the_hdf5_file_does(archive, prepared, pictures, tmp_path, lazy):
    extract_to_file(prepared, pictures, tmp_path / "features.h5", "*", batch_size=3)
    expected = read_features(tmp_path / "features.h5")
    found = read_features(str(archive), lazy=lazy)
    assert found.provenance == expected.provenance
    assert list(found.shapes.items()) == list(expected.shapes.items())
    assert found.layers == expected.layers
    for layer in expected:
        np.testing.assert_array_equal(found[layer], expected[layer])
    with pytest.raises(KeyError):
        found["nowhere"]


def test_names_of_image_files_are_kept_as_text(prepared, tmp_path):
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "ä and b.png"):
        Image.fromarray(np.full((8, 8), len(name), np.uint8)).save(folder / name)
    extract_to_file(prepared, folder, tmp_path / "f.npz", "*")
    assert read_features(tmp_path / "f.npz").image_ids == ("a.png", "ä and b.png")
    with np.load(tmp_path / "f.npz", allow_pickle=False) as stored:
        assert stored["image_ids"].tolist() == ["a.png", "ä and b.png"]


def test_the_content_and_not_the_name_says_how_to_read(archive, tmp_path):
    moved = archive.rename(tmp_path / "features.h5")
    assert read_features(moved).n_images == 7


def test_the_same_features_give_the_same_bytes(archive, prepared, pictures, tmp_path):
    extract_to_file(prepared, pictures, tmp_path / "again.npz", "*", batch_size=3)
    assert (tmp_path / "again.npz").read_bytes() == archive.read_bytes()


def test_only_a_few_rows_are_in_memory(prepared, pictures, tmp_path, monkeypatch):
    written: list[int] = []
    monkeypatch.setattr(hdf5, "_BLOCK_BYTES", 1)
    blocks = hdf5._row_blocks

    def counted(path, layer):
        for block in blocks(path, layer):
            written.append(len(block))
            yield block

    monkeypatch.setattr(hdf5, "_row_blocks", counted)
    extract_to_file(prepared, pictures, tmp_path / "f.npz", "*", batch_size=2)
    found = read_features(tmp_path / "f.npz")
    # Chunks are aligned with batches of two images; the seventh is alone.
    assert written == [2, 2, 2, 1] * len(found)
    expected = extract(prepared, pictures, "*", batch_size=2)
    for layer in expected:
        np.testing.assert_array_equal(found[layer], expected[layer])


class _Clashing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.metadata = nn.Linear(2, 2)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.metadata(rows.flatten(1))


def test_a_layer_with_the_name_of_another_array_is_refused_after_one_batch(tmp_path):
    images = np.zeros((4, 2, 1, 1), np.float32)
    with pytest.raises(UsageError, match="layer 'metadata' has the name of an array that every"):
        extract_to_file(_Clashing(), images, tmp_path / "f.npz", "metadata", batch_size=1)
    assert list(tmp_path.iterdir()) == []
    extract_to_file(_Clashing(), images, tmp_path / "f.h5", "metadata")


def test_a_full_disk_leaves_nothing_behind(prepared, pictures, tmp_path, monkeypatch):
    class Full(zipfile.ZipFile):
        def open(self, *arguments, **options):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("mvkit.features.feature_file.zipfile.ZipFile", Full)
    with pytest.raises(DataError, match=r"no room for the features as \.npz \(No space left"):
        extract_to_file(prepared, pictures, tmp_path / "f.npz", "*")
    assert list(tmp_path.iterdir()) == []


def _flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def test_changed_bytes_are_noticed(archive):
    data = archive.read_bytes()
    with zipfile.ZipFile(archive) as members:
        first = members.infolist()[0]
    # Past the member's own header (30 bytes and names) and NumPy's of 128 bytes: a value.
    archive.write_bytes(_flipped(data, first.header_offset + 400))
    with pytest.raises(DataError, match=r"damaged, or not a feature file \(Bad CRC-32"):
        read_features(archive)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_cut_files_are_refused(archive, share):
    data = archive.read_bytes()
    archive.write_bytes(data[: 4 + int(share * len(data))])
    with pytest.raises(DataError, match="extract it again"):
        read_features(archive)


def _rewritten(path: Path, **arrays: object) -> Path:
    with np.load(path) as stored:
        kept = {**dict(stored), **arrays}
    np.savez(path, **{name: value for name, value in kept.items() if value is not None})
    return path


def test_other_archives_are_told_apart(archive, tmp_path):
    np.savez(tmp_path / "other.npz", values=np.zeros(3))
    with pytest.raises(DataError, match="not a feature file of mvkit"):
        read_features(tmp_path / "other.npz")
    with pytest.raises(DataError, match="another program's metadata"):
        read_features(_rewritten(archive, metadata=np.array('{"mvkit_format": "else"}')))
    with pytest.raises(DataError, match="damaged, or not a feature file"):
        read_features(_rewritten(archive, metadata=np.array("{")))


def test_arrays_that_do_not_fit_their_description_are_refused(archive):
    with np.load(archive) as stored:
        layer, metadata = stored.files[0], json.loads(str(stored["metadata"]))
        values = stored[layer]
    for wrong in (values[:-1], values.astype(np.float64), None):
        with pytest.raises(DataError, match=layer):
            read_features(_rewritten(archive, **{layer: wrong}), lazy=True)
    metadata["mvkit_format_version"] = 2
    with pytest.raises(DataError, match="version 2 is newer than this mvkit"):
        read_features(_rewritten(archive, metadata=np.array(json.dumps(metadata)), **{layer: values}))


def test_pickled_objects_are_never_read(archive):
    with pytest.raises(DataError, match="allow_pickle=False"):
        read_features(_rewritten(archive, image_ids=np.array([{}] * 7, dtype=object)))


def test_a_file_in_memory_can_be_written_too(archive, tmp_path):
    found = read_features(archive)

    write_npz(tmp_path / "copy.npz", lambda layer: iter([found[layer]]), found.shapes, found.provenance)
    assert (tmp_path / "copy.npz").read_bytes() == archive.read_bytes()
