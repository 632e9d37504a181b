"""Baselines without weights: the pixels themselves, and a fixed bank of Gabor energies."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvkit.filters.gabor import GREY_LEVEL, GaborScale, gabor_bank
from mvkit.models.base import VisionModel
from mvkit.models.blueprints import Baseline


def _grey(images: Tensor) -> Tensor:
    """Average over channels, (n_images, 1, h, w); channels that are equal give exactly their value."""
    first = images[:, :1]
    return first + (images - first).mean(dim=1, keepdim=True)


class PixelModel(VisionModel):
    """Grey levels of the 64 x 64 px image: 4,096 features, layer "pixels"."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels = nn.Flatten()

    def forward(self, images: Tensor) -> Tensor:
        """Return grey levels in [0, 1], (n_images, 4096), in C order of the image."""
        grey: Tensor = self.pixels(_grey(images))
        return grey


class GaborEnergies(nn.Module):
    """Energies of the Gabor bank; the same numbers as :func:`mvkit.filters.gabor.gabor_energies`."""

    def __init__(self, bank: tuple[GaborScale, ...]) -> None:
        super().__init__()
        self._strides = tuple(scale.stride for scale in bank)
        for number, scale in enumerate(bank):
            for phase in ("even", "odd"):
                kernels = torch.tensor(getattr(scale, phase), dtype=torch.float32).unsqueeze(1)
                # Not persistent: the bank is defined by code, so a state dict has nothing to say about it.
                self.register_buffer(f"{phase}_{number}", kernels, persistent=False)

    def forward(self, grey: Tensor) -> Tensor:
        """Map grey levels (n_images, 1, 64, 64) to energies (n_images, n_features)."""
        contrast = grey - GREY_LEVEL
        maps = []
        for number, stride in enumerate(self._strides):
            even, odd = self.get_buffer(f"even_{number}"), self.get_buffer(f"odd_{number}")
            margin = even.shape[-1] // 2
            responses = (
                functional.conv2d(contrast, kernels, None, stride, margin) for kernels in (even, odd)
            )
            maps.append(torch.hypot(*responses).flatten(1))
        return torch.cat(maps, dim=1)


class GaborModel(VisionModel):
    """A fixed bank of Gabor energies over scales, orientations and positions, layer "energy"."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = GaborEnergies(gabor_bank())

    def forward(self, images: Tensor) -> Tensor:
        """Return energies (n_images, n_features), finest scale first."""
        energies: Tensor = self.energy(_grey(images))
        return energies


def build_baseline(baseline: Baseline) -> VisionModel:
    """Build a baseline."""
    return PixelModel() if baseline.kind == "pixels" else GaborModel()
