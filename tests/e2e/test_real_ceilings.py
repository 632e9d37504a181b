"""Consistency between the animals of the real Neuropixels recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mvkit.neural import open_dataset
from mvkit.pipeline.score import choose_recordings
from mvkit.scoring.ceilings import measure_ceiling
from mvkit.scoring.settings import ScoreSettings

pytestmark = [pytest.mark.realdata, pytest.mark.slow]


def test_maps_between_animals_rank_as_in_the_paper(neural_file: Path) -> None:
    """Held-out animals predicted from all others: PLS > ridge > one-to-one, as we were told of the paper.

    An independent script found .42 to .51 per area and .48 overall with PLS on a superset of these animals.
    In the correlations themselves PLS is ahead of ridge; what is left after the correction for noise, which
    also divides by the reliability of the map, is a tie of the two (at 10 splits x 100 halvings .483 and
    .481).
    """
    recordings = choose_recordings(open_dataset(str(neural_file)), None)
    scores, raw = {}, {}
    for mapping in ("pls", "ridge", "one-to-one"):
        settings = ScoreSettings.model_validate(
            {"mapping": mapping, "ceiling": "holdout", "n_splits": 2, "n_halves": 5}
        )
        ceiling = measure_ceiling(recordings, settings)
        areas = ceiling.columns["area"]
        scores[mapping] = {
            area: float(np.nanmedian(ceiling.columns["score"][areas == area])) for area in ceiling.areas
        }
        scores[mapping]["all"] = float(np.nanmedian(ceiling.columns["score"]))
        raw[mapping] = float(np.nanmedian(ceiling.columns["raw_correlation"]))
    assert 0.44 < scores["pls"]["all"] < 0.52
    for area, median in scores["pls"].items():
        assert 0.36 < median < 0.56, area
    assert raw["pls"] > raw["ridge"] + 0.01 > raw["one-to-one"] + 0.1
    assert scores["pls"]["all"] == pytest.approx(scores["ridge"]["all"], abs=0.02)
    assert scores["ridge"]["all"] > scores["one-to-one"]["all"] + 0.04
