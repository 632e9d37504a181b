"""Features themselves, for maps that depend on the axes of feature space."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.gram import (
    BLOCK_FEATURES,
    Features,
    check_features,
    columns_of,
    feature_blocks,
)
from mvkit.scoring.maps.distinct import first_of_equal
from mvkit.scoring.protocol import ImageSplit
from mvkit.scoring.settings import ScoreSettings

CONSTANT = "constant features: the layer does not vary over the training images"


@dataclass(frozen=True)
class Sources:
    """A layer whose features are looked at one by one; nothing of it is copied.

    Attributes
    ----------
    features
        (n_images, n_features), in memory or on disk.
    kept
        int64 (n_kept,): the features that are looked at, ascending; None: all.
    """

    features: Features
    kept: NDArray[np.int64] | None = None

    @property
    def n_features(self) -> int:
        """Width of the layer."""
        return int(self.features.shape[1])

    def blocks(
        self, images: NDArray[np.int64], size: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """Yield the features that are looked at, in order.

        Parameters
        ----------
        images
            int64 (n_some,): the images wanted.
        size
            Most features of a block.

        Yields
        ------
        positions
            int64 (n_block,): of the features in the layer.
        values
            float64 (n_block, n_some).
        """
        for begin in range(0, self.n_features, BLOCK_FEATURES):
            stop = min(begin + BLOCK_FEATURES, self.n_features)
            if self.kept is None:
                positions = np.arange(begin, stop)
            else:
                positions = self.kept[slice(*np.searchsorted(self.kept, (begin, stop)))]
            if not positions.size:
                continue
            columns = columns_of(self.features, begin, stop)
            for first in range(0, positions.size, size):
                part = positions[first : first + size]
                values = columns[np.ix_(images, part - begin)]
                yield part, np.ascontiguousarray(values.T, dtype=np.float64)

    def at(self, positions: NDArray[np.int64], images: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return features by their positions in the layer, float64 (n_positions, n_images)."""
        found = np.empty((positions.size, images.size))
        blocks = positions // BLOCK_FEATURES
        for block in np.unique(blocks):
            wanted = np.flatnonzero(blocks == block)
            begin, stop = int(positions[wanted].min()), int(positions[wanted].max()) + 1
            columns = columns_of(self.features, begin, stop)
            found[wanted] = columns[np.ix_(images, positions[wanted] - begin)].T
        return found


@dataclass(frozen=True)
class SourceSplit:
    """A layer and one split of the images; nothing is copied."""

    sources: Sources
    split: ImageSplit
    reason: str = ""


def layer_sources(name: str, features: Features, settings: ScoreSettings) -> Sources:
    """Look at every feature of a layer.

    Raises
    ------
    DataError
        If the features are not a matrix of finite numbers.
    """
    for _ in feature_blocks(name, features):
        pass  # reading the blocks is the check
    return Sources(check_features(name, features))


def distinct_sources(name: str, features: Features, settings: ScoreSettings) -> Sources:
    """Look at the first one of equal features only.

    Pooling that enlarges a map repeats its features many times over (goldens section 2, "AlexNet variants"),
    and every feature that is silent for all images equals every other one.

    Raises
    ------
    DataError
        If the features are not a matrix of finite numbers.
    """
    return Sources(check_features(name, features), first_of_equal(name, features))


def prepare_sources(sources: Sources, split: ImageSplit, settings: ScoreSettings) -> SourceSplit:
    """Pair a layer with a split; a layer that does not vary over the training images cannot be mapped."""
    # A layer that varies is not read much further than to its first block.
    varies = any(
        bool((values != values[:, :1]).any()) for _, values in sources.blocks(split.train, BLOCK_FEATURES)
    )
    return SourceSplit(sources, split, "" if varies else CONSTANT)
