"""SimCLR against the written-out formula, lightly, and itself in blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from mvkit.objectives import simclr

Make = Callable[..., Any]


def _embeddings(n_images: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(n_images, 2, 4, dtype=torch.float64, generator=generator).requires_grad_()


@pytest.fixture
def objective(small: Any, tiny: Make, build: Make) -> Any:
    return build(small["simclr"], tiny(small["simclr"]))


def test_loss_is_the_papers_formula(objective: Any) -> None:
    """Chen et al. 2020a, equation 1, for every ordered pair of views."""
    z = _embeddings().detach()
    views = [row / row.norm() for row in z.flatten(0, 1)]
    losses = []
    for i, anchor in enumerate(views):
        scores = [torch.exp(anchor @ other / objective.temperature) for other in views]
        other_view = scores[i + 1 if i % 2 == 0 else i - 1]
        losses.append(-torch.log(other_view / (sum(scores) - scores[i])))
    torch.testing.assert_close(objective.criterion((z,), None).total, sum(losses) / len(losses))


def test_loss_and_gradient_equal_lightlys(objective: Any) -> None:
    lightly_loss = pytest.importorskip(
        "lightly.loss", reason="lightly is a second oracle: pip install lightly"
    )
    ours, theirs = _embeddings(), _embeddings()
    total = objective.criterion((ours,), None).total
    expected = lightly_loss.NTXentLoss(temperature=objective.temperature)(theirs[:, 0], theirs[:, 1])
    total.backward()
    expected.backward()
    torch.testing.assert_close(total, expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("block", [1, 30, 100])
def test_blocks_change_nothing(objective: Any, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = _embeddings(), _embeddings()
    expected = objective.criterion((whole,), None).total
    monkeypatch.setattr(simclr, "_BLOCK", block)
    total = objective.criterion((parts,), None).total
    torch.testing.assert_close(total, expected)
    total.backward()
    expected.backward()
    torch.testing.assert_close(parts.grad, whole.grad)


def test_both_views_pass_the_norms_together(objective: Any, small: Any, tiny: Make, batch_for: Make) -> None:
    batch = batch_for(objective)
    encoder = tiny(small["simclr"])
    before = encoder.norm.num_batches_tracked.clone()
    objective.embed(encoder, batch)
    assert encoder.norm.num_batches_tracked == before + 1


def test_a_vector_of_zeros_gives_no_nan(objective: Any) -> None:
    z = torch.zeros(3, 2, 4, requires_grad=True)
    total = objective.criterion((z,), None).total
    total.backward()
    assert total.isfinite()
    assert z.grad is not None
    assert z.grad.isfinite().all()
