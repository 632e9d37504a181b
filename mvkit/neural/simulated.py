"""A population whose true tuning is known: the embedded dataset and self-check.

118 scenes (:mod:`mvkit.neural.scenes`) and units in six areas whose mean firing
rates are linear read-outs of the Gabor energies of the scenes
(:mod:`mvkit.filters.gabor`), with Poisson spike counts on 50 trials. A model
that computes those energies (``gabor``) is the truth, so the scoring pipeline
must give it about 1, and any other model less.

How the read-outs are drawn. Let E be the energies of an independent set of
scenes, one row each, minus their mean. The weights of a unit are E' (E E') a
with a standard normal: they lie in the span of E, with more weight on the
principal components that vary more. That keeps the truth learnable from 59
images; nothing of the 118 stimuli enters the weights.

About 1, not 1: 59 images determine the read-out only nearly, and the paper's
score (goldens README, section 4) correlates halves of the trials but divides
by reliabilities of all trials, so that even a perfect map reaches only
sqrt((1 + r_map) (1 + r_target)) / 2. Firing rates are chosen so that this is
0.96 or more for most units.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mvkit.filters.gabor import gabor_energies
from mvkit.neural.layout import NeuralFileContents
from mvkit.neural.recording import AREA_ORDER, Recording
from mvkit.neural.scenes import scene_images
from mvkit.neural.write import describe, unit_blocks, write_neural_file

NAME = "simulated"
N_IMAGES = 118
N_REFERENCE_IMAGES = 100
N_TRIALS = 50
N_ANIMALS = 4
N_ANIMALS_PER_AREA = 3
UNITS_PER_RECORDING = (30, 50)
#: Spikes are counted over the presentation of an image, as in the real recordings.
COUNTING_WINDOW_S = 0.25
MEAN_RATE_RANGE_HZ = (25.0, 120.0)
#: Standard deviation of the rate over images, as a share of the mean rate.
MODULATION = 0.4
#: No image drives a unit to less than this share of its mean rate.
LOWEST_SHARE = 0.02
_FIRST_SPECIMEN = 900_000_001
_FIRST_UNIT = 1_000_001


@dataclass(frozen=True, eq=False)
class SimulatedTruth:
    """What the simulated recordings are made from.

    Attributes
    ----------
    stimuli
        uint8 (118, 64, 64).
    rates
        float64 (118, n_units), noise-free responses in spikes/s; equal to
        ``gabor_energies(stimuli / 255) @ weights + baseline``.
    weights, baseline
        float64 (n_features, n_units) and (n_units,), the read-outs.
    noise_variance
        float64 (118, n_units), variance of one trial around the rate, (spikes/s)^2.
    reliability
        float64 (n_units,), expected Spearman-Brown corrected split-half
        reliability over all images and trials.
    unit_ids, specimens, areas
        (n_units,), in the order of the recordings.
    """

    stimuli: NDArray[np.uint8]
    rates: NDArray[np.float64]
    weights: NDArray[np.float64]
    baseline: NDArray[np.float64]
    noise_variance: NDArray[np.float64]
    reliability: NDArray[np.float64]
    unit_ids: NDArray[np.int64]
    specimens: NDArray[np.int64]
    areas: NDArray[np.str_]


def simulated_truth(*, seed: int = 0) -> SimulatedTruth:
    """Return the noise-free responses and true reliabilities of the simulated dataset.

    Parameters
    ----------
    seed
        As given to :func:`write_simulated`; ``open_dataset("simulated")`` uses 0.
    """
    draws = np.random.RandomState(seed)
    scene_seeds = draws.randint(0, 2**31 - 1, size=2)
    areas, specimens = _layout(draws)
    stimuli = scene_images(N_IMAGES, int(scene_seeds[0]))
    reference = gabor_energies(scene_images(N_REFERENCE_IMAGES, int(scene_seeds[1])) / 255.0)
    energies = gabor_energies(stimuli / 255.0)
    weights = _weights(reference, len(areas), draws)
    weights, baseline = _in_hertz(energies, weights, draws)
    rates = energies @ weights + baseline
    # Variance of a Poisson count is its mean; of the rate, mean / window.
    noise_variance = rates / COUNTING_WINDOW_S
    signal = rates.var(axis=0)
    return SimulatedTruth(
        stimuli=stimuli,
        rates=rates,
        weights=weights,
        baseline=baseline,
        noise_variance=noise_variance,
        reliability=signal / (signal + noise_variance.mean(axis=0) / N_TRIALS),
        unit_ids=_FIRST_UNIT + np.arange(len(areas), dtype=np.int64),
        specimens=specimens,
        areas=areas,
    )


def simulated_recordings(*, seed: int = 0) -> tuple[NDArray[np.uint8], tuple[Recording, ...]]:
    """Return stimuli and recordings, one per area and specimen.

    Each recording has a column ``true_reliability``; there is no
    ``reliability_mean``, so every selection keeps all units.
    """
    truth = simulated_truth(seed=seed)
    # Own stream: the truth can be had without drawing four million spike counts.
    draws = np.random.RandomState(seed + 1_000_003)
    counts = draws.poisson(truth.rates * COUNTING_WINDOW_S, size=(N_TRIALS, *truth.rates.shape))
    responses = (counts / COUNTING_WINDOW_S).astype(np.float32)
    recordings = []
    for area in AREA_ORDER:
        for specimen in np.unique(truth.specimens[truth.areas == area]).tolist():
            own = np.flatnonzero((truth.areas == area) & (truth.specimens == specimen))
            recordings.append(
                Recording.from_arrays(
                    responses[..., own],
                    unit_ids=truth.unit_ids[own],
                    area=area,
                    specimen=specimen,
                    units={"true_reliability": truth.reliability[own]},
                )
            )
    return truth.stimuli, tuple(recordings)


def write_simulated(path: str | Path, *, seed: int = 0) -> Path:
    """Write the simulated dataset to a neural file.

    Parameters
    ----------
    path
        File to write; replaced if it exists.
    seed
        Another seed gives other scenes, units and noise.
    """
    stimuli, recordings = simulated_recordings(seed=seed)
    return write_neural_file(
        path, recordings, stimuli=stimuli, units_of_measure="spikes/s", name=NAME, source=_source(seed)
    )


def simulated_contents(*, seed: int = 0) -> tuple[NeuralFileContents, NDArray[np.floating]]:
    """Return what :func:`write_simulated` would write, without a file."""
    stimuli, recordings = simulated_recordings(seed=seed)
    contents, ordered = describe(
        recordings, stimuli=stimuli, units_of_measure="spikes/s", name=NAME, source=_source(seed)
    )
    blocks = [values for _, values in unit_blocks(contents, ordered)]
    # Nothing was written, and the same population shall look the same every time.
    provenance = {name: value for name, value in contents.provenance.items() if name != "written_at"}
    return replace(contents, provenance=provenance), np.concatenate(blocks, axis=2)


def _source(seed: int) -> dict[str, object]:
    return {
        "source": "simulated by mvkit.neural.simulated",
        "seed": seed,
        "truth": f"mvkit.neural.simulated_truth(seed={seed})",
        "tuning": "linear read-outs of mvkit.filters.gabor_energies",
        "noise": f"Poisson counts over {COUNTING_WINDOW_S} s",
    }


def _layout(draws: np.random.RandomState) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """Return area and specimen of every unit; an animal is recorded in several areas."""
    areas: list[str] = []
    specimens: list[int] = []
    for index, area in enumerate(AREA_ORDER):
        animals = sorted((index + offset) % N_ANIMALS for offset in range(N_ANIMALS_PER_AREA))
        for animal in animals:
            n_units = int(draws.randint(UNITS_PER_RECORDING[0], UNITS_PER_RECORDING[1] + 1))
            areas += [area] * n_units
            specimens += [_FIRST_SPECIMEN + animal] * n_units
    return np.array(areas), np.array(specimens, dtype=np.int64)


def _weights(
    reference: NDArray[np.float64], n_units: int, draws: np.random.RandomState
) -> NDArray[np.float64]:
    """Return read-outs (n_features, n_units), of any scale, that lie in the span of the reference."""
    centred = reference - reference.mean(axis=0)
    loadings = draws.standard_normal((len(centred), n_units))
    weights: NDArray[np.float64] = centred.T @ (centred @ (centred.T @ loadings))
    return weights


def _in_hertz(
    energies: NDArray[np.float64], weights: NDArray[np.float64], draws: np.random.RandomState
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scale read-outs and choose baselines: rates over the images have drawn means and stay positive."""
    drive = energies @ weights
    mean, deviation = drive.mean(axis=0), drive.std(axis=0)
    low, high = np.log(MEAN_RATE_RANGE_HZ)
    mean_rate = np.exp(low + (high - low) * draws.random_sample(weights.shape[1]))
    deepest = (mean - drive.min(axis=0)) / deviation
    gain = mean_rate * np.minimum(MODULATION, (1 - LOWEST_SHARE) / deepest) / deviation
    return weights * gain, mean_rate - mean * gain
