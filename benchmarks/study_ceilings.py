"""Ceilings of animals that are linear functions of one another, for benchmarks/simulation_study.py."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mvkit.neural.simulated import simulate_population
from mvkit.scoring import ScoreSettings
from mvkit.scoring.ceilings import measure_ceiling

N_ANIMALS, N_UNITS, N_TRIALS, N_POPULATIONS = 4, 30, 20, 5
RELIABILITIES = (0.3, 0.5, 0.7, 0.9, 0.95, 1.0)
PROTOCOLS = {
    "published": {"estimator": "mean-of-corrected", "correction": "spearman-brown-denominator"},
    "honest": {"estimator": "corrected-mean", "correction": "attenuation"},
}


def ceiling_table(*, n_populations: int = N_POPULATIONS) -> pd.DataFrame:
    """Median hold-out ceiling by PLS; without noise every unit is a linear function of the other animals'.

    A row per reliability, a column per protocol; means over simulated populations.
    """
    rows = []
    for reliability in RELIABILITIES:
        row: dict[str, float] = {"reliability": reliability}
        for protocol, update in PROTOCOLS.items():
            settings = ScoreSettings(n_splits=2, n_halves=20, ceiling="holdout", **update)
            medians = []
            for seed in range(n_populations):
                population = simulate_population(np.ones((N_ANIMALS, N_UNITS)), seed=seed)
                recordings = population.recordings(reliability=reliability, n_trials=N_TRIALS, seed=seed)
                scores = measure_ceiling(recordings, settings).columns["score"].astype(np.float64)
                medians.append(np.nanmedian(scores))
            row[protocol] = float(np.mean(medians))
        rows.append(row)
    return pd.DataFrame(rows)
