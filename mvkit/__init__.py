"""Models of mouse visual cortex: fetch, extract, and score against recordings.

The names below are loaded when first used, so ``import mvkit`` costs nothing:

>>> import mvkit
>>> model = mvkit.load_model("gabor")
>>> dataset = mvkit.open_dataset("simulated")
>>> scores = mvkit.score(model, dataset)
>>> scores.plot()
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mvkit.features import FeatureSet, extract
    from mvkit.models import ViewingConditions, list_models, load_model
    from mvkit.neural import NeuralDataset, open_dataset
    from mvkit.pipeline.score import ceiling, score
    from mvkit.pipeline.train import train
    from mvkit.scoring import Scores, compare_models

__version__ = "0.1.0"

_MODULES = {
    "FeatureSet": "mvkit.features",
    "NeuralDataset": "mvkit.neural",
    "Scores": "mvkit.scoring",
    "ViewingConditions": "mvkit.models",
    "ceiling": "mvkit.pipeline.score",
    "compare_models": "mvkit.scoring",
    "extract": "mvkit.features",
    "list_models": "mvkit.models",
    "load_model": "mvkit.models",
    "open_dataset": "mvkit.neural",
    "score": "mvkit.pipeline.score",
    "train": "mvkit.pipeline.train",
}

__all__ = [
    "FeatureSet",
    "NeuralDataset",
    "Scores",
    "ViewingConditions",
    "ceiling",
    "compare_models",
    "extract",
    "list_models",
    "load_model",
    "open_dataset",
    "score",
    "train",
]


def lazy_names(
    package: str, modules: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Build the ``__getattr__`` and ``__dir__`` of a package that imports its names on first use (PEP 562).

    Parameters
    ----------
    package
        Name of the package.
    modules
        Public name -> module that defines it.
    """

    def load(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(import_module(modules[name]), name)

    return load, lambda: sorted(modules)


__getattr__, __dir__ = lazy_names(__name__, _MODULES)
