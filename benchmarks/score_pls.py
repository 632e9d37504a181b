"""CPU time of mvkit's PLS scores against scikit-learn's PLSRegression in the paper's loop.

Both score the same simulated specimen on one image split: per halving of the trials two maps with 25
components are fitted on the training images, both predict the test images, and the correlations are corrected
for noise. One process, one thread. Counted for both: averaging the trials of each half, fitting, predicting,
correlating, correcting; for mvkit also the reduction of the features. Not counted: making the data, and
compiling mvkit's kernel (once per machine, printed apart).

With the stopping rule ``converged`` the predictions are those of ikpls (numpy, algorithm 1), which is given
mvkit's own coordinates in place of the features; fitting and predicting are counted. Without the package
(``pip install --no-deps ikpls``) that comparison is left out. How many operations a second a fit makes is
printed beside numpy's rate for matrix products of its size.

    python benchmarks/score_pls.py [--halves 100] [--units 60] [--features 3456]
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings

import numpy as np
from numpy.typing import NDArray
from record import add_record_option
from sklearn.cross_decomposition import PLSRegression
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from mvkit.scoring.gram import SplitCoordinates, layer_coordinates, split_coordinates
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.pls import predict_test_images
from mvkit.scoring.protocol import ImageSplit, halves_of, image_splits, training_targets, trial_orders
from mvkit.scoring.settings import ScoreSettings

Array = NDArray[np.float64]
REPEATS = 5


def simulate(n_features: int, n_units: int, n_images: int, n_trials: int) -> tuple[Array, Array]:
    """Rectified random features of images with a falling spectrum, and noisy counts that depend on them."""
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((n_images, 100)) / np.sqrt(np.arange(1, 101))
    features = np.maximum(latents @ rng.standard_normal((100, n_features)), 0.0)
    tuning = features @ rng.standard_normal((n_features, n_units))
    rates = 3.0 * np.exp(0.5 * (tuning - tuning.mean(axis=0)) / tuning.std(axis=0))
    return features.astype(np.float32), rng.poisson(rates, (n_trials, n_images, n_units)).astype(np.float32)


def with_mvkit(features: Array, responses: Array, split: ImageSplit, n_halves: int) -> Array:
    """Score as ``mvkit score`` does; (n_halves, n_units)."""
    settings = ScoreSettings(n_splits=1, n_halves=n_halves, parity=True)
    members = halves_of(trial_orders(responses.shape[0], n_halves=n_halves))
    layer = layer_coordinates("features", features)
    coordinates = split_coordinates(layer, split, settings.n_components)
    return MAPPINGS["pls"].score(responses, members, [split], [[coordinates]], settings)[0].scores[0]


def with_sklearn(features: Array, responses: Array, split: ImageSplit, n_halves: int) -> Array:
    """Score with scikit-learn's estimator, halving by halving; (n_halves, n_units)."""
    features = features.astype(np.float64)
    scores = np.empty((n_halves, responses.shape[2]))
    for halving in range(n_halves):
        order = list(range(responses.shape[0]))
        np.random.RandomState(halving).shuffle(order)
        middle = len(order) // 2
        means = [responses[part].mean(axis=0, dtype=np.float64) for part in (order[:middle], order[middle:])]
        predictions = [
            PLSRegression(n_components=25, scale=False)
            .fit(features[split.train], mean[split.train])
            .predict(features[split.test])
            for mean in means
        ]
        for unit in range(responses.shape[2]):
            first, second = (prediction[:, unit] for prediction in predictions)
            target = [mean[split.test, unit] for mean in means]
            r_map = np.corrcoef(first, second)[0, 1]
            r_target = np.corrcoef(*target)[0, 1]
            product = (2 * r_map / (1 + r_map)) * (2 * r_target / (1 + r_target))
            r_cross = np.corrcoef(first, target[1])[0, 1]
            scores[halving, unit] = r_cross / np.sqrt(product) if product > 0 else np.nan
    return scores


#: Floating-point operations of one fit and prediction at the default sizes (58 coordinates, 60 units, 25
#: components, the reference's stopping rule), to about a tenth. In millions: 2.0 for 449 Lanczos steps on
#: matrices of 58 to 34 rows, 0.8 to make and change these, 1.2 for other steps of iterations and components,
#: 0.8 for the products around them. Steps were counted by running an earlier kernel, which takes the same,
#: uncompiled on real responses.
OPERATIONS = 4.8e6
COUNTED_SIZES = (58, 60)


def time_fits(
    features: Array, responses: Array, split: ImageSplit, n_halves: int, settings: ScoreSettings
) -> tuple[float, SplitCoordinates, Array, Array]:
    """Fit means of halves and predict; seconds of CPU time a fit, coordinates, targets, predictions."""
    coordinates = split_coordinates(layer_coordinates("features", features), split, settings.n_components)
    members = halves_of(trial_orders(responses.shape[0], n_halves=n_halves))
    means = np.stack([responses[half].mean(axis=0, dtype=np.float64) for half in members[:, 0]])
    targets, _ = training_targets(means[:, split.train])
    times = []
    for _ in range(REPEATS):
        begin = time.process_time()
        predictions = predict_test_images(targets, coordinates, settings)
        times.append(time.process_time() - begin)
    return float(np.median(times)) / n_halves, coordinates, targets, predictions


def matrix_product_rate(side: int, n_products: int = 20_000) -> float:
    """Return the floating-point operations per second of numpy's product of two square matrices."""
    first, second = np.random.default_rng(0).standard_normal((2, side, side))
    out = np.empty((side, side))
    begin = time.process_time()
    for _ in range(n_products):
        np.matmul(first, second, out=out)
    return n_products * 2 * side**3 / (time.process_time() - begin)


def rate_of_fits(features: Array, responses: Array, split: ImageSplit, n_halves: int) -> str:
    """Print how many operations a second fits reach beside products of their size; return it as a remark."""
    settings = ScoreSettings(parity=True)
    seconds, coordinates, _, _ = time_fits(features, responses, split, n_halves, settings)
    side = coordinates.scale.size
    print(f"one fit and prediction on {side} coordinates: {1e3 * seconds:.3f} ms CPU", end="")
    if (side, responses.shape[2]) != COUNTED_SIZES:
        print()
        return ""
    rate = f"{OPERATIONS / seconds / 1e9:.0f} GFLOP/s"
    product = f"{matrix_product_rate(side) / 1e9:.0f} GFLOP/s"
    print(f", {rate}; numpy's product of {side} x {side} matrices: {product}")
    return f"; a fit alone: {1e3 * seconds:.3f} ms, {rate} (numpy's product of {side} x {side}: {product})"


#: What is compared with ikpls.
JOB = "one PLS fit to convergence (pls_stopping=converged)"


def compare_converged(
    features: Array, responses: Array, split: ImageSplit, options: argparse.Namespace
) -> None:
    """Print how long converged fits of half means take mvkit and ikpls, and how far predictions differ."""
    n_halves = options.halves
    settings = ScoreSettings(pls_stopping="converged")
    our_time, coordinates, targets, ours = time_fits(features, responses, split, n_halves, settings)
    print(f"converged, on {coordinates.scale.size} coordinates:")
    print(f"mvkit:        {1e3 * our_time:9.3f} ms CPU per fit (median of {REPEATS})")
    if not options.record.has_peer("ikpls", "Scores", JOB):
        return
    from ikpls.numpy import PLS

    train = (coordinates.scale[:, None] * coordinates.basis).T
    begin = time.process_time()
    theirs = []
    for target in targets:
        model = PLS(algorithm=1, center_X=False, center_Y=False, scale_X=False, scale_Y=False)
        model.fit(train, target, 25)
        theirs.append(model.predict(coordinates.test, n_components=25))
    their_time = (time.process_time() - begin) / n_halves
    difference = float(np.abs(ours - theirs).max())
    print(f"ikpls:        {1e3 * their_time:9.3f} ms CPU per fit")
    print(f"ratio {their_time / our_time:.1f}x; largest difference of predictions {difference:.1e}")
    options.record.add(
        "Scores",
        JOB,
        peer="ikpls",
        mvkit=1e3 * our_time,
        other=1e3 * their_time,
        unit="ms CPU",
        note=f"on {coordinates.scale.size} coordinates; largest difference of predictions {difference:.0e}",
    )


def main() -> int:
    """Time both and compare; exit code 1 below 100x or above a difference of 1e-6."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--halves", type=int, default=100)
    parser.add_argument("--units", type=int, default=60)
    parser.add_argument("--features", type=int, default=3456)
    add_record_option(parser)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)  # 500 iterations are part of the rule
    with threadpool_limits(limits=1):
        return compare(options)


def compare(options: argparse.Namespace) -> int:
    """Run both on the same data and print what they need and how far they differ."""
    features, responses = simulate(options.features, options.units, n_images=118, n_trials=50)
    split = image_splits(118, n_splits=1, train_fraction=0.5)[0]

    begin = time.process_time()
    with_mvkit(features, responses, split, 1)
    print(f"first call, kernel compiled or loaded: {time.process_time() - begin:8.3f} s CPU")

    our_times = []
    for _ in range(REPEATS):
        begin = time.process_time()
        ours = with_mvkit(features, responses, split, options.halves)
        our_times.append(time.process_time() - begin)
    our_time = float(np.median(our_times))
    begin = time.process_time()
    theirs = with_sklearn(features, responses, split, options.halves)
    their_time = time.process_time() - begin

    fits = 2 * options.halves
    same_gaps = bool((np.isnan(ours) == np.isnan(theirs)).all())
    difference = float(np.nanmax(np.abs(ours - theirs)))
    ratio = their_time / our_time
    print(f"{fits} fits, {options.features} features, {options.units} units, 59 training images, 50 trials")
    print(f"scikit-learn: {their_time:9.3f} s CPU, {1e3 * their_time / fits:9.3f} ms per fit")
    print(
        f"mvkit:        {our_time:9.3f} s CPU, {1e3 * our_time / fits:9.3f} ms per fit (median of {REPEATS})"
    )
    print(
        f"ratio {ratio:.0f}x; largest score difference {difference:.1e}; same scores undefined: {same_gaps}"
    )
    options.record.add(
        "Scores",
        f"PLS, 25 components, {options.units} units",
        peer="scikit-learn",
        mvkit=our_time,
        other=their_time,
        unit="s CPU",
        note=f"1 x {options.halves} split halves; largest score difference {difference:.0e}"
        + rate_of_fits(features, responses, split, options.halves),
    )
    compare_converged(features, responses, split, options)
    return 0 if ratio >= 100 and difference < 1e-6 and same_gaps else 1


if __name__ == "__main__":
    sys.exit(main())
