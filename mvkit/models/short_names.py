"""Short names for the networks of the paper's Table 2, as recipes use them; free of torch.

``NET_encoder`` is headless, as self-supervised objectives train it;
``NET_classifier`` ends in a read-out; ``NET_autoencoder`` and
``NET_hourglass`` have a decoder. Which of the reference's variants each one is
follows from the lists of models that the reference fitted to neural data
(``SINGLE_STREAM_MODELS``, ``DUAL_STREAM_MODELS``, ``SIX_STREAM_MODELS``,
``PRIMATE_MODELS``, ``SHI_MODELS`` of its neural fits): stream networks with
batch norm and 3x3 edges from VISp; AlexNet and VGG16 without batch norm when
supervised and with it otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

_PREFIX = "simplified_mousenet"


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
