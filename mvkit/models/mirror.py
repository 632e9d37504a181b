"""Autoencoder and hour-glass networks: a stream network and its mirror image.

Source: Nayebi, Kong et al. 2023, as in the reference; goldens section 2. Every connection
of the encoder is mirrored, in reverse order and with its modules reversed:
ReLU, a batch norm of its own, a transposed convolution back to the size of
the encoder's input, and max unpooling with the encoder's indices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypedDict, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvkit.models.base import VisionModel
from mvkit.models.blueprints import MirrorNet
from mvkit.models.streams import CHANNELS_OUTPUT, INPUT, POOLED_PX, VISP, Edge, connections, edge_modules
from mvkit.models.unpooling import MaxUnpool


class MirrorOutput(TypedDict):
    """Output of a mirror network.

    ``encoder_output`` and ``hidden_vec`` are (n_images, width); ``output`` is (n_images, 3, 64, 64).
    """

    encoder_output: Tensor
    hidden_vec: Tensor
    output: Tensor


@dataclass
class Trace:
    """What one connection of the encoder must remember for its mirror image, in order."""

    conv_inputs: list[torch.Size] = field(default_factory=list)
    pool_inputs: list[torch.Size] = field(default_factory=list)
    pool_indices: list[Tensor] = field(default_factory=list)


class TracingBlock(nn.Sequential):
    """A connection of the encoder that records sizes and pooling indices."""

    def trace(self, maps: Tensor) -> tuple[Tensor, Trace]:
        """Run the connection; return its output and what the mirror image needs."""
        trace = Trace()
        for module in self:
            if isinstance(module, nn.MaxPool2d):
                trace.pool_inputs.append(maps.shape[-2:])
                maps, indices = module(maps)
                trace.pool_indices.append(indices)
                continue
            if isinstance(module, nn.Conv2d):
                trace.conv_inputs.append(maps.shape[-2:])
            maps = module(maps)
        return maps, trace


class MirroredBlock(nn.Sequential):
    """The mirror image of a connection."""

    def retrace(self, maps: Tensor, trace: Trace) -> Tensor:
        """Run the mirror image, undoing convolutions and pools in reverse order."""
        n_convs = n_pools = 0
        for module in self:
            if isinstance(module, nn.ConvTranspose2d):
                n_convs += 1
                maps = module(maps, output_size=list(trace.conv_inputs[-n_convs]))
            elif isinstance(module, MaxUnpool):
                n_pools += 1
                maps = module(maps, trace.pool_indices[-n_pools], trace.pool_inputs[-n_pools])
            else:
                maps = module(maps)
        return maps


class MirrorModel(VisionModel):
    """Encoder, optional fully connected bottleneck, and decoder back to an image."""

    def __init__(self, net: MirrorNet) -> None:
        super().__init__()
        encoder = net.encoder
        self._edges = connections(encoder.streams, encoder.outputs)
        self._outputs = encoder.outputs
        blocks = {edge.name: TracingBlock(*edge_modules(edge, encoder)) for edge in self._edges}
        for block in blocks.values():
            _record_indices(block)
        self.model_layers = nn.ModuleDict(blocks)
        self.areas = nn.ModuleDict(
            {area: nn.Identity() for area in (VISP, *encoder.streams, *encoder.outputs)}
        )
        self.avgpool = nn.AdaptiveAvgPool2d(POOLED_PX)
        self.flatten = nn.Flatten()
        width = len(encoder.outputs) * CHANNELS_OUTPUT * POOLED_PX**2
        self._has_bottleneck = net.hidden is not None
        if net.hidden is not None:
            self.compress_fc = nn.Linear(width, net.hidden)
            self.decompress_fc = nn.Linear(net.hidden, width)
        self.decoder_layers = nn.ModuleDict(
            {
                f"{edge.target}_{edge.source}": MirroredBlock(*_mirrored(blocks[edge.name]))
                for edge in reversed(self._edges)
            }
        )
        decoded_areas = (*reversed(encoder.streams), VISP, INPUT)
        self.decoder_areas = nn.ModuleDict({area: nn.Identity() for area in decoded_areas})
        self.outputs = nn.ModuleDict(
            {name: nn.Identity() for name in ("encoder_output", "hidden_vec", "output")}
        )

    def forward(self, images: Tensor) -> MirrorOutput:
        """Encode and decode."""
        activations, traces = self._encode(images)
        maps = torch.cat([activations[area] for area in self._outputs], dim=1)
        pooled = self.avgpool(maps)
        encoded: Tensor = self.outputs["encoder_output"](self.flatten(pooled))
        hidden: Tensor = self.compress_fc(encoded) if self._has_bottleneck else encoded
        hidden = self.outputs["hidden_vec"](hidden)
        seed: Tensor = self.decompress_fc(hidden) if self._has_bottleneck else hidden
        seed = functional.adaptive_avg_pool2d(seed.view(pooled.shape), (maps.shape[2], maps.shape[3]))
        image = self._decode(seed, traces)
        return {"encoder_output": encoded, "hidden_vec": hidden, "output": self.outputs["output"](image)}

    def _encode(self, images: Tensor) -> tuple[dict[str, Tensor], dict[Edge, Trace]]:
        activations, traces = {INPUT: images}, {}
        for area, module in self.areas.items():
            total: Tensor | None = None
            for edge in (edge for edge in self._edges if edge.target == area):
                maps, traces[edge] = cast(TracingBlock, self.model_layers[edge.name]).trace(
                    activations[edge.source]
                )
                total = maps if total is None else total + maps
            activations[area] = module(total)
        return activations, traces

    def _decode(self, seed: Tensor, traces: dict[Edge, Trace]) -> Tensor:
        activations = dict(zip(self._outputs, torch.split(seed, CHANNELS_OUTPUT, dim=1), strict=True))
        for area, module in self.decoder_areas.items():
            total: Tensor | None = None
            for edge in (edge for edge in self._edges if edge.source == area):
                mirror = cast(MirroredBlock, self.decoder_layers[f"{edge.target}_{edge.source}"])
                maps = mirror.retrace(activations[edge.target], traces[edge])
                total = maps if total is None else total + maps
            activations[area] = module(total)
        return activations[INPUT]

    def tap_points(self) -> dict[str, str]:
        """Return areas, decoder areas and outputs; blocks return more than a map and cannot be tapped."""
        return {
            **{area: f"areas.{area}" for area in self.areas},
            "avgpool": "avgpool",
            **{f"decoder:{area}": f"decoder_areas.{area}" for area in self.decoder_areas},
            **{f"final:{name}": f"outputs.{name}" for name in self.outputs},
        }


def _record_indices(block: TracingBlock) -> None:
    for module in block:
        if isinstance(module, nn.MaxPool2d):
            module.return_indices = True


def _mirrored(block: TracingBlock) -> Iterator[nn.Module]:
    """Return the modules of the mirror image."""
    for module in reversed(list(block)):
        if isinstance(module, nn.Conv2d):
            yield nn.ConvTranspose2d(
                module.out_channels,
                module.in_channels,
                module.kernel_size,  # type: ignore[arg-type]
                module.stride,  # type: ignore[arg-type]
                module.padding,  # type: ignore[arg-type]
            )
        elif isinstance(module, nn.BatchNorm2d):
            yield nn.BatchNorm2d(module.num_features)
        elif isinstance(module, nn.MaxPool2d):
            yield MaxUnpool()
        else:
            yield nn.ReLU()
