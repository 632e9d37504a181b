"""Wiring of stream networks."""

from __future__ import annotations

import pytest
import torch

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
