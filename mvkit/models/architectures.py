"""The table of networks: every architecture of the reference as a row, free of torch.

Names, layers and layer lists are those of the reference, the code published with
Nayebi, Kong et al. 2023, PLOS Comput. Biol. 19:e1011506. Inputs are 64 x 64 px.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

from mvkit.models.blueprints import (
    Architecture,
    Baseline,
    ConnectomeNet,
    Conv,
    Drop,
    Hidden,
    MirrorNet,
    PlainNet,
    Pool,
    Readout,
    ResidualNet,
    SkipEdge,
    StreamNet,
)
from mvkit.models.connectome import AREAS, OUTPUT_AREAS


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
_ALEXNET_HEADLESS = (Drop(), Hidden(4096), Drop(), Hidden(4096))
_ALEXNET = PlainNet(_ALEXNET_FEATURES, (*_ALEXNET_HEADLESS, Readout()), pooled_px=6)
_ALEXNET_LAYERS = _layers(features=(2, 5, 7, 9, 12), classifier=(2, 5))
_ALEXNET_BN_LAYERS = _layers(features=(3, 7, 10, 13, 17), classifier=(3, 7))
# Name of the truncation -> number of feature items kept, and the classifier.
_ALEXNET_TRUNCATIONS = {
    "two": (4, (Drop(), Readout())),
    "three": (5, (Drop(), Readout())),
    "four": (6, (Drop(), Readout())),
    "five": (8, (Drop(), Readout())),
    "six": (8, (Drop(), Hidden(4096), Readout())),
}
_TRUNCATED_LAYERS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6}

# VGG16 (Simonyan & Zisserman 2015, table 1, column D): widths of the convolutions of each block.
_VGG16_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_VGG16_FEATURES = tuple(layer for widths in _VGG16_BLOCKS for layer in _vgg_block(widths))
_VGG16_HEADLESS = (Hidden(4096), Drop(), Hidden(4096))
_VGG16_LAYERS = _layers(features=(4, 9, 16, 23, 30), classifier=(1, 4))
_VGG16_BN_LAYERS = _layers(features=(6, 13, 23, 33, 43), classifier=(1, 4))
# The reference scored vgg16_ir by the list of the VGG16 without batch norm, where it means the five pools.
# With batch norms the same numbers are a batch norm, two ReLUs, the third pool and a convolution.
_VGG16_BN_PUBLISHED = _VGG16_LAYERS
_VGG16 = PlainNet(_VGG16_FEATURES, (*_VGG16_HEADLESS, Drop(), Readout()), pooled_px=7, weight_init="fan_out")

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
    yield Architecture("shi_mousenet", ConnectomeNet(reversed_outputs, 4, 1000), AREAS)
    yield Architecture("shi_mousenet_ir", ConnectomeNet(reversed_outputs, 4, None), AREAS)
    yield Architecture("shi_mousenet_vispor5", ConnectomeNet(("VISpor5",), None, 1000), AREAS)
    yield Architecture("shi_mousenet_vispor5_ir", ConnectomeNet(("VISpor5",), None, None), AREAS)


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
