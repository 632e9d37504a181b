"""MouseNet of Shi et al.: areas and layers joined by convolutions with Gaussian connection masks.

In the variant of the code published with Nayebi, Kong et al. 2023, LGNv is a convolution without batch norm
and ReLU; in Shi et al.'s own (mabuice/Mouse_CNN) it has both.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvkit.models.base import FINAL, VisionModel
from mvkit.models.registry import (
    AREAS,
    CONNECTIONS,
    INPUT,
    INPUT_CHANNELS,
    RELAY,
    WIDTHS,
    Connection,
    ConnectomeNet,
)

_MAP_PX = {"LGNv": 64, "VISp4": 64, "VISp2/3": 64, "VISp5": 64}
_HIGHER_MAP_PX = 32


class MaskedConv(nn.Conv2d):
    """A convolution whose kernels have holes, drawn once when the network is built.

    The mask is a parameter without gradient, so that it is part of checkpoints.
    """

    def __init__(self, connection: Connection) -> None:
        channels = INPUT_CHANNELS if connection.source == INPUT else WIDTHS[connection.source]
        super().__init__(channels, WIDTHS[connection.target], connection.kernel_px, connection.stride)
        self._margins = connection.padding_px
        self.mask = nn.Parameter(_draw_mask(connection, self.weight), requires_grad=False)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve the zero-padded maps with the masked kernels."""
        return functional.conv2d(
            functional.pad(input, self._margins), self.weight * self.mask, self.bias, self.stride
        )

    def kernels(self, reach_px: int) -> Tensor:
        """Return the masked kernels, zero-padded to ``reach_px`` around the centre."""
        margin = reach_px - self.kernel_size[0] // 2
        return functional.pad(self.weight * self.mask, (margin, margin, margin, margin))


def _draw_mask(connection: Connection, weight: Tensor) -> Tensor:
    """Draw which weights exist, 0 or 1, shape of ``weight`` (Shi et al., Methods: Gaussian mask)."""
    offsets = torch.arange(-connection.reach_px, connection.reach_px + 1, dtype=torch.float32)
    squared_radius = offsets[:, None] ** 2 + offsets[None, :] ** 2
    probability = connection.peak * torch.exp(-squared_radius / (2 * connection.sigma_px**2))
    return (torch.rand_like(weight) < probability.to(weight.device)).to(weight.dtype)


class ConnectomeModel(VisionModel):
    """LGNv, then areas whose activation is ReLU(batch norm(sum of their inputs)).

    In the reference's variant the batch norm of LGNv exists only because checkpoints hold it; the reference
    never used it, and LGNv is the bare convolution.
    """

    def __init__(self, net: ConnectomeNet) -> None:
        super().__init__()
        self.Convs = nn.ModuleDict({edge.name: MaskedConv(edge) for edge in CONNECTIONS})
        targets = dict.fromkeys(edge.target for edge in CONNECTIONS)
        self.BNs = nn.ModuleDict({area: nn.BatchNorm2d(WIDTHS[area]) for area in targets})
        self._bare = () if net.norm_relay else (RELAY,)
        self.areas = nn.ModuleDict(
            {area: nn.Identity() if area in self._bare else nn.ReLU() for area in AREAS}
        )
        self.pool = nn.Identity() if net.pooled_px is None else nn.AdaptiveAvgPool2d(net.pooled_px)
        self.flatten = nn.Flatten()
        self._read_from = net.read_from
        self._has_readout = net.classes is not None
        if net.classes is not None:
            self.classifier = nn.Sequential(nn.Linear(_width(net), net.classes))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, or the concatenated output areas of a network without read-out."""
        totals: dict[str, Tensor] = {}
        activations: dict[str, Tensor] = {}
        self._project(INPUT, images, totals)
        for area, module in self.areas.items():
            total = totals.pop(area)
            activations[area] = module(total if area in self._bare else self.BNs[area](total))
            self._project(area, activations[area], totals)
        pooled = [self.flatten(self.pool(activations[area])) for area in self._read_from]
        joined = torch.cat(pooled, dim=1)
        output: Tensor = self.classifier(joined) if self._has_readout else joined
        return output

    def _project(self, source: str, maps: Tensor, totals: dict[str, Tensor]) -> None:
        """Add what ``source`` sends to its targets to their totals.

        Connections of equal stride share one convolution with kernels padded to
        the largest: 49 convolutions of a few channels each would take three
        times as long.
        """
        for stride in (1, 2):
            group = [edge for edge in CONNECTIONS if edge.source == source and edge.stride == stride]
            if not group:
                continue
            widest = max(group, key=lambda edge: edge.reach_px)
            convs = [cast(MaskedConv, self.Convs[edge.name]) for edge in group]
            kernels = torch.cat([conv.kernels(widest.reach_px) for conv in convs])
            biases = torch.cat([cast(Tensor, conv.bias) for conv in convs])
            sent = functional.conv2d(functional.pad(maps, widest.padding_px), kernels, biases, stride)
            for edge, part in zip(
                group, torch.split(sent, [conv.out_channels for conv in convs], 1), strict=True
            ):
                totals[edge.target] = totals[edge.target] + part if edge.target in totals else part

    def tap_points(self) -> dict[str, str]:
        """Return areas, then the output; convolutions of one source run together and cannot be tapped."""
        return {**{area: f"areas.{area}" for area in self.areas}, FINAL: ""}


def _width(net: ConnectomeNet) -> int:
    sides = [net.pooled_px or _MAP_PX.get(area, _HIGHER_MAP_PX) for area in net.read_from]
    return sum(WIDTHS[area] * side**2 for area, side in zip(net.read_from, sides, strict=True))
