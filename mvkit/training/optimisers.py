"""From a recipe's optimiser to torch's, with the parameters that adaptation and decay leave alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import nn, optim
from torch.nn.modules.batchnorm import _NormBase

from mvkit.errors import FitError
from mvkit.training.lars import Lars
from mvkit.training.recipe import Adam, Sgd
from mvkit.training.recipe import Lars as LarsSettings
from mvkit.training.recipe import Optimiser as OptimiserSettings

#: Entry of a parameter group: its rate as a multiple of the optimiser's.
_FACTOR = "rate_factor"

#: Names of parameters that the reference excluded from LARS's adaptation and decay, a rule of the software
#: that its SimCLR was taken from (OpenSelfSup, configs/selfsup/simclr, ``paramwise_options``).
_PUBLISHED_EXCLUSION = re.compile(r"(bn|gn)\d*\.(weight|bias)$|bias")

#: Modules whose parameters are scales and shifts of a norm.
_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


def build_optimiser(settings: OptimiserSettings, modules: Sequence[nn.Module]) -> optim.Optimizer:
    """Build the optimiser of all trainable parameters of some modules (encoder, objective).

    Parameters
    ----------
    settings
        The recipe's optimiser.
    modules
        Their parameters are taken in this order; frozen ones and repetitions are left out.

    Raises
    ------
    FitError
        There is nothing to train.
    """
    trained = list(_trainable(modules))
    if not trained:
        raise FitError("neither the network nor the objective has parameters to train")
    parameters = [one.parameter for one in trained]
    if isinstance(settings, Sgd):
        return optim.SGD(
            parameters,
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.nesterov,
            fused=True,
        )
    if isinstance(settings, Adam):
        kind = optim.AdamW if settings.name == "adamw" else optim.Adam
        return kind(
            parameters,
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=True,
        )
    return _build_lars(settings, trained)


def _build_lars(settings: LarsSettings, trained: Sequence[_Trained]) -> Lars:
    excluded = [one.parameter for one in trained if _is_excluded(settings.exclude, one)]
    adapted = [one.parameter for one in trained if not _is_excluded(settings.exclude, one)]
    own_rate = settings.excluded_learning_rate
    factor = 1.0 if own_rate is None else own_rate / settings.learning_rate
    groups = [
        {"params": adapted, "weight_decay": settings.weight_decay, "adapt": True},
        {"params": excluded, "weight_decay": 0.0, "adapt": False, _FACTOR: factor},
    ]
    return Lars(
        [group for group in groups if group["params"]],
        settings.learning_rate,
        momentum=settings.momentum,
        trust_coefficient=settings.trust_coefficient,
        epsilon=settings.epsilon,
        nesterov=settings.nesterov,
    )


class _Trained(NamedTuple):
    """A trainable parameter, its full name, and whether it belongs to a norm (by type of module)."""

    parameter: nn.Parameter
    name: str
    is_of_norm: bool


def _is_excluded(exclude: str, one: _Trained) -> bool:
    if exclude == "published":
        return bool(_PUBLISHED_EXCLUSION.search(one.name))
    return exclude == "bias_and_norm" and (one.is_of_norm or one.name.rpartition(".")[2] == "bias")


def _trainable(modules: Sequence[nn.Module]) -> Iterator[_Trained]:
    """Yield every trainable parameter once."""
    seen: set[int] = set()
    for root in modules:
        for path, module in root.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.requires_grad and id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield _Trained(parameter, f"{path}.{name}", isinstance(module, _NORMS))


def set_learning_rate(optimiser: optim.Optimizer, rate: float) -> None:
    """Give all parameters this learning rate, or their fixed multiple of it."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get(_FACTOR, 1.0)
