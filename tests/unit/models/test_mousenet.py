"""MouseNet: the table of connections, masks, and shared convolutions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

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


def authors_geometry(edge) -> tuple[int, int, tuple[int, int]]:
    """Kernel, stride, and zeros before and after, by the rules of mabuice/Mouse_CNN.

    ``ConvParam`` of cmouse/network.py and ``get_out_sigma`` of exps/imagenet/config.py, with EDGE_Z 1.
    """
    higher = edge.target.endswith("4") and edge.target not in ("VISp4", "VISpor4")
    halved = higher or (
        edge.target == "VISpor4" and edge.source.startswith("VISp") and edge.source[4].isdigit()
    )
    kernel, stride = 2 * int(edge.sigma_px) + 1, 2 if halved else 1
    total = kernel - stride
    return kernel, stride, (total // 2, total // 2 + total % 2)


def test_connections_have_the_geometry_of_the_authors_own_code():
    for edge in CONNECTIONS:
        kernel, stride, (before, after) = authors_geometry(edge)
        assert (edge.kernel_px, edge.stride) == (kernel, stride), edge.name
        assert edge.padding_px == (before, after, before, after), edge.name


def test_the_authors_own_network_norms_and_rectifies_lgnv_too():
    """Area by area with torch's own functions, with the weights and statistics of the network."""
    model = build_random(ARCHITECTURES["shi_mousenet_lgnv_bn"], seed=4).eval()
    generator = torch.Generator().manual_seed(0)
    state = model.state_dict()
    for name, value in state.items():
        if name.startswith("BNs.") and value.is_floating_point():
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    images = torch.randn(1, 3, 64, 64, generator=generator)
    maps = {"input": images}
    with torch.no_grad():
        for area in AREAS:
            total = 0.0
            for edge in (edge for edge in CONNECTIONS if edge.target == area):
                weight, bias, mask = (
                    state[f"Convs.{edge.name}.{part}"] for part in ("weight", "bias", "mask")
                )
                assert weight.shape[:2] == (WIDTHS[area], maps[edge.source].shape[1])
                _, stride, (before, after) = authors_geometry(edge)
                padded = functional.pad(maps[edge.source], (before, after, before, after))
                total = total + functional.conv2d(padded, weight * mask, bias, stride)
            norm = {
                part: state[f"BNs.{area}.{part}"]
                for part in ("running_mean", "running_var", "weight", "bias")
            }
            maps[area] = functional.relu(functional.batch_norm(total, *norm.values()))
        # Its get_img_feature puts every area before those that came earlier.
        parts = [functional.adaptive_avg_pool2d(maps[area], 4).flatten(1) for area in reversed(OUTPUT_AREAS)]
        logits = torch.cat(parts, 1) @ state["classifier.0.weight"].T + state["classifier.0.bias"]
        torch.testing.assert_close(model(images), logits, rtol=1e-4, atol=1e-4)
    assert state["classifier.0.weight"].shape == (1000, 16 * sum(WIDTHS[area] for area in OUTPUT_AREAS))
    assert (maps["LGNv"] >= 0).all()


def test_vispor5_is_averaged_to_four_by_four():
    model = build_random(ARCHITECTURES["shi_mousenet_vispor5_pool_4"], seed=4).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    maps: list[torch.Tensor] = []
    model.get_submodule("areas.VISpor5").register_forward_hook(lambda *call: maps.append(call[2]))
    with torch.no_grad():
        logits = model(images)
        # Squares of 8 px of the 32 px map.
        squares = maps[0].view(2, 28, 4, 8, 4, 8).mean(dim=(3, 5))
        expected = functional.linear(squares.flatten(1), model.classifier[0].weight, model.classifier[0].bias)
    torch.testing.assert_close(logits, expected)
    assert model.classifier[0].weight.shape == (1000, 448)


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
