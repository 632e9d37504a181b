"""A population whose true tuning is known: the embedded dataset and self-check.

118 scenes (:func:`scene_images`) and units in six areas whose mean firing
rates are linear read-outs of the Gabor energies of the scenes
(:mod:`mvkit.gabor`), with Poisson spike counts on 50 trials. A model
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

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvkit.errors import UsageError
from mvkit.gabor import gabor_energies
from mvkit.neural.dataset import AREA_ORDER, Recording
from mvkit.neural.neural_file import (
    NeuralFileContents,
    contents_of_recordings,
    unit_blocks,
    write_neural_file,
)

SIZE_PX = 64
N_RIDGES = 3
N_TRUNKS = 4
LEAF_RADII_PX = tuple(float(r) for r in np.geomspace(26, 3, 40))
N_TEXTURES = 4
TEXTURE_CONTRAST = (0.08, 0.05, 0.035, 0.025)

#: Latents that features and responses share, that only features have, and that only responses have.
N_SHARED, N_FEATURES_ONLY, N_PRIVATE = 8, 40, 12
N_FEATURES = 60

#: Standard deviation of the k-th latent that only features have, k = 1, 2, ...: k to this power.
SPECTRUM = -1.0
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
Stack = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SimulatedTruth:
    """Noise-free responses, read-outs and reliabilities of the simulated recordings.

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


def simulated_contents(*, seed: int = 0) -> tuple[NeuralFileContents, NDArray[np.floating]]:
    """Return what :func:`write_simulated` would write, without a file."""
    stimuli, recordings = simulated_recordings(seed=seed)
    contents, ordered = contents_of_recordings(
        recordings, stimuli=stimuli, units_of_measure="spikes/s", name=NAME, source=_source(seed)
    )
    blocks = [values for _, values in unit_blocks(contents, ordered)]
    # Nothing was written, and the same population has the same provenance every time.
    provenance = {name: value for name, value in contents.provenance.items() if name != "written_at"}
    return replace(contents, provenance=provenance), np.concatenate(blocks, axis=2)


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
    weights, baseline = _scale_to_hertz(energies, weights, draws)
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


def _source(seed: int) -> dict[str, object]:
    return {
        "source": "simulated by mvkit.neural.simulated",
        "seed": seed,
        "truth": f"mvkit.neural.simulated_truth(seed={seed})",
        "tuning": "linear read-outs of mvkit.gabor.gabor_energies",
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


def _scale_to_hertz(
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


def scene_images(n_images: int, seed: int) -> NDArray[np.uint8]:
    """Draw scenes.

    Parameters
    ----------
    n_images
        Number of images. The images of a shorter series are other ones.
    seed
        Of numpy's legacy Mersenne Twister, whose stream is frozen (NEP 19).

    Returns
    -------
    uint8 (n_images, 64, 64)
        Grey levels.
    """
    draws = np.random.RandomState(seed)
    scene = _Canvas(np.zeros((n_images, SIZE_PX, SIZE_PX)), _textures(n_images, draws), draws)
    y = np.arange(SIZE_PX, dtype=np.float64)[:, None]
    horizon = scene.uniform(-0.3, 1.0) * SIZE_PX
    light = scene.uniform(0.35, 0.85)
    scene.paint(np.ones((1, 1, 1)), light + scene.uniform(-0.3, 0.2) * (1 - y / SIZE_PX))
    for depth in range(N_RIDGES):
        _paint_ridge(scene, horizon + depth * scene.uniform(4, 18), light)
    n_trunks = scene.uniform(-2, N_TRUNKS)
    for index in range(N_TRUNKS):
        _paint_trunk(scene, light, present=n_trunks > index)
    density = scene.uniform(0, 1) ** 1.5
    palette = scene.normal(0.12) + light - 0.1
    for radius in LEAF_RADII_PX:
        _paint_leaf(scene, radius, palette, present=scene.uniform(0, 1) < density)
    return np.clip(np.rint(255 * _equalise_exposure(scene.canvas)), 0, 255).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class _Canvas:
    """The images being painted and what all surfaces share."""

    canvas: Stack
    textures: Stack
    draws: np.random.RandomState

    @property
    def n_images(self) -> int:
        return len(self.canvas)

    def uniform(self, low: float, high: float, *shape: int) -> Stack:
        """Draw per image, shaped to broadcast over its pixels."""
        return low + (high - low) * self.draws.random_sample((self.n_images, *shape, 1, 1))

    def normal(self, scale: float) -> Stack:
        return scale * self.draws.standard_normal((self.n_images, 1, 1))

    def paint(self, cover: Stack, brightness: Stack, chosen: NDArray[np.int64] | None = None) -> None:
        """Cover part of images with surfaces that have their own texture.

        ``cover`` (0 to 1) and ``brightness`` belong to the chosen images (None: all).
        """
        strength = self.draws.standard_normal((self.n_images, N_TEXTURES)) * TEXTURE_CONTRAST
        images = np.arange(self.n_images) if chosen is None else chosen
        under = self.canvas[images]
        surface = brightness - under
        for index in range(N_TEXTURES):
            surface += strength[images, index, None, None] * self.textures[images, index]
        self.canvas[images] = under + cover * surface


def _equalise_exposure(canvas: Stack) -> Stack:
    """Give every image the same mean brightness and a contrast near its own."""
    mean = canvas.mean(axis=(1, 2), keepdims=True)
    spread = np.sqrt(((canvas - mean) ** 2).mean(axis=(1, 2), keepdims=True))
    gain = 0.2 / np.maximum(spread, 0.05)
    equalised: Stack = 0.48 + (canvas - mean) * np.sqrt(gain)
    return equalised


def _textures(n_images: int, draws: np.random.RandomState) -> Stack:
    """Return noise of unit variance: two 1/f kinds, oriented stripes, and blotches."""
    white = np.fft.rfft2(draws.standard_normal((n_images, N_TEXTURES, SIZE_PX, SIZE_PX)))
    ky = np.fft.fftfreq(SIZE_PX, 1 / SIZE_PX)[:, None]
    kx = np.fft.rfftfreq(SIZE_PX, 1 / SIZE_PX)[None, :]
    frequency = np.maximum(np.sqrt(kx**2 + ky**2), 1)
    angle = math.pi * draws.random_sample((n_images, 1, 1))
    cycles = 4 + 8 * draws.random_sample((n_images, 1, 1))
    along = np.abs(np.cos(angle) * kx + np.sin(angle) * ky)
    across = np.sin(angle) * kx - np.cos(angle) * ky
    white[:, 0] *= frequency**-1.5
    white[:, 1] *= frequency**-1.0
    white[:, 2] *= np.exp(-((along - cycles) ** 2 + across**2) / 8)
    white[:, 3] *= np.exp(-((frequency - cycles) ** 2) / 8)
    noise = np.fft.irfft2(white, s=(SIZE_PX, SIZE_PX))
    noise -= noise.mean(axis=(2, 3), keepdims=True)
    textures: Stack = noise / np.sqrt((noise**2).mean(axis=(2, 3), keepdims=True))
    return textures


def _paint_ridge(scene: _Canvas, height_px: Stack, light: Stack) -> None:
    """Cover everything below an uneven line, darker than the sky on average."""
    x = np.arange(SIZE_PX, dtype=np.float64)[None, :]
    line = height_px + scene.normal(0.25) * (x - SIZE_PX / 2)
    for waves in (1, 2, 3, 5, 8):
        phase = scene.uniform(0, 2 * math.pi)
        line = line + scene.normal(5.0) / waves * np.sin(2 * math.pi * waves * x / SIZE_PX + phase)
    y = np.arange(SIZE_PX, dtype=np.float64)[:, None]
    brightness = light - 0.2 + scene.normal(0.15) + scene.normal(0.15) * (y / SIZE_PX - 0.5)
    scene.paint(np.clip(y - line + 0.5, 0, 1), brightness)


def _paint_trunk(scene: _Canvas, light: Stack, *, present: NDArray[np.bool_]) -> None:
    """Cover a long bar, mostly upright, rounded by its shading."""
    angle, x, y = scene.normal(0.35), scene.uniform(0, SIZE_PX), scene.uniform(0, SIZE_PX)
    half_width, length = np.exp(scene.uniform(0, 2.1)), scene.uniform(-10, 50)
    base, shading = light - 0.3 + scene.normal(0.2), scene.normal(0.15)
    across, along = _rotate(x, y, angle)
    cover = np.clip(half_width - np.abs(across) + 0.5, 0, 1) * np.clip(along + length + 0.5, 0, 1)
    scene.paint(cover * present, base + shading * across / half_width)


def _paint_leaf(scene: _Canvas, radius_px: float, palette: Stack, *, present: NDArray[np.bool_]) -> None:
    """Cover an ellipse, half the time cut by a straight edge."""
    margin = radius_px / 2
    x, y = (scene.uniform(-margin, SIZE_PX + margin) for _ in range(2))
    angle, narrowness = scene.uniform(0, 2 * math.pi), scene.uniform(1.0, 3.0)
    edge = np.abs(scene.uniform(-2 * radius_px, 2 * radius_px))
    base, shading = palette + scene.normal(0.16), scene.normal(0.1) / radius_px
    chosen = np.flatnonzero(present)
    p, q = _rotate(x[chosen], y[chosen], angle[chosen])
    depth = (radius_px**2 - p**2 - (q * narrowness[chosen]) ** 2) / (2 * radius_px)
    cover = np.clip(depth + 0.5, 0, 1) * np.clip(edge[chosen] - p + 0.5, 0, 1)
    scene.paint(cover, base[chosen] + shading[chosen] * p, chosen)


def _rotate(x_px: Stack, y_px: Stack, angle: Stack) -> tuple[Stack, Stack]:
    """Return pixel coordinates around a centre, turned by an angle."""
    dx = np.arange(SIZE_PX, dtype=np.float64)[None, :] - x_px
    dy = np.arange(SIZE_PX, dtype=np.float64)[:, None] - y_px
    return np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx


@dataclass(frozen=True, eq=False)
class SimulatedPopulation:
    """Features and noise-free responses of animals recorded in one area.

    Attributes
    ----------
    features
        float64 (n_images, 60).
    signals
        float64 (n_animals, n_images, n_units): noise-free responses; mean 0 and variance 1 over the images.
    shares
        float64 (n_animals, n_units): correlation of the part that features can explain with the response.
    """

    features: NDArray[np.float64]
    signals: NDArray[np.float64]
    shares: NDArray[np.float64]

    def recordings(
        self, *, reliability: ArrayLike, n_trials: int, seed: int, area: str = "VISp"
    ) -> tuple[Recording, ...]:
        """Draw the trials of every animal.

        Parameters
        ----------
        reliability
            Reliability of the mean of all trials, signal variance over total variance, above 0 and at most 1
            (1 = no noise): one number, or (n_animals, n_units).
        n_trials
            Trials per image.
        seed
            Of the noise; the same population with another seed is the same truth recorded again.
        area
            Name of the area.

        Raises
        ------
        UsageError
            If a reliability lies outside (0, 1].
        """
        per_unit = np.broadcast_to(np.asarray(reliability, dtype=np.float64), self.shares.shape)
        if not np.all((per_unit > 0.0) & (per_unit <= 1.0)):
            raise UsageError("reliability must be above 0 and at most 1 (1 = no noise)")
        deviation = noise_deviation(per_unit, n_trials)
        rng = np.random.default_rng(seed)
        recordings = []
        for animal, signal in enumerate(self.signals):
            noise = rng.standard_normal((n_trials, *signal.shape))
            n_units = signal.shape[1]
            recordings.append(
                Recording(
                    area=area,
                    specimen=animal + 1,
                    unit_ids=np.arange(animal * n_units, (animal + 1) * n_units, dtype=np.int64),
                    responses=signal + deviation[animal] * noise,
                )
            )
        return tuple(recordings)


def simulate_population(shares: ArrayLike, *, n_images: int = 118, seed: int = 0) -> SimulatedPopulation:
    """Draw images, features and tuning.

    Parameters
    ----------
    shares
        (n_animals, n_units) in [-1, 1], see :class:`SimulatedPopulation`.
    n_images
        Images, drawn independently of one another.
    seed
        Of everything drawn.

    Raises
    ------
    UsageError
        If ``shares`` has another number of axes or leaves [-1, 1].
    """
    correlations = np.asarray(shares, dtype=np.float64)
    if correlations.ndim != 2 or not np.all(np.abs(correlations) <= 1.0):
        raise UsageError("shares must be (n_animals, n_units), all within -1 and 1")
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((n_images, N_SHARED))
    spectrum = np.arange(1, N_FEATURES_ONLY + 1) ** SPECTRUM
    others = rng.standard_normal((n_images, N_FEATURES_ONLY)) * spectrum
    private = rng.standard_normal((n_images, N_PRIVATE))
    features = np.hstack([shared, others]) @ rng.standard_normal((N_SHARED + N_FEATURES_ONLY, N_FEATURES))
    n_animals, n_units = correlations.shape
    signals = np.empty((n_animals, n_images, n_units))
    for animal in range(n_animals):
        explained = shared @ _directions(rng, N_SHARED, n_units)
        unexplained = private @ _directions(rng, N_PRIVATE, n_units)
        signals[animal] = (
            correlations[animal] * explained + np.sqrt(1.0 - correlations[animal] ** 2) * unexplained
        )
    signals -= signals.mean(axis=1, keepdims=True)
    signals /= signals.std(axis=1, keepdims=True)
    return SimulatedPopulation(features, signals, correlations)


def draw_shares(
    *, n_animals: int, n_units: int, median: float, spreads: tuple[float, float], seed: int
) -> NDArray[np.float64]:
    """Draw the shares of units of animals that differ.

    Parameters
    ----------
    n_animals, n_units
        Animals, and units of each.
    median
        Median over the population of animals and units, between -1 and 1.
    spreads
        Standard deviations of the animals' effects and of the units' within an animal, on the scale of
        Fisher's z = artanh(share), which keeps shares within -1 and 1 and their median where it is.
    seed
        Of the draws.

    Returns
    -------
    ndarray
        float64 (n_animals, n_units).
    """
    rng = np.random.default_rng(seed)
    animals = spreads[0] * rng.standard_normal((n_animals, 1))
    units = spreads[1] * rng.standard_normal((n_animals, n_units))
    shares: NDArray[np.float64] = np.tanh(np.arctanh(median) + animals + units)
    return shares


def noise_deviation(reliability: NDArray[np.float64], n_trials: int) -> NDArray[np.float64]:
    """Return the standard deviation of one trial's noise around a response of variance 1."""
    deviation: NDArray[np.float64] = np.sqrt(n_trials * (1.0 - reliability) / reliability)
    return deviation


def _directions(rng: np.random.Generator, n_latents: int, n_units: int) -> NDArray[np.float64]:
    drawn = rng.standard_normal((n_latents, n_units))
    directions: NDArray[np.float64] = drawn / np.sqrt(np.square(drawn).sum(axis=0))
    return directions
