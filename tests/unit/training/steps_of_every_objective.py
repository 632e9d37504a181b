"""Run as one of several processes: a few steps of every objective, whole and sabotaged.

Saves {"objective/variant": {"losses", "state", "couples", "remembers", "norms"}}.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch import Tensor, distributed, nn

from mvkit.distributed import SyncBatchNormCpu, rank, synchronise_norms, world_size
from mvkit.images.settings import Batch
from mvkit.objectives.base import Loss, Objective, build_objective
from mvkit.objectives.registry import OBJECTIVES
from mvkit.training import step as step_module
from mvkit.training.step import StepSettings, TrainStep

N_IMAGES, N_CLASSES, SIDE = 24, 6, 8
N_STEPS, BATCH = 3, 8
#: The features are a classifier's outputs too.
WIDTH = N_CLASSES
#: Heads, banks and queues small enough for a test; an objective without a row keeps its defaults.
SMALL = {
    "instance_recognition": {"width": 6, "noise_samples": 12},
    "simclr": {"hidden": 12, "width": 6},
    "simsiam": {"hidden": 12, "width": 12, "prediction_hidden": 6},
    # Shorter than two batches: the oldest keys are written over.
    "mocov2": {"hidden": 12, "width": 6, "queue": 12, "momentum": 0.9},
    "barlow_twins": {"widths": (12, 12)},
    "vicreg": {"widths": (12, 12)},
    "relative_location": {"hidden": 12},
    "linear_readout": {"layer": "early", "pool_px": 3},
    "neural_readout": {"layer": "late"},
}


class Encoder(nn.Module):
    """A small network with everything that objectives read: features, a layer, a decoded image."""

    def __init__(self, *, decodes: bool) -> None:
        super().__init__()
        self.early = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Tanh())
        self.late = nn.Sequential(nn.Conv2d(6, WIDTH, 3, stride=2, padding=1), nn.BatchNorm2d(WIDTH))
        self.unused = nn.Linear(2, 2)
        if decodes:
            self.decoder = nn.ConvTranspose2d(WIDTH, 3, 2, stride=2)

    def forward(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        maps = torch.tanh(self.late(self.early(images)))
        hidden = maps.mean((2, 3))
        if hasattr(self, "decoder"):
            return {"output": self.decoder(maps), "hidden_vec": hidden}
        return hidden


def global_batches(n_views: int, n_rows: int) -> Iterator[Batch]:
    """The same on every process; every image comes several times."""
    generator = torch.Generator().manual_seed(5)
    for _ in range(N_STEPS):
        index = torch.randperm(N_IMAGES, generator=generator)[:n_rows]
        shape = (n_rows, 3, SIDE, SIDE)
        views = tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(n_views))
        yield Batch(views, index, label=index % N_CLASSES, target=views[0][:, :1] * 0.5)


@contextmanager
def every_process_believes_to_be_alone() -> Iterator[None]:
    with ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            for function, alone in ((world_size, 1), (rank, 0)):
                own = function.__name__
                if name.startswith("mvkit.") and getattr(module, own, None) is function:
                    stack.enter_context(mock.patch.object(module, own, lambda alone=alone: alone))
        yield


@contextmanager
def nothing_sabotaged() -> Iterator[None]:
    yield


@contextmanager
def negatives_not_gathered() -> Iterator[None]:
    whole = Objective.criterion

    def criterion(self: Objective, embedded: tuple[Tensor, ...], batch: Batch) -> Loss:
        with every_process_believes_to_be_alone():
            return whole(self, embedded, batch)

    with mock.patch.object(Objective, "criterion", criterion):
        yield


@contextmanager
def memories_not_synchronised() -> Iterator[None]:
    with ExitStack() as stack:
        for kind in Objective.__subclasses__():
            whole = kind.after_step

            def after_step(self, embedded, batch, whole=whole):  # type: ignore[no-untyped-def]
                with every_process_believes_to_be_alone():
                    whole(self, embedded, batch)

            stack.enter_context(mock.patch.object(kind, "after_step", after_step))
        yield


@contextmanager
def norms_of_own_rows() -> Iterator[None]:
    with mock.patch.object(SyncBatchNormCpu, "forward", nn.BatchNorm2d.forward):
        yield


@contextmanager
def gradients_not_averaged() -> Iterator[None]:
    with mock.patch.object(step_module, "data_parallel", lambda module: module):
        yield


#: Variant: (sabotage, rows of the global batch, dtype).
VARIANTS = {
    "whole": (nothing_sabotaged, BATCH, torch.float64),
    "float32": (nothing_sabotaged, BATCH, torch.float32),
    "uneven": (nothing_sabotaged, BATCH - 1, torch.float64),
    "accumulated": (nothing_sabotaged, BATCH - 1, torch.float64),
    "negatives_not_gathered": (negatives_not_gathered, BATCH, torch.float64),
    "memories_not_synchronised": (memories_not_synchronised, BATCH, torch.float64),
    "norms_of_own_rows": (norms_of_own_rows, BATCH, torch.float64),
    "gradients_not_averaged": (gradients_not_averaged, BATCH, torch.float64),
}


def build(name: str, dtype: torch.dtype) -> tuple[Encoder, Objective]:
    """Return a small network and an objective on it, the same on every call."""
    torch.manual_seed(1)
    row = OBJECTIVES[name]
    encoder = Encoder(decodes=row.reads == "decoded").to(dtype)
    objective = build_objective(
        row.settings(**SMALL.get(name, {})),  # type: ignore[arg-type]
        encoder=encoder,
        input_px=SIDE,
        n_images=N_IMAGES,
        n_classes=N_CLASSES,
        seed=3,
        responses=torch.linspace(-1, 1, 2 * N_IMAGES).sin().view(N_IMAGES, 2),
    )
    return encoder, objective.to(dtype)


def optimiser_of(encoder: nn.Module, objective: nn.Module) -> torch.optim.Optimizer:
    trained = [p for p in (*encoder.parameters(), *objective.parameters()) if p.requires_grad]
    return torch.optim.SGD(trained, lr=0.1, momentum=0.9, weight_decay=1e-3)


def own_rows(batch: Batch, dtype: torch.dtype) -> Batch:
    """Return this process's part of a global batch."""
    n_rows, n = len(batch.index), world_size()
    own = batch.rows(rank() * n_rows // n, (rank() + 1) * n_rows // n)
    return Batch(tuple(view.to(dtype) for view in own.views), own.index, own.label, own.target)


def state_of(encoder: nn.Module, objective: nn.Module) -> dict[str, Tensor]:
    both = {"encoder": encoder, "objective": objective}
    return {f"{name}.{key}": value for name, m in both.items() for key, value in m.state_dict().items()}


def train(name: str, *, n_rows: int, dtype: torch.dtype, accumulate: int) -> dict[str, object]:
    """Take some steps on this process's part of every batch."""
    encoder, objective = build(name, dtype)
    if accumulate > 1:
        # Which rows meet in a micro-batch depends on the number of processes: norms must not see them.
        for module in (*encoder.modules(), *objective.modules()):
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
    synchronise_norms(encoder, torch.device("cpu"))
    synchronise_norms(objective, torch.device("cpu"))
    optimiser = optimiser_of(encoder, objective)
    settings = StepSettings(accumulate=accumulate)
    step = TrainStep(encoder, objective, optimiser, settings=settings, device=torch.device("cpu"))
    taken = [
        step.run(own_rows(batch, dtype), step=number)
        for number, batch in enumerate(global_batches(objective.n_inputs, n_rows))
    ]
    modules = (*encoder.modules(), *objective.modules())
    return {
        "losses": torch.stack([loss.total for loss in taken]),
        "parts": torch.tensor([[float(part) for part in loss.parts.values()] for loss in taken]),
        "state": state_of(encoder, objective),
        "couples": objective.couples_samples,
        "remembers": type(objective).after_step is not Objective.after_step,
        "norms": any(isinstance(module, SyncBatchNormCpu) and module.training for module in modules),
    }


def main(number: int, n: int, meeting: str, out: str) -> None:
    torch.set_num_threads(1)
    if n > 1:
        distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=number, world_size=n)
    results = {}
    for name in OBJECTIVES:
        for variant, (sabotage, n_rows, dtype) in VARIANTS.items():
            if n == 1 and sabotage is not nothing_sabotaged:
                continue
            with sabotage():
                accumulate = 3 if variant == "accumulated" else 1
                results[f"{name}/{variant}"] = train(name, n_rows=n_rows, dtype=dtype, accumulate=accumulate)
    torch.save(results, out)
    if n > 1:
        distributed.destroy_process_group()
        # Gloo's threads may outlive the group, and C++ would abort when the interpreter ends.
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
