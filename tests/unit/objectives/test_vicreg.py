"""VICReg against lightly; what its covariance is divided by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

Make = Callable[..., Any]


@pytest.fixture
def objective(small: Any, tiny: Make, build: Make) -> Any:
    return build(small["vicreg"], tiny(small["vicreg"]))


def _views() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(8)
    # Half of the columns vary less than 1: the hinge is active there and inactive elsewhere.
    scale = torch.linspace(0.2, 2.0, 16, dtype=torch.float64)
    return [
        (scale * torch.randn(9, 16, dtype=torch.float64, generator=generator)).requires_grad_()
        for _ in range(2)
    ]


def test_loss_and_gradient_equal_lightlys(objective: Any) -> None:
    lightly_loss = pytest.importorskip(
        "lightly.loss", reason="lightly is a second oracle: pip install lightly"
    )
    ours, theirs = _views(), _views()
    total = objective.criterion(tuple(ours), None).total
    expected = lightly_loss.VICRegLoss()(*theirs)
    total.backward()
    expected.backward()
    torch.testing.assert_close(total, expected, rtol=1e-9, atol=0)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-9, atol=1e-12)


def test_terms_are_what_numpys_covariance_says(objective: Any) -> None:
    views = [view.detach() for view in _views()]
    parts = objective.criterion(tuple(views), None).parts
    off_diagonal = 0.0
    for view in views:
        covariance = torch.cov(view.T)
        off_diagonal += float((covariance - covariance.diag().diag()).square().sum() / 16)
    assert float(parts["covariance"]) == pytest.approx(off_diagonal, rel=1e-9)
    objective.settings = objective.settings.model_copy(update={"divide_by": 17})
    configured = objective.criterion(tuple(views), None).parts
    # Of 9 rows: the covariance's 8 becomes 16, the variance stays.
    assert float(configured["covariance"]) == pytest.approx(off_diagonal / 4, rel=1e-9)
    assert configured["variance"] == parts["variance"]
