"""Stream networks: parallel pathways between VISp and the output areas (Nayebi, Kong et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mvkit.models.base import FINAL, VisionModel
from mvkit.models.blueprints import SkipEdge, StreamNet

INPUT = "input"
VISP = "VISp"

_CHANNELS_INPUT, _CHANNELS_VISP, _CHANNELS_STREAM, CHANNELS_OUTPUT = 3, 64, 384, 256
_CHANNELS_WITHIN_STREAM = 192
POOLED_PX = 6


class Edge(NamedTuple):
    """A connection between two areas."""

    source: str
    target: str

    @property
    def name(self) -> str:
        """Name of the connection in state dicts."""
        return f"{self.source}_{self.target}"


def connections(streams: Sequence[str], outputs: Sequence[str]) -> tuple[Edge, ...]:
    """Return the wiring in state-dict order: input -> VISp -> streams -> outputs, and VISp -> outputs.

    Parameters
    ----------
    streams
        Intermediate areas; each receives from VISp and projects to all outputs.
    outputs
        Output areas, in the order of concatenation. A stream projects to them in reverse order.
    """
    return (
        Edge(INPUT, VISP),
        *(Edge(VISP, stream) for stream in streams),
        *(Edge(VISP, output) for output in outputs),
        *(Edge(stream, output) for stream in streams for output in reversed(outputs)),
    )


def edge_modules(edge: Edge, net: StreamNet) -> list[nn.Module]:
    """Return the modules of a connection; its kind follows from the two areas."""
    if edge.source == INPUT:
        return [*_conv(_CHANNELS_INPUT, _CHANNELS_VISP, 11, 4, 2, norm=net.norm), nn.MaxPool2d(3, 2)]
    if edge.target in net.streams:
        return [
            *_conv(_CHANNELS_VISP, _CHANNELS_WITHIN_STREAM, 5, 1, 2, norm=net.norm),
            nn.MaxPool2d(3, 2),
            *_conv(_CHANNELS_WITHIN_STREAM, _CHANNELS_STREAM, 3, 1, 1, norm=net.norm),
        ]
    if edge.source == VISP:
        return _skip_modules(net.skip, norm=net.norm)
    return _conv(_CHANNELS_STREAM, CHANNELS_OUTPUT, 3, 1, 1, norm=net.norm)


def _skip_modules(skip: SkipEdge, *, norm: bool) -> list[nn.Module]:
    if skip == "3x3":
        return _conv(_CHANNELS_VISP, CHANNELS_OUTPUT, 3, 2, 0, norm=norm)
    return [*_conv(_CHANNELS_VISP, CHANNELS_OUTPUT, 1, 1, 0, norm=norm), nn.MaxPool2d(3, 2)]


def _conv(
    channels: int, width: int, kernel: int, stride: int, padding: int, *, norm: bool
) -> list[nn.Module]:
    modules: list[nn.Module] = [nn.Conv2d(channels, width, kernel, stride, padding)]
    if norm:
        modules.append(nn.BatchNorm2d(width))
    return [*modules, nn.ReLU()]


class StreamModel(VisionModel):
    """Areas joined by convolution blocks; several inputs of an area are summed."""

    def __init__(self, net: StreamNet) -> None:
        super().__init__()
        self._edges = connections(net.streams, net.outputs)
        self._read_from = net.read_from
        self._has_readout = net.classes is not None
        self.model_layers = nn.ModuleDict(
            {edge.name: nn.Sequential(*edge_modules(edge, net)) for edge in self._edges}
        )
        # One module per area whose output is the area's activation, so that areas can be tapped.
        self.areas = nn.ModuleDict({area: nn.Identity() for area in (VISP, *net.streams, *net.outputs)})
        self.avgpool = nn.AdaptiveAvgPool2d(POOLED_PX)
        if net.classes is None:
            self.flatten = nn.Flatten()
        else:
            width = len(net.read_from) * CHANNELS_OUTPUT * POOLED_PX**2
            self.classifier = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(width, net.classes))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, or the flattened pooled maps of a network without read-out."""
        activations = {INPUT: images}
        for area, module in self.areas.items():
            inputs = [
                self.model_layers[edge.name](activations[edge.source])
                for edge in self._edges
                if edge.target == area
            ]
            activations[area] = module(_total(inputs))
        pooled = self.avgpool(torch.cat([activations[area] for area in self._read_from], dim=1))
        output: Tensor = self.classifier(pooled) if self._has_readout else self.flatten(pooled)
        return output

    def tap_points(self) -> dict[str, str]:
        """Return areas, then all other modules by path, then the output."""
        areas = {area: f"areas.{area}" for area in self.areas}
        others = {path: path for path in self.module_paths() if not path.startswith("areas.")}
        return {**areas, **others, FINAL: ""}


def _total(inputs: Sequence[Tensor]) -> Tensor:
    """Add up without overwriting any: each input is a ReLU's output, which its gradient needs."""
    total = inputs[0]
    for each in inputs[1:]:
        total = total + each
    return total
