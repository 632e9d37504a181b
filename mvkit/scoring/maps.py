"""Mappings from features to responses by name, and the preparation of layers for them.

:data:`MAPS` predict every unit: to add one, write a class here over functions of arrays in a file of its own.
:data:`~mvkit.scoring.similarity.SIMILARITIES` give one number for a population. :data:`MAPPINGS` are both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import repeat
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mvkit.errors import UsageError
from mvkit.machine import available_cores, choose_device
from mvkit.scoring.gram import (
    BLOCK_FEATURES,
    Features,
    GramFunction,
    LayerCoordinates,
    LayerInput,
    SplitCoordinates,
    columns_of,
    gram_coordinates,
    layer_coordinates,
    shared_products,
    split_coordinates,
)
from mvkit.scoring.measures import score_all_trials
from mvkit.scoring.one_to_one import (
    Sources,
    SourceSplit,
    distinct_sources,
    predict_one_to_one,
    prepare_search,
    prepare_sources,
)
from mvkit.scoring.parallel import single_threaded, worker_count
from mvkit.scoring.pls import predict_test_images, prepare_kernel, project_targets
from mvkit.scoring.pls_choice import n_features_needed, n_train_needed, predict_pls
from mvkit.scoring.protocol import (
    Batches,
    ImageSplit,
    PreparedSplit,
    SplitHalfScores,
    score_split_halves,
)
from mvkit.scoring.ridge import predict_ridge, prepare_squares
from mvkit.scoring.settings import ScoreSettings
from mvkit.scoring.similarity import SIMILARITIES, Similarity
from mvkit.scoring.sparse import predict_sparse, sparse_sources

Array = NDArray[np.float64]
#: ``map``, or a pool's.
Apply = Callable[..., Iterable[Any]]
#: A layer prepared for the fits of one split.
Split = TypeVar("Split", bound=PreparedSplit)


def prepare_layers(
    mapping: Map[Any] | Similarity,
    features: Mapping[str, LayerInput],
    splits: Sequence[ImageSplit],
    settings: ScoreSettings,
    *,
    n_jobs: int = 1,
    gram: GramFunction | None = None,
    save: Callable[[LayerCoordinates], None] | None = None,
    composition: Mapping[str, Sequence[str]] | None = None,
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
    n_jobs
        Layers or splits prepared at a time, in threads; -1 = one per core. The result does not depend on it,
        to the last bit.
    gram
        Forms the Gram matrices of wide layers, on a device say; for mappings with ``from_coordinates``. None:
        numpy does.
    save
        Called with new coordinates as soon as they are there, by one of several threads; for mappings with
        ``from_coordinates``.
    composition
        Layer to prepare -> those of ``features`` that it is made of, side by side; None: each of
        ``features`` is one. A mapping with ``from_coordinates`` takes the coordinates of every part once.

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

    made_of = {name: (name,) for name in features} if composition is None else composition
    joined = {name: parts for name, parts in made_of.items() if tuple(parts) != (name,)}

    def read(name: str) -> LayerInput:
        layer = features[name]
        if mapping.from_coordinates and not isinstance(layer, LayerCoordinates):
            layer = layer_coordinates(name, layer, gram)
            if save is not None:
                save(layer)
        return layer

    def prepare(name: str, in_turn: Apply = map) -> Any:
        if name not in joined:
            layer = shared[name] if name in shared else read(name)
        elif mapping.from_coordinates:
            layer = join_coordinates(name, [shared[part] for part in joined[name]])
        else:
            layer = JoinedFeatures([features_of(features[part]) for part in joined[name]])
        return mapping.prepare(name, layer, splits, settings, in_turn)

    names = list(made_of)
    is_shared = mapping.from_coordinates
    parts = list(dict.fromkeys(part for of in joined.values() for part in of)) if is_shared else []
    shared: dict[str, Any] = {}
    # Threads are of this machine, whatever cluster jobs are sent to.
    cores = available_cores()
    n_parts = len(names) if len(names) != 1 else len(splits)
    threads = min(cores if n_jobs == -1 else min(worker_count(n_jobs), cores), max(1, n_parts))
    with single_threaded():
        if threads == 1:
            shared.update((part, read(part)) for part in parts)
            return {name: prepare(name) for name in names}
        # Some libraries count threads per thread that calls them, so that each one is limited itself.
        limited = partial(threadpool_limits, limits=1)
        with ThreadPoolExecutor(threads, "layers", initializer=limited) as pool:
            shared.update(zip(parts, pool.map(read, parts), strict=True))
            if len(names) == 1:
                return {names[0]: prepare(names[0], pool.map)}
            return dict(zip(names, pool.map(prepare, names), strict=True))


class JoinedFeatures:
    """Features of several layers side by side, read from each (a :class:`~mvkit.scoring.gram.ColumnSource`).

    Parameters
    ----------
    parts
        (n_images, n_features) each, in memory or on disk.
    """

    def __init__(self, parts: Sequence[Features]) -> None:
        self._parts = tuple(parts)
        self._starts = np.cumsum([0, *(part.shape[1] for part in parts)])

    @property
    def shape(self) -> tuple[int, int]:
        """(n_images, n_features)."""
        return self._parts[0].shape[0], int(self._starts[-1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype that holds the values of every part."""
        return np.result_type(*(part.dtype for part in self._parts))

    def columns(self, begin: int, stop: int) -> NDArray[Any]:
        """Return features ``begin`` to ``stop`` of all images, (n_images, n_columns)."""
        pieces = []
        for part, start in zip(self._parts, self._starts[:-1], strict=True):
            first, last = max(begin - start, 0), min(stop - start, part.shape[1])
            if first < last:
                pieces.append(columns_of(part, first, last))
        return np.hstack(pieces)

    def __array__(self, dtype: Any = None, *, copy: bool | None = None) -> NDArray[Any]:
        """Read everything."""
        return self.columns(0, self.shape[1]).astype(dtype or self.dtype, copy=False)


class DrawnFeatures:
    """Some features of several layers (a :class:`~mvkit.scoring.gram.ColumnSource`).

    Parameters
    ----------
    features
        All of the layers side by side.
    chosen
        int64 (n_features,): which of them.
    """

    def __init__(self, features: JoinedFeatures, chosen: NDArray[np.int64]) -> None:
        self._features, self._chosen = features, chosen

    @property
    def shape(self) -> tuple[int, int]:
        """(n_images, n_features)."""
        return self._features.shape[0], self._chosen.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype that holds the values of every layer."""
        return self._features.dtype

    def columns(self, begin: int, stop: int) -> NDArray[Any]:
        """Return features ``begin`` to ``stop`` of all images, (n_images, n_columns)."""
        chosen = self._chosen[begin:stop]
        drawn = np.empty((self.shape[0], chosen.size), self.dtype)
        for first in range(0, self._features.shape[1], BLOCK_FEATURES):
            last = min(first + BLOCK_FEATURES, self._features.shape[1])
            here = np.flatnonzero((chosen >= first) & (chosen < last))
            if here.size:
                drawn[:, here] = self._features.columns(first, last)[:, chosen[here] - first]
        return drawn

    def __array__(self, dtype: Any = None, *, copy: bool | None = None) -> NDArray[Any]:
        """Read everything."""
        return self.columns(0, self.shape[1]).astype(dtype or self.dtype, copy=False)


def draw_across_layers(features: Mapping[str, Features], seed: int) -> dict[str, DrawnFeatures]:
    """Deal the features of all layers out anew, each layer getting as many as it had.

    Parameters
    ----------
    features
        Layer -> (n_images, n_features), in memory or on disk.
    seed
        Of the order in which they are dealt out, ``RandomState(seed).permutation``.
    """
    widths = [values.shape[1] for values in features.values()]
    together = JoinedFeatures(list(features.values()))
    order = np.random.RandomState(seed).permutation(sum(widths))
    parts = np.split(order, np.cumsum(widths)[:-1])
    return {name: DrawnFeatures(together, part) for name, part in zip(features, parts, strict=True)}


def join_coordinates(name: str, parts: Sequence[LayerCoordinates]) -> LayerCoordinates:
    """Return the coordinates of several layers side by side, from those of each.

    Gram matrices of features side by side add up, and coordinates have the Gram matrix of their features: so
    coordinates side by side stand for the features, of which none is read again.

    Parameters
    ----------
    name
        Name of the layer that they make.
    parts
        Their coordinates.
    """
    joined = layer_coordinates(name, np.hstack([part.coordinates for part in parts]))
    # The singular values of matrices side by side are at most the root of the sum of squares.
    noise = float(np.sqrt(sum(part.noise**2 for part in (*parts, joined))))
    return replace(joined, n_features=sum(part.n_features for part in parts), noise=noise)


class Map(ABC, Generic[Split]):
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
    def prepare(
        self,
        name: str,
        features: LayerInput,
        splits: Sequence[ImageSplit],
        settings: ScoreSettings,
        in_turn: Apply = map,
    ) -> tuple[Split, ...]:
        """Prepare features (n_images, n_features) for the fits of every split.

        Splits that take their time are prepared by ``in_turn``, ``map`` or what takes its place.
        """

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

    def predict_splits(
        self,
        targets: Sequence[Array],
        prepared: Sequence[Split],
        settings: ScoreSettings,
        projected: Sequence[Array] | None = None,
    ) -> Iterable[Array]:
        """Do what :meth:`predict` does for several image splits, one after another.

        ``projected`` are the targets' projections, if :meth:`batches` names one.
        """
        return map(self.predict, targets, prepared, repeat(settings))

    def batches(self, settings: ScoreSettings) -> Batches:
        """Return how fits are put together."""
        return Batches()

    def n_train_needed(self, settings: ScoreSettings) -> int:
        """Return the fewest training images that settings need."""
        return 2

    def n_features_needed(self, settings: ScoreSettings) -> int:
        """Return the fewest features that a layer can have."""
        return 1

    def warm_up(self) -> None:
        """Compile what needs compiling, or load it from disk."""

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
        """Score one specimen, see :func:`~mvkit.scoring.protocol.score_split_halves`.

        Other measures than the corrected one are of all trials, whatever the halves
        (:func:`~mvkit.scoring.measures.score_all_trials`).
        """
        if settings.measure != "corrected":
            return score_all_trials(responses, splits, layers, self.predict, settings)
        return score_split_halves(
            responses,
            weights,
            splits,
            layers,
            self.predict_splits,
            settings,
            batches=self.batches(settings),
        )

    def reason(self, prepared: Sequence[Split]) -> str:
        """Return why a prepared layer cannot be mapped on some split, or ""."""
        return next((part.reason for part in prepared if part.reason), "")


class CoordinatesMap(Map[SplitCoordinates]):
    """A map that needs no more of features than their Gram matrix."""

    from_coordinates = True

    def n_leading(self, settings: ScoreSettings) -> int | None:
        """Return how many leading directions of features decide about predictions; None: all."""
        return None

    def prepare(
        self,
        name: str,
        features: LayerInput,
        splits: Sequence[ImageSplit],
        settings: ScoreSettings,
        in_turn: Apply = map,
    ) -> tuple[SplitCoordinates, ...]:
        """Rotate features into few coordinates, and per split into those of its training images.

        Coordinates given in place of features are used as they are.
        """
        layer = features if isinstance(features, LayerCoordinates) else layer_coordinates(name, features)
        products = shared_products(layer, splits)
        needed, n_leading = self.n_features_needed(settings), self.n_leading(settings)
        return tuple(
            in_turn(lambda split: split_coordinates(layer, split, needed, products, n_leading), splits)
        )

    def prepare_source(
        self, name: str, features: Array, splits: Sequence[ImageSplit], settings: ScoreSettings
    ) -> tuple[SplitCoordinates, ...]:
        """Form the Gram matrix of another animal's responses once for all splits."""
        return gram_coordinates(name, features, splits, self.n_features_needed(settings))


class PLS(CoordinatesMap):
    """Partial least squares (:mod:`mvkit.scoring.pls`)."""

    title = "PLS"

    def predict(self, targets: Array, prepared: SplitCoordinates, settings: ScoreSettings) -> Array:
        """See :func:`~mvkit.scoring.pls_choice.predict_pls`."""
        return predict_pls(targets, prepared, settings)

    def predict_splits(
        self,
        targets: Sequence[Array],
        prepared: Sequence[SplitCoordinates],
        settings: ScoreSettings,
        projected: Sequence[Array] | None = None,
    ) -> Iterable[Array]:
        """Do what :meth:`predict` does for several image splits, of targets that may be projected already."""
        if projected is None:
            return super().predict_splits(targets, prepared, settings)
        return map(predict_test_images, targets, prepared, repeat(settings), projected)

    def batches(self, settings: ScoreSettings) -> Batches:
        """Targets are projected on principal coordinates, if the fits are to all units and images."""
        is_plain = settings.pls_targets == "joint" and settings.n_components != "cv"
        return Batches(projection=project_targets if is_plain else None)

    def n_train_needed(self, settings: ScoreSettings) -> int:
        """Return one training image per component, or a few more."""
        return n_train_needed(settings)

    def n_features_needed(self, settings: ScoreSettings) -> int:
        """Return one feature per component, of the fewest there are to choose from."""
        return n_features_needed(settings)

    def n_leading(self, settings: ScoreSettings) -> int:
        """Return one more than there are components: what these leave is at least as large as the next."""
        return settings.most_components + 1

    def warm_up(self) -> None:
        """Compile the kernel."""
        prepare_kernel()


class DevicePLS(PLS):
    """PLS to convergence in batches on a device of torch (:mod:`mvkit.scoring.pls_torch`).

    Parameters
    ----------
    device
        Of torch, with float64: ``"cuda"``, ``"cuda:1"``, ``"cpu"``.
    """

    splits_at_once = 10
    group_bytes = 64 * 2**20

    def __init__(self, device: str) -> None:
        self._device = device

    def predict(self, targets: Array, prepared: SplitCoordinates, settings: ScoreSettings) -> Array:
        """Fit one split's batch."""
        return self.predict_splits([targets], [prepared], settings)[0]

    def predict_splits(
        self,
        targets: Sequence[Array],
        prepared: Sequence[SplitCoordinates],
        settings: ScoreSettings,
        projected: Sequence[Array] | None = None,
    ) -> list[Array]:
        """See :func:`~mvkit.scoring.pls_torch.predict_splits`."""
        from mvkit.scoring.pls_torch import predict_splits

        return predict_splits(targets, prepared, settings, self._device)

    def batches(self, settings: ScoreSettings) -> Batches:
        """Several splits are fitted together; targets are projected on the device."""
        return Batches(self.splits_at_once, self.group_bytes)

    def warm_up(self) -> None:
        """Compile nothing."""


class Ridge(CoordinatesMap):
    """Ridge regression (:mod:`mvkit.scoring.ridge`)."""

    title = "ridge"

    def predict(self, targets: Array, prepared: SplitCoordinates, settings: ScoreSettings) -> Array:
        """See :func:`~mvkit.scoring.ridge.predict_ridge`."""
        return predict_ridge(targets, prepared, settings)

    def warm_up(self) -> None:
        """Compile what sums squares."""
        prepare_squares()


class SourcesMap(Map[SourceSplit]):
    """A map that depends on the axes of feature space and compares the features themselves."""

    @abstractmethod
    def sources(self, name: str, features: Features, settings: ScoreSettings) -> Sources:
        """Return what is compared of features (n_images, n_features)."""

    def prepare(
        self,
        name: str,
        features: LayerInput,
        splits: Sequence[ImageSplit],
        settings: ScoreSettings,
        in_turn: Apply = map,
    ) -> tuple[SourceSplit, ...]:
        """Pair a layer with every split."""
        sources = self.sources(name, features_of(features), settings)
        return tuple(in_turn(partial(prepare_sources, sources), splits))


class OneToOne(SourcesMap):
    """The best-correlated feature (:mod:`mvkit.scoring.one_to_one`)."""

    title = "one-to-one"

    def sources(self, name: str, features: Features, settings: ScoreSettings) -> Sources:
        """Compare with the first one of equal features only."""
        return distinct_sources(name, features)

    def predict(self, targets: Array, prepared: SourceSplit, settings: ScoreSettings) -> Array:
        """See :func:`~mvkit.scoring.one_to_one.predict_one_to_one`."""
        return predict_one_to_one(targets, prepared, settings)

    def warm_up(self) -> None:
        """Compile the search."""
        prepare_search()


class Lasso(SourcesMap):
    """scikit-learn's lasso (:mod:`mvkit.scoring.sparse`)."""

    title = "lasso"

    def sources(self, name: str, features: Features, settings: ScoreSettings) -> Sources:
        """Compare with every feature, if all fit in memory."""
        return sparse_sources(name, features, settings)

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


MAPS: dict[str, Map[Any]] = {
    "pls": PLS(),
    "ridge": Ridge(),
    "one-to-one": OneToOne(),
    "lasso": Lasso(),
    "elasticnet": ElasticNet(),
}


#: Every way to compare features with responses.
MAPPINGS: dict[str, Map[Any] | Similarity] = {**MAPS, **SIMILARITIES}


def mapping_on(settings: ScoreSettings, fit_device: str | None) -> Map[Any] | Similarity:
    """Return the mapping that settings name, to be fitted on a device of torch; None: by compiled code.

    Raises
    ------
    UsageError
        If torch does not fit it (see :func:`fits_on_device`), or the device has no float64 or is not here.
    """
    if fit_device is None:
        return MAPPINGS[settings.mapping]
    if not fits_on_device(settings):
        raise UsageError(
            f"fit_device {fit_device}: of maps only pls is fitted on a device, joint, of a fixed number of "
            "components, with pls_stopping=converged\ngive these, or leave fit_device out"
        )
    device = choose_device(fit_device)
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"fit_device {fit_device}: fits need float64; give cuda or cpu, or leave it out")
    return DevicePLS(str(device))


def fits_on_device(settings: ScoreSettings) -> bool:
    """Return whether torch can fit the mapping that settings name."""
    return (
        settings.mapping == "pls"
        and settings.pls_stopping == "converged"
        and settings.pls_targets == "joint"
        and settings.n_components != "cv"
    )
