"""Mean responses of the halves, made ready for one split of the images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.correlation import Drop, centred, correlate_by, spread
from mvkit.scoring.pls_components import ZERO_TARGET
from mvkit.scoring.protocol import ImageSplit
from mvkit.scoring.settings import ScoreSettings


@dataclass(frozen=True)
class Targets:
    """Half responses of a group of halvings on one split.

    Attributes
    ----------
    train
        float64 (2 n_halves, n_train, n_units): halves 1 and 2 of each halving in turn, see
        :func:`training_targets`.
    second_test
        float64 (n_halves, n_test, n_units): half 2, centred.
    r_target
        float64 (n_halves, n_units): half 1 with half 2, over test images.
    drops
        uint8 (n_halves, n_units): why a halving cannot be scored, as far as is known before a map is fitted.
    """

    train: NDArray[np.float64]
    second_test: NDArray[np.float64]
    r_target: NDArray[np.float64]
    drops: NDArray[np.uint8]


def training_targets(means: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Centre half-means over the training images and clear the columns that cannot take part in a fit.

    Parameters
    ----------
    means
        float64 (n_fits, n_train, n_units), NaN where a half has no valid trial.

    Returns
    -------
    targets
        float64 (n_fits, n_train, n_units): centred; zero for a unit with NaN or a constant response in
        that fit. A zero column adds nothing to any covariance, so all other units come out exactly as if
        the unit were not in that fit; it still takes part in the other fits.
    usable
        bool (n_fits, n_units): False for those columns.
    """
    targets = centred(means, axis=-2)
    usable = spread(targets, axis=-2) >= ZERO_TARGET
    if not usable.all():
        np.copyto(targets, 0.0, where=~usable)
    return targets, usable[:, 0, :]


def targets_of_split(means: NDArray[np.float64], split: ImageSplit, settings: ScoreSettings) -> Targets:
    """Take the images of one split out of half-means.

    Parameters
    ----------
    means
        float64 (n_halves, 2, n_images, n_units) as from :func:`~mvkit.scoring.halves.half_means`.
    split
        Training and test images.
    settings
        The kind of correlation.
    """
    n_halves, _, _, n_units = means.shape
    train_means = np.ascontiguousarray(means[:, :, split.train])
    test = centred(np.ascontiguousarray(means[:, :, split.test]), axis=2)
    train, usable = training_targets(train_means.reshape(2 * n_halves, -1, n_units))
    lost = np.isnan(train_means).any(axis=(1, 2)) | np.isnan(test).any(axis=(1, 2))
    varies = usable.reshape(n_halves, 2, n_units) & np.any(test != 0.0, axis=2)
    constant = ~np.all(varies, axis=1)
    drops = np.zeros((n_halves, n_units), dtype=np.uint8)
    drops[constant] = Drop.CONSTANT_RESPONSE
    drops[lost] = Drop.NO_TRIAL
    r_target = correlate_by(settings.correlation, test[:, 0], test[:, 1])
    return Targets(train, np.ascontiguousarray(test[:, 1]), r_target, drops)


def correlate_predictions(
    predictions: NDArray[np.float64], targets: Targets, settings: ScoreSettings
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Correlate predictions with the other half, and with each other.

    Parameters
    ----------
    predictions
        float64 (2 n_halves, n_test, n_units), in the order of ``targets.train``.
    targets
        The responses.
    settings
        The kind of correlation.

    Returns
    -------
    r_cross, r_map
        float64 (n_halves, n_units); NaN where a unit was not in one of the two fits.
    """
    first = np.ascontiguousarray(predictions[0::2])
    second = np.ascontiguousarray(predictions[1::2])
    kind = settings.correlation
    return correlate_by(kind, first, targets.second_test), correlate_by(kind, first, second)
