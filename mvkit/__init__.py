"""Models of mouse visual cortex: fetch, extract, and score against recordings.

The names below are loaded when first used, so ``import mvkit`` costs nothing:

>>> import mvkit
>>> model = mvkit.load_model("gabor")
>>> dataset = mvkit.open_dataset("simulated")
>>> scores = mvkit.score(model, dataset)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mvkit.lazy import lazy_names

if TYPE_CHECKING:
    from mvkit.features import FeatureSet, extract
    from mvkit.models import list_models, load_model
    from mvkit.neural import NeuralDataset, open_dataset
    from mvkit.pipeline.score import ceiling, score
    from mvkit.scoring import Scores, compare_models

__version__ = "0.1.0"

_HOMES = {
    "FeatureSet": "mvkit.features",
    "NeuralDataset": "mvkit.neural",
    "Scores": "mvkit.scoring",
    "ceiling": "mvkit.pipeline.score",
    "compare_models": "mvkit.scoring",
    "extract": "mvkit.features",
    "list_models": "mvkit.models",
    "load_model": "mvkit.models",
    "open_dataset": "mvkit.neural",
    "score": "mvkit.pipeline.score",
}

__all__ = [
    "FeatureSet",
    "NeuralDataset",
    "Scores",
    "ceiling",
    "compare_models",
    "extract",
    "list_models",
    "load_model",
    "open_dataset",
    "score",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
