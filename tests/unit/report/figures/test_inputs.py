"""The figure of what a network sees, and the pictures in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mvkit
from mvkit.errors import DataError
from mvkit.models.preprocessing import InputOptions
from mvkit.pipeline.plots import read_inputs
from mvkit.report.figures import NetworkInputs, caption_of, draw_inputs
from mvkit.report.figures.style import FigureStyle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five random pictures, the last one in colour."""
    draws = np.random.default_rng(0)
    for number in range(4):
        pixels = draws.integers(0, 256, (90, 120)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    Image.fromarray(draws.integers(0, 256, (90, 120, 3)).astype(np.uint8)).save(tmp_path / "4.png")
    return tmp_path


def test_the_pictures_are_what_the_network_is_given(folder: Path) -> None:
    viewing = mvkit.ViewingConditions(acuity_cpd=0.1, contrast=0.5)
    found = read_inputs(
        "alexnet_bn_ir", folder, weights="random", inputs=InputOptions(viewing=viewing), n_images=2
    )
    assert found.labels == ("0.png", "2.png")
    first = np.asarray(Image.open(folder / "0.png"))
    assert np.array_equal(found.images[0], first) and np.array_equal(found.seen[0], viewing(first))
    # torchvision's steps on the image as it is seen: shortest side to 256, the middle 224, to 64.
    seen = Image.fromarray(viewing(first)).resize((341, 256), Image.Resampling.BILINEAR)
    left = round((341 - 224) / 2)
    seen = seen.crop((left, 16, left + 224, 240)).resize((64, 64), Image.Resampling.BILINEAR)
    assert found.inputs[0] == pytest.approx(np.asarray(seen) / 255, abs=1e-6)
    assert found.viewing == "acuity 0.1 cycles/degree, 120 degrees wide, contrast x 0.5"
    colour = read_inputs("alexnet_bn_ir", folder, weights="random", n_images=5)
    assert colour.seen == () and colour.viewing == ""
    assert colour.inputs[-1].shape == (64, 64, 3) and colour.inputs[0].shape == (64, 64)


def test_the_figure_has_a_row_for_an_image_and_a_column_for_a_step(folder: Path) -> None:
    viewing = mvkit.ViewingConditions(acuity_cpd=0.1)
    shown = read_inputs("pixels", folder, inputs=InputOptions(viewing=viewing), n_images=2)
    figure = draw_inputs(shown, style=FigureStyle())
    figure.canvas.draw()
    pictures = [axes.images[0] for axes in figure.axes]
    assert len(pictures) == 6
    expected = [shown.images[0], shown.seen[0], shown.inputs[0], shown.images[1], shown.seen[1]]
    for picture, values in zip(pictures, expected, strict=False):
        assert np.array_equal(picture.get_array(), values)
        assert picture.get_clim() == ((0, 255) if values.dtype == np.uint8 else (0, 1))
    assert [axes.get_ylabel() for axes in figure.axes[::3]] == ["0.png", "2.png"]
    assert "seen with acuity 0.1 cycles/degree, 120 degrees wide" in caption_of(figure)
    assert len(draw_inputs(read_inputs("pixels", folder, n_images=1)).axes) == 2
    with pytest.raises(DataError, match="no images to draw"):
        draw_inputs(NetworkInputs("pixels", "none", (), (), (), ()))
