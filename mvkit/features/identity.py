"""What a layer's features depend on, as one digest, and how to tell that they still are what they were."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mvkit.features.forward_pass import ForwardPass
from mvkit.features.stimuli import ImagesDigest, Stimuli
from mvkit.jsonable import digest_of
from mvkit.machine import installed_versions
from mvkit.models.code_identity import code_digest, preprocessing_digest
from mvkit.models.code_origin import own_sources
from mvkit.models.foreign.wrappers import unwrapped
from mvkit.models.state import weights_digest
from mvkit.store.probes import probes_agree

log = logging.getLogger(__name__)

#: To be raised whenever features that are kept must not be used any more.
EDITION = 1

#: Libraries whose versions features depend on; that of the network's own is part of its code.
_LIBRARIES = ("torch", "torchvision", "numpy", "pillow")

#: Parts of a layer that a probe looks at one by one, so that a change in one of them shows.
_N_PARTS = 16
#: Signs repeat after so many features.
_SIGN_SEED, _SIGN_PERIOD = 20180921, 99_991


@dataclass(frozen=True)
class LayerIdentity:
    """Under what a layer's features are kept, and how to tell whether they are still what they were.

    Attributes
    ----------
    key
        sha256 (hex) of weights, code, preprocessing, images, layer, device, batch size and versions.
    probe
        float64 (n,): what the layer gives for the first image, in a few numbers.
    """

    key: str
    probe: NDArray[np.float64]


def layer_identities(journey: ForwardPass) -> dict[str, LayerIdentity]:
    """Return the identity of every layer that a first look has found.

    Weights and buffers count by what they are now, code by what it does, images by their pixels in order.
    Names of models, datasets and files do not count, nor does which other layers were asked for.

    Returns
    -------
    dict
        Layer -> identity. Empty where it cannot be told what the network or its preprocessing does; the
        reason is logged, and nothing can be kept.

    Raises
    ------
    UsageError, DataError, UserCodeError
        As :meth:`~mvkit.features.forward_pass.ForwardPass.look`.
    """
    common = _common(journey)
    if common is None:
        return {}
    # Layers are told apart by their names; the network's own names are part of its code.
    return {
        name: LayerIdentity(digest_of({**common, "layer": name}), probe_of(row[0]))
        for name, row in journey.first_rows().items()
    }


def _common(journey: ForwardPass) -> dict[str, object] | None:
    """Gather what all layers of a pass depend on; None where something cannot be told."""
    # Wrappers change neither names nor what is computed, and what they add is new in every process.
    network = unwrapped(journey.model)
    weights = weights_digest(network)
    if weights is None:
        log.info("the network holds tensors whose content cannot be read; nothing of it is kept")
        return None
    code = code_digest(network)
    prepared = journey.stimuli.is_prepared
    preprocessing = "none" if prepared else _preprocessing(journey.model)
    if code is None or preprocessing is None:
        return None
    versions = installed_versions(*_LIBRARIES)
    return {
        "edition": EDITION,
        "weights": weights,
        "code": code,
        "mvkit": own_sources(),
        "preprocessing": preprocessing,
        "images": _images_digest(journey.stimuli),
        "device": journey.device.type,
        "batch_size": journey.batch_size,
        "arithmetic": _arithmetic(),
        # Not Python's, which only calls the others, and not mvkit's: its sources count.
        "versions": {name: versions[name] for name in _LIBRARIES},
    }


def _preprocessing(model: nn.Module) -> str | None:
    return preprocessing_digest(getattr(model, "preprocess", None))


def _images_digest(stimuli: Stimuli) -> str:
    digest = ImagesDigest()
    for start in range(len(stimuli.image_ids)):
        digest.update(stimuli.read(start, start + 1))
    return digest.hexdigest()


def _arithmetic() -> dict[str, object]:
    """Return torch's settings that change results by more than float32 rounding."""
    return {
        "default_dtype": str(torch.get_default_dtype()),
        "matmul": torch.get_float32_matmul_precision(),
        "convolutions_tf32": torch.backends.cudnn.allow_tf32,
    }


def probe_of(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Condense one image's features into a few numbers.

    Parameters
    ----------
    values
        float32 (n_features,).

    Returns
    -------
    numpy.ndarray
        float64 (34,): mantissa and exponent of the norm; then, relative to it, the norms of 16 successive
        parts, and one plus the sums of these parts under fixed pseudo-random signs, which tell the order
        of features.
    """
    signs = _signs(min(values.size, _SIGN_PERIOD))
    squares, sums = [], []
    with np.errstate(all="ignore"):
        for part in np.array_split(values, _N_PARTS):
            square = signed = 0.0
            # A few at a time: a layer may have millions.
            for start in range(0, part.size, _SIGN_PERIOD):
                exact = part[start : start + _SIGN_PERIOD].astype(np.float64)
                square += float(exact @ exact)
                signed += float(exact @ signs[: exact.size])
            squares.append(square)
            sums.append(signed)
    norm = math.sqrt(sum(squares))
    mantissa, exponent = math.frexp(norm)
    unit = norm or 1.0
    relative = [*(math.sqrt(square) / unit for square in squares), *(1 + signed / unit for signed in sums)]
    return np.array([mantissa, exponent, *relative], np.float64)


def _signs(count: int) -> NDArray[np.float64]:
    # The bits of a bit generator are the same in every version of NumPy; what is drawn from them is not.
    words: NDArray[np.uint64] = np.random.PCG64(_SIGN_SEED).random_raw(count // 64 + 1)
    bits = np.unpackbits(words.astype("<u8").view(np.uint8))[:count]
    return np.where(bits, -1.0, 1.0)


def same_probe(kept: NDArray[np.float64], now: Mapping[str, LayerIdentity], layer: str) -> bool:
    """Tell whether a layer still gives for the first image what it gave, up to float32 rounding."""
    return probes_agree(kept, now[layer].probe)
