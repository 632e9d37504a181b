"""Coverage of intervals, size and power of tests against known truth, for benchmarks/simulation_study.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from known_truth import Array, prepare, true_predictivity

from mvkit.neural.simulated import SimulatedPopulation, draw_shares, simulate_population
from mvkit.scoring import Scores, ScoreSettings, score_features
from mvkit.scoring.comparison import compare_models, fraction_of_ceiling
from mvkit.scoring.intervals import median_interval

#: Centre and standard deviation of the simulated scores of units.
CENTRE, SPREAD = 0.45, 0.2
#: Standard deviation over units of the difference of two models, and true differences to detect.
DIFFERENCE_SPREAD = 0.15
DIFFERENCES = (0.0, 0.02, 0.05, 0.1)
N_FOR_TRUTH = 4_000_000


@dataclass(frozen=True)
class Design:
    """Animals, units of each, the animals' share of the variance of scores, and the shape of its rest."""

    n_animals: int
    n_units: int
    animal_share: float
    shape: str = "normal"

    def label(self) -> dict[str, object]:
        """Columns that name it in tables."""
        return {
            "n_animals": self.n_animals,
            "n_units": self.n_units,
            "animal_share": self.animal_share,
            "shape": self.shape,
        }


@dataclass(frozen=True)
class Plan:
    """What is simulated."""

    animals: tuple[int, ...] = (3, 5, 8, 12, 20)
    units: tuple[int, ...] = (10, 30)
    animal_shares: tuple[float, ...] = (0.0, 0.1, 0.3)
    n_datasets: int = 1000
    animals_compared: tuple[int, ...] = (3, 5, 8, 20)
    n_comparisons: int = 1000
    n_power: int = 200
    n_full: int = 200
    n_animals_full: int = 6
    settings: ScoreSettings = field(default_factory=lambda: ScoreSettings(n_resamples=1000))

    def designs(self) -> list[Design]:
        """All designs at the level of scores."""
        regular = [
            Design(animals, units, share)
            for units in self.units
            for share in self.animal_shares
            for animals in self.animals
        ]
        others = [
            Design(animals, self.units[-1], 0.1, shape)
            for shape in ("skewed", "heavy-tailed", "unequal numbers")
            for animals in self.animals
        ]
        return regular + others


def draw(design: Design, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw scores of one data set and the animal of each."""
    sizes = np.full(design.n_animals, design.n_units)
    if design.shape == "unequal numbers":
        sizes = rng.integers(3, 2 * design.n_units - 2, size=design.n_animals)
    animals = np.repeat(np.arange(design.n_animals), sizes)
    effects = rng.standard_normal(design.n_animals)[animals] * np.sqrt(design.animal_share)
    rest = _unit_deviations(design.shape, rng, len(animals)) * np.sqrt(1.0 - design.animal_share)
    return CENTRE + SPREAD * (effects + rest), animals


def _unit_deviations(shape: str, rng: np.random.Generator, number: int) -> Array:
    if shape == "skewed":
        # Towards low scores, as with real units: minus an exponential variable of variance 1.
        return 1.0 - rng.exponential(size=number)
    if shape == "heavy-tailed":
        return rng.standard_t(3, size=number) / np.sqrt(3.0)
    return rng.standard_normal(number)


def true_median(design: Design) -> float:
    """Median over endless animals and units."""
    if design.shape != "skewed":
        return CENTRE
    rng = np.random.default_rng(1)
    deviations = np.sqrt(1.0 - design.animal_share) * _unit_deviations(design.shape, rng, N_FOR_TRUTH)
    effects = np.sqrt(design.animal_share) * rng.standard_normal(N_FOR_TRUTH)
    return CENTRE + SPREAD * float(np.median(effects + deviations))


def median_coverage(plan: Plan) -> pd.DataFrame:
    """Coverage and mean width of median_interval, a row per design."""
    rows = []
    for number, design in enumerate(plan.designs()):
        truth = true_median(design)
        rng = np.random.default_rng([1, number])
        found = [median_interval(*draw(design, rng), plan.settings) for _ in range(plan.n_datasets)]
        inside = [interval.low <= truth <= interval.high for interval in found]
        width = np.mean([interval.high - interval.low for interval in found])
        rows.append({**design.label(), "coverage": np.mean(inside), "width": width})
    return pd.DataFrame(rows)


def scores_of(values: Array, animals: Array, settings: ScoreSettings, layer: str) -> Scores:
    """Wrap scores of units of one area as score_features would return them."""
    number = len(values)
    columns = {
        "layer": np.full(number, layer, dtype=object),
        "area": np.full(number, "VISp", dtype=object),
        "specimen": np.asarray(animals, dtype=np.int64),
        "unit_id": np.arange(number, dtype=np.int64),
        "score": values,
        "reason": np.full(number, "", dtype=object),
    }
    context = {"dataset": "simulated", "selection": None, "responses_sha256": "simulated"}
    return Scores(columns, (layer,), ("VISp",), settings, context, values[None])


def fraction_coverage(plan: Plan) -> pd.DataFrame:
    """Coverage of fraction_of_ceiling: the ceiling shares half of each unit's deviation with the score."""
    rows = []
    for number, n_animals in enumerate(plan.animals_compared):
        design = Design(n_animals, plan.units[-1], 0.1)
        rng = np.random.default_rng([2, number])
        inside, widths = [], []
        for _ in range(plan.n_comparisons):
            values, animals = draw(design, rng)
            again, _ = draw(design, rng)
            ceiling = 0.6 + 0.5 * ((values - CENTRE) + (again - CENTRE))
            table = fraction_of_ceiling(
                scores_of(values, animals, plan.settings, "layer"),
                scores_of(
                    ceiling, animals, plan.settings.model_copy(update={"ceiling": "holdout"}), "holdout"
                ),
            )
            row = table[table["area"] == "VISp"].iloc[0]
            inside.append(row["low"] <= CENTRE / 0.6 <= row["high"])
            widths.append(row["high"] - row["low"])
        rows.append({**design.label(), "coverage": np.mean(inside), "width": np.mean(widths)})
    return pd.DataFrame(rows)


def paired_tests(plan: Plan) -> pd.DataFrame:
    """Coverage of compare_models' intervals, and how often it calls a difference resolved."""
    rows = []
    for number, n_animals in enumerate(plan.animals_compared):
        for difference in DIFFERENCES:
            design = Design(n_animals, plan.units[-1], 0.1)
            rng = np.random.default_rng([3, number])
            inside, resolved = [], []
            for _ in range(plan.n_power if difference else plan.n_comparisons):
                values, animals = draw(design, rng)
                deviations = (draw(design, rng)[0] - CENTRE) * DIFFERENCE_SPREAD / SPREAD
                models = {
                    "first": scores_of(values + difference + deviations, animals, plan.settings, "layer"),
                    "second": scores_of(values, animals, plan.settings, "layer"),
                }
                table = compare_models(models).table()
                row = table[table["area"] == "VISp"].iloc[0]
                inside.append(row["low"] <= difference <= row["high"])
                resolved.append(bool(row["resolved"]))
            rows.append(
                {
                    **design.label(),
                    "difference": difference,
                    "coverage": np.mean(inside),
                    "resolved": np.mean(resolved),
                }
            )
    return pd.DataFrame(rows)


#: Protocols compared on the full path, from trials to intervals.
PROTOCOLS = {
    "published": {"estimator": "mean-of-corrected", "correction": "spearman-brown-denominator"},
    "honest": {"estimator": "corrected-mean", "correction": "attenuation"},
}
#: Units of an animal, trials and images, spread of animals and of units (Fisher's z), range of reliabilities.
FULL_UNITS, FULL_TRIALS, FULL_SPREADS, FULL_RELIABILITY = 25, 20, (0.1, 0.3), (0.5, 0.95)


def full_path(plan: Plan) -> pd.DataFrame:
    """Coverage from trials to intervals: score_features by ridge, median_interval and compare_models.

    Every data set has other animals, units and noise; images and features are the same. The second model
    has the first one's features with independent noise added. Truth: the medians over all animals of all data
    sets of what the maps fitted without noise reach, and of their paired differences (a ridge map is linear
    in its targets, so that noise does not change its expectation).
    """
    n_all = plan.n_full * plan.n_animals_full
    shares = draw_shares(n_animals=n_all, n_units=FULL_UNITS, median=0.6, spreads=FULL_SPREADS, seed=11)
    population = simulate_population(shares, seed=12)
    rng = np.random.default_rng(13)
    noise = rng.standard_normal(population.features.shape) * population.features.std()
    features = {"first": population.features, "second": population.features + 0.2 * noise}
    reliability = rng.uniform(*FULL_RELIABILITY, size=shares.shape)
    recordings = population.recordings(reliability=reliability, n_trials=FULL_TRIALS, seed=14)
    base = plan.settings.model_copy(update={"mapping": "ridge", "n_splits": 2, "n_halves": 20})
    truths = _noise_free(population, features, base)
    targets = (float(np.median(truths["first"])), float(np.median(truths["first"] - truths["second"])))
    rows = []
    for protocol, update in PROTOCOLS.items():
        settings = base.model_copy(update=update)
        together = score_features(features, recordings, settings)
        layers = together.columns["layer"]
        scores = {name: replace(_part(together, layers == name), layers=(name,)) for name in features}
        rows.append({"protocol": protocol, **_coverage_of_groups(scores, plan, targets)})
    return pd.DataFrame(rows)


def _noise_free(
    population: SimulatedPopulation, features: dict[str, Array], settings: ScoreSettings
) -> dict[str, Array]:
    return {
        name: true_predictivity(population, prepare(values, settings), 0.0, seed=0)
        for name, values in features.items()
    }


def _coverage_of_groups(
    scores: dict[str, Scores], plan: Plan, targets: tuple[float, float]
) -> dict[str, float]:
    """Take the animals in groups, each a data set, and count the intervals that cover the targets."""
    true_median_, true_difference = targets
    specimens = scores["first"].columns["specimen"].astype(np.int64)
    values = scores["first"].columns["score"].astype(np.float64)
    inside, paired, own, medians = [], [], [], []
    pooled = float(np.nanmedian(values))
    for group in range(plan.n_full):
        chosen = (specimens - 1) // plan.n_animals_full == group
        interval = median_interval(values[chosen], specimens[chosen], plan.settings)
        inside.append(interval.low <= true_median_ <= interval.high)
        own.append(interval.low <= pooled <= interval.high)
        medians.append(float(np.nanmedian(values[chosen])))
        table = compare_models({name: _part(one, chosen) for name, one in scores.items()}).table()
        row = table[table["area"] == "VISp"].iloc[0]
        paired.append(row["low"] <= true_difference <= row["high"])
    return {
        "true_median": true_median_,
        "bias": float(np.mean(medians)) - true_median_,
        "coverage": float(np.mean(inside)),
        "coverage_of_own_median": float(np.mean(own)),
        "true_difference": true_difference,
        "coverage_of_difference": float(np.mean(paired)),
    }


def _part(scores: Scores, chosen: np.ndarray) -> Scores:
    columns = {name: np.asarray(column)[chosen] for name, column in scores.columns.items()}
    return replace(scores, columns=columns, by_fold=scores.by_fold[:, chosen])


def outside(table: pd.DataFrame, limits: Sequence[float] = (0.93, 0.97)) -> pd.DataFrame:
    """Return the rows whose coverage is not within the limits asked for."""
    return table[(table["coverage"] < limits[0]) | (table["coverage"] > limits[1])]
