"""SimSiam against lightly; its stopped gradient and the order of its views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mvkit.images.settings import Batch

Make = Callable[..., Any]


@pytest.fixture
def objective(small: Any, tiny: Make, build: Make) -> Any:
    return build(small["simsiam"], tiny(small["simsiam"]))


def _embedded() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(6)
    return [torch.randn(5, 4, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(4)]


def test_loss_and_gradient_equal_lightlys(objective: Any) -> None:
    lightly_loss = pytest.importorskip(
        "lightly.loss", reason="lightly is a second oracle: pip install lightly"
    )
    ours, theirs = _embedded(), _embedded()
    total = objective.criterion(tuple(ours), None).total
    similarity = lightly_loss.NegativeCosineSimilarity()
    predicted_1, predicted_2, projected_1, projected_2 = theirs
    expected = 0.5 * (
        similarity(predicted_1, projected_2.detach()) + similarity(predicted_2, projected_1.detach())
    )
    total.backward()
    expected.backward()
    torch.testing.assert_close(total, expected, rtol=1e-9, atol=0)
    for mine, other in zip(ours[:2], theirs[:2], strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-9, atol=1e-12)


def test_no_gradient_flows_to_the_projections(objective: Any) -> None:
    embedded = _embedded()
    objective.criterion(tuple(embedded), None).total.backward()
    assert [rows.grad is None for rows in embedded] == [False, False, True, True]


def test_equal_views_after_perfect_prediction_give_minus_one(objective: Any) -> None:
    rows = _embedded()[0].detach()
    assert torch.isclose(
        objective.criterion((rows, 3 * rows, rows, 2 * rows), None).total, -rows.new_ones(())
    )


def test_views_pass_the_norms_one_after_the_other(
    objective: Any, small: Any, tiny: Make, batch_for: Make
) -> None:
    batch: Batch = batch_for(objective)
    encoder = tiny(small["simsiam"])
    objective.embed(encoder, batch)
    means = [encoder.conv(view).mean((0, 2, 3)) for view in batch.views]
    # Momentum 0.1 from 0, view 1 first.
    torch.testing.assert_close(encoder.norm.running_mean, 0.9 * 0.1 * means[0] + 0.1 * means[1])
