"""Check on one GPU what the tests check on the CPU, and measure training and scoring; needs no package index.

    python scripts/gpu_check.py [--device cuda] [--quick]

For every objective a step on the GPU must give the CPU's loss and gradients (float32, no TF32); bf16,
``torch.compile`` and channels_last must run; features, inner products and scores of PLS to convergence must
be the CPU's. Then

- time per PLS fit: on the GPU, by all cores, and what eigendecompositions alone would take there;
- images per second of training steps at their published batch, with batches in GPU memory;
- images per second of the beton loader alone, of views and steps on one resident batch, and of both together,
  with the share of the time that training waited for the loader;
- how often views and a step make the processor wait for the GPU;
- one process under torchrun with NCCL.

What cannot be checked is named with its reason. Exit code 1 if a check fails. ``--device cpu --quick`` tries
the script itself, in a minute or two, without saying anything of a GPU.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from torch import nn

import mvkit
from mvkit.features.extraction import DeviceProducts
from mvkit.images.beton import has_ffcv
from mvkit.images.crops import output_px
from mvkit.images.loader import open_images
from mvkit.images.prep import PrepSettings, prepare
from mvkit.images.settings import Batch, RawBatch
from mvkit.images.views import ViewMaker
from mvkit.machine import available_cores
from mvkit.models.base import VisionModel
from mvkit.objectives.base import Objective
from mvkit.recipes import load_recipe
from mvkit.scoring import Scores, ScoreSettings, score_features
from mvkit.scoring.gram import layer_coordinates, split_coordinates
from mvkit.scoring.pls_torch import predict_splits
from mvkit.scoring.protocol import image_splits, training_targets
from mvkit.training.optim import build_optimiser
from mvkit.training.recipe import TrainRecipe
from mvkit.training.setup import build_networks
from mvkit.training.step import StepSettings, TrainStep

CPU = torch.device("cpu")
#: A recipe of every objective, with heads and banks small enough for a CPU.
OBJECTIVES = {
    "single_stream_ir": ("objective.noise_samples=64",),
    "alexnet_simclr": ("objective.hidden=64",),
    "alexnet_simsiam": ("objective.hidden=64", "objective.width=64", "objective.prediction_hidden=32"),
    "alexnet_mocov2": ("objective.hidden=64", "objective.queue=64"),
    "alexnet_barlow_twins": ("objective.widths=[64, 64]",),
    "alexnet_vicreg": ("objective.widths=[64, 64]",),
    "single_stream_rotnet": (),
    "resnet18_relative_location": ("objective.hidden=64", "objective.dropout=0"),
    "single_stream_autoencoder": (),
    "single_stream_depth": (),
    "single_stream_supervised": (),
    "single_stream_linear_readout": (),
    "neural_readout": (),
}
#: Largest difference of losses and gradients, relative to a tensor's largest number.
FLOAT32, HALF = 2e-3, 0.1
N_CHECKED, N_CLASSES, N_BANK, N_UNITS = 8, 12, 2048, 20
PUBLISHED = ("alexnet_ir", "dual_stream_ir", "alexnet_simclr")


class SkippedError(Exception):
    """A check that cannot be made here."""


class Report:
    """Runs checks one after another and prints a line for each."""

    def __init__(self) -> None:
        self.n_failed = 0

    def check(self, name: str, run: Callable[[], str]) -> None:
        """Run a check, which returns what it found or raises."""
        began = time.perf_counter()
        try:
            found, state = run(), "ok"
        except SkippedError as why:
            found, state = str(why), "skipped"
        except Exception as error:  # noqa: BLE001 - the next check must run whatever this one raised
            found, state = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", "FAILED"
            self.n_failed += 1
        print(f"{state:8}{name}: {found} ({time.perf_counter() - began:.1f} s)", flush=True)


def recipe_of(name: str, *changes: str) -> TrainRecipe:
    """Return a packaged recipe with changes."""
    return load_recipe(TrainRecipe, name, changes)


def learner(
    recipe: TrainRecipe, device: torch.device, settings: StepSettings | None = None
) -> tuple[VisionModel, Objective, TrainStep]:
    """Build network, objective and step; the same start for any device."""
    responses = np.random.default_rng(2).standard_normal((N_BANK, N_UNITS)).astype(np.float32)
    encoder, objective = build_networks(
        recipe, n_images=N_BANK, n_classes=N_CLASSES, responses=responses, weights="random"
    )
    # Every device draws its own dropout.
    for module in (*encoder.modules(), *objective.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    encoder.to(device)
    objective.to(device)
    optimiser = build_optimiser(recipe.optimiser, [encoder, objective])
    return encoder, objective, TrainStep(encoder, objective, optimiser, settings=settings, device=device)


def raw_batch(recipe: TrainRecipe, n_images: int) -> RawBatch:
    """Return noise as a loader yields images."""
    draws = torch.Generator().manual_seed(1)
    side = recipe.views.size_px
    shape = (n_images, side, side, 3)
    crops = (torch.randint(0, 256, shape, dtype=torch.uint8, generator=draws) for _ in recipe.views.each())
    return RawBatch(
        crops=tuple(crops),
        index=torch.arange(n_images) % N_BANK,
        label=torch.arange(n_images) % N_CLASSES,
        depth=torch.rand(n_images, 1, side, side, generator=draws),
    )


def moved(batch: Batch, device: torch.device) -> Batch:
    """Return a batch on a device."""
    label = None if batch.label is None else batch.label.to(device)
    target = None if batch.target is None else batch.target.to(device)
    return Batch(tuple(view.to(device) for view in batch.views), batch.index.to(device), label, target)


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference relative to the largest number."""
    scale = max(float(expected.abs().max()), 1e-6)
    return float((found.detach().cpu().float() - expected.detach().float()).abs().max()) / scale


def gradients(encoder: VisionModel, objective: Objective) -> dict[str, torch.Tensor]:
    """Return the gradients of all trained parameters by name."""
    parts = (("network", encoder), ("objective", objective))
    named = ((f"{part}.{name}", p) for part, module in parts for name, p in module.named_parameters())
    return {name: parameter.grad for name, parameter in named if parameter.grad is not None}


def one_step(name: str, changes: tuple[str, ...], device: torch.device) -> str:
    """Compare a step's loss and gradients with the CPU's."""
    recipe = recipe_of(name, *changes)
    views = ViewMaker(recipe.views, seed=0, device=CPU)
    batch = views(raw_batch(recipe, N_CHECKED), epoch=0)
    losses, found = [], []
    for one in (CPU, device):
        encoder, objective, step = learner(recipe, one)
        losses.append(step.run(moved(batch, one), step=0).total)
        found.append(gradients(encoder, objective))
    expected, measured = found
    if not expected or expected.keys() != measured.keys():
        raise AssertionError(f"gradients of other parameters: {expected.keys() ^ measured.keys()}")
    worst = max((difference(measured[key], value), key) for key, value in expected.items())
    loss = difference(losses[1], losses[0])
    if loss > FLOAT32 or worst[0] > FLOAT32:
        raise AssertionError(f"loss differs by {loss:.1e}, the gradient of {worst[1]} by {worst[0]:.1e}")
    return f"loss {float(losses[0]):.4f}; loss differs by {loss:.1e}, gradients by {worst[0]:.1e}"


def one_setting(settings: StepSettings, device: torch.device) -> str:
    """Compare the loss of a step in another precision or memory order with the CPU's in float32."""
    recipe = recipe_of("single_stream_ir", "objective.noise_samples=64")
    batch = ViewMaker(recipe.views, seed=0, device=CPU)(raw_batch(recipe, N_CHECKED), epoch=0)
    expected = learner(recipe, CPU)[2].run(batch, step=0).total
    loss = learner(recipe, device, settings)[2].run(moved(batch, device), step=0).total
    found, allowed = difference(loss, expected), FLOAT32 if settings.precision == "fp32" else HALF
    if not found <= allowed:
        raise AssertionError(f"loss {float(loss):.4f}, on the CPU {float(expected):.4f}")
    return f"loss differs by {found:.1e}"


def features(device: torch.device) -> str:
    """Compare features of all published layers with the CPU's."""
    model = mvkit.load_model("alexnet_bn_ir", "random")
    images = np.random.default_rng(0).integers(0, 256, (24, 80, 80), np.uint8)
    expected = mvkit.extract(model, images)
    found = mvkit.extract(model, images, device=str(device))
    worst = max(
        float(np.abs(found[layer] - expected[layer]).max() / np.abs(expected[layer]).max())
        for layer in expected
    )
    if worst > FLOAT32:
        raise AssertionError(f"features differ by {worst:.1e}")
    return f"{len(expected)} layers differ by {worst:.1e}"


def inner_products(device: torch.device) -> str:
    """Compare the Gram matrix of features with NumPy's in float64."""
    if device.type != "cuda":
        raise SkippedError("formed by NumPy on a CPU")
    values = np.random.default_rng(0).standard_normal((118, 20_000))
    exact = values @ values.T
    found = DeviceProducts(str(device))(values)
    worst = float(np.abs(found - exact).max() / np.abs(exact).max())
    if worst > 1e-10:
        raise AssertionError(f"inner products differ by {worst:.1e}")
    return f"differ by {worst:.1e}"


#: Rule of the fits that a GPU makes.
CONVERGED = ScoreSettings(pls_stopping="converged")


def simulated_scores(settings: ScoreSettings, n_layers: int, n_recordings: int, **where: object) -> Scores:
    """Score simulated layers (118 images, 500 features) against recordings of 60 units and 20 trials."""
    draws = np.random.default_rng(0)
    latents = draws.standard_normal((118, 30))
    features = {
        f"layer{number}": latents @ draws.standard_normal((30, 500)) + draws.standard_normal((118, 500))
        for number in range(n_layers)
    }
    recordings = [
        SimpleNamespace(
            area="VISp",
            specimen=specimen,
            unit_ids=np.arange(60),
            responses=latents @ draws.standard_normal((30, 60)) + draws.normal(0.0, 8.0, (20, 118, 60)),
        )
        for specimen in range(n_recordings)
    ]
    return score_features(features, recordings, settings, **where)  # type: ignore[arg-type]


def pls_scores(device: torch.device) -> str:
    """Compare scores of PLS to convergence, fitted on the device, with those of the compiled kernel."""
    settings = CONVERGED.model_copy(update={"n_splits": 3, "n_halves": 5})
    expected = simulated_scores(settings, 2, 1)
    found = simulated_scores(settings, 2, 1, fit_device=str(device))
    worst = 0.0
    for name in ("score", "raw_correlation", "map_reliability"):
        one, other = (scores.columns[name].astype(float) for scores in (found, expected))
        if not np.isfinite(one).any() or not np.array_equal(np.isnan(one), np.isnan(other)):
            raise AssertionError(f"{name}: other units have no value")
        worst = max(worst, float(np.nanmax(np.abs(one - other))))
    if worst > 1e-6:
        raise AssertionError(f"scores differ by {worst:.1e}")
    return f"{len(expected.columns['score'])} scores differ by {worst:.1e}"


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Return how long a call takes until the device is done."""
    synchronise(device)
    began = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - began


def pls_speed(device: torch.device, *, quick: bool) -> str:
    """Time PLS fits to convergence: 59 images, 60 units, 25 components."""
    n_splits, n_halves, n_layers, n_recordings = (2, 5, 1, 2) if quick else (10, 100, 4, 8)
    settings = CONVERGED.model_copy(update={"n_splits": n_splits, "n_halves": n_halves})
    warm = CONVERGED.model_copy(update={"n_splits": 1, "n_halves": 1})
    n_fits = 2 * n_splits * n_halves * n_layers * n_recordings
    found = []
    cores = available_cores()
    # Means of halves and correlations stay on the processor: several processes can share the device.
    processes = (1,) if quick else (1, min(4, cores))
    variants: dict[str, dict[str, object]] = {
        f"scores with fits on the device, {n} processes": {"fit_device": str(device), "n_jobs": n}
        for n in processes
    }
    variants[f"scores by {cores} cores"] = {"n_jobs": cores}
    for title, where in variants.items():
        simulated_scores(warm, 1, cores, **where)  # starts processes
        took = seconds(lambda w=where: simulated_scores(settings, n_layers, n_recordings, **w), device)  # type: ignore[misc]
        found.append(f"{title} {1e6 * took / n_fits:,.0f} us")
    draws = np.random.default_rng(0)
    splits = image_splits(118, n_splits=n_splits, train_fraction=0.5)
    layer = layer_coordinates("layer", draws.standard_normal((118, 500)))
    prepared = [split_coordinates(layer, split, 25) for split in splits]
    responses = draws.standard_normal((2 * n_halves, 118, 60))
    targets = [training_targets(responses[:, split.train])[0] for split in splits]
    took = seconds(lambda: predict_splits(targets, prepared, settings, str(device)), device)
    found.append(f"fits alone {1e6 * took / (2 * n_splits * n_halves):,.0f} us")
    matrices = torch.randn(20 if quick else 500, 58, 58, dtype=torch.float64, device=device)
    matrices = matrices @ matrices.mT
    took = 25 * seconds(lambda: torch.linalg.eigh(matrices), device)
    found.append(f"25 eigendecompositions {1e6 * took / len(matrices):,.0f} us")
    return f"per fit: {', '.join(found)}"


def synchronise(device: torch.device) -> None:
    """Wait for a device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def speed(name: str, device: torch.device, *, quick: bool) -> str:
    """Measure training steps with prepared batches in the device's memory."""
    recipe = recipe_of(name, *(("train.batch_size=8",) if quick else ()))
    n_images, n_steps = recipe.train.batch_size, 1 if quick else 20
    found = []
    variants = {"fp32": StepSettings(), "bf16, channels_last": StepSettings(1, "bf16", channels_last=True)}
    for title, settings in variants.items():
        step = learner(recipe, device, settings)[2]
        batch = ViewMaker(recipe.views, seed=0, device=device)(raw_batch(recipe, n_images), epoch=0)
        for number in range(1 if quick else 2):
            step.run(batch, step=number)

        def learn(step: TrainStep = step, batch: Batch = batch) -> None:
            for number in range(n_steps):
                step.run(batch, step=2 + number)

        found.append(f"{title} {n_images * n_steps / seconds(learn, device):,.0f} images/s")
    return f"batch {n_images}: {'; '.join(found)}"


@contextmanager
def image_folder(n_images: int) -> Iterator[Path]:
    """Write a small folder of images in classes."""
    draws = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "images"
        for split, count in (("train", n_images), ("val", 24)):
            for number in range(count):
                folder = root / split / f"class{number % N_CLASSES}"
                folder.mkdir(parents=True, exist_ok=True)
                pixels = draws.integers(0, 256, (12, 16, 3), dtype=np.uint8)
                image = Image.fromarray(pixels).resize((160, 120), Image.Resampling.BICUBIC)
                image.save(folder / f"{number}.jpg")
        yield root


def fed_by_the_loader(device: torch.device, *, quick: bool) -> str:
    """Measure the beton loader, steps of alexnet_ir on one batch, and steps that the loader feeds.

    As in training: batches in page-locked memory, views made on the device.
    """
    if not has_ffcv():
        raise SkippedError("FFCV is not installed")
    recipe = recipe_of("alexnet_ir", *(("train.batch_size=16",) if quick else ()))
    n_rows, n_steps = recipe.train.batch_size, 2 if quick else 24
    with image_folder(64 if quick else 2048) as folder:
        betons = folder.parent / "betons"
        prepare(PrepSettings(name="gpu_check", short_side_px=96, format="raw"), folder, betons)
        source = open_images(betons, "train")
        views = ViewMaker(recipe.views, seed=0, device=device)
        crops = [(view.crop, output_px(view.crop, recipe.views)) for view in recipe.views.each()]
        draws = np.random.default_rng(0)
        order = [draws.permutation(source.n_images)[:n_rows] for _ in range(n_steps)]
        step = learner(recipe, device, StepSettings(1, "bf16", channels_last=True))[2]
        loader = partial(
            source.batches,
            crops=crops,
            seed=0,
            epoch=0,
            workers=available_cores(),
            pin_memory=device.type == "cuda",
        )
        with loader(order[:1]) as batches:
            resident = next(batches)
        waited = 0.0

        def load() -> None:
            with loader(order) as batches:
                for _ in batches:
                    pass

        def learn() -> None:
            for number in range(n_steps):
                step.run(views(resident, epoch=0), step=number)

        def both() -> None:
            nonlocal waited
            with loader(order) as batches:
                for number, raw in enumerate(batches):
                    step.run(views(raw, epoch=0), step=number)
                waited = batches.seconds_waited

        learn()  # compiles, and chooses algorithms
        times = {
            title: seconds(run, device)
            for title, run in (("loader alone", load), ("steps alone", learn), ("together", both))
        }
    rates = ", ".join(f"{title} {n_rows * n_steps / took:,.0f}" for title, took in times.items())
    return f"batch {n_rows}, bf16: images/s: {rates}; waited {waited / times['together']:.0%} of the time"


def waits(device: torch.device) -> str:
    """Count how often views and a step make the processor wait for the GPU, whose queue then runs empty."""
    if device.type != "cuda":
        raise SkippedError("only a GPU works on while the processor goes on")
    found = []
    for name in PUBLISHED:
        recipe = recipe_of(name)
        views, step = ViewMaker(recipe.views, seed=0, device=device), learner(recipe, device)[2]
        raw = raw_batch(recipe, 32)
        raw = replace(raw, crops=tuple(crop.pin_memory() for crop in raw.crops), depth=None)
        step.run(views(raw, epoch=0), step=0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                step.run(views(raw, epoch=0), step=1)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        lines = {f"{Path(one.filename).name}:{one.lineno}" for one in caught}
        found.append(f"{name} {len(caught)}{' (' + ', '.join(sorted(lines)) + ')' if lines else ''}")
    return "; ".join(found)


def under_torchrun(device: torch.device) -> str:
    """Train the demo for three steps as the one process of a group."""
    with image_folder(96) as folder:
        out = folder.parent / "run"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
        command += ["-m", "mvkit", "train", "demo", "--images", str(folder), "--out", str(out)]
        command += ["--device", device.type, "--set", "train.max_steps=3", "--set", "evaluate=[]"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        if done.returncode or not (out / "last.pt").is_file():
            raise AssertionError(f"exit code {done.returncode}: {done.stderr[-300:]}")
    return f"three steps, {'NCCL' if device.type == 'cuda' else 'Gloo'}"


def main() -> int:
    """Run all checks and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small batches, few steps: to try the script")
    words = parser.parse_args()
    if words.device.startswith("cuda") and not torch.cuda.is_available():
        print("skipped everything: torch finds no CUDA device on this machine")
        return 1
    device = torch.device(words.device)
    warnings.simplefilter("ignore")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"mvkit {mvkit.__version__}, torch {torch.__version__}, {named}")
    report = Report()
    for name, changes in OBJECTIVES.items():
        report.check(f"step of {name}", lambda n=name, c=changes: one_step(n, c, device))  # type: ignore[misc]
    settings = {
        "bf16": StepSettings(precision="bf16"),
        "channels_last": StepSettings(channels_last=True),
        "torch.compile": StepSettings(compile=True),
    }
    if words.quick:
        del settings["torch.compile"]  # a minute of compilers
    for title, one in settings.items():
        report.check(title, lambda s=one: one_setting(s, device))  # type: ignore[misc]
    report.check("features", lambda: features(device))
    report.check("inner products", lambda: inner_products(device))
    report.check("PLS scores", lambda: pls_scores(device))
    report.check("PLS speed", lambda: pls_speed(device, quick=words.quick))
    # From here on as fast as the card allows.
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    for name in PUBLISHED:
        report.check(f"speed of {name}", lambda n=name: speed(n, device, quick=words.quick))  # type: ignore[misc]
    report.check("fed by the loader", lambda: fed_by_the_loader(device, quick=words.quick))
    report.check("waiting for the GPU", lambda: waits(device))
    report.check("torchrun", lambda: under_torchrun(device))
    print(f"{report.n_failed} checks failed")
    return int(report.n_failed > 0)


if __name__ == "__main__":
    sys.exit(main())
