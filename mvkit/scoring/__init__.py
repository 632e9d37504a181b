"""Noise-corrected predictivity: arrays of features against arrays of responses.

Names are loaded when first used, because compiled code takes a while to import:

>>> from mvkit.scoring import score_features
>>> scores = score_features({"layer": features}, dataset.recordings)
>>> scores.best_layers()
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mvkit.scoring.pls import pls_predict
    from mvkit.scoring.reliability import split_half_reliability
    from mvkit.scoring.results import Scores
    from mvkit.scoring.run import score_features
    from mvkit.scoring.save import read_scores, save_scores
    from mvkit.scoring.settings import ScoreSettings, resolve_settings

_HOMES = {
    "ScoreSettings": "mvkit.scoring.settings",
    "Scores": "mvkit.scoring.results",
    "pls_predict": "mvkit.scoring.pls",
    "read_scores": "mvkit.scoring.save",
    "resolve_settings": "mvkit.scoring.settings",
    "save_scores": "mvkit.scoring.save",
    "score_features": "mvkit.scoring.run",
    "split_half_reliability": "mvkit.scoring.reliability",
}

__all__ = [
    "ScoreSettings",
    "Scores",
    "pls_predict",
    "read_scores",
    "resolve_settings",
    "save_scores",
    "score_features",
    "split_half_reliability",
]


def __getattr__(name: str) -> object:
    """Import a public name from its home module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mvkit.scoring' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(_HOMES)
