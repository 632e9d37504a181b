"""CPU time of mvkit's RSA and CKA at the paper's number of halvings, against plain loops and against PLS.

All score the same simulated specimen against one layer: 100 halvings of the trials over all 118 images, and
for PLS 10 splits of the images as well. One process, one thread. Counted: everything from features and
responses to corrected scores; the plain loops make the layer's matrix once, too. Not counted: making the
data, and compiling (PLS).

    python benchmarks/score_similarities.py [--halves 100] [--units 60] [--features 43264]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mvkit.scoring.mappings import MAPPINGS
from mvkit.scoring.protocol import halving_weights, splits_of, trial_orders
from mvkit.scoring.settings import ScoreSettings

Array = NDArray[np.float64]
REPEATS = 3


def simulate(n_features: int, n_units: int, n_images: int, n_trials: int) -> tuple[Array, Array]:
    """Rectified random features, and noisy counts that depend on the same latents."""
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((n_images, 50))
    features = np.maximum(latents @ rng.standard_normal((50, n_features)), 0.0)
    rates = 3.0 * np.exp(0.1 * (latents @ rng.standard_normal((50, n_units))))
    return features.astype(np.float32), rng.poisson(rates, (n_trials, n_images, n_units)).astype(np.float32)


def with_mvkit(features: Array, responses: Array, settings: ScoreSettings) -> Array:
    """Score as ``mvkit score`` does; (n_splits, n_halves, n_units or 1)."""
    splits = splits_of(responses.shape[1], settings)
    weights = halving_weights(responses.shape[0], responses.shape[1], settings)
    row = MAPPINGS[settings.mapping]
    layer = row.prepare("features", features, splits, settings)
    return row.score(responses, weights, splits, [layer], settings)[0].scores


def triangle(patterns: Array) -> Array:
    """Dissimilarities of all pairs of images."""
    return (1.0 - np.corrcoef(patterns))[np.triu_indices(len(patterns), k=1)]


def gram(patterns: Array) -> Array:
    """Centred inner products of all pairs of images."""
    deviations = patterns - patterns.mean(axis=0)
    return (deviations @ deviations.T).ravel()


def correlation(first: Array, second: Array) -> float:
    return float(np.corrcoef(first, second)[0, 1])


def cosine(first: Array, second: Array) -> float:
    return float(first @ second / np.sqrt((first @ first) * (second @ second)))


def plainly(
    features: Array,
    responses: Array,
    settings: ScoreSettings,
    vector: Callable[[Array], Array],
    compare: Callable[[Array, Array], float],
) -> Array:
    """Score halving by halving; (n_halves,)."""
    layer = vector(features.astype(np.float64))
    scores = []
    for order in trial_orders(responses.shape[0], n_halves=settings.n_halves):
        middle = len(order) // 2
        halves = [
            vector(np.nanmean(responses[part].astype(np.float64), axis=0))
            for part in (order[:middle], order[middle:])
        ]
        r_target = compare(*halves)
        scores.append(compare(layer, halves[1]) / np.sqrt(2 * r_target / (1 + r_target)))
    return np.array(scores)


def seconds(run: Callable[[], Array]) -> tuple[float, Array]:
    """Least CPU time of a few runs, and the result."""
    times = []
    for _ in range(REPEATS):
        begin = time.process_time()
        found = run()
        times.append(time.process_time() - begin)
    return min(times), found


def compare_all(options: argparse.Namespace) -> int:
    """Time all; exit code 1 if a similarity costs more than PLS or differs from its plain loop."""
    features, responses = simulate(options.features, options.units, n_images=118, n_trials=50)
    pls = ScoreSettings(n_halves=options.halves)
    MAPPINGS["pls"].warm_up()
    begin = time.process_time()
    with_mvkit(features, responses, pls)
    pls_time = time.process_time() - begin
    print(f"{options.halves} halvings, {options.features} features, {options.units} units, 118 images")
    print(f"pls: mvkit {pls_time:.3f} s CPU (10 splits)")
    good = True
    for name, vector, compare in (("rsa", triangle, correlation), ("cka", gram, cosine)):
        settings = ScoreSettings(mapping=name, n_halves=options.halves)
        our_time, ours = seconds(lambda settings=settings: with_mvkit(features, responses, settings))
        plain_time, plain = seconds(
            lambda settings=settings, vector=vector, compare=compare: plainly(
                features, responses, settings, vector, compare
            )
        )
        difference = float(np.abs(ours[0, :, 0] - plain).max())
        print(
            f"{name}: mvkit {our_time:.3f} s CPU, plain loop {plain_time:.3f} s, ratio "
            f"{plain_time / our_time:.1f}x; PLS costs {pls_time / our_time:.0f} times as much; "
            f"largest score difference {difference:.1e}"
        )
        good &= our_time <= pls_time and difference < 1e-9
    return 0 if good else 1


def main() -> int:
    """Read the options and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--halves", type=int, default=100)
    parser.add_argument("--units", type=int, default=60)
    parser.add_argument("--features", type=int, default=43264)
    with threadpool_limits(limits=1):
        return compare_all(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
