"""Whole features of a model's layers, from the cache where they are kept."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mvkit.features.identity import LayerIdentity
    from mvkit.features.stored_layer import StoredLayer
    from mvkit.store.entries import Store

OpenFeatures = Callable[[Sequence[str]], AbstractContextManager[Mapping[str, Any]]]


@dataclass(frozen=True)
class KeptFeatures:
    """Features of layers in a store.

    Attributes
    ----------
    store
        Where they lie.
    identities
        Layer -> its identity. What is kept of a layer is believed only while its probe agrees.
    shapes
        Layer -> its shape for one image.
    scratch
        Folder in which files are held while they are read.
    keeps
        Whether features that are computed are kept; those that are kept already are used anyhow.
    """

    store: Store
    identities: Mapping[str, LayerIdentity]
    shapes: Mapping[str, tuple[int, ...]]
    scratch: Path
    keeps: bool

    @contextmanager
    def open(self, compute: OpenFeatures, names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        """Give features of layers, computed where they are not kept.

        Parameters
        ----------
        compute
            Gives features of layers, all in one pass.
        names
            The layers.
        """
        from mvkit.features.kept_features import keep_layer

        hold = self.scratch / f"kept-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        try:
            found = {name: self._read(name, hold) for name in names}
            ready = {name: layer for name, layer in found.items() if layer is not None}
            missing = [name for name in names if name not in ready]
            computed: AbstractContextManager[Mapping[str, Any]] = (
                compute(missing) if missing else nullcontext({})
            )
            with computed as features:
                for name in missing if self.keeps else ():
                    identity = self.identities[name]
                    keep_layer(self.store, identity.key, identity.probe, features[name], self.shapes[name])
                yield {**ready, **features}
        finally:
            shutil.rmtree(hold, ignore_errors=True)

    def _read(self, name: str, hold: Path) -> StoredLayer | None:
        from mvkit.features.identity import same_probe
        from mvkit.features.kept_features import kept_layer

        kept = kept_layer(self.store, self.identities[name].key, hold=hold)
        if kept is None:
            return None
        layer, _, probe = kept
        return layer if same_probe(probe, self.identities, name) else None
