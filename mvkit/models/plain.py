"""Chains and residual networks (AlexNet, VGG, ResNet), and the baselines pixels and gabor."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvkit.gabor import GREY_LEVEL, GaborScale, gabor_bank
from mvkit.models.base import VisionModel
from mvkit.models.registry import Baseline, Conv, Dropout, Hidden, PlainNet, Pool, Readout, ResidualNet

_IMAGE_CHANNELS = 3

#: Channels of the four stages of a residual network, and the factor by which bottlenecks widen them.
_STAGE_WIDTHS = (64, 128, 256, 512)
_BOTTLENECK_EXPANSION = 4


class PlainModel(VisionModel):
    """A chain of convolutions and pools, adaptive average pooling, and a classifier."""

    def __init__(self, net: PlainNet) -> None:
        super().__init__()
        self.features = nn.Sequential(*_feature_modules(net))
        self.avgpool = nn.AdaptiveAvgPool2d(net.pooled_px)
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential(*_classifier_modules(net))
        if net.weight_init == "fan_out":
            self.apply(_init_fan_out)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, or the last hidden layer of a network without read-out."""
        output: Tensor = self.classifier(self.flatten(self.avgpool(self.features(images))))
        return output


def _feature_modules(net: PlainNet) -> Iterator[nn.Module]:
    channels = _IMAGE_CHANNELS
    for layer in net.features:
        if isinstance(layer, Conv):
            yield nn.Conv2d(channels, layer.width, layer.kernel, layer.stride, layer.padding)
            channels = layer.width
            if net.norm_features:
                yield nn.BatchNorm2d(channels)
            yield nn.ReLU()
        elif isinstance(layer, Pool):
            yield nn.MaxPool2d(layer.kernel, layer.stride)


def _classifier_modules(net: PlainNet) -> Iterator[nn.Module]:
    last_conv = [layer for layer in net.features if isinstance(layer, Conv)][-1]
    width = last_conv.width * net.pooled_px**2
    for layer in net.classifier:
        if isinstance(layer, Dropout):
            yield nn.Dropout(0.5)
        elif isinstance(layer, Hidden):
            yield nn.Linear(width, layer.width)
            width = layer.width
            if net.norm_classifier:
                yield nn.BatchNorm1d(width)
            yield nn.ReLU()
        elif isinstance(layer, Readout):
            yield nn.Linear(width, layer.classes)


def _init_fan_out(module: nn.Module) -> None:
    """Initialise as torchvision's VGG: He normal (fan-out) convolutions, N(0, 0.01) linear, zero biases."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.01)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


class PlainBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.downsample = _shortcut(channels, width, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """Return ReLU(residual + shortcut)."""
        residual = self.relu1(self.bn1(self.conv1(maps)))
        residual = self.bn2(self.conv2(residual))
        shortcut = maps if self.downsample is None else self.downsample(maps)
        output: Tensor = self.relu2(residual + shortcut)
        return output


class BottleneckBlock(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions beside a shortcut."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        wide = width * _BOTTLENECK_EXPANSION
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, wide, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(wide)
        self.relu3 = nn.ReLU()
        self.downsample = _shortcut(channels, wide, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """Return ReLU(residual + shortcut)."""
        residual = self.relu1(self.bn1(self.conv1(maps)))
        residual = self.relu2(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        shortcut = maps if self.downsample is None else self.downsample(maps)
        output: Tensor = self.relu3(residual + shortcut)
        return output


class ResidualModel(VisionModel):
    """A stem, four stages of residual blocks, the average over positions, and a read-out."""

    def __init__(self, net: ResidualNet) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        expansion = _BOTTLENECK_EXPANSION if net.bottleneck else 1
        block = BottleneckBlock if net.bottleneck else PlainBlock
        channels = 64
        for stage, (width, n_blocks) in enumerate(zip(_STAGE_WIDTHS, net.blocks, strict=True)):
            blocks: list[nn.Module] = []
            for position in range(n_blocks):
                stride = 2 if stage > 0 and position == 0 else 1
                blocks.append(block(channels, width, stride))
                channels = width * expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        if net.classes is not None:
            self.fc = nn.Linear(channels, net.classes)
        self._has_readout = net.classes is not None
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, or the averaged last maps of a network without read-out."""
        maps = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for stage in range(1, len(_STAGE_WIDTHS) + 1):
            maps = self.get_submodule(f"layer{stage}")(maps)
        pooled: Tensor = self.flatten(self.avgpool(maps))
        return self.fc(pooled) if self._has_readout else pooled


def _shortcut(channels: int, width: int, stride: int) -> nn.Sequential | None:
    """Project the input where a block changes its shape; None: the identity."""
    if stride == 1 and channels == width:
        return None
    return nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))


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
    """Energies of the Gabor bank; the same numbers as :func:`mvkit.gabor.gabor_energies`."""

    def __init__(self, bank: tuple[GaborScale, ...]) -> None:
        super().__init__()
        self._strides = tuple(scale.stride for scale in bank)
        for number, scale in enumerate(bank):
            for phase in ("even", "odd"):
                kernels = torch.tensor(getattr(scale, phase), dtype=torch.float32).unsqueeze(1)
                # Not persistent: the bank is defined by code, not by a state dict.
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
