"""Building: widths found, seeds obeyed, nothing else touched, refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mvkit.errors import UsageError
from mvkit.objectives import registry
from mvkit.objectives.base import build_objective
from mvkit.objectives.registry import OBJECTIVES

Make = Callable[..., Any]
every_objective = pytest.mark.parametrize("name", OBJECTIVES)


@every_objective
def test_seed_decides_heads_and_the_global_generator_is_left_alone(
    name: str, small: Any, tiny: Make, build: Make
) -> None:
    encoder = tiny(small[name])
    torch.manual_seed(5)
    expected_next = torch.rand(3)
    torch.manual_seed(5)
    first = build(small[name], encoder, seed=1)
    assert torch.equal(torch.rand(3), expected_next)
    torch.manual_seed(99)
    again, other = build(small[name], encoder, seed=1), build(small[name], encoder, seed=2)
    same = [torch.equal(value, again.state_dict()[key]) for key, value in first.state_dict().items()]
    assert all(same)
    drawn = {
        key for key, value in first.state_dict().items() if not torch.equal(value, other.state_dict()[key])
    }
    assert bool(drawn) == (name not in {"autoencoder", "cross_entropy"})


@every_objective
def test_the_network_is_left_as_it_was(name: str, small: Any, tiny: Make, build: Make) -> None:
    encoder = tiny(small[name]).train()
    encoder.norm.eval()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    objective = build(small[name], encoder)
    assert objective.training
    assert encoder.training
    assert not encoder.norm.training
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, before[key]), key
    trained = all(parameter.requires_grad for parameter in encoder.parameters())
    assert trained == (name != "linear_readout")


def test_heads_do_not_repeat_the_networks_own_draws(tiny: Make) -> None:
    """Both are drawn from the recipe's seed; a head that starts as a copy of a layer would be a mistake."""
    torch.manual_seed(3)
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 12))
    objective: Any = build_objective(
        registry.RotNet(), encoder=encoder, input_px=2, n_images=4, n_classes=None, seed=3
    )
    assert not torch.allclose(objective.fc.weight, encoder[1].weight[:4])


@pytest.mark.parametrize("name", ["cross_entropy", "linear_readout"])
def test_missing_labels_are_refused(name: str, small: Any, tiny: Make) -> None:
    with pytest.raises(UsageError, match="needs labels"):
        build_objective(
            small[name], encoder=tiny(small[name]), input_px=8, n_images=4, n_classes=None, seed=0
        )


def test_a_classifier_of_another_width_is_refused(small: Any, tiny: Make, build: Make) -> None:
    with pytest.raises(UsageError, match="12 outputs, the images have 5 classes"):
        build(small["cross_entropy"], tiny(small["rotnet"]))


@pytest.mark.parametrize("name", ["autoencoder", "depth_prediction"])
def test_a_network_without_decoder_is_refused(name: str, small: Any, tiny: Make, build: Make) -> None:
    with pytest.raises(UsageError, match="needs a network that decodes an image"):
        build(small[name], tiny(small["rotnet"]))


@pytest.mark.parametrize("name", ["simclr", "instance_recognition", "cross_entropy"])
def test_a_decoder_is_no_encoder(name: str, small: Any, tiny: Make, build: Make) -> None:
    with pytest.raises(UsageError, match="the network's output is a dict, not a tensor"):
        build(small[name], tiny(small["autoencoder"]))


def test_misspelt_layers_are_corrected(small: Any, tiny: Make, build: Make) -> None:
    with pytest.raises(UsageError, match="unknown layer 'nrm'; did you mean 'norm'"):
        build(registry.LinearReadout(layer="nrm"), tiny(small["rotnet"]))
