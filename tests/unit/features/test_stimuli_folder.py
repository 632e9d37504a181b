"""Folders of image files: order, colour, sizes, damage."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from mvkit.errors import DataError
from mvkit.features import extract, extract_to_file, open_stimuli, read_features
from mvkit.features.stimuli import ArrayStimuli


@pytest.fixture()
def folder(tmp_path, pictures):
    """``scene1.png`` to ``scene12.png`` in grey, and files that are no images."""
    place = tmp_path / "scenes"
    place.mkdir()
    for index in range(12):
        Image.fromarray(pictures[index % 7]).save(place / f"scene{index + 1}.png")
    (place / "notes.txt").write_text("not an image")
    (place / ".hidden.png").write_bytes(b"")
    (place / "sub.png").mkdir()
    return place


def test_files_come_in_natural_order(folder, pictures):
    stimuli = open_stimuli(folder)
    assert stimuli.image_ids == tuple(f"scene{number}.png" for number in range(1, 13))
    assert stimuli.name == "scenes"
    for index, image in enumerate(stimuli.read(0, 12)):
        np.testing.assert_array_equal(image, pictures[index % 7])


def test_a_folder_gives_the_features_of_the_same_array(folder, prepared, pictures):
    from_files = extract(prepared, str(folder), batch_size=5)
    from_array = extract(prepared, pictures[np.arange(12) % 7], batch_size=5)
    assert from_files.provenance.stimuli_digest == from_array.provenance.stimuli_digest
    for layer in from_array:
        np.testing.assert_array_equal(from_files[layer], from_array[layer])


def test_sizes_and_colours_may_differ(tmp_path, prepared):
    rng = np.random.default_rng(4)
    grey = rng.integers(0, 256, (12, 10), dtype=np.uint8)
    colour = rng.integers(0, 256, (9, 14, 3), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(colour).save(tmp_path / "b.bmp")
    features = extract(prepared, tmp_path, batch_size=1)
    together = extract(prepared, tmp_path)
    np.testing.assert_allclose(together["conv"], features["conv"], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(features["conv"][:1], extract(prepared, grey[None])["conv"])
    np.testing.assert_array_equal(features["conv"][1:], extract(prepared, colour[None])["conv"])


@pytest.mark.parametrize(
    ("mode", "shape"),
    [("1", (6, 5)), ("LA", (6, 5)), ("P", (6, 5, 3)), ("RGBA", (6, 5, 3)), ("CMYK", (6, 5, 3))],
)
def test_every_eight_bit_kind_of_pixel_becomes_grey_or_rgb(tmp_path, mode, shape):
    name = "image.tif" if mode == "CMYK" else "image.png"
    Image.new(mode, (5, 6)).save(tmp_path / name)
    (image,) = open_stimuli(tmp_path).read(0, 1)
    assert image.dtype == np.uint8
    assert image.shape == shape


def test_pixels_deeper_than_eight_bits_are_refused_with_the_path(tmp_path):
    Image.fromarray(np.zeros((5, 6), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png: pixels of mode 'I;16'"):
        open_stimuli(tmp_path).read(0, 1)


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_a_damaged_file_is_named(folder, prepared, damage):
    victim = folder / "scene3.png"
    whole = victim.read_bytes()
    victim.write_bytes({"truncated": whole[: len(whole) // 2], "text": b"<html>", "empty": b""}[damage])
    with pytest.raises(DataError, match=r"scene3\.png: cannot be read as an image"):
        extract(prepared, folder)


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "readme.txt").write_text("")
    with pytest.raises(DataError, match="no images directly inside"):
        open_stimuli(tmp_path)


def test_images_of_kinds_that_are_not_read_are_no_stimuli_passed_over(folder):
    (folder / "IMG_1.HEIC").write_bytes(b"ftypheic")
    with pytest.raises(DataError, match=r"IMG_1.HEIC: .*: .HEIC files are not read; convert it to .png\n"):
        open_stimuli(folder)


@pytest.mark.parametrize("suffix", ["h5", "npz"])
def test_names_are_bytes_and_written_as_text(tmp_path, prepared, pictures, suffix):
    texts = {
        b"caf\xe9.png": r"caf\xe9.png",
        rb"caf\xe9.png": r"caf\x5cxe9.png",
        b"tab\t.png": r"tab\x09.png",
        "café.png".encode(): "café.png",
        "cafe\u0301.png".encode(): "cafe\u0301.png",
        b"A.PNG": "A.PNG",
    }
    folder = tmp_path / os.fsdecode(b"st\xefm")
    folder.mkdir()
    for index, name in enumerate(texts):
        Image.fromarray(pictures[index]).save(tmp_path / "x.png")
        (tmp_path / "x.png").rename(folder / os.fsdecode(name))
    extract_to_file(prepared, folder, tmp_path / f"f.{suffix}")
    features = read_features(tmp_path / f"f.{suffix}")
    assert features.provenance.stimuli == r"st\xefm"
    assert sorted(features.image_ids) == sorted(texts.values())
    together, rows = extract(prepared, pictures), list(texts.values())
    for row, name in enumerate(features.image_ids):
        expected = together["conv"][rows.index(name)]
        np.testing.assert_allclose(features["conv"][row], expected, rtol=0, atol=1e-6)


def test_ids_that_are_no_text_are_written_as_text(tmp_path, prepared, pictures):
    stimuli = ArrayStimuli(pictures[:2], ("caf\udce9", "b"), name="st\udcef")
    extract_to_file(prepared, stimuli, tmp_path / "f.h5")
    assert read_features(tmp_path / "f.h5").image_ids == (r"caf\xe9", "b")


def test_names_without_files_are_refused_before_the_network_runs(folder):
    (folder / "gone.png").symlink_to(".git/annex/objects/K/K.png")
    (folder / "trials.tsv").symlink_to(".git/annex/objects/K/t.tsv")
    (folder / "empty.png").write_bytes(b"")
    os.mkfifo(folder / "pipe.png")
    (folder / "linked.png").symlink_to("sub.png")
    with pytest.raises(DataError) as error:
        open_stimuli(folder)
    assert str(error.value).replace(f"{folder}/", "").splitlines() == [
        "empty.png: cannot be read as an image: an empty file",
        "gone.png: cannot be read as an image: a link to nothing (.git/annex/objects/K/K.png); "
        "its content was not fetched; run datalad get (or git annex get)",
        "pipe.png: cannot be read as an image: a pipe, not a file",
        "restore or remove them",
    ]


def test_a_content_that_was_not_fetched_is_told(folder, prepared):
    (folder / "scene3.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(DataError, match=r"scene3\.png: .*its content was not fetched; run git lfs pull"):
        extract(prepared, folder)
