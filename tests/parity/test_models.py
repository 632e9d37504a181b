"""Every architecture of the goldens: state dict, activations, gradients and training-mode statistics."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

FOLDER = Path(os.environ.get("MVKIT_GOLDENS") or Path(__file__).parent.parent / "goldens") / "models"
ARCHITECTURES = sorted(
    {*json.loads((FOLDER / "state_dicts.json").read_text()), *(p.stem for p in FOLDER.glob("*.npz"))}
)
TOLERANCE_64, TOLERANCE_32 = 1e-9, 1e-4
#: Ten seconds each, of families that the fast tests have too.
SLOW = ("shi_mousenet_ir", "shi_mousenet_vispor5_ir", "vgg16_ir_64x64")


def _run(model: torch.nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """Return the output, and every layer's values right after its module ran."""
    seen: dict[str, np.ndarray] = {}

    def keep(layer: str) -> Callable[..., None]:
        # A copy: later modules must not be able to change what was seen.
        return lambda module, inputs, output: seen.__setitem__(layer, output.detach().numpy().copy())

    handles = [
        model.get_submodule(path).register_forward_hook(keep(layer))
        for layer, path in model.tap_points().items()
        if layer in model.golden_layers
    ]
    output = model(images)
    for handle in handles:
        handle.remove()
    return (output["output"] if isinstance(output, dict) else output), seen


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in ARCHITECTURES],
)
def case(request, state_dicts, filling, filled_model) -> Iterator[SimpleNamespace]:
    """One architecture: its golden, the filled model, and what one evaluation and one training pass gave."""
    name = request.param
    golden = dict(np.load(FOLDER / f"{name}.npz"))
    model = filled_model(name)
    model.golden_layers = {str(layer) for layer in golden["layers"]}
    images = filling.images()
    output, seen = _run(model, images)
    weights = torch.from_numpy(filling.signed(np.arange(output.numel()), "grad")).reshape(output.shape)
    (output * weights).sum().backward()
    # As arrays: they must survive the rounding to float32 below.
    gradients = {key: _array(parameter.grad) for key, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    found = SimpleNamespace(name=name, golden=golden, model=model, seen=seen, gradients=gradients)
    found.entries = [(key, list(entry.shape), entry.dtype) for key, entry in model.state_dict().items()]
    with torch.no_grad():
        # Training mode comes before float32, which rounds the weights.
        if "train_mean" in golden:
            found.trained, found.buffers = _train_pass(model, images)
            for key, buffer in model.named_buffers():
                filling.fill(key, buffer)
        found.seen32 = _run(model.eval().float(), images.float())[1]
    yield found


def _train_pass(model, images):
    seen = _run(model.train(), images)[1]
    return seen, {key: buffer.numpy().copy() for key, buffer in model.named_buffers()}


def _array(tensor: torch.Tensor | None) -> np.ndarray | None:
    return None if tensor is None else tensor.numpy()


def test_state_dict_is_the_goldens(case, state_dicts):
    expected = [(key, shape) for key, shape, _ in state_dicts[case.name]]
    assert [(key, shape) for key, shape, _ in case.entries] == expected
    # The model at hand is float64; as built it is float32.
    as_built = {torch.float64: "float32", torch.int64: "int64"}
    assert [as_built[dtype] for *_, dtype in case.entries] == [dtype for *_, dtype in state_dicts[case.name]]


def test_evaluation_activations_float64(case, filling):
    golden = case.golden
    for row, layer in enumerate(map(str, golden["layers"])):
        values, std = case.seen[layer], golden["std"][row]
        shape = [size for size in golden["shape"][row] if size]
        assert list(values.shape) == shape, layer
        assert (
            golden["idx"][row] == filling.positions(golden["idx"].shape[1], f"sample:{layer}", values.size)
        ).all()
        assert (
            np.abs(values.ravel()[golden["idx"][row]] - golden["val64"][row]).max() <= TOLERANCE_64 * std
        ), layer
        assert abs(values.mean() - golden["mean"][row]) <= TOLERANCE_64 * std, layer
        assert abs(values.std() - std) <= TOLERANCE_64 * std, layer
        assert abs(np.linalg.norm(values) / golden["l2"][row] - 1) <= TOLERANCE_64, layer


def test_evaluation_activations_float32(case):
    golden = case.golden
    for row, layer in enumerate(map(str, golden["layers"])):
        values = case.seen32[layer]
        assert values.dtype == np.float32
        worst = np.abs(values.ravel()[golden["idx"][row]] - golden["val32"][row]).max()
        assert worst <= TOLERANCE_32 * golden["std"][row], layer


def test_gradients_float64(case, filling):
    golden = case.golden
    assert list(case.gradients) == list(golden["param_names"])
    trainable = [parameter.requires_grad for parameter in case.model.parameters()]
    assert trainable == list(golden["param_requires_grad"])
    scale = np.nanmax(golden["grad_l2"])
    for row, (name, gradient) in enumerate(case.gradients.items()):
        l2 = golden["grad_l2"][row]
        assert (gradient is None) == bool(np.isnan(l2)), name
        if gradient is None:
            continue
        # A gradient that is zero in theory (a bias before a batch norm) is compared absolutely.
        allowed = TOLERANCE_64 * max(l2, 1e-9 * scale)
        assert abs(np.linalg.norm(gradient) - l2) <= allowed, name
        index = golden["grad_idx"][row]
        assert (index == filling.positions(index.size, f"gsample:{name}", gradient.size)).all()
        assert np.abs(gradient.ravel()[index] - golden["grad_val"][row]).max() <= allowed, name


def test_training_mode_float64(case):
    golden = case.golden
    has_dropout = any(isinstance(module, torch.nn.Dropout) for module in case.model.modules())
    assert has_dropout == ("train_mean" not in golden)
    if has_dropout:
        return
    for row, layer in enumerate(map(str, golden["layers"])):
        values, std = case.trained[layer], golden["train_std"][row]
        worst = np.abs(values.ravel()[golden["idx"][row]] - golden["train_val64"][row]).max()
        assert worst <= TOLERANCE_64 * std, layer
        assert abs(values.mean() - golden["train_mean"][row]) <= TOLERANCE_64 * std, layer
        assert abs(values.std() - std) <= TOLERANCE_64 * std, layer
    for name, l2, first in zip(
        golden["bn_names"], golden["bn_after_l2"], golden["bn_after_first"], strict=True
    ):
        buffer = case.buffers[str(name)]
        assert abs(np.linalg.norm(buffer) / l2 - 1) <= TOLERANCE_64, name
        assert abs(buffer.ravel()[0] - first) <= TOLERANCE_64 * max(1, abs(first)), name


def test_default_layers_can_be_tapped_and_are_the_goldens(case):
    from mvkit.models.registry import ARCHITECTURES as TABLE

    layers = TABLE[case.name].layers
    assert layers
    assert set(layers) <= case.model.golden_layers


def test_every_golden_has_a_row_and_a_file():
    from mvkit.models.registry import ARCHITECTURES as TABLE

    assert set(ARCHITECTURES) <= set(TABLE)
    assert all((FOLDER / f"{name}.npz").is_file() for name in ARCHITECTURES)


def test_filling_rule_reproduces_its_test_vectors(filling):
    """Vectors for SEED = 1 in the README of the goldens, section 1."""
    rule = type(filling)(1)
    assert list(rule.uniform(np.arange(2), "features.0.weight")) == [0.8978870077989995, 0.7537899408489466]
    assert list(rule.uniform(np.arange(2), "input")) == [0.7543520084582269, 0.06108735897578299]
    weight = torch.empty((64, 3, 11, 11), dtype=torch.float64)
    rule.fill("features.0.weight", weight)
    first = weight.numpy().ravel()[:3]
    expected = [0.10230858231298084, 0.06525694115317197, -0.03568715316341065]
    np.testing.assert_allclose(first, expected, rtol=1e-15)
