"""Viewing conditions: the acuity filter against a Fourier transform by hand, gratings, contrast."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import mvkit
from mvkit import ViewingConditions
from mvkit.errors import DataError, UsageError
from mvkit.models.preprocessing import GREY_64
from mvkit.models.viewing import ALLEN_FIELD_OF_VIEW_DEG, MOUSE_ACUITY_CPD, low_pass

#: At 4 pixels per degree.
HEIGHT, WIDTH, PX_PER_DEG = 64, 96, 4.0


def transfer(frequency_cpd: float | np.ndarray, acuity_cpd: float) -> np.ndarray:
    """Snyder's function, written with the full width at half maximum of the point spread, 1 / acuity."""
    sigma_deg = 1 / acuity_cpd / (2 * math.sqrt(2 * math.log(2)))
    return np.exp(-2 * (np.pi * sigma_deg * np.asarray(frequency_cpd)) ** 2)


def grating(cycles: int, *, mean: float = 120.0, amplitude: float = 100.0) -> np.ndarray:
    """A cosine that the reflected image continues."""
    x = (np.arange(WIDTH) + 0.5) / WIDTH
    return np.broadcast_to(mean + amplitude * np.cos(2 * np.pi * cycles * x), (HEIGHT, WIDTH)).copy()


@pytest.mark.parametrize("shape", [(37, 52), (8, 1), (1, 9), (20, 31, 3)])
def test_the_filter_equals_a_fourier_transform_of_the_mirrored_image(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).uniform(0, 255, shape)
    mirrored = np.concatenate([image, image[::-1]])
    mirrored = np.concatenate([mirrored, mirrored[:, ::-1]], axis=1)
    rows, columns = (np.fft.fftfreq(length) * PX_PER_DEG for length in mirrored.shape[:2])
    gain = transfer(np.hypot(rows[:, None], columns[None]), 0.5)
    gain = gain.reshape(*gain.shape, *(1 for _ in shape[2:]))
    spectrum = np.fft.fft2(mirrored, axes=(0, 1)) * gain
    expected = np.fft.ifft2(spectrum, axes=(0, 1)).real[: shape[0], : shape[1]]
    assert np.abs(low_pass(image, PX_PER_DEG, 0.5) - expected).max() < 1e-11


def test_the_definition_of_the_cut_off() -> None:
    # AcuityView writes 3.56 for pi^2 / (4 ln 2).
    assert transfer(0.5, 0.5) == pytest.approx(math.exp(-3.56), rel=1e-3)
    assert transfer(0.05, 0.5) == pytest.approx(0.965, abs=1e-3)
    assert transfer(0.44 * 0.5, 0.5) == pytest.approx(0.5, abs=0.01)
    assert (MOUSE_ACUITY_CPD, ALLEN_FIELD_OF_VIEW_DEG) == (0.5, 120.0)


@pytest.mark.parametrize("cycles", [1, 4, 8, 12, 24, 40])
def test_a_grating_keeps_the_share_of_its_amplitude_that_the_transfer_function_says(cycles: int) -> None:
    frequency_cpd = cycles / (WIDTH / PX_PER_DEG)
    seen = low_pass(grating(cycles), PX_PER_DEG, 0.5)
    expected = 120 + (grating(cycles) - 120) * transfer(frequency_cpd, 0.5)
    assert np.abs(seen - expected).max() < 1e-11


def test_above_the_acuity_a_grating_vanishes_and_far_below_it_passes() -> None:
    sees = ViewingConditions(acuity_cpd=0.5, field_of_view_deg=WIDTH / PX_PER_DEG)
    # 1 and 0.04 cycles per degree.
    fine, coarse = (np.rint(grating(cycles)).astype(np.uint8) for cycles in (24, 1))
    assert np.array_equal(sees(fine), np.full_like(fine, 120)) and np.ptp(fine) > 140
    assert np.abs(sees(coarse).astype(int) - coarse).max() <= 3


@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 3)])
def test_a_constant_image_and_every_mean_stay(shape: tuple[int, ...]) -> None:
    sees = ViewingConditions(acuity_cpd=0.1, contrast=0.3)
    flat = np.full(shape, 93, dtype=np.uint8)
    assert np.array_equal(sees(flat), flat)
    image = np.random.default_rng(1).uniform(0, 255, shape)
    assert low_pass(image, 1.0, 0.1).mean() == pytest.approx(image.mean(), abs=1e-10)


def test_the_borders_are_reflected() -> None:
    # Beside a bright rim, an image continued by zeros or by its other side would be darker at the edge.
    image = np.zeros((32, 32))
    image[:, 16:] = 200.0
    seen = low_pass(image, 4.0, 0.5)
    assert seen[:, -1] == pytest.approx(200.0, abs=0.1) and seen[:, 0] == pytest.approx(0.0, abs=0.1)


def test_the_width_in_degrees_counts_not_the_pixels() -> None:
    x = (np.arange(3 * WIDTH) + 0.5) / (3 * WIDTH)
    three_times_finer = np.broadcast_to(120 + 100 * np.cos(2 * np.pi * 6 * x), (5, 3 * WIDTH))
    seen = low_pass(three_times_finer.copy(), 3 * PX_PER_DEG, 0.5)
    # Every third pixel has its centre where one of the coarse image has it.
    assert seen[0, 1::3] == pytest.approx(low_pass(grating(6), PX_PER_DEG, 0.5)[0], abs=1e-10)


def test_contrast_is_about_the_mean_of_each_channel_and_is_cut_off() -> None:
    image = np.random.default_rng(2).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    for factor in (0.5, 0.0, 1.7):
        seen = ViewingConditions(contrast=factor)(image)
        means = image.mean(axis=(0, 1))
        expected = np.clip(np.rint(means + factor * (image - means)), 0, 255)
        assert seen.dtype == np.uint8 and np.array_equal(seen, expected)


def test_nothing_is_done_by_default() -> None:
    image = np.zeros((4, 4), dtype=np.uint8)
    usual = ViewingConditions(field_of_view_deg=90)
    assert usual(image) is image and not usual.changes_images
    assert usual.as_dict() == {} and usual.describe() == ""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"acuity_cpd": 0}, "acuity_cpd must be a number above 0, got 0"),
        ({"acuity_cpd": float("nan")}, "acuity_cpd must be a number above 0, got nan"),
        ({"acuity_cpd": "0.5"}, "acuity_cpd must be a number above 0, got '0.5'"),
        ({"field_of_view_deg": -3}, "field_of_view_deg must be a number above 0"),
        ({"field_of_view_deg": 400}, "at most 360, got 400"),
        ({"contrast": -0.1}, "contrast must be a number 0 or more"),
    ],
)
def test_numbers_out_of_range(given: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ViewingConditions(**given)


def test_features_are_of_the_images_as_they_are_seen_and_say_so() -> None:
    images = np.random.default_rng(3).integers(0, 256, (3, 80, 90)).astype(np.uint8)
    viewing = ViewingConditions(acuity_cpd=0.2, field_of_view_deg=60, contrast=0.8)
    seen = np.stack([viewing(image) for image in images])
    model = mvkit.load_model("pixels", viewing=viewing)
    features = mvkit.extract(model, images)
    assert np.array_equal(features["pixels"], mvkit.extract("pixels", seen)["pixels"])
    usual = mvkit.extract("pixels", images)
    assert usual.preprocessing == {**GREY_64.as_dict(), "mean": [0.0] * 3, "std": [1.0] * 3}
    assert features.preprocessing == {
        **usual.preprocessing,
        "acuity_cpd": 0.2,
        "field_of_view_deg": 60,
        "contrast": 0.8,
    }
    # Which images were shown does not depend on how they are seen.
    assert features.provenance.stimuli_digest == usual.provenance.stimuli_digest
    assert model.describe() == "images at 64 px; acuity 0.2 cycles/degree, 60 degrees wide, contrast x 0.8"


def test_the_field_of_view_is_the_given_one_or_the_datasets_or_that_of_the_allen_institutes_scenes() -> None:
    images = np.random.default_rng(3).integers(0, 256, (3, 40, 50)).astype(np.uint8)
    responses = {"VISp": np.random.default_rng(0).gamma(1.0, size=(2, 3, 2))}
    wide = mvkit.NeuralDataset.from_arrays(responses, images, field_of_view_deg=196)
    for dataset, given, expected in (
        (images, None, 120),
        (wide, None, 196),
        (wide, 60, 60),
        (replace(wide, field_of_view_deg=None), None, 120),
    ):
        model = mvkit.load_model("pixels", viewing=ViewingConditions(0.1, given))
        found = mvkit.extract(model, dataset)
        assert found.preprocessing["field_of_view_deg"] == expected
        seen = np.stack([ViewingConditions(0.1, expected)(image) for image in images])
        assert np.array_equal(found["pixels"], mvkit.extract("pixels", seen)["pixels"])
    with pytest.raises(DataError, match="field_of_view_deg is 0; needed: degrees"):
        replace(wide, field_of_view_deg=0)


def test_a_function_of_the_users_own_sees_filtered_images() -> None:
    import torch

    images = np.random.default_rng(3).integers(0, 256, (2, 20, 20)).astype(np.uint8)
    net = torch.nn.Flatten()
    net.preprocess = lambda picture: torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255.0
    net.viewing = ViewingConditions(acuity_cpd=0.02)
    found = mvkit.extract(net, images, ["final"])["final"].reshape(2, 3, 20, 20)
    assert found[1, 0] == pytest.approx(net.viewing(images[1]) / 255, abs=1e-6)


def test_what_cannot_be_filtered() -> None:
    import torch

    net = torch.nn.Flatten()
    net.viewing = ViewingConditions(acuity_cpd=0.5)
    with pytest.raises(UsageError, match="120 degrees wide: the images are prepared"):
        mvkit.extract(net, np.zeros((2, 3, 8, 8), np.float32), ["final"])
    net.viewing = 0.5
    with pytest.raises(UsageError, match="is a float; needed: mvkit"):
        mvkit.extract(net, np.zeros((2, 3, 8, 8), np.float32), ["final"])
