"""The reference's resolution experiment: one ``--set``, and features as large as the arithmetic says."""

from __future__ import annotations

import pytest
import torch

from mvkit.errors import UsageError
from mvkit.features import list_layers
from mvkit.training.setup import build_networks

#: Sides of the images in the reference's experiment (its model_transforms.py).
SIDES = (32, 44, 84, 104, 124, 144, 164, 184, 204, 224)


def convolved(side: int, kernel: int, stride: int, padding: int = 0) -> int:
    return (side + 2 * padding - kernel) // stride + 1


def alexnet_sides(side: int) -> dict[str, tuple[int, ...]]:
    """AlexNet: convolution 11/4, pool, convolution 5, pool, three convolutions of 3, pool; pools 3/2."""
    first = convolved(convolved(side, 11, 4, 2), 3, 2)
    second = convolved(first, 3, 2)
    last = convolved(second, 3, 2)
    return {
        "features.3": (64, first, first),
        "features.7": (192, second, second),
        "features.10": (384, second, second),
        "features.13": (256, second, second),
        "features.17": (256, last, last),
    }


def dual_stream_sides(side: int) -> dict[str, tuple[int, ...]]:
    """Streams: VISp as AlexNet's first layers; output areas see a convolution of 3 with stride 2 of it."""
    visp = convolved(convolved(side, 11, 4, 2), 3, 2)
    return {"VISp": (64, visp, visp)}


@pytest.mark.parametrize(
    ("name", "expected", "side"),
    [
        # The last pooling of AlexNet has nothing left of 32 and 44 px; the reference begins at 84 px.
        *(("alexnet_ir", alexnet_sides, side) for side in SIDES[2:]),
        *(("dual_stream_ir", dual_stream_sides, side) for side in SIDES),
    ],
)
def test_networks_of_the_resolution_experiment(name, expected, side, recipe_named):
    recipe = recipe_named(name, f"views.size_px={side}", "objective.noise_samples=16")
    encoder, _ = build_networks(recipe, n_images=32, n_classes=None, weights="random")
    assert encoder.preprocess.input_px == side
    shapes = {layer.name: layer.shape for layer in list_layers(encoder, layers=list(encoder.layers))}
    for layer, shape in expected(side).items():
        assert shapes[layer] == shape
    # The output is pooled to one size whatever the input's.
    with torch.no_grad():
        width = encoder.eval()(torch.zeros(1, 3, side, side)).flatten(1).shape[1]
    assert width == {"alexnet_ir": 4096, "dual_stream_ir": 18432}[name]


@pytest.mark.parametrize("side", (32, 44))
def test_alexnet_needs_more_pixels_than_that(side, recipe_named):
    recipe = recipe_named("alexnet_ir", f"views.size_px={side}")
    with pytest.raises(UsageError, match=f"alexnet_encoder cannot see images of {side} px: .*too small"):
        build_networks(recipe, n_images=32, n_classes=None, weights="random")
