"""One step of training against a plain torch loop: the same network, objective and batches in memory.

Both take turns on the same batches, from the same start, so that a busy machine slows both; of each pair of
turns the ratio of times is taken, and of these the median. The losses of both are compared, too. Usage::

    python benchmarks/train_step.py [RECIPE ...] [--batch 64] [--pairs 15] [--threads 1] [--device cpu]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn, optim

from mvkit.images.settings import Batch
from mvkit.models.loading import build_for_training
from mvkit.objectives.base import Objective, build_objective
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


def compare(name: str, turns: dict[str, Turn], *, n_pairs: int, n_rows: int, device: torch.device) -> None:
    """Print the rate of the plain loop, and of each other way its rate and ratio."""
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
        compare(name, turns, n_pairs=chosen.pairs, n_rows=chosen.batch, device=device)


if __name__ == "__main__":
    main()
