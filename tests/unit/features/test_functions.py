"""What of a network cannot be tapped is said."""

from __future__ import annotations

import torch
from torch import nn

from mvkit.features.listing import survey_layers


class Inner(nn.Module):
    """One module, one function."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)
        self.idle = nn.Conv2d(3, 2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Use the weights of ``idle`` without calling it."""
        return nn.functional.relu(self.conv(x)) + nn.functional.conv2d(x, self.idle.weight)


class Outer(nn.Module):
    """A module whose output is no tensor, one without rows, and functions."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()
        self.size = Size()
        self.norm = Norm()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool."""
        y = self.inner(x)
        return torch.flatten(y, 1) / self.norm(y) * self.size(y)


class Size(nn.Module):
    """A number."""

    def forward(self, x: torch.Tensor) -> float:
        """Return the side."""
        return float(x.shape[-1])


class Norm(nn.Module):
    """One value for the whole batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the norm."""
        return x.norm()


def test_functions_and_modules_without_features_are_named() -> None:
    survey = survey_layers(Outer(), torch.rand(1, 3, 8, 8))
    assert [layer.name for layer in survey.layers] == ["inner", "inner.conv", "final"]
    assert survey.left_out == {
        "inner.idle": "the forward pass never calls it",
        "size": "returns no tensor",
        "norm": "its output has shape (), which is not one row for each of 1 image(s)",
    }
    assert {name: set(called) for name, called in survey.functions.items()} == {
        "inner": {"relu", "conv2d", "add"},
        "final": {"flatten", "div", "mul"},
    }


def test_nothing_stays_on_the_network() -> None:
    network = Outer()
    survey_layers(network, torch.rand(1, 3, 8, 8))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
