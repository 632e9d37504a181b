"""Listing what can be tapped."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mvkit.errors import UsageError
from mvkit.features import extract, list_layers
from mvkit.features.layers import survey_layers


def test_all_layers_are_listed_with_the_shape_extraction_gives(prepared, pictures):
    listed = list_layers(prepared, pictures)
    features = extract(prepared, pictures, "*")
    assert [layer.name for layer in listed] == list(features)
    for layer in listed:
        assert layer.shape == features.shape_of(layer.name)
        assert layer.n_features == features[layer.name].shape[1]
        assert layer.n_bytes(7) == features[layer.name].nbytes
    assert [layer.name for layer in listed if layer.is_default] == ["conv", "VISp2/3"]
    assert [layer.name for layer in listed if layer.is_published] == ["conv", "VISp2/3"]


def test_the_published_list_can_be_another_than_the_default(prepared):
    prepared.published_layers = ("relu",)
    listed = {layer.name: layer.to_json() for layer in list_layers(prepared)}
    lists = {name: (layer["default"], layer["published"]) for name, layer in listed.items()}
    assert lists == {
        "conv": (True, False),
        "relu": (False, True),
        "VISp2/3": (True, False),
        "final": (False, False),
    }
    assert [layer.name for layer in list_layers(prepared, layers="published")] == ["relu"]


def test_one_image_makes_one_pass(prepared, pictures):
    list_layers(prepared, pictures)
    assert prepared.n_passes == 1


def test_patterns_choose_layers_with_all_their_calls(branching, prepared):
    names = [layer.name for layer in list_layers(branching, _rows_as_images(branching), ["relu", "p*"])]
    assert names == ["relu[0]", "relu[1]", "pair:0", "pair:2"]
    with pytest.raises(UsageError, match="did you mean 'relu'"):
        list_layers(prepared, layers="rleu")


def test_without_images_a_black_one_is_shown(prepared, chain):
    assert [layer.name for layer in list_layers(prepared)] == ["conv", "relu", "VISp2/3", "final"]
    with pytest.raises(UsageError, match="give list_layers one prepared input"):
        list_layers(chain)


def test_layers_without_features_are_left_out_and_calls_and_parts_named(branching):
    # ``summed`` gives one number for the batch, ``spare`` never runs, ``word`` returns text.
    names = [layer.name for layer in list_layers(branching, _rows_as_images(branching))]
    assert "summed" not in names
    assert "spare" not in names
    assert "word" not in names
    assert {"relu[0]", "relu[1]", "pair:0", "pair:2", "names:mean", "names:inner:0"} <= set(names)


def _rows_as_images(branching) -> torch.Tensor:
    branching.register_forward_pre_hook(lambda module, arguments: (arguments[0].flatten(1),))
    return torch.ones(3, 1, 1, 2)


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


def test_modules_without_features_are_named() -> None:
    survey = survey_layers(Outer(), torch.rand(1, 3, 8, 8))
    assert [layer.name for layer in survey.layers] == ["inner", "inner.conv", "final"]
    assert survey.left_out == {
        "inner.idle": "the forward pass never calls it",
        "size": "returns no tensor",
        "norm": "its output has shape (), which is not one row for each of 1 image(s)",
    }


def test_nothing_stays_on_the_network() -> None:
    network = Outer()
    survey_layers(network, torch.rand(1, 3, 8, 8))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
