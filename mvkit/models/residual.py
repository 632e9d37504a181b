"""Residual networks (He et al. 2016) for 64 px images; keys and numbers as in torchvision's."""

from __future__ import annotations

from torch import Tensor, nn

from mvkit.models.base import VisionModel
from mvkit.models.blueprints import ResidualNet

_STAGE_WIDTHS = (64, 128, 256, 512)
_BOTTLENECK_EXPANSION = 4


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
