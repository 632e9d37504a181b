"""Stimuli of other types become 8-bit grey."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mvkit.errors import DataError
from mvkit.neural.grey_images import read_image_folder, to_grey

GREY = np.random.default_rng(0).integers(0, 256, (5, 6, 8), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (5, 6, 8, 3), dtype=np.uint8)
#: Pillow's grey of every picture.
PILLOWS = np.stack([np.asarray(Image.fromarray(one).convert("L")) for one in COLOUR])


@pytest.mark.parametrize(
    ("stimuli", "note"),
    [
        (GREY, ""),
        (GREY.astype(np.int64), "int64 converted to 8-bit grey"),
        (GREY / 255, "float in [0, 1] converted to 8-bit grey"),
        ((GREY / 255).astype(np.float32), "float in [0, 1] converted to 8-bit grey"),
        (GREY / 127.5 - 1, "float in [-1, 1] converted to 8-bit grey"),
        (GREY.astype(np.float64), "float in [0, 255] converted to 8-bit grey"),
        (GREY.astype(np.uint16) * 257, "16-bit converted to 8-bit grey"),
        (GREY[..., None], ""),
        (np.moveaxis(GREY, 0, 2), "the last axis of (6, 8, 5) has the images"),
    ],
)
def test_grey_of_other_types(stimuli: Any, note: str) -> None:
    made = to_grey(stimuli, n_images=5)
    assert made.images.dtype == np.uint8
    np.testing.assert_array_equal(made.images, GREY)
    assert made.note == note


@pytest.mark.parametrize(
    ("stimuli", "note"),
    [
        (COLOUR, "RGB converted to 8-bit grey"),
        (np.moveaxis(COLOUR, 3, 1), "RGB converted to 8-bit grey"),
        (np.concatenate([COLOUR, COLOUR[..., :1]], axis=3), "RGBA converted to 8-bit grey"),
        (
            np.moveaxis(COLOUR, 0, 3),
            "the last axis of (6, 8, 3, 5) has the images; RGB converted to 8-bit grey",
        ),
    ],
)
def test_colour_becomes_pillows_grey(stimuli: Any, note: str) -> None:
    made = to_grey(stimuli, n_images=5)
    np.testing.assert_array_equal(made.images, PILLOWS)
    assert made.note == note


def test_colour_of_floats() -> None:
    made = to_grey(COLOUR / 255)
    assert made.note == "RGB float in [0, 1] converted to 8-bit grey"
    assert np.abs(made.images.astype(int) - PILLOWS).max() <= 1
    np.testing.assert_array_equal(to_grey(np.array([[[True, False]]])).images, [[[255, 0]]])


@pytest.mark.parametrize(
    ("stimuli", "message"),
    [
        (
            np.full((2, 3, 4), -2.5),
            "float64 from -2.5 to -2.5; give pixels as 8-bit numbers, 0 to 255, or floats",
        ),
        (np.full((2, 3, 4), 3.0), "float64 from 3 to 3; give pixels"),
        (np.full((2, 3, 4), 300), "int64 from 300 to 300"),
        (np.full((2, 3, 4), [1, np.nan, 0, 0]), "pixels of image 0 are NaN or infinite"),
        (np.zeros((2, 3)), r"shape \(2, 3\); expected \(n_images, height, width\)"),
        (np.zeros((2, 5, 6, 7)), r"shape \(2, 5, 6, 7\)"),
        (np.array([[["a"]]]), "must be numbers"),
        (np.ma.masked_less(GREY, 9), "masked pixels"),
    ],
)
def test_refusals(stimuli: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        to_grey(stimuli)


def test_folders(tmp_path: Path) -> None:
    Image.fromarray(COLOUR[0]).save(tmp_path / "x10.png")
    Image.fromarray(GREY[1]).save(tmp_path / "x9.png")
    Image.fromarray(GREY[2].astype(np.uint16) * 257).save(tmp_path / "x11.png")
    (tmp_path / "notes.txt").write_text("no image")
    made = read_image_folder(tmp_path)
    assert made.names == ("x9.png", "x10.png", "x11.png")
    assert made.note == "1 colour image converted to 8-bit grey"
    np.testing.assert_array_equal(made.images, [GREY[1], PILLOWS[0], GREY[2]])
    Image.fromarray(GREY[0, :3]).save(tmp_path / "x12.png")
    with pytest.raises(DataError, match=r"x12.png: 8 x 3 px, but x9.png has 8 x 6; give all images one size"):
        read_image_folder(tmp_path)
    (tmp_path / "x12.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"x12.png: cannot be read as an image"):
        read_image_folder(tmp_path)
    (tmp_path / "x12.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"x12.png: cannot be read as an image: an empty file"):
        read_image_folder(tmp_path)
    with pytest.raises(DataError, match="no images directly inside this folder"):
        (tmp_path / "empty").mkdir()
        read_image_folder(tmp_path / "empty")
