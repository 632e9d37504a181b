"""Noise-corrected predictivity: arrays of features against arrays of responses.

Names are loaded when first used, because compiled code takes a while to import:

>>> from mvkit.scoring import score_features
>>> scores = score_features({"layer": features}, dataset.recordings)
>>> scores.best_layers()
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mvkit import lazy_names

if TYPE_CHECKING:
    from mvkit.scoring.ceilings import measure_ceiling
    from mvkit.scoring.comparison import compare_models, fraction_of_ceiling
    from mvkit.scoring.extrapolation import extrapolate_ceiling
    from mvkit.scoring.matrices import cka_score, pls_score, ridge_score, rsa_score
    from mvkit.scoring.pls_choice import pls_predict
    from mvkit.scoring.reliability import response_reliability, split_half_reliability
    from mvkit.scoring.results import Scores, pool_networks, read_models, read_scores, save_scores
    from mvkit.scoring.run import score_features
    from mvkit.scoring.settings import ScoreSettings, resolve_settings

_HOMES = {
    "ScoreSettings": "mvkit.scoring.settings",
    "Scores": "mvkit.scoring.results",
    "cka_score": "mvkit.scoring.matrices",
    "compare_models": "mvkit.scoring.comparison",
    "extrapolate_ceiling": "mvkit.scoring.extrapolation",
    "fraction_of_ceiling": "mvkit.scoring.comparison",
    "measure_ceiling": "mvkit.scoring.ceilings",
    "pls_predict": "mvkit.scoring.pls_choice",
    "pls_score": "mvkit.scoring.matrices",
    "pool_networks": "mvkit.scoring.results",
    "read_models": "mvkit.scoring.results",
    "read_scores": "mvkit.scoring.results",
    "resolve_settings": "mvkit.scoring.settings",
    "response_reliability": "mvkit.scoring.reliability",
    "ridge_score": "mvkit.scoring.matrices",
    "rsa_score": "mvkit.scoring.matrices",
    "save_scores": "mvkit.scoring.results",
    "score_features": "mvkit.scoring.run",
    "split_half_reliability": "mvkit.scoring.reliability",
}

__all__ = [
    "ScoreSettings",
    "Scores",
    "cka_score",
    "compare_models",
    "extrapolate_ceiling",
    "fraction_of_ceiling",
    "measure_ceiling",
    "pls_predict",
    "pls_score",
    "pool_networks",
    "read_models",
    "read_scores",
    "resolve_settings",
    "response_reliability",
    "ridge_score",
    "rsa_score",
    "save_scores",
    "score_features",
    "split_half_reliability",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
