"""Training in several processes: process group, averaged gradients, gathering, batch norm over all of them.

``torch.distributed.run`` starts the processes. With one process everything
here does nothing, so that code written for several runs unchanged.

Convention of training: every process computes the loss of the *global* batch
(or the mean over its own rows where rows are independent), and the *mean over
processes* of the parameters' gradients, which is what ``DistributedDataParallel``
computes, is the gradient of the global loss. Hence backward of
:func:`all_gather` and :func:`all_reduce` sums the gradients of all processes:
each of P equal losses contributes, and the mean divides by P.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from mvkit import errors
from mvkit.errors import MvkitError, UsageError
from mvkit.machine import available_cores, safe_child_path

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

#: How long processes wait for each other: process 0 may evaluate alone for a while.
WAIT = timedelta(minutes=30)
INTERRUPTED = 130
#: Arguments of Python in each process.
WORKER = ("-m", "mvkit")
#: Seconds for the step in progress and a checkpoint after Ctrl-C or SIGTERM, before processes are killed.
_SHUTDOWN_S = 300
#: Messages of gloo and nccl after another process has died.
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")
#: Summed as float32: half precision would lose digits with every process.
_HALVES = (torch.float16, torch.bfloat16)


def rank() -> int:
    """Return the number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """Return how many processes work together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_main_process() -> bool:
    """Return whether this is the process that prints and writes files."""
    return rank() == 0


@contextmanager
def process_group(device: torch.device, *, wait: timedelta = WAIT) -> Iterator[torch.device]:
    """Join the processes that torchrun started, if it did, and leave the group at the end.

    Processes communicate by gloo, and by nccl where tensors lie on GPUs. Only
    process 0 writes to standard output and error.

    Parameters
    ----------
    device
        As requested; "cuda" becomes the GPU of this process's number on its machine.
    wait
        After this long without an answer from the others, a process gives up.

    Yields
    ------
    torch.device
        This process's device.

    Raises
    ------
    UsageError
        If there are fewer GPUs than processes, or srun started several processes without torchrun.
    MvkitError
        If the others cannot be reached, or one of them has gone.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        _check_no_other_launcher()
        yield device
        return
    if os.environ.get("RANK") != "0":
        _mute()
    if device.type == "cuda":
        device = _own_gpu()
    try:
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=wait
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise MvkitError(f"cannot join the other processes: {reason}\nstart them with torchrun") from error
    try:
        yield device
    except RuntimeError as error:
        if any(sign in str(error) for sign in _LOST):
            raise OtherProcessLostError(
                "another process has gone (killed, or out of memory?): cannot go on"
            ) from error
        raise
    # Not after a failure: it would wait for processes that are gone.
    distributed.destroy_process_group()


class OtherProcessLostError(MvkitError):
    """This process cannot go on because another one failed: never the cause of a failure."""


def exit_process(code: int) -> NoReturn:
    """End this program; one of several processes ends at once, without what the interpreter does at its end.

    Threads of a process group may be at work even after it was left (and after a failure it is never left,
    see :func:`process_group`): C++ would end the program with SIGABRT in place of its exit code.
    """
    if distributed.is_initialized() or os.environ.get("WORLD_SIZE", "1") != "1":
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _check_no_other_launcher() -> None:
    """Check that srun did not start several tasks that do not communicate."""
    n_tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1") if "SLURM_STEP_ID" in os.environ else "1"
    if n_tasks != "1" and "TORCHELASTIC_RUN_ID" not in os.environ:
        raise UsageError(
            f"srun started {n_tasks} tasks that would train the same run, each alone\n"
            "start one task for each machine, and in it torchrun: srun torchrun ... -m mvkit train ..."
        )


def _own_gpu() -> torch.device:
    number, n_gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= n_gpus:
        raise UsageError(f"process {number} of this machine has no GPU, {n_gpus} visible: use fewer")
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def _mute() -> None:
    """Discard this process's output, that of compiled libraries too."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(null, stream.fileno())
    os.close(null)


def all_gather(rows: Tensor) -> Tensor:
    """Concatenate the rows of all processes along the first axis, in rank order.

    Every process must call it at the same point. Processes may have different
    numbers of rows (a last, partial batch); all else must agree.

    Parameters
    ----------
    rows
        (n_own, ...), any dtype. In backward it receives the sum over processes
        of the gradients for its own rows.

    Returns
    -------
    Tensor
        (n_all, ...), the same on every process; ``rows`` itself for one process.

    Raises
    ------
    UsageError
        If ``rows`` is a scalar.
    """
    if rows.ndim == 0:
        raise UsageError("a scalar has no rows to gather over processes; use all_reduce() or give it an axis")
    if world_size() == 1:
        return rows
    counts = row_counts(len(rows))
    if rows.requires_grad and torch.is_grad_enabled():
        # Between zeros, and summed: exact, and its gradient is that of the sum.
        before, after = sum(counts[: rank()]), sum(counts[rank() + 1 :])
        return all_reduce(nn.functional.pad(rows, (0, 0) * (rows.ndim - 1) + (before, after)))
    padding = rows.new_zeros((max(counts) - len(rows), *rows.shape[1:]))
    parts = _of_each_process(torch.cat([rows.detach(), padding]))
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def all_reduce(tensor: Tensor) -> Tensor:
    """Return the sum over processes, the same on every one; backward sums the gradients likewise.

    Parameters
    ----------
    tensor
        Any shape, equal on all processes.
    """
    if world_size() == 1:
        return tensor
    summed: Tensor = _AllReduce.apply(tensor)
    return summed


def row_counts(n_own: int) -> list[int]:
    """Return the number of rows of every process, in rank order."""
    if world_size() == 1:
        return [n_own]
    # On the CPU even when training on GPUs: reading the counts from a GPU would wait for all queued work.
    return [int(count) for count in _of_each_process(torch.tensor(n_own))]


class _AllReduce(torch.autograd.Function):
    """Sum over processes, forwards and backwards.

    torch's own ``distributed.nn.functional.all_reduce`` is deprecated since
    2.14, and its successor is private and, in 2.6, without gradients.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        del ctx
        summed = tensor.detach().to(torch.float32 if tensor.dtype in _HALVES else tensor.dtype)
        summed = summed.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(summed)
        return summed.to(tensor.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        del ctx
        return all_reduce(gradient)


def _of_each_process(values: Tensor) -> list[Tensor]:
    """Return equally shaped tensors of all processes in rank order, without gradients."""
    parts = [torch.empty_like(values) for _ in range(world_size())]
    distributed.all_gather(parts, values.contiguous())
    return parts


def data_parallel(module: nn.Module) -> nn.Module:
    """Wrap a module so that backward averages its gradients over processes; alone, return it as it is.

    Every process must have built the same module. Parameters that the loss
    does not use keep no gradient, lest an optimiser decay them. Buffers are
    left alone: processes keep them equal, or different on purpose (MoCo's batch norms).
    """
    if world_size() == 1:
        return module
    with warnings.catch_warnings():
        # torch 2.14 advises another option, which 2.6 lacks and which would broadcast banks at the start.
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
        # Not static_graph: it arranges buckets anew after the first step, and sums over three or more
        # processes, and so a resumed run, would have other last bits.
        return DistributedDataParallel(module, broadcast_buffers=False, find_unused_parameters=True)


def synchronise_norms(module: nn.Module, device: torch.device) -> None:
    """Make every batch norm of a network on a device see the rows of all processes.

    Modules, parameters, buffers, hooks and the keys of the state dict stay the same (an optimiser made
    before stays valid): their class changes, as objectives may hold references to them.
    """
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.__class__ = nn.SyncBatchNorm if device.type == "cuda" else SyncBatchNormCpu
            part.process_group = None  # type: ignore[assignment]


class SyncBatchNormCpu(_BatchNorm):
    """Batch norm over the rows of all processes on a CPU, where torch's ``SyncBatchNorm`` does not run.

    Mean and variance are those of all rows together (also when processes have
    different numbers of rows), summed in float64. Running statistics are
    equal on all processes; the variance among them is the unbiased one.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (n_images, n_channels, ...)."""
        if world_size() == 1 or not (self.training or self.running_mean is None):
            return super().forward(input)
        rows = input if input.dtype == torch.float64 else input.float()
        axes = [axis for axis in range(rows.ndim) if axis != 1]
        n_own = torch.tensor([rows.numel() / rows.shape[1]], dtype=torch.float64)
        sums = all_reduce(torch.cat([rows.sum(axes, dtype=torch.float64), n_own]))
        mean, count = sums[:-1] / sums[-1], sums[-1].detach()
        centred = rows - _as_channels(mean, rows)
        variance = all_reduce(centred.square().sum(axes, dtype=torch.float64)) / count
        if self.training and self.track_running_stats:
            self._track(mean.detach(), variance.detach() * (count / (count - 1)))
        scale = torch.rsqrt(variance + self.eps)
        output = centred * _as_channels(scale if self.weight is None else scale * self.weight, rows)
        if self.bias is not None:
            output = output + _as_channels(self.bias, rows)
        return output.to(input.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected 2 dimensions or more, got {input.ndim}")

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.mul_(1 - share).add_(mean.to(self.running_mean.dtype), alpha=share)
        self.running_var.mul_(1 - share).add_(variance.to(self.running_var.dtype), alpha=share)


def _as_channels(values: Tensor, rows: Tensor) -> Tensor:
    """Give (n_channels,) the type of ``rows`` and the shape that broadcasts with them."""
    return values.to(rows.dtype).view(1, -1, *[1] * (rows.ndim - 2))


def run_processes(n: int, argv: Sequence[str], *, device: torch.device | None = None) -> int:
    """Run ``mvkit`` with these words in several processes on this machine, by torchrun.

    Ctrl-C and SIGTERM reach all processes. When one fails, the others are
    stopped, and the error of the one that failed first is raised here.

    Parameters
    ----------
    n
        Number of processes.
    argv
        Words after ``mvkit``.
    device
        Where they compute; for "cuda", each needs a GPU of its own.

    Returns
    -------
    int
        0, 130 if interrupted, or the exit code of a process that has printed its error itself.

    Raises
    ------
    UsageError
        If ``n`` is not positive or above the number of GPUs, or this process is itself one of several.
    MvkitError
        What a process raised (its class), or that it was killed by a signal.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    if n < 1:
        raise UsageError(f"{n} processes: give 1 or more")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        number, n_all = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
        raise UsageError(f"this is already process {number} of {n_all} of torchrun: leave out --processes")
    if device is not None and device.type == "cuda" and n > torch.cuda.device_count():
        raise UsageError(
            f"{n} processes need {n} GPUs, {torch.cuda.device_count()} visible: use fewer, or --device cpu"
        )
    # Processes share the cores and communicate on this machine only; a user's own setting counts, where
    # there is one.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // n)))
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(_SHUTDOWN_S))
    # A warning for each network whose parameters are all used.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("torch.distributed") and isinstance(logger, logging.Logger):
            # The error is raised here; warnings and tables would repeat it.
            logger.setLevel(logging.CRITICAL)
    options = ["--standalone", "--local-addr=localhost", f"--nproc-per-node={n}", "--no-python"]
    with safe_child_path, tempfile.TemporaryDirectory(prefix="mvkit_processes_") as folder:
        words = [*options, f"--log-dir={folder}", sys.executable, *WORKER, *argv]
        try:
            run(parse_args(words))  # type: ignore[no-untyped-call]
        except SignalException:
            # Perhaps a process could not save.
            for path in sorted(Path(folder).rglob("error.json")):
                with suppress(OtherProcessLostError):
                    _raise_recorded(json.loads(path.read_text(encoding="utf-8")))
            return INTERRUPTED
        except ChildFailedError as error:
            return _raise_cause(list(error.failures.values()))
    return 0


def record_failure(error: BaseException, message: str) -> None:
    """Record the error that ends this process, and its message, for torchrun, which started it."""
    # Of a stage's own error, the class of mvkit.errors that it is a kind of.
    known = (kind for kind in type(error).__mro__ if kind.__module__ in (errors.__name__, __name__))
    kind = next(known, type(error)).__name__
    record = {"message": message, "timestamp": int(time.time()), "type": kind}
    with suppress(OSError):
        Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps(record), encoding="utf-8")


def _raise_cause(failures: Sequence[ProcessFailure]) -> int:
    """Raise the failure that caused the others, or return its exit code if there is no message.

    An error that mvkit raises on purpose is no consequence of another; next in order come a kill, an
    unforeseen error, and SIGTERM, by which torchrun ends the processes that are left.
    """

    def order(failure: ProcessFailure) -> tuple[int, int, int]:
        kind, ended = failure.error_file_data.get("type"), failure.exitcode == -signal.SIGTERM
        if hasattr(errors, str(kind)):
            group = 0
        elif failure.exitcode < 0 and not ended:
            group = 1
        elif kind not in (None, OtherProcessLostError.__name__):
            group = 2
        else:
            group = 4 if ended else 3
        return group, failure.timestamp, failure.local_rank

    cause = min(failures, key=order)
    number = -cause.exitcode
    if "type" in cause.error_file_data and order(cause)[0] != 1:
        _raise_recorded(cause.error_file_data)
    if number in (signal.SIGINT, signal.SIGTERM):
        return INTERRUPTED
    if number > 0:
        advice = "\nmost likely memory ran out: give fewer processes, or --accumulate" if number == 9 else ""
        raise MvkitError(f"process {cause.local_rank} was killed by {signal.Signals(number).name}{advice}")
    return cause.exitcode


def _raise_recorded(record: Mapping[str, Any]) -> NoReturn:
    """Raise an error from :func:`record_failure`."""
    message = record["message"]
    if record["type"] == OtherProcessLostError.__name__:
        raise OtherProcessLostError(message)
    kind = getattr(errors, record["type"], None)
    raise MvkitError(f"a process failed: {message}") if kind is None else kind(message)
