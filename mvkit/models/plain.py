"""Plain convolutional chains: AlexNet, its truncations and batch-norm variants, VGG16."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from mvkit.models.base import VisionModel
from mvkit.models.blueprints import Conv, Drop, Hidden, PlainNet, Pool, Readout

_IMAGE_CHANNELS = 3


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
        if isinstance(layer, Drop):
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
