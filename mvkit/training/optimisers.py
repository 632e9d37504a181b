"""From a recipe's optimiser to torch's, with the parameters that adaptation and decay leave alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn, optim
from torch.nn.modules.batchnorm import _NormBase

from mvkit.errors import FitError
from mvkit.training.lars import Lars
from mvkit.training.recipe import Adam, Sgd
from mvkit.training.recipe import Lars as LarsSettings
from mvkit.training.recipe import Optimiser as OptimiserSettings

#: Entry of a parameter group: its rate as a multiple of the optimiser's.
_FACTOR = "rate_factor"

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
    named = list(_trainable(modules))
    if not named:
        raise FitError("neither the network nor the objective has parameters to train")
    parameters = [parameter for parameter, _ in named]
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
    return _build_lars(settings, named)


def _build_lars(settings: LarsSettings, named: Sequence[tuple[nn.Parameter, bool]]) -> Lars:
    excluded = [parameter for parameter, is_exception in named if is_exception]
    adapted = [parameter for parameter, is_exception in named if not is_exception]
    if not settings.exclude_bias_and_norm:
        excluded, adapted = [], [parameter for parameter, _ in named]
    own_rate = settings.bias_and_norm_learning_rate
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


def _trainable(modules: Sequence[nn.Module]) -> Iterator[tuple[nn.Parameter, bool]]:
    """Yield every trainable parameter once, and whether it is a bias or (by module type) of a norm."""
    seen: set[int] = set()
    for root in modules:
        for module in root.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.requires_grad and id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield parameter, name == "bias" or isinstance(module, _NORMS)


def set_learning_rate(optimiser: optim.Optimizer, rate: float) -> None:
    """Give all parameters this learning rate, or their fixed multiple of it."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get(_FACTOR, 1.0)
