"""Wiring of stream networks."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from mvkit.models.loading import build, build_random
from mvkit.models.registry import ARCHITECTURES
from mvkit.models.streams import connections


def test_connections_of_two_streams_and_two_outputs():
    names = [edge.name for edge in connections(("ventral", "dorsal"), ("VISpor", "VISam"))]
    assert names == [
        "input_VISp",
        "VISp_ventral",
        "VISp_dorsal",
        "VISp_VISpor",
        "VISp_VISam",
        "ventral_VISam",
        "ventral_VISpor",
        "dorsal_VISam",
        "dorsal_VISpor",
    ]


@pytest.mark.parametrize(("n_streams", "n_outputs"), [(1, 1), (2, 2), (6, 2), (3, 4)])
def test_number_of_connections(n_streams, n_outputs):
    streams, outputs = [f"s{i}" for i in range(n_streams)], [f"o{i}" for i in range(n_outputs)]
    edges = connections(streams, outputs)
    assert len(edges) == len(set(edges)) == 1 + n_streams + n_outputs + n_streams * n_outputs


def test_an_area_is_the_sum_of_its_inputs_and_taps_see_it():
    model = build_random(ARCHITECTURES["simplified_mousenet_dual_stream_visp_3x3_ir"], seed=3).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    seen = {}
    for area, path in model.tap_points().items():
        if path.startswith("areas."):
            model.get_submodule(path).register_forward_hook(
                lambda module, inputs, output, area=area: seen.__setitem__(area, output)
            )
    with torch.no_grad():
        output = model(images)
        parts = [
            model.model_layers[f"{source}_VISpor"](seen[source]) for source in ("VISp", "ventral", "dorsal")
        ]
        torch.testing.assert_close(seen["VISpor"], sum(parts), rtol=0, atol=1e-6)
        joined = torch.cat([seen["VISpor"], seen["VISam"]], dim=1)
        pooled = torch.nn.functional.adaptive_avg_pool2d(joined, 6).flatten(1)
    torch.testing.assert_close(output, pooled, rtol=0, atol=1e-6)


def test_area_modules_add_no_state():
    with torch.device("meta"):
        model = build(ARCHITECTURES["simplified_mousenet_six_stream"].blueprint)
    assert not [key for key in model.state_dict() if key.startswith("areas")]


@pytest.mark.parametrize(
    ("name", "streams"),
    [
        ("dual_stream_vispor_only_visp_3x3", ("ventral", "dorsal")),
        ("six_stream_vispor_only", ("VISl", "VISrl", "VISal", "VISli", "VISpm", "VISpl")),
    ],
)
def test_networks_read_from_vispor_only(name, streams):
    """The reference's MultiStreamMouseNet with output_areas=["VISpor"], written with torch's functions."""
    model = build_random(ARCHITECTURES[f"simplified_mousenet_{name}"], seed=3).eval()
    state = model.state_dict()

    def conv(maps: torch.Tensor, edge: str, index: int, stride: int = 1, padding: int = 0) -> torch.Tensor:
        parts = (state[f"model_layers.{edge}.{index}.{part}"] for part in ("weight", "bias"))
        return functional.conv2d(maps, *parts, stride, padding).relu()

    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        visp = functional.max_pool2d(conv(images, "input_VISp", 0, 4, 2), 3, 2)
        if name.endswith("3x3"):
            vispor = conv(visp, "VISp_VISpor", 0, 2)
        else:
            vispor = functional.max_pool2d(conv(visp, "VISp_VISpor", 0), 3, 2)
        for stream in streams:
            inner = functional.max_pool2d(conv(visp, f"VISp_{stream}", 0, 1, 2), 3, 2)
            vispor = vispor + conv(conv(inner, f"VISp_{stream}", 3, 1, 1), f"{stream}_VISpor", 0, 1, 1)
        pooled = functional.adaptive_avg_pool2d(vispor, 6).flatten(1)
        logits = functional.linear(pooled, state["classifier.2.weight"], state["classifier.2.bias"])
        torch.testing.assert_close(model(images), logits)
    assert state["classifier.2.weight"].shape == (1000, 256 * 36)
    # VISam has weights, as in the reference, but nothing is read from it.
    assert f"model_layers.{streams[0]}_VISam.0.weight" in state
