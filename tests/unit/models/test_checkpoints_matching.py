"""Matching names and shapes of weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mvkit.errors import CheckpointError
from mvkit.models.checkpoints import _OBJECTIVE_STATE, WRAPPERS, fit_state
from mvkit.models.registry import ARCHITECTURES

PATH = Path("some.pt")


def _matched(weights, tiny):
    return fit_state(weights, tiny.state_dict(), PATH, "tiny").state


def test_a_mismatch_names_missing_unexpected_and_misshaped_keys(weights, tiny):
    del weights["features.0.bias"]
    weights["features.9.weight"] = torch.zeros(1)
    weights["classifier.weight"] = torch.zeros(2, 5)
    with pytest.raises(CheckpointError) as caught:
        _matched(weights, tiny)
    message = str(caught.value)
    assert "some.pt: does not fit 'tiny' (9 keys expected)" in message
    assert "1 missing: features.0.bias" in message
    assert "1 unexpected: features.9.weight" in message
    assert "1 of another shape: classifier.weight (2, 5) instead of (2, 4)" in message


def test_long_lists_are_cut_and_counted(tiny):
    with pytest.raises(CheckpointError, match=r"9 missing: .*, \.\.\. \(4 more\)"):
        _matched({"other.weight": torch.zeros(1)}, tiny)


def test_unexpected_keys_alone_are_a_mismatch(weights, tiny):
    with pytest.raises(CheckpointError, match=r"1 unexpected: extra\.weight"):
        _matched({**weights, "extra.weight": torch.zeros(1)}, tiny)


def test_heads_and_banks_beside_the_network_are_left_aside(weights, tiny):
    beside = {"module._embedding_func.weight": torch.zeros(2, 2), "memory_bank": torch.zeros(5, 2)}
    assert list(_matched({**beside, **weights}, tiny)) == list(weights)


def test_what_lies_outside_the_prefix_is_left_aside(weights, tiny):
    inside = {f"module.backbone.{key}": value for key, value in weights.items()}
    matched = _matched({"module.linear.weight": torch.zeros(3), **inside}, tiny)
    assert all(torch.equal(matched[key], weights[key]) for key in weights)


def test_of_two_networks_the_first_in_the_file_is_taken(weights, tiny):
    """A momentum copy follows the network that it copies."""
    query = {f"encoder_q.0.{key}": value for key, value in weights.items()}
    key_network = {f"encoder_k.0.{key}": value + 1 for key, value in weights.items()}
    matched = _matched({**query, **key_network}, tiny)
    assert all(torch.equal(matched[key], weights[key]) for key in weights)


def test_wrappers_inside_names_are_dropped(weights, tiny):
    """Early ImageNet scripts wrapped only the features of AlexNet and VGG."""
    wrapped = {key.replace("features.", "features.module."): value for key, value in weights.items()}
    assert list(_matched(wrapped, tiny)) == list(weights)


def test_order_is_the_models_whatever_the_files(weights, tiny):
    assert list(_matched(dict(reversed(weights.items())), tiny)) == list(tiny.state_dict())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(weights, tiny, value):
    weights["classifier.bias"][1] = value
    with pytest.raises(CheckpointError, match=r"'classifier\.bias' holds values that are not finite"):
        _matched(weights, tiny)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_other_kinds_of_numbers_are_refused(weights, tiny, dtype):
    weights["classifier.bias"] = torch.ones(2).to(dtype)
    with pytest.raises(CheckpointError, match=r"'classifier\.bias' is torch\.\w+; needed: torch\.float32"):
        _matched(weights, tiny)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_no_architecture_has_names_that_matching_drops(shapes_only, name):
    dropped = {*_OBJECTIVE_STATE, *WRAPPERS}
    assert not any(dropped & set(key.split(".")) for key in shapes_only(name).state_dict())
