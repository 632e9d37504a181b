"""Mappings from features to responses by name, and the preparation of layers for them.

:data:`MAPS` predict every unit: to add one, write a class here over functions of arrays in a file of its own.
:data:`~mvkit.scoring.similarity.SIMILARITIES` give one number for a population. :data:`MAPPINGS` are both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mvkit.machine import available_cores
from mvkit.scoring.gram import (
    Features,
    GramFunction,
    LayerCoordinates,
    LayerInput,
    SplitCoordinates,
    gram_coordinates,
    layer_coordinates,
    split_coordinates,
)
from mvkit.scoring.one_to_one import (
    Sources,
    SourceSplit,
    distinct_sources,
    predict_one_to_one,
    prepare_search,
    prepare_sources,
)
from mvkit.scoring.parallel import single_threaded, worker_count
from mvkit.scoring.pls import predict_test_images, prepare_kernel
from mvkit.scoring.protocol import ImageSplit, PreparedSplit, SplitHalfScores, score_split_halves
from mvkit.scoring.ridge import predict_ridge, prepare_squares
from mvkit.scoring.settings import ScoreSettings
from mvkit.scoring.similarity import SIMILARITIES, Similarity
from mvkit.scoring.sparse import predict_sparse, sparse_sources

Array = NDArray[np.float64]
#: ``map``, or a pool's.
Apply = Callable[..., Iterable[Any]]
#: A layer prepared for all splits.
Layer = TypeVar("Layer")
#: A layer prepared for the fits of one split.
Split = TypeVar("Split", bound=PreparedSplit)


def prepare_layers(
    mapping: Map[Any, Any] | Similarity,
    features: Mapping[str, LayerInput],
    splits: Sequence[ImageSplit],
    settings: ScoreSettings,
    names: Sequence[str] | None = None,
    *,
    n_jobs: int = 1,
    gram: GramFunction | None = None,
    save: Callable[[LayerCoordinates], None] | None = None,
) -> dict[str, Any]:
    """Prepare layers with one of :data:`MAPPINGS`, several at a time; of a single one, several splits.

    Blocks of at most ``n_jobs`` layers are in memory at a time.

    Parameters
    ----------
    mapping
        How features are compared with responses.
    features
        Layer -> (n_images, n_features), in memory or on disk; or their coordinates, for a mapping with
        ``from_coordinates``. A layer is asked for when its turn has come, by one of several threads.
    splits, settings
        The protocol.
    names
        Layers to prepare; None: all.
    n_jobs
        Layers or splits prepared at a time, in threads; -1 = one per core. The result does not depend on it,
        to the last bit.
    gram
        Forms the Gram matrices of wide layers, on a device say; for mappings with ``from_coordinates``. None:
        numpy does.
    save
        Called with new coordinates as soon as they are there, by one of several threads; for mappings with
        ``from_coordinates``.

    Returns
    -------
    dict
        Layer -> what the mapping prepared, in the order given.

    Raises
    ------
    DataError
        If a layer is not a matrix of finite numbers; the first one of several is named.
    UsageError
        If ``n_jobs`` is 0.
    """

    def prepare(name: str, in_turn: Apply = map) -> Any:
        layer = features[name]
        if mapping.from_coordinates and not isinstance(layer, LayerCoordinates):
            layer = layer_coordinates(name, layer, gram)
            if save is not None:
                save(layer)
        return mapping.prepare(name, layer, splits, settings, in_turn)

    names = list(features) if names is None else names
    # Threads are of this machine, whatever cluster jobs are sent to.
    cores = available_cores()
    n_parts = len(names) if len(names) != 1 else len(splits)
    threads = min(cores if n_jobs == -1 else min(worker_count(n_jobs), cores), max(1, n_parts))
    with single_threaded():
        if threads == 1:
            return {name: prepare(name) for name in names}
        # Some libraries count threads per thread that calls them, so that each one is limited itself.
        limited = partial(threadpool_limits, limits=1)
        with ThreadPoolExecutor(threads, "layers", initializer=limited) as pool:
            if len(names) == 1:
                return {names[0]: prepare(names[0], pool.map)}
            return dict(zip(names, pool.map(prepare, names), strict=True))


class Map(ABC, Generic[Layer, Split]):
    """A map that is fitted on training images and predicts every unit's responses to test images.

    Attributes
    ----------
    title
        Name in sentences.
    per_unit
        True: every unit has a score.
    from_coordinates
        Whether :class:`~mvkit.scoring.gram.LayerCoordinates` can stand in for the features of a layer.
    """

    title: str
    per_unit = True
    from_coordinates = False

    @abstractmethod
    def prepare_layer(self, name: str, features: LayerInput, settings: ScoreSettings) -> Layer:
        """Prepare features (n_images, n_features) for all splits."""

    @abstractmethod
    def prepare_split(self, layer: Layer, split: ImageSplit, settings: ScoreSettings) -> Split:
        """Prepare a layer for the fits of one split."""

    @abstractmethod
    def predict(self, targets: Array, prepared: Split, settings: ScoreSettings) -> Array:
        """Fit every column of targets and predict the test images.

        Parameters
        ----------
        targets
            float64 (n_fits, n_train, n_units), centred; columns of zeros take no part
            (:func:`~mvkit.scoring.protocol.training_targets`).
        prepared
            Features of the split, which allow a fit (``reason`` empty).
        settings
            Those of the map.

        Returns
        -------
        ndarray
            float64 (n_fits, n_test, n_units), each unit's predictions up to an additive constant; NaN for
            units whose fit did not converge.
        """

    def n_train_needed(self, settings: ScoreSettings) -> int:
        """Return the fewest training images that settings need."""
        return 2

    def n_features_needed(self, settings: ScoreSettings) -> int:
        """Return the fewest features that a layer can have."""
        return 1

    def warm_up(self) -> None:
        """Compile what needs compiling, or load it from disk."""

    def prepare(
        self,
        name: str,
        features: LayerInput,
        splits: Sequence[ImageSplit],
        settings: ScoreSettings,
        in_turn: Apply = map,
    ) -> tuple[Split, ...]:
        """Prepare a layer for every split, by ``map`` or what takes its place."""
        layer = self.prepare_layer(name, features, settings)
        return tuple(in_turn(lambda split: self.prepare_split(layer, split, settings), splits))

    def prepare_source(
        self, name: str, features: Array, splits: Sequence[ImageSplit], settings: ScoreSettings
    ) -> tuple[Split, ...]:
        """Do the same for features that serve one fit per split only, those of another animal."""
        return self.prepare(name, features, splits, settings)

    def score(
        self,
        responses: NDArray[np.floating],
        weights: NDArray[np.generic],
        splits: Sequence[ImageSplit],
        layers: Sequence[Sequence[Split]],
        settings: ScoreSettings,
    ) -> list[SplitHalfScores]:
        """Score one specimen, see :func:`~mvkit.scoring.protocol.score_split_halves`."""
        return score_split_halves(responses, weights, splits, layers, self.predict, settings)

    def reason(self, prepared: Sequence[Split]) -> str:
        """Return why a prepared layer cannot be mapped on some split, or ""."""
        return next((part.reason for part in prepared if part.reason), "")


class CoordinatesMap(Map[LayerCoordinates, SplitCoordinates]):
    """A map that needs no more of features than their Gram matrix."""

    from_coordinates = True

    def prepare_layer(self, name: str, features: LayerInput, settings: ScoreSettings) -> LayerCoordinates:
        """Rotate features into few coordinates; coordinates given in their place are used as they are."""
        return features if isinstance(features, LayerCoordinates) else layer_coordinates(name, features)

    def prepare_split(
        self, layer: LayerCoordinates, split: ImageSplit, settings: ScoreSettings
    ) -> SplitCoordinates:
        """Express a layer in the principal coordinates of the training images."""
        return split_coordinates(layer, split, self.n_features_needed(settings))

    def prepare_source(
        self, name: str, features: Array, splits: Sequence[ImageSplit], settings: ScoreSettings
    ) -> tuple[SplitCoordinates, ...]:
        """Form the Gram matrix of another animal's responses once for all splits."""
        return gram_coordinates(name, features, splits, self.n_features_needed(settings))


class PLS(CoordinatesMap):
    """Partial least squares (:mod:`mvkit.scoring.pls`)."""

    title = "PLS"

    def predict(self, targets: Array, prepared: SplitCoordinates, settings: ScoreSettings) -> Array:
        """See :func:`~mvkit.scoring.pls.predict_test_images`."""
        return predict_test_images(targets, prepared, settings)

    def n_train_needed(self, settings: ScoreSettings) -> int:
        """Return one training image per component."""
        return settings.n_components

    def n_features_needed(self, settings: ScoreSettings) -> int:
        """Return one feature per component."""
        return settings.n_components

    def warm_up(self) -> None:
        """Compile the kernel."""
        prepare_kernel()


class Ridge(CoordinatesMap):
    """Ridge regression (:mod:`mvkit.scoring.ridge`)."""

    title = "ridge"

    def predict(self, targets: Array, prepared: SplitCoordinates, settings: ScoreSettings) -> Array:
        """See :func:`~mvkit.scoring.ridge.predict_ridge`."""
        return predict_ridge(targets, prepared, settings)

    def warm_up(self) -> None:
        """Compile what sums squares."""
        prepare_squares()


class SourcesMap(Map[Sources, SourceSplit]):
    """A map that depends on the axes of feature space and compares the features themselves."""

    def prepare_split(self, layer: Sources, split: ImageSplit, settings: ScoreSettings) -> SourceSplit:
        """Pair a layer with a split."""
        return prepare_sources(layer, split)


class OneToOne(SourcesMap):
    """The best-correlated feature (:mod:`mvkit.scoring.one_to_one`)."""

    title = "one-to-one"

    def prepare_layer(self, name: str, features: LayerInput, settings: ScoreSettings) -> Sources:
        """Compare with the first one of equal features only."""
        return distinct_sources(name, features_of(features))

    def predict(self, targets: Array, prepared: SourceSplit, settings: ScoreSettings) -> Array:
        """See :func:`~mvkit.scoring.one_to_one.predict_one_to_one`."""
        return predict_one_to_one(targets, prepared, settings)

    def warm_up(self) -> None:
        """Compile the search."""
        prepare_search()


class Lasso(SourcesMap):
    """scikit-learn's lasso (:mod:`mvkit.scoring.sparse`)."""

    title = "lasso"

    def prepare_layer(self, name: str, features: LayerInput, settings: ScoreSettings) -> Sources:
        """Compare with every feature, if all fit in memory."""
        return sparse_sources(name, features_of(features), settings)

    def predict(self, targets: Array, prepared: SourceSplit, settings: ScoreSettings) -> Array:
        """Fit ``Lasso(alpha=settings.penalty)``, see :func:`~mvkit.scoring.sparse.predict_sparse`."""
        from sklearn import linear_model

        return predict_sparse(linear_model.Lasso(alpha=settings.penalty), targets, prepared)


class ElasticNet(Lasso):
    """scikit-learn's elastic net (:mod:`mvkit.scoring.sparse`)."""

    title = "elastic net"

    def predict(self, targets: Array, prepared: SourceSplit, settings: ScoreSettings) -> Array:
        """Fit ``ElasticNet(alpha=penalty, l1_ratio=l1_ratio)``."""
        from sklearn import linear_model

        model = linear_model.ElasticNet(alpha=settings.penalty, l1_ratio=settings.l1_ratio)
        return predict_sparse(model, targets, prepared)


def features_of(layer: LayerInput) -> Features:
    """Return the features of a layer for a mapping that cannot work from coordinates."""
    if isinstance(layer, LayerCoordinates):
        raise TypeError(f"layer '{layer.name}': this mapping needs features, not their coordinates")
    return layer


MAPS: dict[str, Map[Any, Any]] = {
    "pls": PLS(),
    "ridge": Ridge(),
    "one-to-one": OneToOne(),
    "lasso": Lasso(),
    "elasticnet": ElasticNet(),
}


#: Every way to compare features with responses.
MAPPINGS: dict[str, Map[Any, Any] | Similarity] = {**MAPS, **SIMILARITIES}
