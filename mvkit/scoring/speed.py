"""How long this machine takes to score, from a few fits that are really made."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mvkit.scoring.gram import BLOCK_FEATURES, GramMatrix, gram_matrix, layer_coordinates
from mvkit.scoring.maps import MAPPINGS, Map
from mvkit.scoring.protocol import split_half_weights, splits_of
from mvkit.scoring.settings import RecordingLike, ScoreSettings
from mvkit.scoring.similarity import Similarity

Clock = Callable[[], float]

#: Features that are sampled at most where every one of them takes part in every fit.
_SAMPLED_FEATURES = 1024
#: Units of the short sample; all units are sampled only where that takes about as long as is allowed.
_FEW_UNITS = 8
#: Seconds that a sample of fits takes about.
_SAMPLE_S = 0.5
#: Size of what is added to a sample of features so that no two of them are equal, relative to their spread.
_GRAIN = 1e-3


@dataclass(frozen=True)
class Speed:
    """Seconds that scoring takes in one process.

    Attributes
    ----------
    feature_s, wide_feature_s
        Per feature, to make a layer ready; in a layer of more than one block.
    split_s
        Per split, to make a layer ready.
    halving_s, unit_s
        Per layer, recording, split and halving; what each unit adds to that.
    n_features
        Width of the layer that ``halving_s`` and ``unit_s`` are of; None: the width does not matter.
    """

    feature_s: float
    wide_feature_s: float
    split_s: float
    halving_s: float
    unit_s: float
    n_features: int | None = None

    def preparing(self, n_features: int, n_splits: int) -> float:
        """Return the seconds that making a layer ready takes."""
        per_feature = self.wide_feature_s if n_features > BLOCK_FEATURES else self.feature_s
        return per_feature * n_features + self.split_s * n_splits

    def fits(self, n_features: int, n_units: int, *, n_splits: int, n_halves: int) -> float:
        """Return the seconds that one layer and one recording take; linear in every number."""
        width = 1.0 if self.n_features is None else n_features / self.n_features
        return (self.halving_s + self.unit_s * n_units) * width * n_splits * n_halves


def measure_speed(
    images: NDArray[Any],
    recordings: Sequence[RecordingLike],
    widths: Sequence[int],
    settings: ScoreSettings,
    *,
    inner: GramMatrix = gram_matrix,
    clock: Clock = time.perf_counter,
) -> Speed:
    """Make a layer of the images themselves ready and fit it to the recording with the most units.

    Parameters
    ----------
    images
        (n_images, ...): pixels stand for features, since how often iterations go round depends on how
        features vary.
    recordings
        As :func:`~mvkit.scoring.run.populations` returns them.
    widths
        Of the layers that are to be scored.
    settings
        The protocol; one of its splits and as many halvings as take half a second are made.
    inner
        Forms inner products of wide layers.
    clock
        Tells seconds.
    """
    mapping = MAPPINGS[settings.mapping]
    takes_all = isinstance(mapping, Map) and not mapping.from_coordinates
    splits = splits_of(len(images), settings)[:1]
    width = min(max(widths), _SAMPLED_FEATURES if takes_all else BLOCK_FEATURES)
    mapping.warm_up()
    with threadpool_limits(limits=1):
        features = sample_features(images, width)
        began = clock()
        given: Any = layer_coordinates("sample", features, inner) if mapping.from_coordinates else features
        reduced = clock()
        ready = mapping.prepare("sample", given, splits, settings)
        done = clock()
        feature_s = ((reduced if mapping.from_coordinates else done) - began) / width
        wide_feature_s = feature_s
        if mapping.from_coordinates and max(widths) > BLOCK_FEATURES:
            wide = sample_features(images, 2 * BLOCK_FEATURES)
            again = clock()
            layer_coordinates("sample", wide, inner)
            wide_feature_s = (clock() - again) / wide.shape[1]
        largest = max(recordings, key=lambda recording: recording.responses.shape[2])
        sample = _Sample(mapping, ready, largest.responses, splits, settings, clock)
        halving_s, unit_s = sample.measured()
    return Speed(
        feature_s,
        wide_feature_s,
        done - reduced if mapping.from_coordinates else 0.0,
        halving_s,
        unit_s,
        width if takes_all else None,
    )


def sample_features(images: NDArray[Any], n_features: int) -> NDArray[np.float32]:
    """Take pixels, evenly spread over the images, as the features of a layer; no two of them are equal.

    Returns
    -------
    ndarray
        float32 (n_images, n_features).
    """
    pixels = images.reshape(len(images), -1)
    # Chosen first: the images may be much larger than the layer.
    columns = np.linspace(0, pixels.shape[1] - 1, n_features).astype(np.int64)
    chosen = pixels[:, columns].astype(np.float32)
    grain = np.random.default_rng(0).standard_normal(chosen.shape, dtype=np.float32)
    return chosen + _GRAIN * max(float(chosen.std()), 1.0) * grain


@dataclass(frozen=True)
class _Sample:
    """Fits that are timed."""

    mapping: Map[Any, Any] | Similarity
    ready: Any
    responses: NDArray[np.float32]
    splits: Sequence[Any]
    settings: ScoreSettings
    clock: Clock

    def measured(self) -> tuple[float, float]:
        """Return the seconds of a halving without units, and what a unit adds."""
        n_units = self.responses.shape[2]
        few = min(_FEW_UNITS, n_units)
        self._halvings(few, 1)  # the first call is slower than all others
        short = self._per_halving(few)
        if few == n_units or short * n_units / few > 2 * _SAMPLE_S:
            return 0.0, short / few
        long = self._per_halving(n_units)
        unit_s = max(0.0, (long - short) / (n_units - few))
        return max(0.0, long - unit_s * n_units), unit_s

    def _per_halving(self, n_units: int) -> float:
        """Repeat a sample, twice as large, until it takes long enough to be timed."""
        n_halves = 1
        while True:
            seconds = self._halvings(n_units, n_halves)
            if 2 * seconds > _SAMPLE_S or n_halves >= self.settings.n_halves:
                return seconds / n_halves
            n_halves = min(2 * n_halves, self.settings.n_halves)

    def _halvings(self, n_units: int, n_halves: int) -> float:
        n_trials, n_images, _ = self.responses.shape
        settings = self.settings.model_copy(update={"n_halves": n_halves})
        weights = split_half_weights(n_trials, n_images, settings)
        responses = np.ascontiguousarray(self.responses[:, :, :n_units])
        began = self.clock()
        self.mapping.score(responses, weights, self.splits, [self.ready], settings)
        return self.clock() - began
