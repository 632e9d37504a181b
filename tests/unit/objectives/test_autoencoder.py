"""Auto-encoding and depth: plain arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from mvkit.errors import DataError, UsageError

Make = Callable[..., Any]


def test_autoencoders_loss_is_error_and_sparseness(
    small: Any, tiny: Make, build: Make, batch_for: Make
) -> None:
    chosen = small["autoencoder"].model_copy(update={"l1_weight": 0.5})
    encoder = tiny(chosen)
    objective = build(chosen, encoder)
    batch = batch_for(objective, 3)
    code = torch.tensor([[1.0, -3.0], [0.0, 0.0], [2.0, 0.0]])
    loss = objective.criterion((batch.views[0] + 2.0, code), batch)
    # Half of 2 squared; half of the mean of |code|, 6 over 6.
    assert float(loss.parts["error"]) == pytest.approx(2.0, rel=1e-5)
    assert float(loss.parts["sparseness"]) == pytest.approx(0.5, rel=1e-6)


def test_a_network_without_code_is_refused(small: Any, tiny: Make, build: Make, batch_for: Make) -> None:
    encoder = tiny(small["autoencoder"])
    objective = build(small["autoencoder"], encoder)
    with pytest.raises(UsageError, match="no output named 'hidden_vec'"):
        objective.embed(lambda images: {"output": images}, batch_for(objective))


def test_depths_error_is_halved(small: Any, tiny: Make, build: Make, batch_for: Make) -> None:
    encoder = tiny(small["depth_prediction"])
    objective = build(small["depth_prediction"], encoder)
    batch = batch_for(objective, 3)
    assert float(objective.criterion((batch.target + 3.0,), batch).total) == pytest.approx(4.5, rel=1e-5)


def test_depths_of_another_size_are_refused(small: Any, tiny: Make, build: Make, batch_for: Make) -> None:
    encoder = tiny(small["depth_prediction"])
    objective = build(small["depth_prediction"], encoder)
    batch = batch_for(objective, 3)
    smaller = replace(batch, target=batch.target[..., 1:])
    with pytest.raises(DataError, match=r"depth has shape \(3, 1, 8, 7\), predictions \(3, 1, 8, 8\)"):
        objective.loss(encoder, smaller)
