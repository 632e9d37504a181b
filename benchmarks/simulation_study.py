"""What estimators, corrections, intervals and tests of mvkit give where the truth is known.

    python benchmarks/simulation_study.py            # some minutes; writes docs/science/simulation.*
    python benchmarks/simulation_study.py --quick    # half a minute; prints only

Everything goes through the library: mappings, halvings, estimators (as score_features does them, to the bit;
the script refuses to go on if not), score_features itself, measure_ceiling, median_interval,
fraction_of_ceiling and compare_models. Text between the markers of docs/science/simulation.md is replaced.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

# One thread, as scoring does in its workers; must be set before numpy is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import study_estimators
import study_intervals
from benchmarks_page import replace_blocks
from known_truth import estimates, measured, prepare
from study_ceilings import ceiling_table
from study_figure import draw_figure
from study_text import SHOWN, conclusions, shown_only, table_blocks

from mvkit.neural.simulated import simulate_population
from mvkit.scoring import ScoreSettings, score_features

DOCS = Path(__file__).resolve().parent.parent / "docs" / "science"


@dataclass(frozen=True)
class Size:
    """How much is simulated."""

    estimators: study_estimators.Plan
    intervals: study_intervals.Plan
    n_ceilings: int


FULL = Size(study_estimators.Plan(), study_intervals.Plan(), 5)
QUICK = Size(
    study_estimators.Plan(
        reliabilities=(0.3, 0.5, 0.9), trials=(20,), units=(40,), n_populations=2, n_datasets=5
    ),
    study_intervals.Plan(
        animals=(3, 8),
        units=(30,),
        animal_shares=(0.1,),
        animals_compared=(5,),
        n_datasets=200,
        n_comparisons=60,
        n_power=30,
        n_full=12,
    ),
    1,
)


def require_the_real_path() -> None:
    """Refuse to go on if the study's shortcut past score_features gives other bits than score_features."""
    population = simulate_population(np.linspace(0.0, 1.0, 20)[None], seed=3)
    recordings = population.recordings(reliability=0.5, n_trials=20, seed=1)
    base = ScoreSettings(n_splits=2, n_halves=20)
    halvings = measured(recordings[0].responses, prepare(population.features, base))
    for (estimator, correction), columns in estimates(halvings, base).items():
        settings = base.model_copy(update={"estimator": estimator, "correction": correction})
        wanted = score_features({"features": population.features}, recordings, settings).columns
        for name in ("score", "halves_dropped"):
            same = np.array_equal(
                columns[name].astype(np.float64), wanted[name].astype(np.float64), equal_nan=True
            )
            if not same:
                raise SystemExit(f"{estimator}, {correction}: '{name}' differs from score_features")


def run(size: Size) -> tuple[list[study_estimators.Cell], dict[str, pd.DataFrame]]:
    """Simulate everything; returns the cells of the estimators and all tables by name."""
    require_the_real_path()
    cells = list(study_estimators.simulate(size.estimators))
    _progress("estimators")
    tables = {
        "bias": study_estimators.bias_table(cells),
        "dropping": study_estimators.dropping_table(cells),
        "perfect": study_estimators.perfect_model_table(cells),
        "ceilings": ceiling_table(n_populations=size.n_ceilings),
    }
    _progress("ceilings")
    tables["coverage"] = study_intervals.median_coverage(size.intervals)
    _progress("intervals of medians")
    tables["fractions"] = study_intervals.fraction_coverage(size.intervals)
    tables["tests"] = study_intervals.paired_tests(size.intervals)
    _progress("fractions and tests")
    tables["full"] = study_intervals.full_path(size.intervals)
    _progress("full path")
    return cells, tables


def _progress(what: str) -> None:
    print(f"{what}: done after {time.process_time():.0f} s of CPU time", file=sys.stderr)


def write(
    cells: list[study_estimators.Cell], tables: dict[str, pd.DataFrame], blocks: dict[str, str]
) -> None:
    """Write figure and text of the documentation."""
    replace_blocks(DOCS / "simulation.md", blocks, script="benchmarks/simulation_study.py")
    shown = [cell for cell in cells if (cell.n_trials, cell.n_units) == SHOWN]
    draw_figure(shown, shown_only(tables["bias"]), tables["coverage"], DOCS / "simulation.svg")


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="simulate little, print, write nothing")
    quick = parser.parse_args().quick
    size = QUICK if quick else FULL
    cells, tables = run(size)
    blocks = {**table_blocks(tables), "conclusions": conclusions(tables)}
    for name, text in blocks.items():
        print(f"\n## {name}\n\n{text}")
    if not quick:
        write(cells, tables, blocks)


if __name__ == "__main__":
    main()
