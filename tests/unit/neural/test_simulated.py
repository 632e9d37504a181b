"""The simulated dataset: its truth, its noise, and what scoring it must give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.cross_decomposition import PLSRegression

from mvkit.gabor import gabor_energies
from mvkit.neural import NeuralDataset, SimulatedTruth, open_dataset, simulated_truth, write_simulated
from mvkit.neural.dataset import AREA_ORDER
from mvkit.neural.simulated import COUNTING_WINDOW_S, scene_images


@pytest.fixture(scope="module")
def truth() -> SimulatedTruth:
    return simulated_truth()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> NeuralDataset:
    return open_dataset("simulated", home=tmp_path_factory.mktemp("empty"))


def spearman_brown(correlation: np.ndarray) -> np.ndarray:
    return 2 * correlation / (1 + correlation)


def correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    first, second = first - first.mean(axis=0), second - second.mean(axis=0)
    return (first * second).sum(axis=0) / np.sqrt((first**2).sum(axis=0) * (second**2).sum(axis=0))


def test_layout(data: NeuralDataset) -> None:
    assert data.areas == AREA_ORDER
    assert all(len(data.specimens(area)) >= 3 for area in data.areas)
    assert data.stimuli.shape == (118, 64, 64)
    for recording in data.recordings:
        assert recording.n_trials == 50
        assert 30 <= recording.n_units <= 50
    table = data.unit_table()
    assert table["unit_id"].is_unique
    # Animals are recorded in several areas, as real ones are.
    assert (table.groupby("specimen_id")["visual_area"].nunique() > 1).all()


def test_truth_is_a_linear_read_out_of_the_gabor_energies(truth: SimulatedTruth) -> None:
    energies = gabor_energies(truth.stimuli / 255.0)
    np.testing.assert_allclose(energies @ truth.weights + truth.baseline, truth.rates, rtol=1e-9)
    # Weights made from the stimuli would lie wholly in the span of their energies.
    basis = np.linalg.qr((energies - energies.mean(axis=0)).T)[0]
    inside = ((basis.T @ truth.weights) ** 2).sum(axis=0) / (truth.weights**2).sum(axis=0)
    assert inside.max() < 0.95
    assert truth.rates.min() > 0


def test_nothing_but_rates_and_noise_is_in_the_responses(data: NeuralDataset, truth: SimulatedTruth) -> None:
    """Trial means scatter around the rates, and trials around the means, as Poisson counts do."""
    responses = data.responses().astype(np.float64)
    np.testing.assert_array_equal(data.unit_table()["unit_id"], truth.unit_ids)
    np.testing.assert_array_equal(np.mod(responses * COUNTING_WINDOW_S, 1), 0)
    z = (responses.mean(axis=0) - truth.rates) / np.sqrt(truth.noise_variance / 50)
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    assert z.std() == pytest.approx(1, abs=0.02)
    ratio = responses.var(axis=0, ddof=1).sum() / truth.noise_variance.sum()
    assert ratio == pytest.approx(1, abs=0.01)
    np.testing.assert_allclose(truth.noise_variance, truth.rates / COUNTING_WINDOW_S, rtol=1e-12)


def test_stated_reliability_is_what_split_halves_give(data: NeuralDataset, truth: SimulatedTruth) -> None:
    responses = data.responses().astype(np.float64)
    halves = []
    for seed in range(10):
        order = np.random.RandomState(seed).permutation(50)
        first, second = responses[order[:25]].mean(axis=0), responses[order[25:]].mean(axis=0)
        halves.append(spearman_brown(correlation(first, second)))
    measured = np.mean(halves, axis=0)
    np.testing.assert_allclose(measured, truth.reliability, atol=0.04)
    assert np.mean(measured - truth.reliability) == pytest.approx(0, abs=0.003)
    np.testing.assert_array_equal(data.unit_table()["true_reliability"], truth.reliability)
    # Reliability varies between units.
    assert truth.reliability.max() - truth.reliability.min() > 0.03


def paper_scores(features: np.ndarray, responses: np.ndarray) -> np.ndarray:
    """Median over 2 splits x 2 halvings of the noise-corrected score (goldens README, section 4)."""
    scores = []
    for split in range(2):
        order = np.random.RandomState(split).permutation(118)
        train, test = order[:59], order[59:]
        for seed in range(2):
            trials = np.random.RandomState(seed).permutation(50)
            halves = [responses[trials[:25]].mean(axis=0), responses[trials[25:]].mean(axis=0)]
            predictions = [
                PLSRegression(25, scale=False).fit(features[train], half[train]).predict(features[test])
                for half in halves
            ]
            r_map = spearman_brown(correlation(*predictions))
            r_target = spearman_brown(correlation(halves[0][test], halves[1][test]))
            scores.append(correlation(predictions[0], halves[1][test]) / np.sqrt(r_map * r_target))
    return np.nanmedian(scores, axis=0)


def test_the_true_model_is_recovered_and_pixels_are_not(data: NeuralDataset) -> None:
    images = data.stimuli / 255.0
    energies, pixels = gabor_energies(images), images.reshape(118, -1)
    for recording in (data.recordings[0], data.recordings[-1]):
        responses = recording.responses.astype(np.float64)
        assert np.median(paper_scores(energies, responses)) >= 0.95
        assert np.nanmedian(paper_scores(pixels, responses)) <= 0.4


def test_file_and_memory_agree(data: NeuralDataset, tmp_path: Path) -> None:
    path = write_simulated(tmp_path / "neural" / "simulated.h5")
    for back in (open_dataset(path), open_dataset("simulated", home=tmp_path)):
        np.testing.assert_array_equal(back.responses(), data.responses())
        np.testing.assert_array_equal(back.stimuli, data.stimuli)
        assert back.unit_table().equals(data.unit_table())
        assert back.name == data.name == "simulated"
        assert back.provenance["seed"] == 0
        assert dict(back.selection) == dict(data.selection)


def test_another_seed_gives_another_population(truth: SimulatedTruth) -> None:
    other = simulated_truth(seed=1)
    assert not np.array_equal(other.stimuli, truth.stimuli)
    assert other.rates.shape != truth.rates.shape or not np.allclose(other.rates, truth.rates)


def test_scenes_have_the_statistics_of_photographs() -> None:
    """Amplitude spectra fall about as 1/f (photographs: slope -0.8 to -1.5); edges make heavy tails."""
    images = scene_images(40, 7) / 255.0
    np.testing.assert_array_equal(scene_images(40, 7) / 255.0, images)
    window = np.hanning(64)[:, None] * np.hanning(64)
    spectrum = np.abs(np.fft.fft2((images - images.mean(axis=(1, 2), keepdims=True)) * window)).mean(axis=0)
    frequency = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64)) * 64
    band = (frequency >= 2) & (frequency <= 28)
    slope = np.polyfit(np.log(frequency[band]), np.log(spectrum[band]), 1)[0]
    assert -1.6 < slope < -0.8
    steps = np.diff(images, axis=2).ravel()
    kurtosis = ((steps - steps.mean()) ** 4).mean() / steps.var() ** 2
    assert kurtosis > 6
    assert np.mean((images == 0) | (images == 1)) < 0.05
    # Contrasts differ between scenes.
    spread = images.std(axis=(1, 2))
    assert spread.max() / spread.min() > 1.3
