"""Recording what modules return in one forward pass."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from mvkit.errors import UsageError, UserCodeError, wording
from mvkit.machine import SharedContext, choose_device
from mvkit.models.base import MissingWeightsError, is_quantised
from mvkit.models.external import check_has_values, wrapper_attribute

logger = logging.getLogger(__name__)


@contextmanager
def evaluation_mode(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put a network into evaluation mode on a device; restore every module's mode and the device afterwards.

    A network, or a part of it, belongs to one thread at a time; others wait.

    Gradients are off, automatic mixed precision is off, and on a GPU convolutions have float32 precision and
    fixed algorithms, so that features do not depend on the card.

    Raises
    ------
    UsageError
        If the network is spread over several devices, has no values yet, or is quantised and the device no
        CPU.
    """
    with _exclusive(model), _evaluation_mode(model, device):
        yield


@contextmanager
def _evaluation_mode(model: nn.Module, device: torch.device) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    home = _device_of(model)
    if device.type != "cpu" and is_quantised(model):
        raise UsageError(
            f"quantised networks run on the CPU only, not on {device}: leave out "
            + wording("--device", "device")
        )
    try:
        model.eval()
        if home is not None and home != device:
            model.to(device)
        _warn_of_batch_statistics(model)
        with torch.no_grad(), torch.autocast(device.type, enabled=False), _exact_convolutions(device):
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        if home is not None and home != device:
            model.to(home)


#: Modules that are in use -> the thread that uses them.
_owners: dict[nn.Module, int] = {}
_released = threading.Condition()


@contextmanager
def _exclusive(model: nn.Module) -> Iterator[None]:
    """Wait until no other thread uses the network's modules, and use them: modes and hooks are theirs."""
    thread, modules = threading.get_ident(), list(model.modules())
    with _released:
        _released.wait_for(lambda: all(_owners.get(module, thread) == thread for module in modules))
        taken = [module for module in modules if module not in _owners]
        _owners.update(dict.fromkeys(taken, thread))
    try:
        yield
    finally:
        with _released:
            for module in taken:
                del _owners[module]
            _released.notify_all()


@contextmanager
def limit_threads(count: int | None) -> Iterator[None]:
    """Let torch use ``count`` CPU threads inside the block.

    Parameters
    ----------
    count
        1 or more; None changes nothing.

    Yields
    ------
    None
        Afterwards torch has as many threads as before.

    Raises
    ------
    UsageError
        If ``count`` is below 1.
    """
    if count is None:
        yield
        return
    if count < 1:
        raise UsageError(f"threads must be at least 1, got {count}")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def parse_device(device: str | torch.device) -> torch.device:
    """Return the device of that name with its index ("cuda:0"), so that it can be compared with the weights'.

    Raises
    ------
    UsageError
        If there is no such kind of device, or none here.
    """
    return torch.empty(0, device=choose_device(device)).device


def device_for(model: nn.Module, device: torch.device) -> torch.device:
    """Return the device, or the processor for a network in double precision, which Apple's devices lack."""
    if device.type != "mps" or not any(tensor.dtype == torch.float64 for tensor in _tensors(model)):
        return device
    logger.warning("%s is in double precision, which mps has not: it runs on the CPU", type(model).__name__)
    return torch.device("cpu")


def floating_dtype(model: nn.Module) -> torch.dtype:
    """Return the dtype that a network's inputs must have: that of its weights, float32 if it has none."""
    return next((tensor.dtype for tensor in _tensors(model) if tensor.is_floating_point()), torch.float32)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _device_of(model: nn.Module) -> torch.device | None:
    devices = {tensor.device for tensor in _tensors(model)}
    if len(devices) > 1:
        raise UsageError(
            f"the network lies on several devices ({', '.join(sorted(map(str, devices)))}): "
            "move it to one of them"
        )
    if torch.device("meta") in devices:
        check_has_values(model, str(getattr(model, "name", type(model).__name__)))
    return devices.pop() if devices else None


def _warn_of_batch_statistics(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            logger.warning(
                "layer '%s' keeps no running statistics: it normalises by the batch it gets, so its "
                "features and those behind it depend on the batch size",
                name,
            )


_EXACT_CUDNN = SharedContext(
    lambda: torch.backends.cudnn.flags(
        enabled=torch.backends.cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False
    )
)


@contextmanager
def _exact_convolutions(device: torch.device) -> Iterator[None]:
    with _EXACT_CUDNN if device.type == "cuda" else nullcontext():
        yield


#: What one call of a module returned: {"": tensor}, or {"0": ..., "1": ...} / {"key": ...} for tuples and
#: dicts.
CallValue = Mapping[str, Tensor]


class _StopForwardPass(BaseException):
    """Ends a forward pass once every requested value is there.

    Not an ``Exception``, so that a ``try`` inside somebody's ``forward`` does not swallow it.
    """


def record_calls(
    model: nn.Module, inputs: Tensor, needed: Mapping[str, int | None]
) -> dict[str, list[CallValue]]:
    """Run one forward pass and copy what the named modules return.

    Calls of the modules by other threads are none of this forward pass.

    Parameters
    ----------
    model
        The network. Its mode (train or eval) is left as it is.
    inputs
        Batch of inputs, (n_images, ...).
    needed
        Module path -> how many calls of it are needed; None means all, however many there are. When no entry
        is None, the pass ends as soon as the last needed call returned: what lies behind it is never
        computed. It ends, too, before a module whose weights the checkpoint lacks.

    Returns
    -------
    dict
        Module path -> one entry per call, in order. Tensors lie on the CPU, in their own dtype, and share no
        memory with the network's own.
    """
    calls: dict[str, list[CallValue]] = {path: [] for path in needed}
    limits = {path: count for path, count in needed.items() if count is not None}
    may_stop = len(limits) == len(needed)
    thread = threading.get_ident()

    def recorder(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            del module, arguments
            if threading.get_ident() != thread:
                return
            calls[path].append({part: _copy(value) for part, value in _parts(output)})
            if may_stop and all(len(calls[other]) >= count for other, count in limits.items()):
                raise _StopForwardPass

        return hook

    handles = []
    try:
        for path in needed:
            module = model.get_submodule(path)
            if isinstance(module, torch.jit.ScriptModule):
                raise UserCodeError(
                    f"{path}: is TorchScript, of which torch gives only the output\n"
                    "give the network that it was made from, or take layers outside of it"
                )
            handles.append(module.register_forward_hook(recorder(path)))
        with torch.no_grad(), _run_uncompiled(model):
            model(inputs)
    except (_StopForwardPass, MissingWeightsError):
        pass
    finally:
        for handle in handles:
            handle.remove()
    return calls


@contextmanager
def measure_outputs() -> Iterator[list[int]]:
    """Measure what modules return in forward passes of this thread.

    Yields
    ------
    list of int
        Bytes of every tensor that a module has returned so far inside the block.
    """
    sizes: list[int] = []
    thread = threading.get_ident()

    def hook(module: nn.Module, arguments: Any, output: Any) -> None:
        del module, arguments
        if threading.get_ident() == thread:
            sizes.extend(value.numel() * value.element_size() for _, value in _parts(output))

    handle = register_module_forward_hook(hook)
    try:
        yield sizes
    finally:
        handle.remove()


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


def _run_uncompiled(model: nn.Module) -> AbstractContextManager[object]:
    """Run compiled parts as they were written: hooks on modules inside compiled code may be skipped."""
    if any(wrapper_attribute(part) or part._compiled_call_impl is not None for part in model.modules()):
        stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
        return stance
    return nullcontext()


def _copy(value: Tensor) -> Tensor:
    value = value.detach()
    if value.is_meta:
        raise UserCodeError("an output of the network lies on the device 'meta', without values")
    if value.is_quantized:
        return value.dequantize().cpu()
    if value.layout != torch.strided:
        return value.to_dense().cpu()
    return value.to("cpu", copy=True)
