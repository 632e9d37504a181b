"""Run as one of several processes: gathering, sums, batch norms and averaged gradients, in float64."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext

import torch
from torch import Tensor, distributed, nn

from mvkit.distributed import (
    all_gather,
    all_reduce,
    data_parallel,
    is_main_process,
    rank,
    row_counts,
    synchronise_norms,
    world_size,
)

#: Rows of each process: unequal, as in a last batch.
ROWS = (5, 2)
N_CHANNELS = 4
#: Mean far from 0: a variance from sums of squares would lose 7 of 16 digits.
OFFSET = 1e4
NORMS = {
    "plain": {},
    "cumulative": {"momentum": None},
    "affine_free": {"affine": False},
    "untracked": {"track_running_stats": False},
}


def own(rows: Tensor, n: int) -> Tensor:
    first = sum(ROWS[: rank()]) if n > 1 else 0
    return rows[first : first + ROWS[rank()]] if n > 1 else rows


def norm_results(n: int) -> dict[str, Tensor]:
    results = {}
    for name, settings in NORMS.items():
        for rest in ((), (3, 2)):
            generator = torch.Generator().manual_seed(len(rest))
            norm = (nn.BatchNorm2d if rest else nn.BatchNorm1d)(N_CHANNELS, **settings).double()
            keys = list(norm.state_dict())
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 2, generator=generator)
                nn.init.uniform_(norm.bias, generator=generator)
            parameters, before = list(norm.parameters()), norm
            synchronise_norms(norm, torch.device("cpu"))
            # The same objects: an optimiser made before stays valid.
            same = before is norm and all(a is b for a, b in zip(parameters, norm.parameters(), strict=True))
            results[f"{name}/{len(rest)}/same"] = torch.tensor(same and list(norm.state_dict()) == keys)
            for _ in range(3):
                shape = (sum(ROWS), N_CHANNELS, *rest)
                rows = torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + OFFSET
                slopes = torch.randn(shape, generator=generator, dtype=torch.float64)
                rows = own(rows, n).clone().requires_grad_()
                output = norm(rows)
                # Not linear: the gradient of a sum of normalised rows is zero.
                (torch.tanh(output) * own(slopes, n)).sum().backward()
            prefix = f"{name}/{len(rest)}"
            results[f"{prefix}/output"] = all_gather(output.detach())
            assert rows.grad is not None
            results[f"{prefix}/gradient"] = all_gather(rows.grad)
            results |= {f"{prefix}/{key}": value.clone() for key, value in norm.state_dict().items()}
            results |= {
                f"{prefix}/{key}.grad": all_reduce(p.grad)
                for key, p in norm.named_parameters()
                if p.grad is not None
            }
            norm.eval()
            results[f"{prefix}/eval"] = all_gather(norm(rows))
    return results


def gather_results(n: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(9)
    everyone = torch.randn(sum(ROWS), 3, generator=generator, dtype=torch.float64)
    rows = own(everyone, n).clone().requires_grad_()
    gathered = all_gather(rows)
    # Every process computes this loss of all rows; the mean of P equal losses is the loss.
    (gathered @ gathered.T).sin().sum().div(world_size()).backward()
    summed_rows = own(everyone, n).clone().requires_grad_()
    all_reduce(summed_rows.exp().sum(0)).square().sum().div(world_size()).backward()
    assert rows.grad is not None and summed_rows.grad is not None
    results = {
        "gathered": gathered.detach(),
        "gather/gradient": all_gather(rows.grad),
        "total/gradient": all_gather(summed_rows.grad),
    }
    for dtype in (torch.int64, torch.bool, torch.uint8, torch.float16, torch.bfloat16, torch.float32):
        results[f"gathered/{dtype}"] = all_gather(own(everyone, n).to(dtype))
    return results


def averaging_results(n: int) -> dict[str, Tensor]:
    """Gradients of a small network, of two micro-batches; one parameter is not used and one frozen."""
    torch.manual_seed(4)
    network = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    network.register_parameter("unused", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    network[1].register_parameter("frozen", nn.Parameter(torch.ones(2), requires_grad=False))
    parallel = data_parallel(network)
    results = {"average/wrapped": torch.tensor((parallel is not network) == (n > 1))}
    for step in range(2):
        everyone = torch.randn(sum(ROWS), 3, dtype=torch.float64)
        rows = own(everyone, n)
        network.zero_grad()
        for part, is_last in ((rows[:1], False), (rows[1:], True)):
            with nullcontext() if n == 1 or is_last else parallel.no_sync():
                # Means of own rows, weighted so that the mean over processes is the mean over all rows.
                (parallel(part).square().sum() * world_size() / sum(ROWS)).backward()
        for name, parameter in network.named_parameters():
            missing = parameter.grad is None
            results[f"average/{step}/{name}"] = torch.zeros(0) if missing else parameter.grad.clone()
    return results


def main(n: int, meeting: str, out: str, number: int) -> None:
    if n > 1:
        distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=number, world_size=n)
    place = torch.tensor([rank(), world_size(), int(is_main_process()), *row_counts(ROWS[number])])
    torch.save({"place": place, **norm_results(n), **gather_results(n), **averaging_results(n)}, out)
    if n > 1:
        distributed.destroy_process_group()
        # Gloo's threads may outlive the group, and C++ would abort when the interpreter ends.
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[1]))
