"""The output of one layer of a network, without running what lies behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from mvkit.errors import UsageError
from mvkit.naming import unknown_name


class _Enough(BaseException):
    """Ends a forward pass; not an ``Exception``, so that no ``try`` inside a ``forward`` swallows it."""


def module_path(network: nn.Module, layer: str | None) -> str:
    """Return the path of the module whose output a layer is; "" for the network's own output.

    Raises
    ------
    UsageError
        If the network has no such layer.
    """
    if layer is None:
        return ""
    points: Callable[[], Mapping[str, str]] | None = getattr(network, "tap_points", None)
    paths = points() if callable(points) else {path: path for path, _ in network.named_modules() if path}
    if layer not in paths:
        raise unknown_name("layer", layer, paths)
    return paths[layer]


def layer_output(network: nn.Module, path: str, images: Tensor) -> Tensor:
    """Return what the module at ``path`` returned in one forward pass of the network.

    Raises
    ------
    UsageError
        If that is not a tensor, or the module did not run.
    """
    if not path:
        return _tensor(network(images), "the network's output")
    kept: list[Any] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        del module, inputs
        kept.append(output)
        # Stopping here also means that no later in-place operation changes the value.
        raise _Enough

    handle = network.get_submodule(path).register_forward_hook(keep)
    try:
        network(images)
    except _Enough:
        pass
    finally:
        handle.remove()
    if not kept:
        raise UsageError(f"layer at '{path}' does not run in a forward pass")
    return _tensor(kept[0], f"layer at '{path}'")


def _tensor(value: Any, what: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise UsageError(f"{what} is a {type(value).__name__}, not a tensor\nname another layer")
    return value
