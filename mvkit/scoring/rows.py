"""What a row of the tables of maps and similarities says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.scoring.gram import Features as Features
from mvkit.scoring.gram import LayerCoordinates
from mvkit.scoring.protocol import HalvingScores, ImageSplit, Predict, PreparedSplit, score_halvings
from mvkit.scoring.settings import ScoreSettings

#: Features, or for a row with ``from_coordinates`` their coordinates.
LayerInput = Features | LayerCoordinates
PrepareSource = Callable[
    [str, NDArray[np.floating], Sequence[ImageSplit], ScoreSettings], tuple[PreparedSplit, ...]
]


def _nothing() -> None:
    pass


def _no_minimum(settings: ScoreSettings) -> int:
    return 2


@dataclass(frozen=True)
class MapRow:
    """A map that is fitted on training images and predicts every unit's responses to test images.

    Attributes
    ----------
    title
        Name in sentences.
    prepare_layer
        ``(name, features (n_images, n_features), settings)`` -> whatever serves all splits.
    prepare_split
        ``(prepared layer, split, settings)`` -> a :class:`PreparedSplit`.
    predict
        ``(targets (n_fits, n_train, n_units), prepared split, settings)`` -> (n_fits, n_test, n_units); each
        unit's predictions up to an additive constant. ``targets`` are centred; columns of zeros take no part
        (see :func:`~mvkit.scoring.protocol.training_targets`).
    n_train_needed
        Fewest training images that settings need.
    warm_up
        Compiles what needs compiling, or loads it from disk.
    source
        ``(name, features, splits, settings)`` -> the same as ``prepare_layer`` and then ``prepare_split`` of
        each split, at less cost, for features that serve one fit per split only: those of another animal.
        None: there is no cheaper way.
    from_coordinates
        Whether :class:`~mvkit.scoring.gram.LayerCoordinates` can stand in for the features of a layer.
    """

    title: str
    prepare_layer: Callable[[str, Any, ScoreSettings], Any]
    prepare_split: Callable[[Any, ImageSplit, ScoreSettings], PreparedSplit]
    predict: Predict
    n_train_needed: Callable[[ScoreSettings], int] = _no_minimum
    warm_up: Callable[[], None] = _nothing
    per_unit: bool = True
    source: PrepareSource | None = None
    from_coordinates: bool = False

    def prepare_source(
        self, name: str, features: NDArray[np.floating], splits: Sequence[ImageSplit], settings: ScoreSettings
    ) -> tuple[PreparedSplit, ...]:
        """Make features that serve one fit per split ready for every split."""
        return (self.source or self.prepare)(name, features, splits, settings)

    def prepare(
        self, name: str, features: LayerInput, splits: Sequence[ImageSplit], settings: ScoreSettings
    ) -> tuple[PreparedSplit, ...]:
        """Make a layer ready for every split."""
        layer = self.prepare_layer(name, features, settings)
        return tuple(self.prepare_split(layer, split, settings) for split in splits)

    def score(
        self,
        responses: NDArray[np.floating],
        weights: NDArray[np.generic],
        splits: Sequence[ImageSplit],
        layers: Sequence[Any],
        settings: ScoreSettings,
    ) -> list[HalvingScores]:
        """Score one specimen, see :func:`~mvkit.scoring.protocol.score_halvings`."""
        return score_halvings(responses, weights, splits, layers, self.predict, settings)

    def reason(self, prepared: Any) -> str:
        """Say why a prepared layer cannot be mapped on some split, or ""."""
        return next((part.reason for part in prepared if part.reason), "")


@dataclass(frozen=True)
class SimilarityRow:
    """A similarity between a layer and a population; nothing is fitted, nothing is predicted.

    Attributes
    ----------
    title
        Name in sentences.
    describe
        ``(name, features (n_images, n_features), splits, settings)`` -> what is compared, with an attribute
        ``reason``; done once per layer.
    compare
        ``(responses, weights, splits, described layers, settings)`` -> per layer a
        :class:`HalvingScores` with one "unit".
    between
        ``(source means, target means, splits, settings)`` -> :class:`HalvingScores` of two populations that
        are both noisy; means are float64 (n_halves, 2, n_images, n_units) as from
        :func:`~mvkit.scoring.protocol.half_means`.
    warm_up
        Compiles what needs compiling, or loads it from disk.
    from_coordinates
        Whether :class:`~mvkit.scoring.gram.LayerCoordinates` can stand in for the features of a layer.
    """

    title: str
    describe: Callable[[str, Any, Sequence[ImageSplit], ScoreSettings], Any]
    compare: Callable[..., list[HalvingScores]]
    between: Callable[..., HalvingScores]
    n_train_needed: Callable[[ScoreSettings], int] = _no_minimum
    warm_up: Callable[[], None] = _nothing
    per_unit: bool = False
    from_coordinates: bool = False

    def prepare(
        self, name: str, features: LayerInput, splits: Sequence[ImageSplit], settings: ScoreSettings
    ) -> Any:
        """Describe a layer once for all splits."""
        return self.describe(name, features, splits, settings)

    def score(
        self,
        responses: NDArray[np.floating],
        weights: NDArray[np.generic],
        splits: Sequence[ImageSplit],
        layers: Sequence[Any],
        settings: ScoreSettings,
    ) -> list[HalvingScores]:
        """Compare one population with every layer."""
        return self.compare(responses, weights, splits, layers, settings)

    def reason(self, prepared: Any) -> str:
        """Say why a layer cannot be compared, or ""."""
        return str(prepared.reason)
