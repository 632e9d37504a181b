"""Listing what can be tapped."""

from __future__ import annotations

import pytest
import torch

from mvkit.errors import UsageError
from mvkit.features import extract, list_layers


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
