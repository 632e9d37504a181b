"""Max unpooling where pooling windows overlap."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from mvkit.models.streams import MaxUnpool


def _pooled(size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(size)
    maps = torch.randn(3, 4, size, size, generator=generator, dtype=torch.float64)
    pooled, indices = functional.max_pool2d(maps, 3, 2, return_indices=True)
    # Other values than the maxima, so that it matters which of them wins.
    values = torch.randn(pooled.shape, generator=generator, dtype=torch.float64)
    return values, indices, maps


def _written_one_by_one(values: torch.Tensor, indices: torch.Tensor, size: int) -> np.ndarray:
    out = np.zeros((*values.shape[:2], size * size))
    for image, channel in np.ndindex(*values.shape[:2]):
        sources = values[image, channel].cpu().numpy().ravel()
        targets = indices[image, channel].cpu().numpy().ravel()
        for value, target in zip(sources, targets, strict=True):
            out[image, channel, target] = value  # later values overwrite earlier ones
    return out.reshape(*values.shape[:2], size, size)


@pytest.mark.parametrize("size", [7, 8, 15])
def test_the_last_value_in_c_order_stays(size):
    values, indices, _ = _pooled(size)
    assert indices.flatten(2).sort(dim=2).values.diff(dim=2).eq(0).any(), "no overlap: nothing is tested"
    unpooled = MaxUnpool()(values, indices, torch.Size((size, size)))
    np.testing.assert_array_equal(unpooled.numpy(), _written_one_by_one(values, indices, size))


def test_without_overlap_equals_torchs_unpooling():
    maps = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    pooled, indices = functional.max_pool2d(maps, 2, 2, return_indices=True)
    expected = functional.max_unpool2d(pooled, indices, 2, 2)
    assert torch.equal(MaxUnpool()(pooled, indices, torch.Size((8, 8))), expected)


def test_gradient_is_that_of_torchs_unpooling():
    """Every value gets its position's gradient, also an overwritten one, as in the reference."""
    values, indices, _ = _pooled(7)
    weights = torch.randn(3, 4, 7, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = []
    for unpool in (
        lambda v: MaxUnpool()(v, indices, torch.Size((7, 7))),
        lambda v: functional.max_unpool2d(v, indices, 3, 2, output_size=(7, 7)),
    ):
        leaf = values.clone().requires_grad_()
        (unpool(leaf) * weights).sum().backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_same_values():
    values, indices, _ = _pooled(15)
    size = torch.Size((15, 15))
    on_cuda = MaxUnpool()(values.cuda(), indices.cuda(), size).cpu()
    assert torch.equal(on_cuda, MaxUnpool()(values, indices, size))
