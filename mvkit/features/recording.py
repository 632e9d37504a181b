"""Record what chosen modules of a network return, all of them in one forward pass.

Forward hooks copy each value inside the hook itself, right after the module ran: a later in-place operation
(``nn.ReLU(inplace=True)``) cannot change it, and the copy is the transfer off the device that was needed
anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from mvkit.models.foreign.wrappers import wrapped_part

#: What one call of a module returned: {"": tensor}, or {"0": ..., "1": ...} / {"key": ...} for tuples and
#: dicts.
CallValue = Mapping[str, Tensor]


class _Enough(BaseException):
    """Ends a forward pass once every wanted value is there.

    Not an ``Exception``, so that a ``try`` inside somebody's ``forward`` does not swallow it.
    """


def record_calls(
    model: nn.Module, inputs: Tensor, needed: Mapping[str, int | None]
) -> dict[str, list[CallValue]]:
    """Run one forward pass and copy what the named modules return.

    Parameters
    ----------
    model
        The network. Its mode (train or eval) is left as it is.
    inputs
        Batch of inputs, (n_images, ...).
    needed
        Module path -> how many calls of it are needed; None means all, however many there are. When no entry
        is None, the pass ends as soon as the last needed call returned: what lies behind it is never
        computed.

    Returns
    -------
    dict
        Module path -> one entry per call, in order. Tensors lie on the CPU, keep their dtype, and share no
        memory with the network's own.
    """
    calls: dict[str, list[CallValue]] = {path: [] for path in needed}
    limits = {path: count for path, count in needed.items() if count is not None}
    may_stop = len(limits) == len(needed)

    def recorder(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            del module, arguments
            calls[path].append({part: _copy(value) for part, value in _parts(output)})
            if may_stop and all(len(calls[other]) >= count for other, count in limits.items()):
                raise _Enough

        return hook

    handles = []
    try:
        for path in needed:
            handles.append(model.get_submodule(path).register_forward_hook(recorder(path)))
        with torch.no_grad(), _uncompiled(model):
            model(inputs)
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _parts(output: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(output, Tensor):
        yield prefix, output
        return
    if isinstance(output, Mapping):
        items = [(str(key), item) for key, item in output.items()]
    elif isinstance(output, list | tuple):
        items = [(str(index), item) for index, item in enumerate(output)]
    else:
        return
    for key, item in items:
        yield from _parts(item, f"{prefix}:{key}" if prefix else key)


def _uncompiled(model: nn.Module) -> AbstractContextManager[object]:
    """Run compiled parts as they were written: hooks on modules inside compiled code may be skipped."""
    if any(wrapped_part(part) or part._compiled_call_impl is not None for part in model.modules()):
        stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
        return stance
    return nullcontext()


def _copy(value: Tensor) -> Tensor:
    value = value.detach()
    if value.is_quantized:
        return value.dequantize().cpu()
    if value.layout != torch.strided:
        return value.to_dense().cpu()
    return value.to("cpu", copy=True)
