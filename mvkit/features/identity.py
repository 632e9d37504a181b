"""What a layer's features depend on, as one digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvkit.features.forward_pass import ForwardPass
from mvkit.features.inputs import describe_origin
from mvkit.features.stimuli import ImagesDigest
from mvkit.jsonable import digest_of
from mvkit.versions import installed_versions


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

    Raises
    ------
    DataError
        If images cannot be read.
    """
    stimuli = journey.stimuli
    digest = ImagesDigest()
    for start in range(len(stimuli.image_ids)):
        digest.update(stimuli.read(start, start + 1))
    origin = describe_origin(journey.model, stimuli, digest.hexdigest())
    common = {
        "weights": origin.weights_id,
        "preprocessing": dict(origin.preprocessing),
        "images": origin.stimuli_digest,
        "device": journey.device.type,
        "batch_size": journey.batch_size,
        "versions": installed_versions("torch", "torchvision", "numpy", "pillow"),
    }
    return {
        name: LayerIdentity(digest_of({**common, "layer": name}), probe_of(row[0]))
        for name, row in journey.look().rows.items()
    }


def probe_of(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Condense one image's features into a few numbers."""
    exact = values.astype(np.float64)
    return np.array([exact.sum(), np.abs(exact).sum(), np.square(exact).sum()])


def same_probe(kept: NDArray[np.float64], now: Mapping[str, LayerIdentity], layer: str) -> bool:
    """Tell whether a layer still gives for the first image what it gave, up to float32 rounding."""
    return bool(np.allclose(kept, now[layer].probe, rtol=1e-4, atol=1e-6))
