"""Time of inter-animal ceilings: all areas at the paper's protocol, and against a plain scikit-learn loop.

Simulated recordings of the size of the real ones: 37 of 31 to 160 units in six areas, 118 images, 50 trials.
Each is predicted from all other animals of its area ("holdout") by PLS with 25 components; the halves of the
trials of both sides are separate fits, on 10 image splits and 100 halvings.

1. One pair of target and source, one image split: CPU time per fit of mvkit and of scikit-learn's
   PLSRegression, in this process on one thread, on the same data and halvings. Counted for both: averaging
   the trials, fitting, predicting, correlating, correcting. The scikit-learn loop does a few halvings only;
   its time for all areas is extrapolated from the fits, which all cost about the same.
2. All areas with worker processes, compiled code on disk: wall-clock time, and CPU time of the workers, their
   start included. A machine that does nothing else needs the CPU time divided by the processes.

    python benchmarks/ceilings.py [--quick] [--jobs 2]
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
import warnings
from dataclasses import dataclass

import numpy as np
from joblib.externals.loky import get_reusable_executor
from numpy.typing import NDArray
from record import Record, add_record_option
from sklearn.cross_decomposition import PLSRegression
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from mvkit.scoring.ceilings import (
    PairDraws,
    PairSize,
    draw_pair,
    measure_ceiling,
    pairs_of,
    score_pair,
)
from mvkit.scoring.maps import MAPPINGS
from mvkit.scoring.protocol import ImageSplit, image_splits, pool_responses
from mvkit.scoring.settings import ScoreSettings

Array = NDArray[np.float64]
ANIMALS = {"VISp": 9, "VISl": 6, "VISal": 6, "VISpm": 5, "VISrl": 6, "VISam": 5}
N_IMAGES, N_TRIALS = 118, 50
LIMIT_S = 300.0
REPEATS = 3


@dataclass(frozen=True)
class Simulated:
    """A simulated recording."""

    area: str
    specimen: int
    unit_ids: NDArray[np.int64]
    responses: NDArray[np.float32]


def simulate() -> list[Simulated]:
    """Counts of units that are tuned to latents with a falling spectrum, which all animals share."""
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((N_IMAGES, 100)) / np.sqrt(np.arange(1, 101))
    recordings = []
    for area, n_animals in ANIMALS.items():
        for animal in range(n_animals):
            n_units = int(rng.integers(31, 161))
            tuning = latents @ rng.standard_normal((100, n_units))
            rates = 3.0 * np.exp(0.5 * tuning / tuning.std(axis=0))
            counts = rng.poisson(rates, (N_TRIALS, N_IMAGES, n_units)).astype(np.float32)
            recordings.append(Simulated(area, animal, np.arange(n_units), counts))
    return recordings


def with_sklearn(target: Array, source: Array, draws: PairDraws, split: ImageSplit, n_halves: int) -> Array:
    """Score with scikit-learn's estimator, halving by halving; (n_halves, n_units)."""
    scores = np.empty((n_halves, target.shape[2]))
    for halving in range(n_halves):
        means, predictions = [], []
        for half in (0, 1):
            x = source[draws.source[halving, half] > 0].mean(axis=0, dtype=np.float64)
            y = target[draws.target[halving, half] > 0].mean(axis=0, dtype=np.float64)
            fitted = PLSRegression(n_components=25, scale=False).fit(x[split.train], y[split.train])
            predictions.append(fitted.predict(x[split.test]))
            means.append(y[split.test])
        for unit in range(target.shape[2]):
            first, second = (prediction[:, unit] for prediction in predictions)
            r_map = np.corrcoef(first, second)[0, 1]
            r_target = np.corrcoef(means[0][:, unit], means[1][:, unit])[0, 1]
            product = (2 * r_map / (1 + r_map)) * (2 * r_target / (1 + r_target))
            r_cross = np.corrcoef(first, means[1][:, unit])[0, 1]
            scores[halving, unit] = r_cross / np.sqrt(product) if product > 0 else np.nan
    return scores


def compare(
    recordings: list[Simulated], record: Record, *, n_halves: int, n_sklearn: int
) -> tuple[float, float, bool]:
    """Time both on the pair whose sizes are nearest to the mean; seconds per fit, and whether they agree."""
    settings = ScoreSettings(n_splits=1, n_halves=n_halves, ceiling="holdout", parity=True)
    pairs = pairs_of(recordings, settings)
    cost = np.array([len(recordings[pair.target].unit_ids) + pair.n_predictors for pair in pairs])
    pair = pairs[int(np.abs(cost - cost.mean()).argmin())]
    target = recordings[pair.target].responses
    source = pool_responses([recordings[index].responses for index in pair.sources])
    split = image_splits(N_IMAGES, n_splits=1, train_fraction=0.5)[0]
    draws = draw_pair(PairSize(N_TRIALS, N_TRIALS, N_IMAGES, source.shape[2], pair.n_predictors), settings)
    times = []
    for _ in range(REPEATS):
        begin = time.process_time()
        ours = score_pair(target, source, draws, [split], settings).halves.scores[0]
        times.append(time.process_time() - begin)
    begin = time.process_time()
    theirs = with_sklearn(target, source, draws, split, n_sklearn)
    their_time = (time.process_time() - begin) / (2 * n_sklearn)
    our_time = float(np.median(times)) / (2 * n_halves)
    difference = float(np.nanmax(np.abs(ours[:n_sklearn] - theirs)))
    same_gaps = bool((np.isnan(ours[:n_sklearn]) == np.isnan(theirs)).all())
    print(f"one pair: {target.shape[2]} units from {source.shape[2]}, one split, {n_halves} halvings")
    print(f"scikit-learn: {1e3 * their_time:8.3f} ms CPU per fit ({2 * n_sklearn} fits)")
    print(f"mvkit:        {1e3 * our_time:8.3f} ms CPU per fit (median of {REPEATS} x {2 * n_halves} fits)")
    print(
        f"ratio {their_time / our_time:.0f}x; largest score difference {difference:.1e}; "
        f"same scores undefined: {same_gaps}"
    )
    record.add(
        "Scores",
        f"PLS between animals, {target.shape[2]} units from {source.shape[2]}",
        peer="scikit-learn",
        mvkit=1e3 * our_time,
        other=1e3 * their_time,
        unit="ms CPU a fit",
        note=f"{2 * n_halves} fits, of the peer {2 * n_sklearn}; largest score difference {difference:.0e}",
    )
    return our_time, their_time, difference < 1e-6 and same_gaps


def main() -> int:
    """Print both; exit code 1 if scores differ or all areas need more than five minutes of each process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="2 splits x 10 halvings; the rest extrapolated")
    parser.add_argument("--jobs", type=int, default=2, help="worker processes")
    add_record_option(parser)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)  # 500 iterations are part of the rule
    recordings = simulate()
    MAPPINGS["pls"].warm_up()
    with threadpool_limits(limits=1):
        _, their_time, agree = compare(
            recordings,
            options.record,
            n_halves=20 if options.quick else 100,
            n_sklearn=2 if options.quick else 10,
        )

    n_splits, n_halves = (2, 10) if options.quick else (10, 100)
    settings = ScoreSettings(ceiling="holdout", n_splits=n_splits, n_halves=n_halves)
    begin, begin_cpu = time.perf_counter(), cpu_of_all_processes()
    ceiling = measure_ceiling(recordings, settings, n_jobs=options.jobs)
    wall, cpu = time.perf_counter() - begin, cpu_of_all_processes() - begin_cpu
    n_fits = 2 * n_splits * n_halves * len(recordings)
    n_units = sum(recording.unit_ids.size for recording in recordings)
    median = np.nanmedian(ceiling.columns["score"])
    print(f"\nall areas: {len(recordings)} recordings, {n_units} units, median {median:.3f}")
    print(f"{n_splits} splits x {n_halves} halvings, {n_fits} fits, {options.jobs} processes:")
    load = f"load over the last minute {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    print(
        f"wall clock {wall:.1f} s ({load}), CPU {cpu:.1f} s, that is {cpu / options.jobs:.1f} s per process"
    )
    full = 2 * 10 * 100 * len(recordings)
    ours = cpu / options.jobs * full / n_fits
    if options.quick:
        print(f"extrapolated to 10 splits x 100 halvings ({full} fits): {ours:.0f} s per process")
    print(f"scikit-learn's fits alone, extrapolated: {their_time * full / options.jobs:.0f} s per process")
    return 0 if agree and ours < LIMIT_S else 1


def cpu_of_all_processes() -> float:
    """CPU seconds of this process and of its workers, which are sent home to be counted."""
    get_reusable_executor().shutdown(wait=True)
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


if __name__ == "__main__":
    sys.exit(main())
