"""Networks as rows: architectures, released models with the paper's values, names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from mvkit.errors import UsageError, unknown_name
from mvkit.models.preprocessing import GREY_64, IMAGENET_64, Preprocessing


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
class Dropout:
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
    classifier: tuple[Dropout | Hidden | Readout, ...]
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
    """MouseNet of Shi et al., by default in the reference's variant: LGNv is without batch norm and ReLU.

    Attributes
    ----------
    read_from
        Output areas in the order of concatenation.
    pooled_px
        Side to which the output maps are averaged; None: not pooled.
    classes
        Width of the linear read-out; None: ends at the concatenation.
    norm_relay
        Whether LGNv has batch norm and ReLU like every other area, as in Shi et al.'s own code
        (mabuice/Mouse_CNN, ``MouseNetCompletePool``).
    """

    read_from: tuple[str, ...]
    pooled_px: int | None
    classes: int | None
    norm_relay: bool = False


@dataclass(frozen=True)
class Baseline:
    """A fixed image transformation without weights."""

    kind: Literal["pixels", "gabor"]


Blueprint = PlainNet | ResidualNet | StreamNet | MirrorNet | ConnectomeNet | Baseline


@dataclass(frozen=True)
class JoinedLayer:
    """A source population that is made of several layers.

    Attributes
    ----------
    name
        Its name in results.
    parts
        The layers, whose flattened features lie side by side in this order.
    """

    name: str
    parts: tuple[str, ...]


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
    joined_layers
        Populations of several layers that the reference scored, from input to output.
    """

    name: str
    blueprint: Blueprint
    layers: tuple[str, ...]
    published_layers: tuple[str, ...] = ()
    joined_layers: tuple[JoinedLayer, ...] = ()


INPUT = "input"
RELAY = "LGNv"
INPUT_CHANNELS = 3

#: Channels of every area.
WIDTHS: Mapping[str, int] = MappingProxyType(
    {
        "LGNv": 5,
        "VISp4": 22,
        "VISp2/3": 45,
        "VISp5": 40,
        "VISal4": 22,
        "VISal2/3": 52,
        "VISal5": 53,
        "VISpl4": 8,
        "VISpl2/3": 18,
        "VISpl5": 18,
        "VISli4": 4,
        "VISli2/3": 10,
        "VISli5": 8,
        "VISrl4": 7,
        "VISrl2/3": 17,
        "VISrl5": 14,
        "VISl4": 9,
        "VISl2/3": 22,
        "VISl5": 18,
        "VISpor4": 14,
        "VISpor2/3": 34,
        "VISpor5": 28,
    }
)

#: Areas in an order in which every source precedes its targets.
AREAS = tuple(WIDTHS)

#: LGNv, and every cortical area as one population: L4, L2/3 and L5 in this order (the reference's
#: ``MODEL_LAYER_CONCATS``, scheme "1").
WHOLE_AREAS = (
    JoinedLayer("LGNv", ("LGNv",)),
    *(
        JoinedLayer(area, tuple(f"{area}{depth}" for depth in ("4", "2/3", "5")))
        for area in ("VISp", "VISal", "VISpl", "VISli", "VISrl", "VISl", "VISpor")
    ),
)

#: Areas that a read-out may use.
OUTPUT_AREAS = ("VISp5", "VISl5", "VISrl5", "VISli5", "VISpl5", "VISal5", "VISpor5")


@dataclass(frozen=True)
class Connection:
    """A masked convolution from one area to another.

    Attributes
    ----------
    source, target
        Area names.
    peak
        Probability of a connection at the kernel's centre (above 1: certain).
    sigma_px
        Standard deviation of the Gaussian fall-off, in source pixels.
    """

    source: str
    target: str
    peak: float
    sigma_px: float

    @property
    def name(self) -> str:
        """Name of the convolution in state dicts."""
        return f"{self.source}_{self.target}"

    @property
    def reach_px(self) -> int:
        """Kernel pixels to each side of the centre."""
        return int(self.sigma_px)

    @property
    def kernel_px(self) -> int:
        """Side of the kernel."""
        return 2 * self.reach_px + 1

    @property
    def stride(self) -> int:
        """Two from VISp to another area (64 px to 32 px maps), else one."""
        return 2 if _is_visp(self.source) and not _is_visp(self.target) and self.source != RELAY else 1

    @property
    def padding_px(self) -> tuple[int, int, int, int]:
        """Zeros added left, right, top and bottom; with stride 2 one less at the left and the top."""
        before = self.reach_px - (self.stride - 1)
        return (before, self.reach_px, before, self.reach_px)


def _is_visp(area: str) -> bool:
    return area in ("VISp4", "VISp2/3", "VISp5")


#: The 49 connections, in the order of the state dict.
CONNECTIONS = tuple(
    Connection(source, target, peak, sigma_px)
    for source, target, peak, sigma_px in (
        ("input", "LGNv", 1.0, 4.0),
        ("LGNv", "VISp4", 1.0, 1.0),
        ("VISp4", "VISp2/3", 0.161825, 4.373461),
        ("VISp4", "VISl4", 0.034912, 9.829922),
        ("VISp4", "VISrl4", 0.037577, 9.626474),
        ("VISp4", "VISli4", 0.037450, 9.312343),
        ("VISp4", "VISpl4", 0.037738, 9.122277),
        ("VISp4", "VISal4", 0.045823, 8.698111),
        ("VISp4", "VISpor4", 0.015624, 8.689174),
        ("VISp2/3", "VISp5", 0.167338, 1.875687),
        ("VISp2/3", "VISl4", 0.035737, 9.648759),
        ("VISp2/3", "VISrl4", 0.029711, 10.051601),
        ("VISp2/3", "VISli4", 0.042098, 8.982344),
        ("VISp2/3", "VISpl4", 0.044107, 8.417906),
        ("VISp2/3", "VISal4", 0.058250, 7.881177),
        ("VISp2/3", "VISpor4", 0.011840, 9.104469),
        ("VISl4", "VISl2/3", 0.161825, 4.908690),
        ("VISl4", "VISpor4", 0.022289, 7.210774),
        ("VISrl4", "VISrl2/3", 0.161825, 5.757328),
        ("VISrl4", "VISpor4", 0.103294, 4.017320),
        ("VISli4", "VISli2/3", 0.161825, 8.166831),
        ("VISli4", "VISpor4", 0.018471, 9.092790),
        ("VISpl4", "VISpl2/3", 0.161825, 8.583622),
        ("VISpl4", "VISpor4", 0.075101, 1.366755),
        ("VISal4", "VISal2/3", 0.161825, 6.438807),
        ("VISal4", "VISpor4", 0.226739, 1.755297),
        ("VISpor4", "VISpor2/3", 0.161825, 6.233914),
        ("VISp5", "VISl4", 0.033885, 9.751817),
        ("VISp5", "VISrl4", 0.033449, 9.747833),
        ("VISp5", "VISli4", 0.034392, 9.838764),
        ("VISp5", "VISpl4", 0.042830, 8.709978),
        ("VISp5", "VISal4", 0.051527, 7.482450),
        ("VISp5", "VISpor4", 0.012734, 9.336677),
        ("VISl2/3", "VISl5", 0.167338, 2.144074),
        ("VISl2/3", "VISpor4", 0.015374, 7.128502),
        ("VISrl2/3", "VISrl5", 0.167338, 2.439083),
        ("VISrl2/3", "VISpor4", 0.081975, 4.059625),
        ("VISli2/3", "VISli5", 0.167338, 3.180175),
        ("VISli2/3", "VISpor4", 0.019500, 8.500520),
        ("VISpl2/3", "VISpl5", 0.167338, 2.546929),
        ("VISpl2/3", "VISpor4", 0.050238, 2.393610),
        ("VISal2/3", "VISal5", 0.167338, 2.756879),
        ("VISal2/3", "VISpor4", 1.258190, 0.601440),
        ("VISpor2/3", "VISpor5", 0.167338, 1.724692),
        ("VISl5", "VISpor4", 0.020883, 7.549487),
        ("VISrl5", "VISpor4", 0.083282, 4.306474),
        ("VISli5", "VISpor4", 0.038071, 7.820254),
        ("VISpl5", "VISpor4", 0.083205, 2.137409),
        ("VISal5", "VISpor4", 1.192371, 0.676837),
    )
)


def _layers(*, features: tuple[int, ...], classifier: tuple[int, ...]) -> tuple[str, ...]:
    """Name modules of a plain chain by their numbers within its two parts."""
    return (*(f"features.{n}" for n in features), *(f"classifier.{n}" for n in classifier))


def _vgg_block(widths: tuple[int, ...]) -> tuple[Conv | Pool, ...]:
    """Return 3x3 convolutions of these widths and a pool that halves the map."""
    return (*(Conv(width, kernel=3, padding=1) for width in widths), Pool(kernel=2, stride=2))


# AlexNet (Krizhevsky 2014, "one weird trick"), the chain that its truncations cut short.
_ALEXNET_FEATURES = (
    Conv(64, kernel=11, stride=4, padding=2),
    Pool(),
    Conv(192, kernel=5, padding=2),
    Pool(),
    Conv(384, kernel=3, padding=1),
    Conv(256, kernel=3, padding=1),
    Conv(256, kernel=3, padding=1),
    Pool(),
)
_ALEXNET_HEADLESS = (Dropout(), Hidden(4096), Dropout(), Hidden(4096))
_ALEXNET = PlainNet(_ALEXNET_FEATURES, (*_ALEXNET_HEADLESS, Readout()), pooled_px=6)
_ALEXNET_LAYERS = _layers(features=(2, 5, 7, 9, 12), classifier=(2, 5))
_ALEXNET_BN_LAYERS = _layers(features=(3, 7, 10, 13, 17), classifier=(3, 7))
# Name of the truncation -> number of feature items, and the classifier.
_ALEXNET_TRUNCATIONS = {
    "two": (4, (Dropout(), Readout())),
    "three": (5, (Dropout(), Readout())),
    "four": (6, (Dropout(), Readout())),
    "five": (8, (Dropout(), Readout())),
    "six": (8, (Dropout(), Hidden(4096), Readout())),
}
_TRUNCATED_LAYERS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6}

# VGG16 (Simonyan & Zisserman 2015, table 1, column D): widths of the convolutions of each block.
_VGG16_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_VGG16_FEATURES = tuple(layer for widths in _VGG16_BLOCKS for layer in _vgg_block(widths))
_VGG16_HEADLESS = (Hidden(4096), Dropout(), Hidden(4096))
_VGG16_LAYERS = _layers(features=(4, 9, 16, 23, 30), classifier=(1, 4))
_VGG16_BN_LAYERS = _layers(features=(6, 13, 23, 33, 43), classifier=(1, 4))
# The reference scored vgg16_ir by the list of the VGG16 without batch norm, where it means the five pools.
# With batch norms the same numbers are a batch norm, two ReLUs, the third pool and a convolution.
_VGG16_BN_PUBLISHED = _VGG16_LAYERS
_VGG16 = PlainNet(
    _VGG16_FEATURES, (*_VGG16_HEADLESS, Dropout(), Readout()), pooled_px=7, weight_init="fan_out"
)

# Core of a network that is trained on recordings (Klindt et al. 2017: three convolutions, the first with a
# large kernel, each with batch norm); widths and the stride are mvkit's own.
_CORE = PlainNet(
    (Conv(32, kernel=9, stride=2, padding=4), Conv(32, kernel=3, padding=1), Conv(32, kernel=3, padding=1)),
    classifier=(),
    pooled_px=4,
    norm_features=True,
)

# Blocks per stage and whether they are bottlenecks (He et al. 2016, table 1).
_RESIDUAL = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}

#: Streams of the three kinds of stream network.
STREAMS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "single": ("ventral",),
        "dual": ("ventral", "dorsal"),
        "six": ("VISl", "VISrl", "VISal", "VISli", "VISpm", "VISpl"),
    }
)
_OUTPUTS = {"single": ("VISpor",), "dual": ("VISpor", "VISam"), "six": ("VISpor", "VISam")}
_PREFIX = "simplified_mousenet"


def _plain_rows() -> Iterator[Architecture]:
    headless = replace(_ALEXNET, classifier=_ALEXNET_HEADLESS)
    normed = replace(_ALEXNET, norm_features=True, norm_classifier=True)
    headless_normed = replace(normed, classifier=_ALEXNET_HEADLESS)
    yield Architecture("alexnet_bn_ir_64x64_input_pool_6", headless_normed, _ALEXNET_BN_LAYERS)
    yield Architecture("alexnet_bn", normed, _ALEXNET_BN_LAYERS)
    yield Architecture("alexnet_ir_64x64_input_pool_6", headless, _ALEXNET_LAYERS)
    yield Architecture("alexnet_64x64_input_pool_6", _ALEXNET, _ALEXNET_LAYERS)
    for depth, (n_items, classifier) in _ALEXNET_TRUNCATIONS.items():
        net = replace(_ALEXNET, features=_ALEXNET_FEATURES[:n_items], classifier=classifier)
        yield Architecture(f"alexnet_{depth}_64x64", net, _ALEXNET_LAYERS[: _TRUNCATED_LAYERS[depth]])
    yield Architecture("vgg16_64x64_input", _VGG16, _VGG16_LAYERS)
    headless_vgg = replace(_VGG16, classifier=_VGG16_HEADLESS, norm_features=True)
    yield Architecture("vgg16_ir_64x64", headless_vgg, _VGG16_BN_LAYERS, _VGG16_BN_PUBLISHED)
    yield Architecture("convolutional_core", _CORE, _layers(features=(2, 5, 8), classifier=()))


def _residual_rows() -> Iterator[Architecture]:
    for depth, (blocks, bottleneck) in _RESIDUAL.items():
        stages = [f"layer{stage + 1}.{block}" for stage, n in enumerate(blocks) for block in range(n)]
        layers = ("relu", "maxpool", *stages, "avgpool")
        for suffix, classes in (("64x64_input", 1000), ("ir_64x64", None)):
            yield Architecture(f"resnet{depth}_{suffix}", ResidualNet(blocks, bottleneck, classes), layers)


def _stream_net(kind: str, *, norm: bool, skip: SkipEdge, classes: int | None) -> StreamNet:
    outputs = _OUTPUTS[kind]
    return StreamNet(STREAMS[kind], outputs, norm, skip, read_from=outputs, classes=classes)


def _stream_rows() -> Iterator[Architecture]:
    # name after the prefix -> streams, batch norm, edge VISp -> outputs, classes, only VISpor read out
    rows: Mapping[str, tuple[str, bool, SkipEdge, int | None, bool]] = {
        "single_stream_ir": ("single", True, "3x3", None, False),
        "dual_stream_visp_3x3_ir": ("dual", True, "3x3", None, False),
        "six_stream_visp_3x3_simclr": ("six", True, "3x3", None, False),
        "single_stream": ("single", True, "3x3", 1000, False),
        "dual_stream": ("dual", False, "1x1", 1000, False),
        "six_stream": ("six", False, "1x1", 1000, False),
        "dual_stream_visp_3x3": ("dual", False, "3x3", 1000, False),
        "six_stream_visp_3x3": ("six", False, "3x3", 1000, False),
        "dual_stream_visp_3x3_bn": ("dual", True, "3x3", 1000, False),
        "six_stream_visp_3x3_bn": ("six", True, "3x3", 1000, False),
        "dual_stream_vispor_only": ("dual", False, "1x1", 1000, True),
        "six_stream_vispor_only": ("six", False, "1x1", 1000, True),
        "dual_stream_vispor_only_visp_3x3": ("dual", False, "3x3", 1000, True),
        "six_stream_vispor_only_visp_3x3": ("six", False, "3x3", 1000, True),
    }
    for name, (kind, norm, skip, classes, only_vispor) in rows.items():
        net = _stream_net(kind, norm=norm, skip=skip, classes=classes)
        if only_vispor:
            net = replace(net, read_from=("VISpor",))
        yield Architecture(f"{_PREFIX}_{name}", net, ("VISp", *net.streams, *net.outputs))


def _mirror_rows() -> Iterator[Architecture]:
    for family, hidden in (("ae", 128), ("depth_hour_glass", None)):
        for kind in STREAMS:
            encoder = _stream_net(kind, norm=True, skip="3x3", classes=None)
            layers = ("VISp", *encoder.streams, *encoder.outputs)
            yield Architecture(f"{_PREFIX}_{family}_{kind}_stream", MirrorNet(encoder, hidden), layers)


def _connectome_rows() -> Iterator[Architecture]:
    reversed_outputs = tuple(reversed(OUTPUT_AREAS))
    rows = {
        "shi_mousenet": ConnectomeNet(reversed_outputs, 4, 1000),
        "shi_mousenet_ir": ConnectomeNet(reversed_outputs, 4, None),
        "shi_mousenet_vispor5": ConnectomeNet(("VISpor5",), None, 1000),
        "shi_mousenet_vispor5_ir": ConnectomeNet(("VISpor5",), None, None),
        "shi_mousenet_vispor5_pool_4": ConnectomeNet(("VISpor5",), 4, 1000),
        # LGNv as in Shi et al.'s own code; all others are the reference's.
        "shi_mousenet_lgnv_bn": ConnectomeNet(reversed_outputs, 4, 1000, norm_relay=True),
    }
    for name, net in rows.items():
        yield Architecture(name, net, AREAS, joined_layers=WHOLE_AREAS)


def _by_name(*families: Iterator[Architecture]) -> Mapping[str, Architecture]:
    return MappingProxyType({row.name: row for family in families for row in family})


#: Networks by name.
ARCHITECTURES = _by_name(_plain_rows(), _residual_rows(), _stream_rows(), _mirror_rows(), _connectome_rows())

#: Fixed image transformations by name.
BASELINES: Mapping[str, Architecture] = MappingProxyType(
    {
        "pixels": Architecture("pixels", Baseline("pixels"), ("pixels",)),
        "gabor": Architecture("gabor", Baseline("gabor"), ("energy",)),
    }
)


def has_readout(blueprint: Blueprint) -> bool:
    """Whether a network ends in a read-out, so that it can be trained on labels directly."""
    match blueprint:
        case PlainNet():
            return any(isinstance(layer, Readout) for layer in blueprint.classifier)
        case StreamNet() | ResidualNet() | ConnectomeNet():
            return blueprint.classes is not None
        case _:
            return False


def layer_names(blueprint: Blueprint) -> tuple[str, ...]:
    """Return the layers of a network that can be tapped, in its order, without building it.

    The same names as :func:`mvkit.features.tappable_layers` gives for the network itself.
    """
    match blueprint:
        case PlainNet():
            names = _plain_layer_names(blueprint)
        case ResidualNet():
            names = _residual_layer_names(blueprint)
        case StreamNet():
            names = _stream_layer_names(blueprint)
        case MirrorNet():
            streams = blueprint.encoder.streams
            decoder = (f"decoder:{area}" for area in (*reversed(streams), "VISp", INPUT))
            final = (f"final:{name}" for name in ("encoder_output", "hidden_vec", "output"))
            return ("VISp", *streams, *blueprint.encoder.outputs, "avgpool", *decoder, *final)
        case ConnectomeNet():
            names = list(AREAS)
        case _:
            names = list(BASELINES[blueprint.kind].layers)
    return (*names, "final")


def _sequence(path: str, n_modules: int) -> list[str]:
    return [path, *(f"{path}.{index}" for index in range(n_modules))]


def _plain_layer_names(net: PlainNet) -> list[str]:
    n_conv, n_hidden = 2 + net.norm_features, 2 + net.norm_classifier
    n_features = sum(n_conv if isinstance(layer, Conv) else 1 for layer in net.features)
    n_classifier = sum(n_hidden if isinstance(layer, Hidden) else 1 for layer in net.classifier)
    return [*_sequence("features", n_features), "avgpool", "flatten", *_sequence("classifier", n_classifier)]


def _residual_layer_names(net: ResidualNet) -> list[str]:
    names = ["conv1", "bn1", "relu", "maxpool"]
    n_convs = 3 if net.bottleneck else 2
    for stage, n_blocks in enumerate(net.blocks, start=1):
        names.append(f"layer{stage}")
        for index in range(n_blocks):
            block = f"layer{stage}.{index}"
            kinds = [f"{kind}{number + 1}" for number in range(n_convs) for kind in ("conv", "bn", "relu")]
            names += [block, *(f"{block}.{kind}" for kind in kinds)]
            # The first block of a stage changes the shape, except where widths and sizes stay.
            if index == 0 and (stage > 1 or net.bottleneck):
                names += _sequence(f"{block}.downsample", 2)
    return [*names, "avgpool", "flatten", *(["fc"] if net.classes is not None else [])]


def _stream_layer_names(net: StreamNet) -> list[str]:
    n_conv = 2 + net.norm
    edges = [("input_VISp", n_conv + 1)]
    edges += [(f"VISp_{stream}", 2 * n_conv + 1) for stream in net.streams]
    edges += [(f"VISp_{output}", n_conv + (net.skip == "1x1")) for output in net.outputs]
    edges += [(f"{stream}_{output}", n_conv) for stream in net.streams for output in reversed(net.outputs)]
    names = ["VISp", *net.streams, *net.outputs]
    for name, n_modules in edges:
        names += _sequence(f"model_layers.{name}", n_modules)
    return [*names, "avgpool", *(["flatten"] if net.classes is None else _sequence("classifier", 3))]


def with_classes(architecture: Architecture, n_classes: int | None) -> Architecture:
    """Return the row with a read-out of this width; unchanged if it has none or ``n_classes`` is None.

    Raises
    ------
    UsageError
        If ``n_classes`` is below 1.
    """
    blueprint = architecture.blueprint
    if n_classes is None or not has_readout(blueprint):
        return architecture
    if n_classes < 1:
        raise UsageError(f"'{architecture.name}' needs at least 1 class, got {n_classes}")
    if isinstance(blueprint, PlainNet):
        classifier = tuple(
            replace(layer, classes=n_classes) if isinstance(layer, Readout) else layer
            for layer in blueprint.classifier
        )
        return replace(architecture, blueprint=replace(blueprint, classifier=classifier))
    if isinstance(blueprint, StreamNet | ResidualNet | ConnectomeNet):
        return replace(architecture, blueprint=replace(blueprint, classes=n_classes))
    return architecture


def _names() -> Iterator[tuple[str, str]]:
    yield "single_stream_encoder", f"{_PREFIX}_single_stream_ir"
    yield "single_stream_classifier", f"{_PREFIX}_single_stream"
    yield "dual_stream_encoder", f"{_PREFIX}_dual_stream_visp_3x3_ir"
    yield "dual_stream_classifier", f"{_PREFIX}_dual_stream_visp_3x3_bn"
    yield "six_stream_encoder", f"{_PREFIX}_six_stream_visp_3x3_simclr"
    yield "six_stream_classifier", f"{_PREFIX}_six_stream_visp_3x3_bn"
    for kind in ("single", "dual", "six"):
        yield f"{kind}_stream_autoencoder", f"{_PREFIX}_ae_{kind}_stream"
        yield f"{kind}_stream_hourglass", f"{_PREFIX}_depth_hour_glass_{kind}_stream"
    yield "alexnet_encoder", "alexnet_bn_ir_64x64_input_pool_6"
    yield "alexnet_classifier", "alexnet_64x64_input_pool_6"
    yield "vgg16_encoder", "vgg16_ir_64x64"
    yield "vgg16_classifier", "vgg16_64x64_input"
    for depth in (18, 34, 50, 101, 152):
        yield f"resnet{depth}_encoder", f"resnet{depth}_ir_64x64"
        yield f"resnet{depth}_classifier", f"resnet{depth}_64x64_input"
    yield "shi_mousenet_encoder", "shi_mousenet_ir"
    yield "shi_mousenet_classifier", "shi_mousenet"
    yield "shi_mousenet_vispor5_encoder", "shi_mousenet_vispor5_ir"
    yield "shi_mousenet_vispor5_classifier", "shi_mousenet_vispor5"


#: Row of ``ARCHITECTURES`` by short name.
SHORT_NAMES: Mapping[str, str] = MappingProxyType(dict(_names()))


#: Where the paper's authors publish checkpoints.
PUBLISHED_AT = "https://mouse-vision-ckpts.s3.amazonaws.com"

PAPER = (
    "Nayebi*, Kong*, Zhuang, Gardner, Norcia & Yamins (2023): Mouse visual cortex as a limited resource "
    "system that self-learns an ecologically-general representation. PLOS Comput. Biol. 19(10): e1011506."
)
SHI_PAPER = (
    "Shi, Tripp, Shea-Brown, Mihalas & Buice (2022): MouseNet: A biologically constrained convolutional "
    "neural network model for the mouse visual cortex. PLOS Comput. Biol. 18(9): e1010427."
)


@dataclass(frozen=True)
class Released:
    """A published checkpoint.

    Attributes
    ----------
    name
        Released name; the file is ``NAME.pt``.
    architecture
        Row of ``ARCHITECTURES``; also the model's long name in the reference.
    objective
        What it was trained for.
    citation
        Papers to cite.
    preprocess
        Preprocessing of its input.
    """

    name: str
    architecture: str
    objective: str
    citation: tuple[str, ...] = (PAPER,)
    preprocess: Preprocessing = IMAGENET_64

    @property
    def file_name(self) -> str:
        """Name of the published file."""
        return f"{self.name}.pt"

    @property
    def url(self) -> str:
        """Address of the published file."""
        return f"{PUBLISHED_AT}/{self.file_name}"

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers scored by default."""
        return ARCHITECTURES[self.architecture].layers


_BOTH = (PAPER, SHI_PAPER)

#: Published checkpoints by name.
RELEASED: Mapping[str, Released] = MappingProxyType(
    {
        row.name: row
        for row in (
            Released("alexnet_bn_ir", "alexnet_bn_ir_64x64_input_pool_6", "instance recognition"),
            Released("dual_stream_ir", f"{_PREFIX}_dual_stream_visp_3x3_ir", "instance recognition"),
            Released("six_stream_simclr", f"{_PREFIX}_six_stream_visp_3x3_simclr", "SimCLR"),
            Released("shi_mousenet_ir", "shi_mousenet_ir", "instance recognition", _BOTH),
            Released("shi_mousenet_vispor5_ir", "shi_mousenet_vispor5_ir", "instance recognition", _BOTH),
        )
    }
)


@dataclass(frozen=True)
class Table2Row:
    """A row of the paper's Table 2: median noise-corrected predictivity over the units of all six areas.

    Attributes
    ----------
    name
        What was scored.
    percent
        Dataset -> the value as printed, in per cent; without an entry where no value is known here.
    is_untrained
        Whether the weights were random.
    """

    name: str
    percent: Mapping[str, float]
    is_untrained: bool = False

    def value(self, dataset: str) -> float:
        """Return the value for a dataset that the row has as a fraction."""
        return round(self.percent[dataset] / 100, 4)


#: Rows of the paper's Table 2, for its units, by its protocol, each area with its best layer. No model is
#: compared with the last row: of its VGG16, trained on ImageNet at 224 px with labels, neither the layers nor
#: the preprocessing of the scenes are known here, so torchvision's vgg16 may be scored in another way.
TABLE2: Mapping[str, Table2Row] = MappingProxyType(
    {
        row.name: row
        for row in (
            Table2Row("alexnet_bn_ir", {"neuropixels": 41.33, "calcium": 31.60}),
            Table2Row("dual_stream_ir", {"neuropixels": 40.07, "calcium": 30.64}),
            Table2Row("six_stream_simclr", {"neuropixels": 38.92, "calcium": 29.19}),
            Table2Row("shi_mousenet_ir", {"neuropixels": 35.96, "calcium": 30.06}),
            Table2Row("shi_mousenet_vispor5_ir", {"neuropixels": 36.89, "calcium": 28.80}),
            Table2Row("untrained single stream", {"neuropixels": 32.76}, is_untrained=True),
            Table2Row("untrained dual stream", {"neuropixels": 33.58}, is_untrained=True),
            Table2Row("untrained six stream", {"neuropixels": 33.74}, is_untrained=True),
            Table2Row("VGG16 at 224 px", {"neuropixels": 26.03, "calcium": 20.40}),
        )
    }
)


@dataclass(frozen=True)
class ModelRow:
    """What a model's name stands for.

    Attributes
    ----------
    name
        The name asked for.
    architecture
        How it is built and which layers are scored by default.
    released
        The checkpoint that fits it, or None.
    preprocess
        How images become its input.
    """

    name: str
    architecture: Architecture
    released: Released | None
    preprocess: Preprocessing


def table2_row(row: ModelRow, weights: str) -> Table2Row | None:
    """Return the row of the paper's Table 2 that a model is to be compared with, or None where it has none.

    Parameters
    ----------
    row
        The model.
    weights
        "released", "random" or a file. With random weights the stream networks with batch norm and 3x3 edges
        from VISp are the untrained ones of the table.
    """
    net = row.architecture.blueprint
    if weights == "random" and isinstance(net, StreamNet) and net.norm and net.skip == "3x3":
        for kind, streams in STREAMS.items():
            if net.streams == streams:
                return TABLE2[f"untrained {kind} stream"]
    return TABLE2[row.released.name] if row.released is not None else None


def list_models() -> list[str]:
    """Return every model name: published checkpoints, architectures, baselines.

    The short names of :mod:`mvkit.models.registry` are not repeated here; they stand for architectures.
    """
    return [*RELEASED, *(name for name in ARCHITECTURES if name not in RELEASED), *BASELINES]


def is_model(name: str) -> bool:
    """Tell whether :func:`find_model` knows a name."""
    return name in BASELINES or name in RELEASED or name in ARCHITECTURES or name in SHORT_NAMES


def find_model(name: str) -> ModelRow:
    """Look up a model by its released name, its architecture's long or short name, or as a baseline.

    Parameters
    ----------
    name
        As a user types it.

    Returns
    -------
    ModelRow
        Architecture, released weights if there are any, and preprocessing.

    Raises
    ------
    UsageError
        If there is no such model; the message suggests the closest name.
    """
    if name in BASELINES:
        return ModelRow(name, BASELINES[name], None, GREY_64)
    if name in RELEASED:
        released = RELEASED[name]
        return ModelRow(name, ARCHITECTURES[released.architecture], released, released.preprocess)
    architecture = SHORT_NAMES.get(name, name)
    if architecture in ARCHITECTURES:
        matching = (row for row in RELEASED.values() if row.architecture == architecture)
        return ModelRow(name, ARCHITECTURES[architecture], next(matching, None), IMAGENET_64)
    raise unknown_name("model", name, [*list_models(), *SHORT_NAMES], command="mvkit list models")
