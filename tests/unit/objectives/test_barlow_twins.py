"""Barlow Twins against lightly; what its correlation is divided by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

Make = Callable[..., Any]


@pytest.fixture
def objective(small: Any, tiny: Make, build: Make) -> Any:
    return build(small["barlow_twins"], tiny(small["barlow_twins"])).double()


def _views() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(9, 16, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(2)]


def test_loss_and_gradient_equal_lightlys(objective: Any) -> None:
    lightly_loss = pytest.importorskip(
        "lightly.loss", reason="lightly is a second oracle: pip install lightly"
    )
    ours, theirs = _views(), _views()
    total = objective.criterion(tuple(ours), None).total
    weight = objective.settings.off_diagonal_weight
    expected = lightly_loss.BarlowTwinsLoss(lambda_param=weight)(*theirs)
    total.backward()
    expected.backward()
    torch.testing.assert_close(total, expected, rtol=1e-9, atol=0)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-8, atol=1e-11)


def test_divides_by_the_true_batch_unless_told(objective: Any) -> None:
    """The correlation of a view with itself is 1 on the diagonal, times rows over divide_by."""
    rows = _views()[0].detach()
    # The norm's epsilon leaves the diagonal below 1 by about epsilon over the variance.
    assert objective.criterion((rows, rows), None).parts["on_diagonal"] < 1e-6
    objective.settings = objective.settings.model_copy(update={"divide_by": 18})
    torch.testing.assert_close(
        objective.criterion((rows, rows), None).parts["on_diagonal"],
        torch.tensor(16 * 0.25, dtype=torch.float64),
        rtol=1e-4,
        atol=0,
    )


def test_gradient_is_right(objective: Any) -> None:
    views = [view[:4, :3].detach().requires_grad_() for view in _views()]
    objective.norm = type(objective.norm)(3).double()
    assert torch.autograd.gradcheck(lambda *rows: objective.criterion(rows, None).total, views)
