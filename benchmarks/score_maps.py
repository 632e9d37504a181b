"""CPU time of every mapping's scores at the paper's protocol, beside PLS, plain loops and other packages.

All score one simulated specimen against one layer: 10 splits of the images, 100 halvings of the trials.
One process, one thread. Counted: preparing the layer, averaging the trials of each half, fitting, predicting,
correlating, correcting. Not counted: making the data, and compiling (once per machine).

The loops fit, halving by halving, what numpy and scikit-learn offer for the purpose, on the first split and
fewer halvings; their time is extrapolated in proportion to the number of halvings and splits. Scores are
compared where both have them. Mappings run in turn, several times, and the median counts: other work on the
machine then slows all of them alike.

himalaya (ridge) and rsatoolbox (RSA) score more units, in turn with mvkit. himalaya solves for all halves
of a split at once.

    python benchmarks/score_maps.py [--features 3456] [--units 60] [--repeats 3] [--loop-halves 3]
                                    [--peer-units 600] [--record FILE]
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import ElasticNet, Lasso, Ridge, RidgeCV
from threadpoolctl import threadpool_limits

from mvkit.scoring.maps import MAPPINGS, Map
from mvkit.scoring.protocol import split_half_weights, splits_of, trial_orders
from mvkit.scoring.settings import RIDGE_GRID, ScoreSettings

sys.path.insert(0, str(Path(__file__).parent))
from record import add_record_option
from score_pls import simulate

Array = NDArray[np.float64]
#: ``loop(train features, test features, train responses) -> test predictions``
Loop = Callable[[Array, Array, Array], Array]
N_IMAGES = 118
# Coordinate descent over thousands of features for every unit and halving takes hours; mvkit and the loop fit
# two halvings by turns.
SLOW = ("lasso", "elasticnet")
PENALTY = 0.3
#: Heading of the table in docs/benchmarks.md.
TASK = "Scores"


def settings_of(mapping: str) -> dict[str, ScoreSettings]:
    """Every way to run a mapping that is worth a line of its own."""
    common = {"mapping": mapping, "parity": True, "penalty": PENALTY}
    if mapping == "ridge":
        return {"ridge": ScoreSettings(**common), "ridge cv": ScoreSettings(**common, ridge_alpha="cv")}
    if mapping in SLOW:
        return {mapping: ScoreSettings(**common, n_splits=1, n_halves=2)}
    return {mapping: ScoreSettings(**common)}


def best_feature(train: Array, test: Array, responses: Array) -> Array:
    """Predict by the feature with the highest correlation, unit by unit."""
    centred = train - train.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=0)
    chosen = [int((centred.T @ (column - column.mean())).argmax()) for column in responses.T]
    return test[:, chosen]


def sklearn_loop(make: Callable[[], object]) -> Loop:
    """Fit a scikit-learn estimator to all units at once."""
    return lambda train, test, responses: make().fit(train, responses).predict(test)  # type: ignore[attr-defined]


def rdm(values: Array) -> Array:
    """Return the upper triangle of 1 - Pearson correlations between images."""
    return 1 - np.corrcoef(values)[np.triu_indices(len(values), 1)]


def normed_gram(values: Array) -> Array:
    """Return inner products between centred images, as a vector of unit length."""
    centred = values - values.mean(axis=0)
    gram = (centred @ centred.T).ravel()
    return gram / np.linalg.norm(gram)


LOOPS: dict[str, Loop] = {
    "pls": sklearn_loop(lambda: PLSRegression(n_components=25, scale=False)),
    "ridge": sklearn_loop(lambda: Ridge(1.0)),
    "ridge cv": sklearn_loop(lambda: RidgeCV(RIDGE_GRID, alpha_per_target=True)),
    "one-to-one": best_feature,
    "lasso": sklearn_loop(lambda: Lasso(PENALTY, max_iter=10000)),
    "elasticnet": sklearn_loop(lambda: ElasticNet(PENALTY, l1_ratio=0.5, max_iter=10000)),
}
#: How a population is described, and how two descriptions are compared; the layer is described once.
COMPARISONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array, Array], float]]] = {
    "rsa": (rdm, lambda first, second: float(np.corrcoef(first, second)[0, 1])),
    # Linear CKA, Kornblith et al. 2019, equation 4.
    "cka": (normed_gram, lambda first, second: float(first @ second)),
}


def half_averages(responses: Array, n_halves: int) -> list[list[Array]]:
    """Average the trials of both halves of each halving, as the paper draws them."""
    middle = responses.shape[0] // 2
    return [
        [responses[part].mean(axis=0, dtype=np.float64) for part in (order[:middle], order[middle:])]
        for order in trial_orders(responses.shape[0], n_halves=n_halves)
    ]


def looped_map(loop: Loop, features: Array, responses: Array, n_halves: int) -> Array:
    """Score on the first split halving by halving; (n_halves, n_units)."""
    split = splits_of(N_IMAGES, ScoreSettings())[0]
    scores = np.empty((n_halves, responses.shape[2]))
    train, test = features[split.train].astype(np.float64), features[split.test].astype(np.float64)
    for halving, means in enumerate(half_averages(responses, n_halves)):
        predictions = [loop(train, test, mean[split.train]) for mean in means]
        for unit in range(responses.shape[2]):
            first, second = (prediction[:, unit] for prediction in predictions)
            targets = [mean[split.test, unit] for mean in means]
            scores[halving, unit] = corrected(first, second, targets)
    return scores


def corrected(first: Array, second: Array, targets: list[Array]) -> float:
    """Divide by what noise allows, as the paper does."""
    with np.errstate(invalid="ignore", divide="ignore"):
        r_map = np.corrcoef(first, second)[0, 1]
        r_target = np.corrcoef(*targets)[0, 1]
        product = (2 * r_map / (1 + r_map)) * (2 * r_target / (1 + r_target))
        return float(np.corrcoef(first, targets[1])[0, 1] / np.sqrt(product)) if product > 0 else np.nan


def looped_comparison(name: str, features: Array, responses: Array, n_halves: int) -> Array:
    """Compare the populations halving by halving; the features are not halved."""
    describe, compare = COMPARISONS[name]
    layer = describe(features.astype(np.float64))
    found = np.empty((n_halves, 1))
    for halving, means in enumerate(half_averages(responses, n_halves)):
        first, second = (describe(mean) for mean in means)
        reliability = compare(first, second)
        found[halving, 0] = compare(layer, second) / np.sqrt(2 * reliability / (1 + reliability))
    return found


def with_himalaya(features: Array, responses: Array, settings: ScoreSettings) -> Array:
    """Score by himalaya's kernel ridge, all halves of a split in one fit; (n_splits, n_halves, n_units)."""
    from himalaya.kernel_ridge import KernelRidge, KernelRidgeCV
    from himalaya.scoring import correlation_score

    features = features.astype(np.float64)
    halves = np.moveaxis(np.asarray(half_averages(responses, settings.n_halves)), 2, 0)
    scores = []
    for split in splits_of(N_IMAGES, settings):
        train, test = features[split.train], features[split.test]
        if settings.ridge_alpha == "cv":
            model = KernelRidgeCV(RIDGE_GRID, fit_intercept=True, cv=len(train), warn=False)
        else:
            model = KernelRidge(settings.ridge_alpha, fit_intercept=True, warn=False)
        model.fit(train, halves[split.train].reshape(len(train), -1))
        predicted = model.predict(test).reshape(len(test), *halves.shape[1:])
        measured = halves[split.test]
        r_cross, r_map, r_target = (
            correlation_score(first.reshape(len(test), -1), second.reshape(len(test), -1))
            for first, second in (
                (predicted[:, :, 0], measured[:, :, 1]),
                (predicted[:, :, 0], predicted[:, :, 1]),
                (measured[:, :, 0], measured[:, :, 1]),
            )
        )
        product = (2 * r_map / (1 + r_map)) * (2 * r_target / (1 + r_target))
        scores.append((r_cross / np.sqrt(product)).reshape(settings.n_halves, -1))
    return np.asarray(scores)


def with_rsatoolbox(features: Array, responses: Array, settings: ScoreSettings) -> Array:
    """Compare dissimilarities by rsatoolbox, halving by halving; (1, n_halves, 1)."""
    from rsatoolbox.data import Dataset
    from rsatoolbox.rdm import calc_rdm, compare

    layer = calc_rdm(Dataset(features.astype(np.float64)), method="correlation")
    scores = np.empty((1, settings.n_halves, 1))
    for halving, means in enumerate(half_averages(responses, settings.n_halves)):
        first, second = (calc_rdm(Dataset(mean), method="correlation") for mean in means)
        reliability = compare(first, second, method="corr").item()
        r_cross = compare(layer, second, method="corr").item()
        scores[0, halving, 0] = r_cross / np.sqrt(2 * reliability / (1 + reliability))
    return scores


@dataclass(frozen=True)
class Peer:
    """A package that does the whole job: its name on PyPI, what is imported of it, and how it scores."""

    package: str
    module: str
    score: Callable[[Array, Array, ScoreSettings], Array]


PEERS = {
    "ridge": Peer("himalaya", "himalaya", with_himalaya),
    "ridge cv": Peer("himalaya", "himalaya", with_himalaya),
    "rsa": Peer("rsatoolbox", "rsatoolbox", with_rsatoolbox),
}
#: Jobs as docs/benchmarks.md has them. PLS beside scikit-learn is in score_pls.py.
JOBS = {
    "ridge": "ridge, one penalty",
    "ridge cv": "ridge, best of 25 penalties",
    "one-to-one": "best-correlated feature",
    "lasso": "lasso",
    "elasticnet": "elastic net",
    "rsa": "RSA",
    "cka": "CKA",
}


def with_mvkit(features: Array, responses: Array, settings: ScoreSettings) -> tuple[float, Array]:
    """Score as ``mvkit score`` does; seconds of CPU time and (n_splits, n_halves, n_units)."""
    row = MAPPINGS[settings.mapping]
    splits = splits_of(N_IMAGES, settings)
    weights = split_half_weights(responses.shape[0], N_IMAGES, settings)
    begin = time.process_time()
    prepared = row.prepare("features", features, splits, settings)
    scores = row.score(responses, weights, splits, [prepared], settings)[0].scores
    return time.process_time() - begin, scores


def with_loop(name: str, features: Array, responses: Array, n_halves: int) -> tuple[float, Array]:
    """Score by the plain loop of that name; seconds of CPU time and (n_halves, n_units)."""
    begin = time.process_time()
    if name in COMPARISONS:
        scores = looped_comparison(name, features, responses, n_halves)
    else:
        scores = looped_map(LOOPS[name], features, responses, n_halves)
    return time.process_time() - begin, scores


def main() -> int:
    """Time all mappings; exit code 1 if one of those that should is not as fast as PLS."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--features", type=int, default=3456)
    parser.add_argument("--units", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--loop-halves", type=int, default=3)
    parser.add_argument("--peer-units", type=int, default=600)
    add_record_option(parser)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # scikit-learn's remarks on convergence are not the subject
    with threadpool_limits(limits=1):
        return compare(options)


def compare(options: argparse.Namespace) -> int:
    """Run everything and print a line per mapping."""
    features, responses = simulate(options.features, options.units, n_images=N_IMAGES, n_trials=50)
    runs = {name: settings for mapping in MAPPINGS for name, settings in settings_of(mapping).items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    scores: dict[str, Array] = {}
    for settings in runs.values():
        MAPPINGS[settings.mapping].warm_up()
    for _ in range(options.repeats):
        for name, settings in runs.items():
            if name not in SLOW:
                seconds, scores[name] = with_mvkit(features, responses, settings)
                times[name].append(seconds)
    print(f"{options.features} features, {options.units} units, {N_IMAGES} images, 50 trials; seconds of CPU")
    print(f"{'mapping':12}{'fits':>7}{'mvkit':>9}{'/ PLS':>8}{'loop':>10}{'loop / mvkit':>14}  difference")
    slower = []
    for name, settings in runs.items():
        looped: list[float] = []
        # Both run scikit-learn's solver: only turns tell them apart.
        for _ in range(options.repeats if name in SLOW else 1):
            if name in SLOW:
                seconds, scores[name] = with_mvkit(features, responses, settings)
                times[name].append(seconds)
            n_splits, n_halves = scores[name].shape[:2]
            n_loop = min(options.loop_halves, n_halves)
            seconds, expected = with_loop(name, features, responses, n_loop)
            looped.append(seconds * n_splits * n_halves / n_loop)
        difference = float(np.nanmax(np.abs(scores[name][0, :n_loop] - expected)))
        ours, theirs = float(np.median(times[name])), float(np.median(looped))
        relative = ours / float(np.median(times["pls"]))
        beside_pls = f"{relative:8.2f}" if name not in SLOW else f"{'':8}"
        if name not in SLOW and relative > 1:
            slower.append(name)
        n_fits = 2 * n_splits * n_halves if isinstance(MAPPINGS[settings.mapping], Map) else n_halves
        ratio = theirs / ours
        print(f"{name:12}{n_fits:7}{ours:9.3f}{beside_pls}{theirs:10.1f}{ratio:13.2f}x  {difference:.1e}")
        if name in JOBS:
            note = f"{n_splits} x {n_halves} split halves; largest score difference {difference:.0e}"
            if n_loop < n_splits * n_halves:
                note += f"; the loop was timed on {n_loop} split halves and extrapolated"
            peer = "numpy" if name in (*COMPARISONS, "one-to-one") else "scikit-learn"
            job = f"{JOBS[name]}, {options.units} units"
            mvkit = times[name] if name in SLOW else ours
            other = looped if name in SLOW else theirs
            options.record.add(TASK, job, peer=peer, mvkit=mvkit, other=other, unit="s CPU", note=note)
    print(f"loops timed on {options.loop_halves} halvings of one split and extrapolated")
    print(f"slower than PLS: {', '.join(slower) or 'none'}")
    for name, peer in PEERS.items():
        job = f"{JOBS[name]}, {options.peer_units} units"
        if options.record.has_peer(peer.module, TASK, job, peer=peer.package):
            compare_with(peer, name, job, runs[name], options)
    return 1 if slower else 0


def compare_with(
    peer: Peer, name: str, job: str, settings: ScoreSettings, options: argparse.Namespace
) -> None:
    """Run mvkit and a package in turn, and print the median ratio and the largest difference."""
    features, responses = simulate(options.features, options.peer_units, n_images=N_IMAGES, n_trials=50)
    if settings.ridge_alpha == "cv":
        # Of all halves, himalaya would need minutes.
        settings = settings.model_copy(update={"n_splits": 2, "n_halves": 10})
    ours, theirs = [], []
    peer.score(features, responses, settings.model_copy(update={"n_splits": 1, "n_halves": 1}))
    for _ in range(options.repeats):
        seconds, scores = with_mvkit(features, responses, settings)
        ours.append(seconds)
        begin = time.process_time()
        expected = peer.score(features, responses, settings)
        theirs.append(time.process_time() - begin)
    difference = float(np.nanmax(np.abs(scores - expected)))
    same = bool((np.isnan(scores) == np.isnan(expected)).all())
    ratio = float(np.median(np.divide(theirs, ours)))
    print(
        f"{name:12}{peer.package} {np.median(theirs):.3f} s, mvkit {np.median(ours):.3f} s: {ratio:.1f}x, "
        f"difference {difference:.1e}, same scores undefined: {same}"
    )
    n_splits, n_halves = scores.shape[:2]
    note = f"{n_splits} x {n_halves} split halves; largest score difference {difference:.0e}"
    options.record.add(TASK, job, peer=peer.package, mvkit=ours, other=theirs, unit="s CPU", note=note)


if __name__ == "__main__":
    sys.exit(main())
