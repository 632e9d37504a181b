"""Stream networks, and their mirror images that decode an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypedDict, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mvkit.models.base import FINAL, VisionModel
from mvkit.models.registry import MirrorNet, SkipEdge, StreamNet

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


class MaxUnpool(nn.Module):
    """Put pooled values back where their maxima were; all other positions are zero."""

    def forward(self, pooled: Tensor, indices: Tensor, size: torch.Size) -> Tensor:
        """Unpool.

        Parameters
        ----------
        pooled
            Values (n_images, channels, h, w).
        indices
            int64, same shape: flat position in the unpooled map, as returned by max pooling.
        size
            Height and width of the unpooled map.

        Returns
        -------
        Tensor
            (n_images, channels, *size). Where windows overlap and several values
            go to one position, the last one in C order of the pooled map stays,
            on every device (golden section 2).
        """
        flat: Tensor = _LastWins.apply(pooled.flatten(2), indices.flatten(2), size.numel())
        return flat.reshape(*pooled.shape[:2], *size)


class _LastWins(torch.autograd.Function):
    """Scatter (n, channels, n_values) to (n, channels, n_positions)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, targets: Tensor, n_positions: int) -> Tensor:
        ctx.save_for_backward(targets)
        order = torch.arange(targets.shape[2], device=targets.device).expand_as(targets)
        # The highest order wins: a maximum does not depend on the order of writing, a plain scatter does.
        last = order.new_full((*targets.shape[:2], n_positions), -1)
        last = last.scatter_reduce(2, targets, order, "amax")
        wins = last.gather(2, targets) == order
        # Losers go to a spare slot behind the map, so no two values that count share a position.
        spare = torch.full_like(targets, n_positions)
        flat = values.new_zeros((*values.shape[:2], n_positions + 1))
        flat.scatter_(2, torch.where(wins, targets, spare), values)
        return flat[..., :n_positions].contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        # As in torch's own unpooling, with which the published networks were trained, the gradient of a
        # position goes to every value that was sent there, also to those that were overwritten.
        (targets,) = ctx.saved_tensors
        return gradient.gather(2, targets), None, None


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
                f"{edge.target}_{edge.source}": MirroredBlock(*_mirror_modules(blocks[edge.name]))
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


def _mirror_modules(block: TracingBlock) -> Iterator[nn.Module]:
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
