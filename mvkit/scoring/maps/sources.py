"""Features themselves, for maps that depend on the axes of feature space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.feature_blocks import feature_blocks
from mvkit.scoring.protocol import ImageSplit
from mvkit.scoring.rows import Features
from mvkit.scoring.settings import ScoreSettings

CONSTANT = "constant features: the layer does not vary over the training images"


@dataclass(frozen=True)
class Sources:
    """A layer with one row per feature.

    Attributes
    ----------
    values
        (n_features, n_images), the dtype of the layer.
    last
        (n_images,): the layer's last feature.
    """

    values: NDArray[np.generic]
    last: NDArray[np.generic]


@dataclass(frozen=True)
class SourceSplit:
    """A layer and one split of the images; nothing is copied."""

    sources: Sources
    split: ImageSplit
    reason: str = ""


def layer_sources(name: str, features: Features, settings: ScoreSettings) -> Sources:
    """Turn a layer so that every feature is a row.

    Raises
    ------
    DataError
        If the features are not a matrix of finite numbers.
    """
    for _ in feature_blocks(name, features):
        pass  # reading the blocks is the check
    values = np.ascontiguousarray(np.asarray(features).T)
    return Sources(values, values[-1])


def distinct_sources(name: str, features: Features, settings: ScoreSettings) -> Sources:
    """Turn a layer so that every feature is a row, and keep the first one of equal features only.

    Pooling that enlarges a map repeats its features many times over (goldens section 2, "AlexNet variants").

    Raises
    ------
    DataError
        If the features are not a matrix of finite numbers.
    """
    sources = layer_sources(name, features, settings)
    values = sources.values
    rows = values.view(np.dtype((np.void, values.dtype.itemsize * values.shape[1]))).ravel()
    first = np.unique(rows, return_index=True)[1]
    if first.size == rows.size:
        return sources
    return Sources(values[np.sort(first)], sources.last.copy())


def prepare_sources(sources: Sources, split: ImageSplit, settings: ScoreSettings) -> SourceSplit:
    """Pair a layer with a split; a layer that does not vary over the training images cannot be mapped."""
    values = sources.values
    first = values[:, split.train[:1]]
    varies = any(bool((values[:, image] != first[:, 0]).any()) for image in split.train[1:])
    return SourceSplit(sources, split, "" if varies else CONSTANT)
