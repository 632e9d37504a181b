"""Layers of the golden networks, recorded by the extractor in one pass, against the reference's values."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from mvkit.features.layers import tap, tappable_layers
from mvkit.models.loading import build
from mvkit.models.registry import ARCHITECTURES, RELEASED, ConnectomeNet

#: Of the reference's layer std (goldens README, suggested tolerances).
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}
#: Kinds whose pass takes a quarter of a minute in float64; the parity of models covers that.
SLOW_IN_FLOAT64 = (ConnectomeNet,)


def _one_of_each_kind() -> list[str]:
    """A network of every kind of blueprint, released ones first: taps lie in the builder, not in its rows."""
    names = [*(row.architecture for row in RELEASED.values()), *ARCHITECTURES]
    kinds: dict[type, str] = {}
    for name in names:
        kinds.setdefault(type(ARCHITECTURES[name].blueprint), name)
    return list(kinds.values())


@pytest.mark.parametrize("name", _one_of_each_kind())
def test_layers_tapped_in_one_pass_equal_the_golden_values(name, goldens: Path, filling, filled_model):
    path = goldens / "models" / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"{path} is not in this folder of goldens")
    golden = np.load(path)
    slow = isinstance(ARCHITECTURES[name].blueprint, SLOW_IN_FLOAT64)
    dtype, key = (torch.float32, "val32") if slow else (torch.float64, "val64")
    model = filled_model(name).to(dtype)
    layers = [str(layer) for layer in golden["layers"]]
    values = tap(model, filling.images().to(dtype), layers)
    assert set(values) == set(layers)
    for row, layer in enumerate(layers):
        flat = values[layer].reshape(-1).numpy()[golden["idx"][row]]
        error = np.abs(flat - golden[key][row]).max() / golden["std"][row]
        assert values[layer].dtype == dtype
        assert error <= TOLERANCES[dtype], (layer, error)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_published_layers_run_once_so_that_a_pass_may_end_early(name):
    with torch.device("meta"):  # shapes only: no weights are drawn and nothing is computed
        model = build(ARCHITECTURES[name].blueprint).eval()
    paths = tappable_layers(model)
    counts: Counter[str] = Counter()
    for layer in ARCHITECTURES[name].layers:
        model.get_submodule(paths[layer]).register_forward_hook(
            lambda module, arguments, output, layer=layer: counts.update([layer])
        )
    model(torch.empty(1, 3, 64, 64, device="meta"))
    assert counts == dict.fromkeys(ARCHITECTURES[name].layers, 1)
