"""The affine-free norm against torch's own, in both modes."""

from __future__ import annotations

import torch
from torch import nn

from mvkit.objectives.base import ColumnNorm


def test_equals_torchs_batch_norm() -> None:
    generator = torch.Generator().manual_seed(0)
    mine, other = ColumnNorm(5).double(), nn.BatchNorm1d(5, affine=False).double()
    for n_rows in (7, 4):
        rows = 3 + 2 * torch.randn(n_rows, 5, dtype=torch.float64, generator=generator)
        ours, theirs = rows.clone().requires_grad_(), rows.clone().requires_grad_()
        weights = torch.randn(n_rows, 5, dtype=torch.float64, generator=generator)
        torch.testing.assert_close(mine(ours), other(theirs))
        (mine.eval()(ours) * weights).sum().backward()
        (other.eval()(theirs) * weights).sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad)
        mine.train()
        other.train()
    assert mine.state_dict().keys() == other.state_dict().keys()
    for name, value in mine.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name])


def test_gradient_in_training_is_right() -> None:
    rows = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.autograd.gradcheck(ColumnNorm(3).double(), rows)
