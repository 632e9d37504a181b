"""Where heads start: widths, biases and the spread of weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mvkit.objectives import heads


def _linears(head: nn.Module) -> list[nn.Linear]:
    return [module for module in head.modules() if isinstance(module, nn.Linear)]


def _spread(linear: nn.Linear) -> float:
    return float(linear.weight.detach().std())


def test_simclr_weights_are_small_normals_without_bias() -> None:
    head = heads.simclr_neck(300, 200, 100)
    for linear in _linears(head):
        assert linear.bias is None
        assert _spread(linear) == pytest.approx(0.01, rel=0.05)
    assert [type(module).__name__ for module in head] == [
        "Linear",
        "BatchNorm1d",
        "ReLU",
        "Linear",
        "BatchNorm1d",
    ]


def test_moco_weights_are_he_normals_with_zero_bias() -> None:
    head = heads.moco_neck(300, 200, 100)
    for linear, fan_in in zip(_linears(head), (300, 200), strict=True):
        assert (linear.bias == 0).all()
        assert _spread(linear) == pytest.approx(math.sqrt(2 / fan_in), rel=0.05)
    assert not any(isinstance(module, nn.BatchNorm1d) for module in head)


def test_simsiam_heads_have_the_papers_layers() -> None:
    """Chen & He 2021, section 3: no ReLU after the last projection, no norm after the last prediction."""
    projection, prediction = heads.simsiam_projection(12, 20, 16), heads.simsiam_prediction(16, 4)
    assert [(one.in_features, one.out_features) for one in _linears(projection)] == [
        (12, 20),
        (20, 20),
        (20, 16),
    ]
    assert isinstance(projection[-1], nn.BatchNorm1d)
    assert [(one.in_features, one.out_features) for one in _linears(prediction)] == [(16, 4), (4, 16)]
    assert isinstance(prediction[-1], nn.Linear)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("widths", [(7,), (9, 7), (9, 8, 7)])
def test_projectors_end_in_a_linear_map_without_bias(widths: tuple[int, ...], bias: bool) -> None:
    head = heads.projector(5, widths, bias=bias)
    *hidden, last = _linears(head)
    assert last.bias is None
    assert [linear.bias is not None for linear in hidden] == [bias] * len(hidden)
    assert [linear.out_features for linear in (*hidden, last)] == list(widths)
    norms = [module for module in head if isinstance(module, nn.BatchNorm1d)]
    assert [norm.num_features for norm in norms] == list(widths[:-1])
    assert head(torch.randn(4, 5)).shape == (4, widths[-1])


def test_normal_start_sets_biases_where_there_are_some() -> None:
    head = heads.init_normal(
        nn.Sequential(nn.Linear(400, 300), nn.Linear(300, 2, bias=False)), std=0.005, bias=0.1
    )
    assert (head[0].bias == 0.1).all()
    assert _spread(head[0]) == pytest.approx(0.005, rel=0.05)
