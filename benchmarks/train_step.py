"""One step of training against a plain torch loop: the same network, objective and batches in memory.

SimCLR also against lightly's head, loss and optimiser on the same network. All take turns on the same
batches, from the same start, so that a busy machine slows all; of each pair of turns the ratio of times is
taken, and of these the median. The losses are compared, too; lightly's optimiser adapts the rate of every
parameter, mvkit's spares those that the published code spares. Usage::

    python benchmarks/train_step.py [RECIPE ...] [--batch 64] [--pairs 15] [--threads 1] [--device cpu]
                                    [--record FILE]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from record import Record, add_record_option
from torch import nn, optim

from mvkit.images.settings import Batch
from mvkit.models.loading import build_for_training
from mvkit.objectives.base import Objective, build_objective, features
from mvkit.objectives.registry import OBJECTIVES
from mvkit.recipes import load_recipe
from mvkit.training.optim import build_optimiser
from mvkit.training.recipe import TrainRecipe
from mvkit.training.step import StepSettings, TrainStep

RECIPES = (
    "single_stream_ir",
    "dual_stream_ir",
    "dual_stream_supervised",
    "alexnet_simclr",
    "resnet18_supervised",
)
N_IMAGES, N_CLASSES, N_BATCHES, SIDE = 50_000, 1000, 4, 64
#: Steps timed together: the clock's jitter is small against them.
STEPS = 2
#: Heading of the table in docs/benchmarks.md.
TASK = "Training"


def networks(recipe: TrainRecipe, device: torch.device) -> tuple[nn.Module, Objective, optim.Optimizer]:
    """The start of training, the same on every call."""
    encoder = build_for_training(recipe.model.architecture, n_classes=N_CLASSES, seed=0)
    objective = build_objective(
        recipe.objective, encoder=encoder, input_px=SIDE, n_images=N_IMAGES, n_classes=N_CLASSES, seed=0
    )
    encoder.to(device)
    objective.to(device)
    return encoder, objective, build_optimiser(recipe.optimiser, [encoder, objective])


def n_inputs(recipe: TrainRecipe) -> int:
    """Views of an image that the objective takes, after rotations or patches."""
    return OBJECTIVES[recipe.objective.name].build.n_inputs


def batches_in_memory(n_views: int, n_rows: int, device: torch.device) -> list[Batch]:
    """Noise as images: time does not depend on what they show."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(N_BATCHES):
        index = torch.randint(N_IMAGES, (n_rows,), generator=generator)
        views = [torch.randn(n_rows, 3, SIDE, SIDE, generator=generator) for _ in range(n_views)]
        target = torch.rand(n_rows, 1, SIDE, SIDE, generator=generator).to(device)
        moved = tuple(view.to(device) for view in views)
        found.append(Batch(moved, index.to(device), (index % N_CLASSES).to(device), target))
    return found


Turn = Callable[[int], torch.Tensor]


def plain_loop(recipe: TrainRecipe, batches: Sequence[Batch], device: torch.device) -> Turn:
    """What one would write by hand."""
    encoder, objective, optimiser = networks(recipe, device)

    def take(step: int) -> torch.Tensor:
        batch = batches[step % len(batches)]
        objective.before_step(encoder, step=step)
        optimiser.zero_grad()
        embedded = objective.embed(encoder, batch)
        loss = objective.criterion(embedded, batch).total
        loss.backward()
        optimiser.step()
        objective.after_step(embedded, batch)
        return loss.detach()

    return take


def mvkit_step(
    recipe: TrainRecipe, batches: Sequence[Batch], device: torch.device, settings: StepSettings
) -> Turn:
    """``TrainStep``."""
    encoder, objective, optimiser = networks(recipe, device)
    training = TrainStep(encoder, objective, optimiser, settings=settings, device=device)
    return lambda step: training.run(batches[step % len(batches)], step=step).total


def lightly_step(recipe: TrainRecipe, batches: Sequence[Batch], device: torch.device) -> Turn:
    """SimCLR of lightly's parts, with the network and the first weights of the other ways."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.utils.lars import LARS

    encoder, objective, _ = networks(recipe, device)
    neck = objective.neck
    head = SimCLRProjectionHead(neck.fc0.in_features, neck.fc0.out_features, neck.fc1.out_features).to(device)
    weights = neck.state_dict().values()
    head.layers.load_state_dict(dict(zip(head.layers.state_dict(), weights, strict=True)))
    criterion = NTXentLoss(temperature=recipe.objective.temperature)
    settings = recipe.optimiser
    optimiser = LARS(
        [*encoder.parameters(), *head.parameters()],
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        trust_coefficient=settings.trust_coefficient,
    )

    def take(step: int) -> torch.Tensor:
        batch = batches[step % len(batches)]
        optimiser.zero_grad()
        first, second = head(features(encoder, torch.cat(batch.views))).chunk(2)
        loss: torch.Tensor = criterion(first, second)
        loss.backward()
        optimiser.step()
        return loss.detach()

    return take


def timed(take: Turn, first: int, device: torch.device) -> tuple[float, torch.Tensor]:
    """Seconds of some steps, and the last loss; of CPU time where one thread does all the work."""
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = clock()
    for step in range(first, first + STEPS):
        loss = take(step)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start, loss


def compare(
    name: str, turns: dict[str, Turn], *, n_pairs: int, n_rows: int, device: torch.device, record: Record
) -> None:
    """Print the rate of the plain loop, and of each other way its rate and ratio; report mvkit's."""
    seconds: dict[str, list[float]] = {way: [] for way in turns}
    losses: dict[str, torch.Tensor] = {}
    for pair in range(n_pairs + 1):
        # Whoever goes second finds warm caches: they take turns in that as well.
        order = list(turns) if pair % 2 else list(reversed(turns))
        for way in order:
            # Dropout draws alike for all.
            torch.manual_seed(pair)
            spent, loss = timed(turns[way], pair * STEPS, device)
            if pair:
                seconds[way].append(spent)
            else:
                # Later, rounding has grown with every step.
                losses[way] = loss
    plain = seconds["plain loop"]
    for way, spent in seconds.items():
        rate = STEPS * n_rows / statistics.median(spent)
        ratio = statistics.median(a / b for a, b in zip(plain, spent, strict=True))
        off = abs(float(losses[way] - losses["plain loop"])) / abs(float(losses["plain loop"]))
        print(f"{name:<24} {way:<22} {rate:9.1f} images/s  {ratio:6.3f}x  loss differs by {off:.1e}")
    rates = {way: [STEPS * n_rows / one for one in spent] for way, spent in seconds.items()}
    clock = "CPU second" if device.type == "cpu" and torch.get_num_threads() == 1 else "second"
    for way, job in (("mvkit", name), ("mvkit, channels last", f"{name}, channels last")):
        for peer, theirs in rates.items():
            if not peer.startswith("mvkit"):
                record.add(
                    TASK,
                    f"{job}, step of {n_rows} images",
                    peer="plain torch loop" if peer == "plain loop" else peer,
                    mvkit=rates[way],
                    other=theirs,
                    unit=f"images/{clock}",
                    better="higher",
                )


def main() -> None:
    """Compare all recipes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    add_record_option(parser)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    device = torch.device(chosen.device)
    for name in chosen.recipes:
        recipe = load_recipe(TrainRecipe, name)
        batches = batches_in_memory(n_inputs(recipe), chosen.batch, device)
        turns = {
            "plain loop": plain_loop(recipe, batches, device),
            "mvkit": mvkit_step(recipe, batches, device, StepSettings()),
            "mvkit, channels last": mvkit_step(recipe, batches, device, StepSettings(channels_last=True)),
        }
        job = f"{name}, step of {chosen.batch} images"
        if recipe.objective.name == "simclr" and chosen.record.has_peer("lightly", TASK, job):
            turns["lightly"] = lightly_step(recipe, batches, device)
        compare(name, turns, n_pairs=chosen.pairs, n_rows=chosen.batch, device=device, record=chosen.record)


if __name__ == "__main__":
    main()
