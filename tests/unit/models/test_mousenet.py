"""MouseNet: the table of connections, masks, and shared convolutions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mvkit.models.loading import build_random
from mvkit.models.registry import ARCHITECTURES, AREAS, CONNECTIONS, OUTPUT_AREAS, WIDTHS


@pytest.fixture(scope="module")
def model():
    return build_random(ARCHITECTURES["shi_mousenet_vispor5_ir"], seed=4).eval()


def test_the_table_has_49_connections_and_22_areas():
    assert len(CONNECTIONS) == len({edge.name for edge in CONNECTIONS}) == 49
    assert len(AREAS) == 22
    assert {edge.target for edge in CONNECTIONS} == set(AREAS)
    assert {edge.source for edge in CONNECTIONS} <= {"input", *AREAS}
    assert set(OUTPUT_AREAS) <= set(AREAS)


def test_sources_precede_their_targets():
    order = {area: position for position, area in enumerate(("input", *AREAS))}
    assert all(order[edge.source] < order[edge.target] for edge in CONNECTIONS)


def test_padding_keeps_or_halves_the_map():
    for edge in CONNECTIONS:
        left, right, top, bottom = edge.padding_px
        assert (left, right) == (top, bottom)
        size = 64
        assert (size + left + right - edge.kernel_px) // edge.stride + 1 == size // edge.stride, edge.name


def test_each_area_is_what_its_own_convolutions_sum_up_to(model):
    """The network runs the convolutions of one source together; each on its own must give the same."""
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    activations = {"input": images}
    for area in AREAS:
        model.get_submodule(f"areas.{area}").register_forward_hook(
            lambda module, inputs, output, area=area: activations.__setitem__(area, output)
        )
    with torch.no_grad():
        final = model(images)
        for area in AREAS:
            incoming = [edge for edge in CONNECTIONS if edge.target == area]
            total = sum(model.Convs[edge.name](activations[edge.source]) for edge in incoming)
            expected = total if area == "LGNv" else model.BNs[area](total).relu()
            torch.testing.assert_close(activations[area], expected, rtol=1e-4, atol=1e-5, msg=area)
    assert torch.equal(final, activations["VISpor5"].flatten(1))


def test_masks_hold_zeros_and_ones_with_gaussian_probability(model):
    edge = next(edge for edge in CONNECTIONS if edge.name == "VISp2/3_VISp5")
    mask = model.get_parameter(f"Convs.{edge.name}.mask").numpy()
    assert set(np.unique(mask)) == {0.0, 1.0}
    offsets = np.arange(-edge.reach_px, edge.reach_px + 1)
    squared_radius = offsets[:, None] ** 2 + offsets[None, :] ** 2
    probability = edge.peak * np.exp(-squared_radius / (2 * edge.sigma_px**2))
    n_drawn = WIDTHS["VISp5"] * WIDTHS["VISp2/3"]
    standard_error = np.sqrt(probability * (1 - probability) / n_drawn)
    assert (np.abs(mask.mean(axis=(0, 1)) - probability) < 5 * standard_error).all()


def test_masks_are_frozen_and_saved(model):
    masks = [key for key in model.state_dict() if key.endswith(".mask")]
    assert len(masks) == 49
    assert not any(model.get_parameter(key).requires_grad for key in masks)
