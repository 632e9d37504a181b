"""Neural readout: its formula, its loss with missing responses, its penalties, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from mvkit.errors import UsageError
from mvkit.images.settings import Batch
from mvkit.objectives import registry
from mvkit.objectives.base import build_objective
from mvkit.objectives.neural_readout import FactorisedReadout

Make = Callable[..., Any]
RESPONSES = np.array([[1.0, 5.0], [3.0, np.nan], [8.0, 5.0], [4.0, 9.0]])


@pytest.fixture
def build_with(small: Any, tiny: Make) -> Make:
    """Build network and objective with given responses and penalties."""

    def make(responses: Any = RESPONSES, layer: str = "norm", **penalties: float) -> tuple[Any, Any]:
        settings = registry.NeuralReadout(layer=layer, **{"mask_l1": 0.0, "weights_l1": 0.0, **penalties})
        encoder = tiny(small["rotnet"])
        objective = build_objective(
            settings,
            encoder=encoder,
            input_px=8,
            n_images=4,
            n_classes=None,
            seed=1,
            responses=None if responses is None else torch.from_numpy(responses),
        )
        return encoder, objective

    return make


def test_a_unit_is_its_mask_and_weights_of_the_maps() -> None:
    readout = FactorisedReadout(torch.Size((5, 3, 4)), n_units=7).double()
    torch.nn.init.normal_(readout.bias)
    maps = torch.randn(6, 5, 3, 4, dtype=torch.float64)
    masks = readout.masks.view(7, 3, 4)
    expected = torch.einsum("nchw,uhw,uc->nu", maps, masks, readout.weights) + readout.bias
    torch.testing.assert_close(readout(maps), expected, rtol=1e-12, atol=1e-12)


def test_the_loss_is_the_squared_error_of_standardised_responses(build_with: Make) -> None:
    _, objective = build_with()
    # By hand: unit 0 has mean 4 and variance 6.5, unit 1 (three responses) mean 19/3 and variance 32/9.
    deviations = np.sqrt([6.5, 32 / 9])
    standardised = (RESPONSES - [4, 19 / 3]) / deviations
    index = torch.tensor([2, 0, 1])
    predictions = torch.tensor([[0.5, -1.0], [0.0, 2.0], [1.0, 100.0]])
    errors = (predictions.numpy() - standardised[index]) ** 2
    loss = objective.compare((predictions,), Batch((), index))
    assert loss.total.item() == pytest.approx(np.nansum(errors) / 6, rel=1e-6)
    assert objective.mean.numpy() == pytest.approx([4, 19 / 3])
    assert objective.deviation.numpy() == pytest.approx(deviations)


def test_penalties_are_means_over_units_of_sums_of_absolute_values(build_with: Make) -> None:
    _, objective = build_with(mask_l1=0.3, weights_l1=0.7)
    readout = objective.readout
    with torch.no_grad():
        readout.masks.copy_(torch.linspace(-1, 1, readout.masks.numel()).view_as(readout.masks))
        readout.weights.copy_(torch.linspace(-2, 1, readout.weights.numel()).view_as(readout.weights))
    loss = objective.compare((objective.responses,), Batch((), torch.arange(4)))
    masks = 0.3 * np.abs(np.linspace(-1, 1, 32)).sum() / 2
    weights = 0.7 * np.abs(np.linspace(-2, 1, 16)).sum() / 2
    assert loss.parts["error"] == 0
    assert loss.parts["masks"].item() == pytest.approx(masks, rel=1e-6)
    assert loss.parts["weights"].item() == pytest.approx(weights, rel=1e-6)
    assert loss.total.item() == pytest.approx(masks + weights, rel=1e-6)


def test_predictions_have_the_units_of_measure_of_the_responses(build_with: Make) -> None:
    encoder, objective = build_with()
    encoder.eval()
    batch = Batch((torch.randn(3, 3, 8, 8),), torch.arange(3))
    (standardised,) = objective.embed(encoder, batch)
    expected = standardised * objective.deviation + objective.mean
    torch.testing.assert_close(objective.predict(encoder, batch), expected)


def test_checkpoints_hold_no_recordings_and_constant_units_stay_finite(build_with: Make) -> None:
    _, objective = build_with(np.array([[2.0], [2.0], [2.0], [2.0]]))
    assert objective.deviation.tolist() == [1.0]
    assert torch.equal(objective.responses, torch.zeros(4, 1))
    assert {"responses", "present"}.isdisjoint(objective.state_dict())


def test_images_without_recordings_and_layers_without_maps_are_refused(build_with: Make) -> None:
    with pytest.raises(UsageError, match=r"needs responses of units.*\n.*data\.neural\.dataset"):
        build_with(None)
    with pytest.raises(UsageError, match=r"needs a layer of maps, this one has shape \(12,\)"):
        build_with(layer="fc")
