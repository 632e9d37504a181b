"""Residual networks against torchvision's with the same weights."""

from __future__ import annotations

import pytest
import torch
from torchvision.models import resnet

from mvkit.models.loading import build, build_random
from mvkit.models.registry import ARCHITECTURES

DEPTHS = (18, 34, 50, 101, 152)


@pytest.mark.parametrize("depth", DEPTHS)
def test_keys_shapes_and_order_are_torchvisions(depth):
    with torch.device("meta"):
        ours = build(ARCHITECTURES[f"resnet{depth}_64x64_input"].blueprint).state_dict()
        headless = build(ARCHITECTURES[f"resnet{depth}_ir_64x64"].blueprint).state_dict()
        theirs = getattr(resnet, f"resnet{depth}")().state_dict()
    assert [(key, value.shape) for key, value in ours.items()] == [
        (key, value.shape) for key, value in theirs.items()
    ]
    assert list(headless) == [key for key in theirs if not key.startswith("fc.")]


@pytest.mark.parametrize("depth", [34, 50, 101])
def test_outputs_equal_torchvisions(depth):
    ours = build_random(ARCHITECTURES[f"resnet{depth}_64x64_input"], seed=depth)
    theirs = getattr(resnet, f"resnet{depth}")()
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for mode in (True, False):
            expected = theirs.train(mode)(images)
            torch.testing.assert_close(ours.train(mode)(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("depth", DEPTHS)
def test_layer_list_names_every_block_once(depth):
    row = ARCHITECTURES[f"resnet{depth}_ir_64x64"]
    with torch.device("meta"):
        model = build(row.blueprint)
    blocks = [path for path in model.tap_points() if path.startswith("layer") and path.count(".") == 1]
    assert list(row.layers) == ["relu", "maxpool", *blocks, "avgpool"]


def test_convolutions_start_with_fan_out_variance():
    model = build_random(ARCHITECTURES["resnet18_ir_64x64"], seed=0)
    kernels = model.get_parameter("layer4.1.conv2.weight")
    # He et al. 2015, eq. 14: variance 2 / (3 * 3 * 512).
    assert float(kernels.detach().var()) == pytest.approx(2 / (9 * 512), rel=0.01)
