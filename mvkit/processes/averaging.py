"""Averaging gradients over processes while backward is still running.

Not ``DistributedDataParallel``: its wrapper owns the forward pass, whereas an
objective calls encoder and heads as it likes, momentum copies and frozen
networks take part without gradients, and two-pass accumulation runs backward
several times with only the last to be followed by communication. What makes
DDP fast is kept: gradients are flattened into buckets, and a bucket travels
as soon as its last gradient exists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, distributed, nn

from mvkit.processes.world import size

#: As in DDP: large enough for full bandwidth, small enough that several overlap with backward.
BUCKET_BYTES = 25 * 2**20


@dataclass
class _Bucket:
    parameters: list[nn.Parameter]
    awaited: set[nn.Parameter] = field(default_factory=set)
    flat: Tensor | None = None
    work: distributed.Work | None = None

    def launch(self) -> None:
        """Send this process's gradients; a parameter without one counts as zeros, so that sizes agree."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        self.flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        self.work = distributed.all_reduce(self.flat, async_op=True)

    def land(self) -> None:
        """Wait for the sum and make the gradients its mean."""
        if self.work is None or self.flat is None:
            return
        self.work.wait()
        self.flat.div_(size())
        means = self.flat.split([p.numel() for p in self.parameters])  # type: ignore[no-untyped-call]
        for parameter, mean in zip(self.parameters, means, strict=True):
            # A parameter that the loss does not use keeps no gradient, lest
            # the optimiser decay it: as in one process.
            if parameter.grad is None:
                continue
            if parameter.grad.is_contiguous():
                parameter.grad = mean.view_as(parameter)
            else:
                parameter.grad.copy_(mean.view_as(parameter))
        self.flat = self.work = None


class GradientAverage:
    """Makes the gradients of parameters their mean over processes; does nothing for one process.

    Call :meth:`arm` before the backward pass that completes the gradients and
    :meth:`finish` after it. The same parameters must get gradients on every process.

    Parameters
    ----------
    parameters
        In the order of use; those without ``requires_grad`` are left out.
    bucket_bytes
        Size at which a bucket is full.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, bucket_bytes: int = BUCKET_BYTES) -> None:
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        # Gradients appear from the last layer to the first.
        self._buckets = [_Bucket(part) for part in _portions(reversed(trained), bucket_bytes)]
        self._bucket_of = {p: bucket for bucket in self._buckets for p in bucket.parameters}
        self._armed = False
        self._n_launched = 0
        if size() > 1:
            for parameter in trained:
                parameter.register_post_accumulate_grad_hook(self._arrived)  # type: ignore[no-untyped-call]

    def arm(self) -> None:
        """Let the next backward pass launch buckets as they fill."""
        self._armed = size() > 1
        self._n_launched = 0
        for bucket in self._buckets:
            bucket.awaited = set(bucket.parameters)

    def finish(self) -> None:
        """Launch what is left, wait for all, write the means into the gradients."""
        if not self._armed:
            return
        self._armed = False
        for bucket in self._buckets[self._n_launched :]:
            bucket.launch()
        for bucket in self._buckets:
            bucket.land()

    def _arrived(self, parameter: nn.Parameter | Tensor) -> None:
        if not self._armed or not isinstance(parameter, nn.Parameter):
            return
        self._bucket_of[parameter].awaited.discard(parameter)
        # In bucket order on every process, whatever order gradients arrive in:
        # processes match their messages by position.
        while self._n_launched < len(self._buckets) and not self._buckets[self._n_launched].awaited:
            self._buckets[self._n_launched].launch()
            self._n_launched += 1


def _portions(parameters: Iterable[nn.Parameter], bucket_bytes: int) -> Iterator[list[nn.Parameter]]:
    """Cut into runs of one dtype and device, each full when it reaches ``bucket_bytes``."""
    portion: list[nn.Parameter] = []
    n_bytes = 0
    for parameter in parameters:
        kind = (parameter.dtype, parameter.device)
        if portion and (n_bytes >= bucket_bytes or kind != (portion[0].dtype, portion[0].device)):
            yield portion
            portion, n_bytes = [], 0
        portion.append(parameter)
        n_bytes += parameter.numel() * parameter.element_size()
    if portion:
        yield portion
