"""Whole features of a layer in the cache: a raw file, and a JSON document that says it is complete.

The features lie in ``features/ab/KEY.f32``, float32 rows one after the other; ``KEY.json`` beside it holds
their shape, sha256 and probe. The document comes last, so that its presence means that the file is whole.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mvkit.features.stored_layer import StoredLayer
from mvkit.store.entries import Store, mark_used
from mvkit.store.temporary import temporary_beside

log = logging.getLogger(__name__)

KIND = "features"
DATA, DOCUMENT = ".f32", ".json"

_VERSION = 1
_BLOCK = 1 << 22


def keep_layer(
    store: Store,
    key: str,
    probe: NDArray[np.float64],
    layer: NDArray[np.float32] | StoredLayer,
    shape: Sequence[int],
) -> None:
    """Keep the features of a layer, replacing those of the same key.

    A stored layer's file is linked where the filesystem allows, and copied otherwise. A folder that cannot
    be written, or a full disk, costs a warning, the first time.

    Parameters
    ----------
    store
        The cache.
    key, probe
        The layer's :class:`~mvkit.features.identity.LayerIdentity`.
    layer
        float32 (n_images, n_features).
    shape
        The layer's shape for one image.
    """
    data, document = store.path(KIND, key, DATA), store.path(KIND, key, DOCUMENT)
    new_data, new_document = temporary_beside(data), temporary_beside(document)
    about = {
        "version": _VERSION,
        "key": key,
        "n_images": layer.shape[0],
        "n_features": layer.shape[1],
        "shape": list(map(int, shape)),
        "probe": [float(value).hex() for value in probe],
    }
    try:
        data.parent.mkdir(parents=True, exist_ok=True)
        _put(layer, new_data)
        text = json.dumps({**about, "sha256": _sha256(new_data)}, indent=2)
        new_document.write_text(text + "\n", encoding="utf-8")
        # What was kept before must not vouch for other bits, even for a moment.
        document.unlink(missing_ok=True)
        new_data.replace(data)
        new_document.replace(document)
        mark_used(data)
    except OSError as error:
        store.tell_not_kept(data, error)
    finally:
        for leftover in (new_data, new_document):
            with suppress(OSError):
                leftover.unlink(missing_ok=True)


def kept_layer(
    store: Store, key: str, *, hold: Path | None = None
) -> tuple[StoredLayer, tuple[int, ...], NDArray[np.float64]] | None:
    """Return the features kept of a layer, or None if there are none or they are damaged (which is logged).

    Parameters
    ----------
    store, key
        As for :func:`keep_layer`.
    hold
        Folder, best on the same filesystem, in which the file gets a second name, so that pruning the
        cache meanwhile takes nothing away. None: the file is read where it lies.

    Returns
    -------
    layer, shape, probe
        The features, after all of them were checked; their shape for one image; the probe they were kept
        with, which is to be compared with what the layer gives now.
    """
    data, document = store.path(KIND, key, DATA), store.path(KIND, key, DOCUMENT)
    place = data
    try:
        about = json.loads(document.read_text(encoding="utf-8"))
        if about["version"] != _VERSION or about["key"] != key:
            raise ValueError("it says to be another entry")
        place = data if hold is None else _linked(data, hold)
        layer = StoredLayer(place, (int(about["n_images"]), int(about["n_features"])))
        shape = tuple(map(int, about["shape"]))
        probe = np.array([float.fromhex(value) for value in about["probe"]])
        if place.stat().st_size != layer.shape[0] * layer.shape[1] * layer.dtype.itemsize:
            raise ValueError("it has another size than its document says")
        if _sha256(place) != about["sha256"]:
            raise ValueError("its content has changed")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        log.warning("%s: damaged, the features are computed anew (%s)", data, error)
        if place != data:
            with suppress(OSError):
                place.unlink(missing_ok=True)
        return None
    mark_used(document, data)
    return layer, shape, probe


def _put(layer: NDArray[np.float32] | StoredLayer, target: Path) -> None:
    if isinstance(layer, StoredLayer):
        with suppress(OSError):
            os.link(layer.path, target)
            return
    with target.open("wb") as file:
        if isinstance(layer, StoredLayer):
            with layer.path.open("rb") as source:
                while block := source.read(_BLOCK):
                    file.write(block)
        else:
            for row in layer:
                file.write(np.ascontiguousarray(row, "<f4").data)


def _linked(data: Path, folder: Path) -> Path:
    """Give a file a second name in a folder; the file itself where that is not possible."""
    folder.mkdir(parents=True, exist_ok=True)
    place = temporary_beside(folder / data.name)
    try:
        os.link(data, place)
    except FileNotFoundError:
        raise
    except OSError:
        return data
    return place


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
