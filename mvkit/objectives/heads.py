"""Heads (necks) of the objectives, and their initial weights.

Layers, biases and initial weights follow the published training code of
Nayebi, Kong et al. 2023; parity of their arithmetic is with golden section 3.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


def simclr_neck(width_in: int, hidden: int, width: int) -> nn.Sequential:
    """Return linear, BN, ReLU, linear, BN; no biases in the linear maps, whose weights are N(0, 0.01^2).

    Source: Chen et al. 2020a, section 2.1 with the batch norms of their code.
    """
    neck = nn.Sequential(
        OrderedDict(
            fc0=nn.Linear(width_in, hidden, bias=False),
            bn0=nn.BatchNorm1d(hidden),
            relu=nn.ReLU(inplace=True),
            fc1=nn.Linear(hidden, width, bias=False),
            bn1=nn.BatchNorm1d(width),
        )
    )
    return init_normal(neck, std=0.01)


def moco_neck(width_in: int, hidden: int, width: int) -> nn.Sequential:
    """Return linear, ReLU, linear; He-normal weights (fan in), zero biases (Chen et al. 2020b)."""
    neck = nn.Sequential(
        OrderedDict(fc0=nn.Linear(width_in, hidden), relu=nn.ReLU(inplace=True), fc1=nn.Linear(hidden, width))
    )
    for module in neck:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return neck


def simsiam_projection(width_in: int, hidden: int, width: int) -> nn.Sequential:
    """Return three times linear and BN, ReLU after the first two (Chen & He 2021, section 3)."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    widths = (width_in, hidden, hidden, width)
    for number, (incoming, outgoing) in enumerate(pairwise(widths)):
        layers[f"fc{number}"] = nn.Linear(incoming, outgoing)
        layers[f"bn{number}"] = nn.BatchNorm1d(outgoing)
        if number < 2:
            layers[f"relu{number}"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def simsiam_prediction(width: int, hidden: int) -> nn.Sequential:
    """Return linear, BN, ReLU, linear: a bottleneck (Chen & He 2021, section 3)."""
    return nn.Sequential(
        OrderedDict(
            fc0=nn.Linear(width, hidden),
            bn0=nn.BatchNorm1d(hidden),
            relu=nn.ReLU(inplace=True),
            fc1=nn.Linear(hidden, width),
        )
    )


def projector(width_in: int, widths: Sequence[int], *, bias: bool) -> nn.Sequential:
    """Return linear, BN, ReLU for all widths but the last, then a linear map without bias.

    Source: Zbontar et al. 2021 (``bias=False``), Bardes et al. 2022 (``bias=True``: hidden layers have one).
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    incoming = width_in
    for number, width in enumerate(widths[:-1]):
        layers[f"fc{number}"] = nn.Linear(incoming, width, bias=bias)
        layers[f"bn{number}"] = nn.BatchNorm1d(width)
        layers[f"relu{number}"] = nn.ReLU(inplace=True)
        incoming = width
    layers[f"fc{len(widths) - 1}"] = nn.Linear(incoming, widths[-1], bias=False)
    return nn.Sequential(layers)


def init_normal(head: nn.Sequential, *, std: float, bias: float = 0.0) -> nn.Sequential:
    """Draw the weights of all linear maps from N(0, std^2), set their biases; return the head."""
    for module in head:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std)
            # The annotation of nn.Linear.bias does not say that it may be None.
            offset: Tensor | None = module.bias
            if offset is not None:
                nn.init.constant_(offset, bias)
    return head
