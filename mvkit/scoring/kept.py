"""Scores of a layer and a recording that were measured before."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mvkit import machine
from mvkit.jsonable import digest_of
from mvkit.machine import installed_versions
from mvkit.scoring.protocol import recordings_digest
from mvkit.scoring.run import UnitScores
from mvkit.scoring.settings import RecordingLike, ScoreSettings
from mvkit.store.entries import Store
from mvkit.store.probes import probes_agree

log = logging.getLogger(__name__)

KIND = "scores"
#: Maps whose numbers another library computes.
_FITTED_BY_SKLEARN = ("lasso", "elasticnet")
_BY_FOLD, _PROBE, _COLUMN = "by_fold", "probe", "column:"


class Identified(Protocol):
    """What stands for a layer's features."""

    @property
    def key(self) -> str:
        """Digest of everything that the features depend on."""

    @property
    def fingerprint(self) -> NDArray[np.float64]:
        """float64 (n,): what the layer gives for the first batch, in a few numbers."""


def sources_digest() -> str:
    """Return the sha256 (hex) of the sources that scores come from, so that edited code makes new ones."""
    return machine.sources_digest("draws.py", "scoring")


class StoredScores:
    """Scores in a store, found again by what they depend on.

    Parameters
    ----------
    store
        Where they lie.
    layers
        Layer -> its key. What is cached of a layer is believed only while its fingerprint agrees.
    settings
        The protocol; how scores are shown, and the ceiling, do not matter.
    """

    def __init__(self, store: Store, layers: Mapping[str, Identified], settings: ScoreSettings) -> None:
        self._store = store
        self._layers = layers
        sklearn = ("scikit-learn",) if settings.mapping in _FITTED_BY_SKLEARN else ()
        self._common = {
            "protocol": settings.protocol(),
            "sources": sources_digest(),
            "versions": installed_versions("numpy", "scipy", "numba", *sklearn),
        }
        # Responses are large, and every layer asks for their digest.
        self._digests: dict[int, tuple[RecordingLike, str]] = {}
        self._warned: set[str] = set()

    def key(self, layer: str, recording: RecordingLike) -> str:
        """Return under what the scores of a layer and a recording are kept: sha256 (hex)."""
        known = self._digests.get(id(recording))
        if known is None:
            known = self._digests[id(recording)] = recording, recordings_digest([recording])
        return digest_of({**self._common, "layer": self._layers[layer].key, "recording": known[1]})

    def read(self, layer: str, recording: RecordingLike) -> UnitScores | None:
        """Return what is kept, or None if there is nothing, or nothing that can be believed."""
        kept = read_kept(self._store, self.key(layer, recording))
        if kept is None:
            return None
        if not probes_agree(kept.probe, self._layers[layer].fingerprint):
            # Once for all its recordings: whoever edits a network's code sees it of every layer.
            if layer not in self._warned:
                self._warned.add(layer)
                log.warning(
                    "layer '%s': the first images give other features than when its scores were cached; "
                    "they are measured anew",
                    layer,
                )
            return None
        return kept.scores

    def write(self, layer: str, recording: RecordingLike, found: UnitScores) -> None:
        """Keep what was measured."""
        columns = {
            f"{_COLUMN}{name}": values.astype(np.str_) if values.dtype == object else values
            for name, values in found.columns.items()
        }
        arrays = {**columns, _BY_FOLD: found.by_fold, _PROBE: self._layers[layer].fingerprint}
        about = {"columns": list(found.columns), "layer": layer, "area": recording.area}
        self._store.write(
            KIND, self.key(layer, recording), arrays, {**about, "specimen": int(recording.specimen)}
        )


@dataclass(frozen=True)
class Kept:
    """Scores as they were kept, and what their layer gave for the first image then."""

    scores: UnitScores
    probe: NDArray[np.float64]


def read_kept(store: Store, key: str) -> Kept | None:
    """Read scores, to the last bit what was kept; None if there are none or they are damaged (logged)."""
    entry = store.read(KIND, key)
    if entry is None:
        return None
    try:
        arrays = {name: entry.arrays[f"{_COLUMN}{name}"] for name in entry.about["columns"]}
        by_fold, probe = entry.arrays[_BY_FOLD], entry.arrays[_PROBE]
    except (KeyError, TypeError) as error:
        log.warning("%s: incomplete, the scores are measured anew (%s)", store.path(KIND, key), error)
        return None
    columns = {
        name: values.astype(object) if values.dtype.kind == "U" else values for name, values in arrays.items()
    }
    return Kept(UnitScores(columns, by_fold), probe)
