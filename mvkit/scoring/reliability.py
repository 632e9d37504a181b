"""Split-half reliability of responses, without any model."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import UsageError
from mvkit.naming import unknown_name
from mvkit.scoring.correlation import centred, correlate, spearman_brown
from mvkit.scoring.halves import half_means
from mvkit.scoring.protocol import halves_of, trial_orders, trial_orders_in_sequence

Draws = Literal["per_trial_seed", "per_unit_seed0"]
_DRAWS = {"per_trial_seed": trial_orders, "per_unit_seed0": trial_orders_in_sequence}


def split_half_reliability(
    responses: NDArray[np.floating],
    *,
    n_halves: int = 100,
    draws: Draws = "per_trial_seed",
    seed: int = 0,
) -> NDArray[np.float64]:
    """Correlate the two halves of the trials over all images, corrected by Spearman and Brown's formula.

    Parameters
    ----------
    responses
        (n_trials, n_images, n_units), NaN = missing; halves are means that ignore it.
    n_halves
        Halvings of the trials.
    draws
        ``"per_trial_seed"``: halving ``b`` shuffles the trials by ``RandomState(seed + b)``.
        ``"per_unit_seed0"``: the halvings are successive shuffles of one ``RandomState(seed)``, the same ones
        for every unit. Both as in the 2020 code (goldens section 4, ``reliability.npz``).
    seed
        Where the draws begin.

    Returns
    -------
    ndarray
        float64 (n_halves, n_units); NaN where a half has no valid trial for some image or does not vary.

    Raises
    ------
    UsageError
        If ``draws`` is not one of the two, or there are fewer than two trials.
    """
    if draws not in _DRAWS:
        raise unknown_name("way of drawing halves", draws, _DRAWS)
    n_trials = responses.shape[0]
    if n_trials < 2:
        raise UsageError(f"a split-half reliability needs two trials, got {n_trials}")
    members = halves_of(_DRAWS[draws](n_trials, n_halves=n_halves, seed=seed))
    means = centred(half_means(responses, members), axis=2)
    return spearman_brown(correlate(means[:, 0], means[:, 1]))
