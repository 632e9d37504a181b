"""Linear readout: which layer, and that nothing of the network moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mvkit.errors import UsageError
from mvkit.objectives import registry
from mvkit.objectives.base import layer_output

Make = Callable[..., Any]


@pytest.mark.parametrize("layer", ["conv", "norm", "relu", "fc", None])
def test_reads_the_value_right_after_the_module(
    layer: str | None, small: Any, tiny: Make, build: Make
) -> None:
    """The ReLU works in place: what follows a module must not leak into its value."""
    encoder = tiny(small["rotnet"]).eval()
    images = torch.randn(3, 3, 8, 8)
    conv = encoder.conv(images)
    norm = encoder.norm(conv.clone())
    values = {"conv": conv, "norm": norm, "relu": norm.relu()}
    values["fc"] = values[None] = encoder.fc(norm.relu().flatten(1))
    torch.testing.assert_close(layer_output(encoder, layer or "", images), values[layer])
    objective = build(registry.LinearReadout(layer=layer), encoder)
    assert objective.readout.fc.in_features == values[layer][0].numel()


def test_the_network_stays_frozen_in_eval_mode(small: Any, tiny: Make, build: Make, batch_for: Make) -> None:
    encoder = tiny(small["rotnet"])
    objective = build(registry.LinearReadout(layer="relu", pool_px=2), encoder)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    encoder.train()
    objective.train()
    objective.loss(encoder, batch_for(objective)).total.backward()
    assert not any(module.training for module in encoder.modules())
    assert all(parameter.grad is None for parameter in encoder.parameters())
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert objective.readout.training
    assert objective.readout.norm.num_batches_tracked == 1
    assert objective.readout.fc.weight.grad is not None


def test_pooled_maps_are_maxima_standardised(small: Any, tiny: Make, build: Make, batch_for: Make) -> None:
    encoder = tiny(small["rotnet"])
    objective = build(registry.LinearReadout(layer="conv", pool_px=2), encoder)
    images = batch_for(objective).views[0]
    maps = encoder.conv(images)
    # 4x4 maps into 2x2: maxima over quarters.
    pooled = torch.stack([maps[..., r : r + 2, c : c + 2].amax((2, 3)) for r in (0, 2) for c in (0, 2)], 2)
    centred = pooled - pooled.mean((0, 2), keepdim=True)
    expected = centred / (centred.square().mean((0, 2), keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(objective.readout[:-1](maps), expected.flatten(1))


def test_pooling_needs_maps(small: Any, tiny: Make, build: Make) -> None:
    with pytest.raises(UsageError, match=r"pool_px needs a layer of maps, this one has shape \(12,\)"):
        build(registry.LinearReadout(layer="fc", pool_px=2), tiny(small["rotnet"]))


def test_what_lies_behind_the_layer_is_not_computed(small: Any, tiny: Make) -> None:
    encoder = tiny(small["rotnet"])
    calls = []
    encoder.fc.register_forward_hook(lambda *_: calls.append(1))
    layer_output(encoder, "conv", torch.randn(1, 3, 8, 8))
    assert not calls
    layer_output(encoder, "fc", torch.randn(1, 3, 8, 8))
    assert calls
    assert not encoder.conv._forward_hooks


def test_a_module_that_does_not_run_is_named(small: Any, tiny: Make) -> None:
    encoder = tiny(small["rotnet"])
    encoder.unused = torch.nn.Identity()
    with pytest.raises(UsageError, match="layer at 'unused' does not run"):
        layer_output(encoder, "unused", torch.randn(1, 3, 8, 8))
