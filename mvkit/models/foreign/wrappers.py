"""Wrappers around networks (``torch.compile``, ``DataParallel``), which change names and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from torch import nn

#: Path components that wrappers add.
WRAPPER_PARTS: tuple[str, ...] = ("_orig_mod", "module")

_COMPILED = "_orig_mod"
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def wrapped_part(module: nn.Module) -> str | None:
    """Return under which name a wrapper keeps the network it wraps; None if it is no wrapper."""
    if isinstance(module, _PARALLEL):
        return "module"
    # torch's class for compiled networks lies in torch._dynamo, whose import takes seconds.
    return _COMPILED if type(module).__name__ == "OptimizedModule" and _COMPILED in module._modules else None


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside wrappers, however many there are."""
    while (part := wrapped_part(model)) is not None:
        model = cast(nn.Module, model._modules[part])
    return model


def unwrap_inside(model: nn.Module) -> nn.Module:
    """Return the network without wrappers, also those around modules inside it, which are replaced in place.

    ``module.compile()`` is undone too: hooks on modules inside compiled code may be skipped.
    """
    plain = unwrapped(model)
    for module in list(plain.modules()):
        module._compiled_call_impl = None
        for name, child in list(module._modules.items()):
            if child is not None and wrapped_part(child) is not None:
                module._modules[name] = unwrapped(child)
    return plain


def without_wrappers(keys: Iterable[str]) -> dict[str, str]:
    """Return key -> key without the path components that wrappers add."""
    return {
        key: ".".join(part for part in key.split(".") if part not in WRAPPER_PARTS) or key for key in keys
    }
