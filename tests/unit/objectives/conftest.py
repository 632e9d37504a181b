"""A tiny network for every objective, and batches of blank-free noise."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mvkit.images.settings import Batch
from mvkit.objectives import registry
from mvkit.objectives.base import Objective, build_objective
from mvkit.objectives.registry import row_of

SIDE_PX = 8
N_CLASSES = 5

#: One small setting of every objective.
SMALL = MappingProxyType(
    {
        chosen.name: chosen
        for chosen in (
            registry.InstanceRecognition(width=32, noise_samples=16),
            registry.SimClr(hidden=32, width=16),
            registry.SimSiam(hidden=32, width=32, prediction_hidden=8),
            registry.MoCoV2(hidden=32, width=16, queue=48, momentum=0.9),
            registry.BarlowTwins(widths=(32, 32, 16)),
            registry.VicReg(widths=(32, 32, 16)),
            registry.RotNet(),
            registry.RelativeLocation(hidden=32),
            registry.AutoEncoder(),
            registry.DepthPrediction(),
            registry.CrossEntropy(),
            registry.LinearReadout(layer="norm"),
            registry.NeuralReadout(layer="norm", mask_l1=0.001, weights_l1=0.001),
        )
    }
)


class Tiny(nn.Module):
    """Convolution, norm, ReLU, linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(8 * (SIDE_PX // 2) ** 2, width)

    def forward(self, images: Tensor) -> Any:
        return self.fc(self.relu(self.norm(self.conv(images))).flatten(1))


class TinyMirror(Tiny):
    """Decodes an image, as mirror networks do."""

    def __init__(self) -> None:
        super().__init__(12)
        self.decoder = nn.Linear(12, 3 * SIDE_PX**2)

    def forward(self, images: Tensor) -> Any:
        hidden = super().forward(images)
        return {"hidden_vec": hidden, "output": self.decoder(hidden).view(-1, 3, SIDE_PX, SIDE_PX)}


@pytest.fixture(scope="session")
def small() -> MappingProxyType[str, Any]:
    """A small setting of every objective, by name."""
    return SMALL


@pytest.fixture
def tiny() -> Callable[[Any], nn.Module]:
    """Makes a network that suits an objective's settings, always with the same weights."""

    def make(chosen: Any) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(7)
            if row_of(chosen).reads == "decoded":
                return TinyMirror()
            return Tiny(N_CLASSES if chosen.name == "cross_entropy" else 12)

    return make


@pytest.fixture
def build() -> Callable[..., Objective]:
    """Builds an objective for a tiny network."""

    def make(chosen: Any, encoder: nn.Module, *, n_images: int = 40, seed: int = 1) -> Objective:
        return build_objective(
            chosen,
            encoder=encoder,
            input_px=SIDE_PX,
            n_images=n_images,
            n_classes=N_CLASSES,
            seed=seed,
            responses=torch.randn(n_images, 3, generator=torch.Generator().manual_seed(2)),
        )

    return make


@pytest.fixture
def batch_for() -> Callable[..., Batch]:
    """Draws a batch for an objective: views of an image resemble each other, rotations are real ones."""

    def make(objective: Objective, n_images: int = 16, *, seed: int = 3) -> Batch:
        generator = torch.Generator().manual_seed(seed)

        def noise(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        image = noise(n_images, 3, SIDE_PX, SIDE_PX)
        views: list[Tensor] = []
        for number in range(objective.n_inputs):
            if objective.n_inputs == 2:
                views.append(image + 0.3 * noise(*image.shape))
            elif objective.n_inputs == 4:
                views.append(image.rot90(number, (2, 3)))
            else:
                # Neighbours carry their place, the centre is the image.
                views.append(image if number == 0 else 0.5 * image.roll(number, 3) + 0.2 * number)
        return Batch(
            views=tuple(views),
            index=torch.arange(n_images) * 2 + 1,
            label=torch.arange(n_images) % N_CLASSES,
            target=image.mean(1, keepdim=True) + 0.1,
        )

    return make
