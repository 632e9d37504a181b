"""Coordinates of layers, which are all that some mappings need of features, kept from run to run."""

from __future__ import annotations

import logging
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields, replace
from typing import Any

import numpy as np

from mvkit.jsonable import digest_of, plain
from mvkit.machine import installed_versions
from mvkit.scoring.gram import LayerCoordinates
from mvkit.scoring.kept import Identified, sources_digest
from mvkit.scoring.run import LayerSource
from mvkit.store.entries import Store
from mvkit.store.probes import probes_agree

log = logging.getLogger(__name__)

KIND = "coordinates"
_PROBE = "probe"


class KeptCoordinates:
    """Coordinates in a store.

    Parameters
    ----------
    store
        Where they lie.
    layers
        Layer -> its key. What is cached of a layer is believed only while its fingerprint agrees.
    """

    def __init__(self, store: Store, layers: Mapping[str, Identified]) -> None:
        self._store = store
        self._layers = layers
        self._common = {"sources": sources_digest(), "versions": installed_versions("numpy", "scipy")}

    def key(self, name: str) -> str:
        """Return under what a layer's coordinates are kept: sha256 (hex)."""
        return digest_of({**self._common, "layer": self._layers[name].key})

    def read(self, name: str) -> LayerCoordinates | None:
        """Return a layer's coordinates to the last bit, or None if there are none that can be believed."""
        key = self.key(name)
        entry = self._store.read(KIND, key)
        if entry is None:
            return None
        try:
            probe = entry.arrays[_PROBE]
            values = {**entry.arrays, **entry.about, "name": name}
            kept = LayerCoordinates(**{field.name: values[field.name] for field in fields(LayerCoordinates)})
        except (KeyError, TypeError) as error:
            path = self._store.path(KIND, key)
            log.warning("%s: incomplete, the coordinates are made anew (%s)", path, error)
            return None
        if not probes_agree(probe, self._layers[name].fingerprint):
            log.info("layer '%s': the first images give other features than were cached", name)
            return None
        return kept

    def write(self, made: LayerCoordinates) -> None:
        """Keep a layer's coordinates."""
        values = {field.name: getattr(made, field.name) for field in fields(LayerCoordinates)}
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        about = {name: plain(value) for name, value in values.items() if name not in arrays}
        probe = self._layers[made.name].fingerprint
        self._store.write(KIND, self.key(made.name), {**arrays, _PROBE: probe}, about)


def with_kept_coordinates(source: LayerSource, kept: KeptCoordinates) -> LayerSource:
    """Return layers that give coordinates where some are kept, and have new ones kept.

    Parameters
    ----------
    source
        Layers that give features.
    kept
        Where coordinates are looked for, and kept.
    """

    @contextmanager
    def either(names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        earlier = {name: kept.read(name) for name in names}
        ready = {name: found for name, found in earlier.items() if found is not None}
        missing = [name for name in names if name not in ready]
        opened: AbstractContextManager[Any] = source.open(missing) if missing else nullcontext({})
        with opened as features:
            # Not put into one dictionary: features may be read from disk when they are asked for.
            yield ChainMap(ready, features)

    return replace(source, open=either, keep=kept.write)
