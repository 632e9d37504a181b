"""Run as one of several processes: gathering, sums, batch norms and averaged gradients, in float64."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, distributed, nn

from mvkit.processes.averaging import GradientAverage
from mvkit.processes.gathering import gather, gather_detached, row_counts, total
from mvkit.processes.norms import synchronise_norms
from mvkit.processes.world import is_first, rank, size

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
            parameters, module = list(norm.parameters()), synchronise_norms(norm)
            # The same objects: an optimiser made before stays valid.
            same = module is norm and all(a is b for a, b in zip(parameters, norm.parameters(), strict=True))
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
            results[f"{prefix}/output"] = gather_detached(output)
            assert rows.grad is not None
            results[f"{prefix}/gradient"] = gather_detached(rows.grad)
            results |= {f"{prefix}/{key}": value.clone() for key, value in norm.state_dict().items()}
            results |= {
                f"{prefix}/{key}.grad": total(p.grad)
                for key, p in norm.named_parameters()
                if p.grad is not None
            }
            norm.eval()
            results[f"{prefix}/eval"] = gather_detached(norm(rows))
    return results


def gather_results(n: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(9)
    everyone = torch.randn(sum(ROWS), 3, generator=generator, dtype=torch.float64)
    rows = own(everyone, n).clone().requires_grad_()
    gathered = gather(rows)
    # Every process computes this loss of all rows; the mean of P equal losses is the loss.
    (gathered @ gathered.T).sin().sum().div(size()).backward()
    summed_rows = own(everyone, n).clone().requires_grad_()
    total(summed_rows.exp().sum(0)).square().sum().div(size()).backward()
    assert rows.grad is not None and summed_rows.grad is not None
    results = {
        "gathered": gathered.detach(),
        "gather/gradient": gather_detached(rows.grad),
        "total/gradient": gather_detached(summed_rows.grad),
    }
    for dtype in (torch.int64, torch.bool, torch.uint8, torch.float16, torch.bfloat16, torch.float32):
        results[f"gathered/{dtype}"] = gather(own(everyone, n).to(dtype))
    return results


def averaging_results(n: int) -> dict[str, Tensor]:
    """Gradients of a small network in buckets of every size; one parameter is not used."""
    results = {}
    for bucket_bytes in (1, 200, 2**20):
        torch.manual_seed(4)
        network = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2), nn.Linear(7, 7)).double()
        network[1].register_parameter("frozen", nn.Parameter(torch.ones(2), requires_grad=False))
        average = GradientAverage(network.parameters(), bucket_bytes=bucket_bytes)
        everyone = torch.randn(sum(ROWS), 3, dtype=torch.float64)
        rows = own(everyone, n)
        for part, is_last in ((rows[:1], False), (rows[1:], True)):
            if is_last:
                average.arm()
            # Means of own rows, weighted so that the mean over processes is the mean over all rows.
            (network[2](network[1](network[0](part))).square().sum() * size() / sum(ROWS)).backward()
        average.finish()
        for name, parameter in network.named_parameters():
            missing = parameter.grad is None
            results[f"average/{bucket_bytes}/{name}"] = torch.zeros(0) if missing else parameter.grad
    return results


def main(n: int, meeting: str, out: str, number: int) -> None:
    if n > 1:
        distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=number, world_size=n)
    place = torch.tensor([rank(), size(), int(is_first()), *row_counts(ROWS[number])])
    torch.save({"place": place, **norm_results(n), **gather_results(n), **averaging_results(n)}, out)
    if n > 1:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[2]), sys.argv[3], sys.argv[4], int(sys.argv[1]))
