"""Operations that a network calls as functions: they have no module, so they cannot be tapped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

#: Module path -> names of the functions that its ``forward`` calls itself, in order, each once.
CalledFunctions = Mapping[str, tuple[str, ...]]

#: Attributes (``__get__``) and copies, among them those of recording itself.
_NO_OPERATIONS = ("get", "detach", "to")


class _Watch(TorchFunctionMode):
    """Notes functions that give tensors of floating point, under the module whose ``forward`` calls them."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[tuple[str, nn.Module]] = []
        self.seen: dict[str, dict[str, None]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        value = func(*args, **(kwargs or {}))
        name = str(getattr(func, "__name__", func)).strip("_")
        # Of a module without others inside, the operations are the module's own work.
        if (
            self.running
            and name not in _NO_OPERATIONS
            and isinstance(value, Tensor)
            and value.is_floating_point()
        ):
            path, module = self.running[-1]
            if any(True for _ in module.children()):
                self.seen.setdefault(path, {})[name] = None
        return value


@contextmanager
def watched_functions(model: nn.Module, paths: Mapping[str, str]) -> Iterator[dict[str, tuple[str, ...]]]:
    """Note which operations are called as functions while the block runs the model.

    Parameters
    ----------
    model
        The network.
    paths
        Layer name -> module path, as :func:`mvkit.features.tapping.tappable_layers` gives it.

    Yields
    ------
    dict
        Layer name -> functions, filled when the block ends. Modules that torch runs outside Python
        (TorchScript) have none.
    """
    watch, called = _Watch(), dict[str, tuple[str, ...]]()

    def enter(name: str) -> Any:
        return lambda module, arguments: watch.running.append((name, module))

    def leave(module: nn.Module, arguments: Any, output: Any) -> None:
        watch.running.pop()

    with ExitStack() as stack:
        for name, path in paths.items():
            module = model.get_submodule(path)
            if isinstance(module, torch.jit.ScriptModule):
                continue
            stack.callback(module.register_forward_pre_hook(enter(name)).remove)
            stack.callback(module.register_forward_hook(leave, always_call=True).remove)
        with watch:
            yield called
    called.update({name: tuple(found) for name, found in watch.seen.items()})
