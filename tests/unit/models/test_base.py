"""What stands for a network's weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from mvkit.models.base import weights_digest


def test_weights_count_by_name_type_and_value() -> None:
    def digest(change: Callable[[nn.Module], object]) -> str | None:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        change(net)
        return weights_digest(net)

    plain = digest(lambda net: None)
    others = [
        digest(lambda net: setattr(net[0].weight, "data", net[0].weight.data.t())),  # type: ignore[index]
        digest(lambda net: net.bfloat16()),
        digest(lambda net: net[1].running_var.add_(1)),  # type: ignore[index]
        digest(lambda net: net.register_buffer("fixed", torch.ones(0), persistent=False)),
        digest(lambda net: net.register_buffer("other", torch.ones(0), persistent=False)),
    ]

    assert digest(lambda net: net.requires_grad_(False)) == plain
    assert len({plain, *others}) == 6
    assert weights_digest(nn.Linear(2, 2, device="meta")) is None


def test_weights_that_are_shared_count_as_equal_ones() -> None:
    layer = nn.Linear(2, 2)
    copied = nn.Linear(2, 2)
    copied.load_state_dict(layer.state_dict())

    assert weights_digest(nn.Sequential(layer, layer)) == weights_digest(nn.Sequential(layer, copied))
