"""What is recorded of networks from elsewhere equals hooks written by hand, in one forward pass."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import mvkit
from mvkit.models.external import ExternalModel


class Repeating(nn.Module):
    """In-place and repeated modules, functions, a dict and a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2)
        self.relu = nn.ReLU(inplace=True)
        self.mix = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run the same modules twice."""
        x = self.relu(self.stem(x))
        y = self.relu(self.mix(x)) + x
        z = self.relu(self.mix(y))
        return {"sum": y, "last": z.mean((2, 3))}


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 20, 24, 3), dtype=np.uint8)


@pytest.fixture
def repeating() -> Repeating:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = Repeating().eval()
        network.mix[1].running_mean.normal_()
    return network


def by_hand(network: Repeating, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """The forward pass, step by step, without anything in place."""
    with torch.no_grad():
        stem = network.stem(inputs)
        first = stem.clamp(min=0)
        conv0 = network.mix[0](first)
        mix0 = network.mix[1](conv0)
        relu1 = mix0.clamp(min=0)
        y = relu1 + first
        conv1 = network.mix[0](y)
        mix1 = network.mix[1](conv1)
        relu2 = mix1.clamp(min=0)
    return {
        "stem": stem,
        "relu[0]": first,
        "relu[1]": relu1,
        "relu[2]": relu2,
        "mix[0]": mix0,
        "mix[1]": mix1,
        "mix.0[0]": conv0,
        "mix.0[1]": conv1,
        "mix.1[0]": mix0,
        "mix.1[1]": mix1,
        "final:sum": y,
        "final:last": relu2.mean((2, 3)),
    }


def assert_features(model: ExternalModel, images: np.ndarray, expected: dict[str, torch.Tensor]) -> None:
    """Names and values, whatever the size of batches."""
    for batch_size in (64, 2):
        features = mvkit.extract(model, images, layers="*", batch_size=batch_size)
        assert set(features) == set(expected)
        for name, value in expected.items():
            assert features.shape_of(name) == tuple(value.shape[1:]), name
            np.testing.assert_allclose(features[name], value.flatten(1).numpy(), rtol=1e-5, atol=1e-5)


def test_in_place_and_repeated_modules(repeating: Repeating, images: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text("NETWORK = None\ndef make(): return NETWORK\n")
    from mvkit.models import external

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(external, "_find_factory", lambda name, module: lambda: repeating)
        model = mvkit.load_model(f"{path}:make", input_size=16)
    assert isinstance(model, ExternalModel)
    inputs = model.preprocess(images)
    assert inputs.shape == (5, 3, 16, 16)
    passes: list[int] = []
    handle = repeating.register_forward_hook(lambda *_: passes.append(1))
    assert_features(model, images, by_hand(repeating, inputs))
    handle.remove()
    assert len(passes) == 1 + 3, "one pass for each batch: 5 at once, then 2 + 2 + 1"


def test_an_exported_program_that_a_function_opens(
    repeating: Repeating, images: np.ndarray, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            repeating, (torch.zeros(2, 3, 16, 16),), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
        torch.export.save(program, tmp_path / "net.pt2")
    opening = tmp_path / "net.py"
    opening.write_text(
        "from pathlib import Path\nimport torch\n"
        "FILE = Path(__file__).with_name('net.pt2')\n"
        "def make(): return torch.export.unflatten(torch.export.load(FILE))\n"
    )
    model = mvkit.load_model(f"{opening}:make", input_size=16)
    assert isinstance(model, ExternalModel)
    assert_features(model, images, by_hand(repeating, model.preprocess(images)))


def test_a_network_given_itself_is_taken_out_of_its_wrappers(repeating: Repeating) -> None:
    inputs = torch.rand(3, 3, 16, 16)
    features = mvkit.extract(torch.compile(nn.DataParallel(repeating)), inputs, ["relu", "final"])
    expected = by_hand(repeating, inputs)
    assert list(features) == ["relu[0]", "relu[1]", "relu[2]", "final:sum", "final:last"]
    for name in features:
        np.testing.assert_allclose(features[name], expected[name].flatten(1).numpy(), rtol=1e-5, atol=1e-5)
