"""Bias and variance of estimators and corrections against known truth, for benchmarks/simulation_study.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from known_truth import (
    CORRECTIONS,
    ESTIMATORS,
    Array,
    Prepared,
    estimates,
    half_noise,
    measured,
    prepare,
    true_predictivity,
)

from mvkit.neural.simulated import SimulatedPopulation, simulate_population
from mvkit.scoring.protocol import SplitHalfScores
from mvkit.scoring.settings import ScoreSettings

COMBINATIONS = tuple((estimator, correction) for correction in CORRECTIONS for estimator in ESTIMATORS)
PUBLISHED = ("mean-of-corrected", "spearman-brown-denominator")


@dataclass(frozen=True)
class Plan:
    """What is simulated: every reliability with every number of trials and of units."""

    reliabilities: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.95)
    trials: tuple[int, ...] = (10, 20, 50)
    units: tuple[int, ...] = (10, 40)
    n_populations: int = 5
    n_datasets: int = 12
    settings: ScoreSettings = field(default_factory=lambda: ScoreSettings(n_splits=2, n_halves=50))


@dataclass(frozen=True)
class Cell:
    """All simulated data sets of one reliability, number of trials and number of units.

    Arrays are (n_populations, n_datasets, n_units), ``truth`` (n_populations, n_units).
    """

    reliability: float
    n_trials: int
    n_units: int
    truth: Array
    noise_free: Array
    scores: dict[tuple[str, str], Array]
    parts: dict[str, Array]


def simulate(plan: Plan) -> Iterator[Cell]:
    """Simulate one cell after the other; units' shares run evenly from 0 to 1."""
    for n_units in plan.units:
        shares = np.linspace(0.0, 1.0, n_units)[None]
        made = [simulate_population(shares, seed=seed) for seed in range(plan.n_populations)]
        ready = [prepare(population.features, plan.settings) for population in made]
        pairs = list(zip(made, ready, strict=True))
        noise_free = np.array([true_predictivity(*pair, 0.0, seed=0)[0] for pair in pairs])
        for reliability in plan.reliabilities:
            truth = np.array([true_predictivity(*pair, half_noise(reliability), seed=1)[0] for pair in pairs])
            for n_trials in plan.trials:
                yield _cell(plan, pairs, (truth, noise_free), (reliability, n_trials))


def _cell(
    plan: Plan,
    pairs: list[tuple[SimulatedPopulation, Prepared]],
    truths: tuple[Array, Array],
    noise: tuple[float, int],
) -> Cell:
    reliability, n_trials = noise
    truth, noise_free = truths
    shape = (len(pairs), plan.n_datasets, truth.shape[1])
    scores = {combination: np.empty(shape) for combination in COMBINATIONS}
    parts: dict[str, Array] = {}
    for index, (population, ready) in enumerate(pairs):
        for dataset in range(plan.n_datasets):
            (recording,) = population.recordings(
                reliability=reliability, n_trials=n_trials, seed=1000 * index + dataset
            )
            halvings = measured(recording.responses, ready)
            for combination, columns in estimates(halvings, plan.settings).items():
                scores[combination][index, dataset] = columns["score"]
            for name, values in _parts(halvings).items():
                parts.setdefault(name, np.empty(shape))[index, dataset] = values
    return Cell(reliability, n_trials, truth.shape[1], truth, noise_free, scores, parts)


def _parts(halvings: SplitHalfScores) -> dict[str, Array]:
    """Return what dropping does: means of the correlations over all halvings and over those that are kept."""
    kept = (halvings.r_map > 0) & (halvings.r_target > 0)
    number = np.maximum(kept.sum(axis=(0, 1)), 1)
    found = {"dropped": 1.0 - kept.mean(axis=(0, 1))}
    for name in ("r_cross", "r_map", "r_target"):
        values = getattr(halvings, name)
        found[name] = values.mean(axis=(0, 1))
        mean_kept = np.where(kept, values, 0.0).sum(axis=(0, 1)) / number
        found[f"{name}_kept"] = np.where(kept.any(axis=(0, 1)), mean_kept, np.nan)
    return found


def bias_table(cells: list[Cell]) -> pd.DataFrame:
    """One row per cell, estimator and correction: bias and standard deviation over data sets.

    ``unit_*``: of a unit's score, mean over units (``unit_sd``: root mean variance); ``unit_median_bias``:
    the median error of all units and data sets, which units with a reliability near zero do not carry away;
    ``median_*``: of the median over units against the median of the truth; ``n_nan``: share of units without
    a score.
    """
    rows = []
    for cell in cells:
        for (estimator, correction), scores in cell.scores.items():
            errors = scores - cell.truth[:, None]
            medians = np.nanmedian(scores, axis=2) - np.median(cell.truth, axis=1)[:, None]
            enough = (~np.isnan(errors)).sum(axis=1) > 1
            with np.errstate(invalid="ignore"):
                variances = np.nanvar(np.where(enough[:, None], errors, 0.0), axis=1, ddof=1)[enough]
            rows.append(
                {
                    "reliability": cell.reliability,
                    "n_trials": cell.n_trials,
                    "n_units": cell.n_units,
                    "estimator": estimator,
                    "correction": correction,
                    "unit_bias": np.nanmean(errors),
                    "unit_median_bias": np.nanmedian(errors),
                    "unit_sd": np.sqrt(variances.mean()),
                    "median_bias": medians.mean(),
                    "median_sd": np.sqrt(medians.var(axis=1, ddof=1).mean()),
                    "median_se": np.sqrt(medians.var(axis=1, ddof=1).mean() / medians.size),
                    "n_nan": np.isnan(scores).mean(),
                }
            )
    return pd.DataFrame(rows)


def dropping_table(cells: list[Cell]) -> pd.DataFrame:
    """What is dropped, and what the kept halvings have that all halvings do not."""
    rows = []
    for cell in cells:
        parts = cell.parts
        both = ~np.isnan(cell.scores["corrected-mean", "attenuation"])
        dropping = cell.scores["mean-of-corrected", "attenuation"] - cell.truth[:, None]
        keeping = cell.scores["corrected-mean", "attenuation"] - cell.truth[:, None]
        rows.append(
            {
                "reliability": cell.reliability,
                "n_trials": cell.n_trials,
                "n_units": cell.n_units,
                "halvings_dropped": parts["dropped"].mean(),
                "units_never_kept": np.isnan(cell.scores[PUBLISHED]).mean(),
                "units_not_corrected": 1.0 - both.mean(),
                "r_cross": parts["r_cross"].mean(),
                "r_cross_kept": np.nanmean(parts["r_cross_kept"]),
                "r_target": parts["r_target"].mean(),
                "r_target_kept": np.nanmean(parts["r_target_kept"]),
                "error_if_dropped": np.nanmedian(dropping),
                "error_if_averaged_first": np.nanmedian(keeping),
                "truth_of_scored_units": np.median(np.broadcast_to(cell.truth[:, None], both.shape)[both]),
                "truth_of_all_units": np.median(cell.truth),
            }
        )
    return pd.DataFrame(rows)


def perfect_model_table(cells: list[Cell]) -> pd.DataFrame:
    """Scores of the unit that the features explain wholly, and the factor that theory leaves in them.

    ``predicted``: truth x sqrt((1 + r_map) / 2 x (1 + r_target) / 2) from the means of r_map and r_target.
    """
    rows = []
    for cell in cells:
        own = {name: scores[:, :, -1] for name, scores in cell.scores.items()}
        r_map, r_target = (cell.parts[name][:, :, -1].mean() for name in ("r_map", "r_target"))
        factor = np.sqrt((1.0 + r_map) * (1.0 + r_target)) / 2.0
        rows.append(
            {
                "reliability": cell.reliability,
                "n_trials": cell.n_trials,
                "n_units": cell.n_units,
                "truth": cell.truth[:, -1].mean(),
                "predicted": cell.truth[:, -1].mean() * factor,
                "published": np.nanmean(own[PUBLISHED]),
                "denominator_of_means": np.nanmean(own["corrected-mean", "spearman-brown-denominator"]),
                "attenuation_of_means": np.nanmean(own["corrected-mean", "attenuation"]),
            }
        )
    return pd.DataFrame(rows)
