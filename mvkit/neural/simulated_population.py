"""Animals whose predictability is known: for checking estimators, intervals and tests.

A unit's noise-free response to an image is

    share * shared + sqrt(1 - share^2) * private

where ``shared`` is a linear read-out of latents that the features contain too, and ``private`` one of latents
that no feature knows. Both have unit variance over the population of images, so that ``share`` is the
correlation that the best linear map reaches with endless images and no noise. Trials add Gaussian noise.
Unlike :mod:`mvkit.neural.simulated`, which is one fixed dataset, everything here can be chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mvkit.errors import UsageError
from mvkit.neural.recording import Recording

#: Latents that features and responses share, that only features have, and that only responses have.
N_SHARED, N_FEATURES_ONLY, N_PRIVATE = 8, 40, 12
N_FEATURES = 60
#: Standard deviation of the k-th latent that only features have, k = 1, 2, ...: k to this power.
SPECTRUM = -1.0


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
        wanted = np.broadcast_to(np.asarray(reliability, dtype=np.float64), self.shares.shape)
        if not np.all((wanted > 0.0) & (wanted <= 1.0)):
            raise UsageError("reliability must be above 0 and at most 1 (1 = no noise)")
        deviation = noise_deviation(wanted, n_trials)
        rng = np.random.default_rng(seed)
        made = []
        for animal, signal in enumerate(self.signals):
            noise = rng.standard_normal((n_trials, *signal.shape))
            n_units = signal.shape[1]
            made.append(
                Recording(
                    area=area,
                    specimen=animal + 1,
                    unit_ids=np.arange(animal * n_units, (animal + 1) * n_units, dtype=np.int64),
                    responses=signal + deviation[animal] * noise,
                )
            )
        return tuple(made)


def noise_deviation(reliability: NDArray[np.float64], n_trials: int) -> NDArray[np.float64]:
    """Return the standard deviation of one trial's noise around a response of variance 1."""
    deviation: NDArray[np.float64] = np.sqrt(n_trials * (1.0 - reliability) / reliability)
    return deviation


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
    wanted = np.asarray(shares, dtype=np.float64)
    if wanted.ndim != 2 or not np.all(np.abs(wanted) <= 1.0):
        raise UsageError("shares must be (n_animals, n_units), all within -1 and 1")
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((n_images, N_SHARED))
    spectrum = np.arange(1, N_FEATURES_ONLY + 1) ** SPECTRUM
    others = rng.standard_normal((n_images, N_FEATURES_ONLY)) * spectrum
    private = rng.standard_normal((n_images, N_PRIVATE))
    features = np.hstack([shared, others]) @ rng.standard_normal((N_SHARED + N_FEATURES_ONLY, N_FEATURES))
    n_animals, n_units = wanted.shape
    signals = np.empty((n_animals, n_images, n_units))
    for animal in range(n_animals):
        explained = shared @ _directions(rng, N_SHARED, n_units)
        unexplained = private @ _directions(rng, N_PRIVATE, n_units)
        signals[animal] = wanted[animal] * explained + np.sqrt(1.0 - wanted[animal] ** 2) * unexplained
    signals -= signals.mean(axis=1, keepdims=True)
    signals /= signals.std(axis=1, keepdims=True)
    return SimulatedPopulation(features, signals, wanted)


def drawn_shares(
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


def _directions(rng: np.random.Generator, n_latents: int, n_units: int) -> NDArray[np.float64]:
    drawn = rng.standard_normal((n_latents, n_units))
    directions: NDArray[np.float64] = drawn / np.sqrt(np.square(drawn).sum(axis=0))
    return directions
