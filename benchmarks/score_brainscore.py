"""CPU time of mvkit's PLS scores against Brain-Score's own regression and correlation in the paper's loop.

Brain-Score does not halve trials: its ``pls_regression`` and ``pearsonr_correlation`` are called for the
halves that mvkit draws. It wants numpy 1, so that `make bench` runs this in an environment of its own,
where mvkit takes its turns, too. One process, one thread. Brain-Score is timed on a few pairs of halves
of one split; the time is extrapolated.

    python benchmarks/score_brainscore.py [--features 3456] [--units 60] [--halves 3] [--rounds 2]
                                          [--record FILE]
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings

import numpy as np
from numpy.typing import NDArray
from record import add_record_option
from score_maps import N_IMAGES, TASK, half_averages, with_mvkit
from score_pls import simulate
from threadpoolctl import threadpool_limits

from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.protocol import splits_of
from mvkit.scoring.settings import ScoreSettings

Array = NDArray[np.float64]
SETTINGS = ScoreSettings(parity=True)
JOB = "PLS, 25 components"


def with_brainscore(features: Array, responses: Array, n_halves: int) -> Array:
    """Score on the first split halving by halving; (n_halves, n_units)."""
    from brainscore_core.supported_data_standards.brainio.assemblies import NeuroidAssembly
    from brainscore_vision.metrics.regression_correlation.metric import pearsonr_correlation, pls_regression

    def assembly(values: Array, images: NDArray[np.int64]) -> NeuroidAssembly:
        columns = np.arange(values.shape[1])
        coords = {
            "stimulus_id": ("presentation", images),
            "object_name": ("presentation", images),
            "neuroid_id": ("neuroid", columns),
            "neuroid_number": ("neuroid", columns),
        }
        return NeuroidAssembly(values[images], coords=coords, dims=["presentation", "neuroid"])

    split = splits_of(N_IMAGES, SETTINGS)[0]
    correlate = pearsonr_correlation()
    train, test = (assembly(features.astype(np.float64), images) for images in (split.train, split.test))
    scores = np.empty((n_halves, responses.shape[2]))
    for halving, means in enumerate(half_averages(responses, n_halves)):
        predictions = []
        for mean in means:
            regression = pls_regression()
            regression.fit(train, assembly(mean, split.train))
            predictions.append(regression.predict(test))
        targets = [assembly(mean, split.test) for mean in means]
        r_cross, r_map, r_target = (
            correlate(first, second).values
            for first, second in (
                (predictions[0], targets[1]),
                (predictions[0], predictions[1]),
                (targets[0], targets[1]),
            )
        )
        product = (2 * r_map / (1 + r_map)) * (2 * r_target / (1 + r_target))
        scores[halving] = r_cross / np.sqrt(product)
    return scores


def main() -> None:
    """Time both in turn and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--features", type=int, default=3456)
    parser.add_argument("--units", type=int, default=60)
    parser.add_argument("--halves", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    add_record_option(parser)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # scikit-learn's remarks on convergence are not the subject
    job = f"{JOB}, {options.units} units"
    if not options.record.has_peer("brainscore_vision", TASK, job):
        sys.exit(0)
    with threadpool_limits(limits=1):
        compare(job, options)


def compare(job: str, options: argparse.Namespace) -> None:
    """Run both on the same data and print what they need and how far they differ."""
    features, responses = simulate(options.features, options.units, n_images=N_IMAGES, n_trials=50)
    MAPPINGS["pls"].warm_up()
    with_brainscore(features[:, :30], responses, 1)  # imports
    n_pairs = SETTINGS.n_splits * SETTINGS.n_halves
    ours, theirs = [], []
    for _ in range(options.rounds):
        seconds, scores = with_mvkit(features, responses, SETTINGS)
        ours.append(seconds)
        begin = time.process_time()
        expected = with_brainscore(features, responses, options.halves)
        theirs.append((time.process_time() - begin) * n_pairs / options.halves)
    own = scores[0, : options.halves]
    difference = float(np.nanmax(np.abs(own - expected)))
    same = bool((np.isnan(own) == np.isnan(expected)).all())
    print(
        f"{job}, {2 * n_pairs} fits: brainscore_vision {np.median(theirs):.1f} s CPU (extrapolated), "
        f"mvkit {np.median(ours):.2f} s, ratio {np.median(np.divide(theirs, ours)):.0f}x; "
        f"largest score difference {difference:.1e}; same scores undefined: {same}"
    )
    note = (
        f"{SETTINGS.n_splits} x {SETTINGS.n_halves} split halves; largest score difference {difference:.0e}; "
        f"Brain-Score was timed on {options.halves} split halves and extrapolated"
    )
    options.record.add(TASK, job, peer="brainscore_vision", mvkit=ours, other=theirs, unit="s CPU", note=note)


if __name__ == "__main__":
    main()
