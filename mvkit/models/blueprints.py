"""What a network is, as data: the settings that each builder needs, free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Conv:
    """A convolution, its batch norm if the network has them, and a ReLU."""

    width: int
    kernel: int
    stride: int = 1
    padding: int = 0


@dataclass(frozen=True)
class Pool:
    """Max pooling."""

    kernel: int = 3
    stride: int = 2


@dataclass(frozen=True)
class Drop:
    """Dropout of one half."""


@dataclass(frozen=True)
class Hidden:
    """A fully connected layer, its batch norm if the classifier has them, and a ReLU."""

    width: int


@dataclass(frozen=True)
class Readout:
    """The last fully connected layer: logits."""

    classes: int = 1000


@dataclass(frozen=True)
class PlainNet:
    """A chain: features, adaptive average pooling, classifier.

    Attributes
    ----------
    features, classifier
        The layers; modules are numbered consecutively within each part.
    pooled_px
        Side of the map that the classifier sees.
    norm_features, norm_classifier
        Whether batch norms follow convolutions and hidden layers.
    weight_init
        "default" (PyTorch's own) or "fan_out" (He et al. 2015 with fan-out
        for convolutions, N(0, 0.01) for linear layers; torchvision's VGG).
    """

    features: tuple[Conv | Pool, ...]
    classifier: tuple[Drop | Hidden | Readout, ...]
    pooled_px: int
    norm_features: bool = False
    norm_classifier: bool = False
    weight_init: Literal["default", "fan_out"] = "default"


@dataclass(frozen=True)
class ResidualNet:
    """A residual network (He et al. 2016, table 1).

    Attributes
    ----------
    blocks
        Number of residual blocks in each of the four stages.
    bottleneck
        Blocks of three convolutions (1x1, 3x3, 1x1) instead of two.
    classes
        Width of the linear read-out; None: the network ends at the flattened average pool.
    """

    blocks: tuple[int, int, int, int]
    bottleneck: bool
    classes: int | None


#: The two kinds of edge from VISp to the output areas.
SkipEdge = Literal["1x1", "3x3"]


@dataclass(frozen=True)
class StreamNet:
    """Parallel streams between VISp and the output areas.

    Attributes
    ----------
    streams
        Names of the intermediate areas.
    outputs
        Output areas, in the order in which their maps are concatenated.
    norm
        Whether a batch norm follows every convolution.
    skip
        The edge from VISp to the output areas: "3x3" (convolution of stride 2
        without padding) or "1x1" (convolution, then max pooling).
    read_from
        Output areas that are read out; the others are computed but end there.
    classes
        Width of the linear read-out; None: ends at the flattened pooled maps.
    """

    streams: tuple[str, ...]
    outputs: tuple[str, ...]
    norm: bool
    skip: SkipEdge
    read_from: tuple[str, ...]
    classes: int | None


@dataclass(frozen=True)
class MirrorNet:
    """A stream network followed by its mirror image, back to an image.

    Attributes
    ----------
    encoder
        The stream network (without read-out).
    hidden
        Width of the fully connected bottleneck; None: the decoder starts from the pooled maps.
    """

    encoder: StreamNet
    hidden: int | None


@dataclass(frozen=True)
class ConnectomeNet:
    """MouseNet of Shi et al. in the reference's variant: LGNv is without batch norm and ReLU.

    Attributes
    ----------
    read_from
        Output areas in the order of concatenation.
    pooled_px
        Side to which the output maps are averaged; None: not pooled.
    classes
        Width of the linear read-out; None: ends at the concatenation.
    """

    read_from: tuple[str, ...]
    pooled_px: int | None
    classes: int | None


@dataclass(frozen=True)
class Baseline:
    """A fixed image transformation without weights."""

    kind: Literal["pixels", "gabor"]


Blueprint = PlainNet | ResidualNet | StreamNet | MirrorNet | ConnectomeNet | Baseline


@dataclass(frozen=True)
class Architecture:
    """A row of the table of networks.

    Attributes
    ----------
    name
        Name in the reference's tables and in the goldens.
    blueprint
        What the builder needs.
    layers
        Layers scored by default, from input to output.
    published_layers
        Layers that the reference scored, where they are not the default ones; else empty.
    """

    name: str
    blueprint: Blueprint
    layers: tuple[str, ...]
    published_layers: tuple[str, ...] = ()
