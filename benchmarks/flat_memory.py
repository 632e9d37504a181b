"""Does memory stay flat? 10,000 loader batches, 500 scores, 200 extractions, 100 figures, 100 openings.

    python benchmarks/flat_memory.py [--part loader|score|workers|extract|figures|open] [--scale 1.0]

Each part runs in a process of its own. Memory (of workers too), open files, threads, processes, files in
/dev/shm and in the temporary folder, and Python objects are read at 20 moments. Nothing may rise: the most
memory in the second half may be 5 MB above the most in the first (allocators take and give back a network
at a time), the means of the other numbers in the last quarter not above those in the second (objects 1 %).
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import astuple, fields, replace
from pathlib import Path

import numpy as np
from process_tree import TreeUse, use_of

N_MOMENTS = 20
#: MB by which the second half may be above the first.
MOST_RISE_MB = 5.0


def main() -> int:
    """Run the parts, each in a process of its own, and print their verdicts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=tuple(PARTS), action="append", help="default: all")
    parser.add_argument("--scale", type=float, default=1.0, help="times as many repetitions")
    parser.add_argument("--here", choices=tuple(PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        return watch(options.here, options.scale)
    codes = []
    for part in options.part or PARTS:
        with tempfile.TemporaryDirectory(prefix="mvkit-flat-") as folder:
            # Home and temporary files of this part alone.
            (Path(folder) / "tmp").mkdir()
            mine = {"MVKIT_HOME": f"{folder}/home", "TMPDIR": f"{folder}/tmp", "MPLBACKEND": "agg"}
            command = [sys.executable, __file__, "--here", part, "--scale", str(options.scale)]
            codes.append(subprocess.run(command, env={**os.environ, **mine}, check=False).returncode)
    return max(codes)


def watch(part: str, scale: float) -> int:
    """Repeat a part and print what the process uses at 20 moments; return 1 if something grows."""
    n_default, start = PARTS[part]
    n_times = max(N_MOMENTS, round(scale * n_default))
    repeat = start(Path(tempfile.gettempdir()))
    step, began = n_times // N_MOMENTS, time.perf_counter()
    names = [field.name for field in fields(TreeUse)] + ["temporary", "objects"]
    print(f"{part}: {step * N_MOMENTS} times\n{'':>7}" + "".join(f"{name:>13}" for name in names))
    moments: list[tuple[float, ...]] = []
    for moment in range(1, N_MOMENTS + 1):
        repeat(step)
        gc.collect()
        n_files = sum(1 for path in Path(tempfile.gettempdir()).rglob("*") if path.is_file())
        moments.append((*astuple(use_of(os.getpid())), n_files, len(gc.get_objects())))
        print(f"{moment * step:>7}" + "".join(f"{value:>13.5g}" for value in moments[-1]), flush=True)
    rows = np.array(moments)
    quarter = N_MOMENTS // 4
    grown = []
    for column, name in enumerate(names):
        values = rows[quarter:, column]
        rise = rows[-quarter:, column].mean() - rows[quarter : 2 * quarter, column].mean()
        if name.endswith("_mb"):
            rise = rows[N_MOMENTS // 2 :, column].max() - rows[: N_MOMENTS // 2, column].max()
            slope_kb = 1e3 * np.polyfit(np.arange(len(values)) * step, values, 1)[0]
            print(
                f"  {name}: {slope_kb:+.3f} kB each, second half {rise:+.1f}, range {np.ptp(values):.0f} MB"
            )
            grown += [name] if rise > MOST_RISE_MB else []
        elif rise > (0.01 * values[0] if name == "objects" else 0.5):
            grown.append(name)
    print(
        f"  {time.perf_counter() - began:.0f} s; {'GROWS: ' + ', '.join(grown) if grown else 'flat'}\n",
        flush=True,
    )
    return 1 if grown else 0


Repeat = Callable[[int], None]


def load_batches(folder: Path) -> Repeat:
    """Augmented views of 4 images of a beton, read ahead by two threads; an epoch has 240 batches."""
    import torch
    from large_beton import write_images

    from mvkit.images.loader import open_images
    from mvkit.images.prep import load_prep_recipe, prepare
    from mvkit.images.settings import ColourJitter, Flip, Greyscale, RandomResizedCrop, View, ViewsSettings
    from mvkit.images.views import ViewMaker

    write_images(folder / "images", 960, workers=1)
    prepare(load_prep_recipe("imagenet_64"), folder / "images", folder / "beton")
    source = open_images(folder / "beton", "train")
    jitter = ColourJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4)
    steps = (Greyscale(probability=0.2), jitter, Flip())
    settings = ViewsSettings(views=(View(crop=RandomResizedCrop(scale=(0.2, 1.0)), steps=steps),))
    maker = ViewMaker(settings, seed=0, device=torch.device("cpu"))
    crops = [(one.crop, settings.size_px) for one in settings.each()]
    epochs = iter(range(10**9))

    def repeat(n_times: int) -> None:
        while n_times > 0:
            epoch = next(epochs)
            order = np.random.default_rng(epoch).permutation(source.n_images)
            plan = [order[first : first + 4] for first in range(0, len(order), 4)][:n_times]
            with source.batches(plan, crops, seed=0, epoch=epoch, workers=2) as batches:
                for raw in batches:
                    maker(raw, epoch=epoch)
            n_times -= len(plan)

    return repeat


def _score_often(n_jobs: int, n_trials: int, n_images: int, n_units: int) -> Repeat:
    import mvkit

    seeds = iter(range(10**9))

    def repeat(n_times: int) -> None:
        for _ in range(n_times):
            rng = np.random.default_rng(next(seeds))
            images = rng.integers(0, 256, (n_images, 16, 16), dtype=np.uint8)
            shape = (n_trials, n_images, n_units)
            responses = {"VISp": {animal: rng.normal(size=shape) for animal in (1, 2)}}
            dataset = mvkit.NeuralDataset.from_arrays(responses, images, axes="trials,images,units")
            features = {name: rng.normal(size=(n_images, 200)) for name in ("first", "second")}
            small = {"n_splits": 2, "n_halves": 3, "n_components": 5, "n_resamples": 200}
            mvkit.score(features, dataset, n_jobs=n_jobs, **small).summary()

    return repeat


def score_here(folder: Path) -> Repeat:
    """Scores of new features and recordings each time, in this process."""
    return _score_often(1, 10, 40, 12)


def score_in_workers(folder: Path) -> Repeat:
    """The same in two worker processes, which are used again; responses are large enough to be shared."""
    return _score_often(2, 20, 100, 150)


def extract_features(folder: Path) -> Repeat:
    """Features of two layers of a network; the network is built anew for every ten."""
    import mvkit

    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64), dtype=np.uint8)

    def repeat(n_times: int) -> None:
        for number in range(n_times):
            if number % 10 == 0:
                model = mvkit.load_model("alexnet_bn_ir", weights="random")
            mvkit.extract(model, images, ["features.0", "features.3"])

    return repeat


def draw_figures(folder: Path) -> Repeat:
    """Two figures of scores, saved."""
    import mvkit
    from mvkit.report.figures import save_figure

    dataset = mvkit.open_dataset("simulated")
    small = {"n_splits": 2, "n_halves": 2, "n_resamples": 200}
    scores = mvkit.score("pixels", dataset, areas="VISp", n_jobs=1, **small)

    def repeat(n_times: int) -> None:
        for number in range(n_times):
            # Anew: pandas keeps notes about every use of a table up to some hundreds.
            drawn = replace(scores)
            save_figure(drawn.plot(), folder / "areas.png")
            save_figure(drawn.plot_layers(), folder / ("layers.svg" if number % 2 else "layers.pdf"))

    return repeat


def open_datasets(folder: Path) -> Repeat:
    """A neural file, opened."""
    import mvkit

    file = mvkit.open_dataset("simulated").save(folder / "recordings.h5")

    def repeat(n_times: int) -> None:
        for _ in range(n_times):
            mvkit.open_dataset(file)

    return repeat


#: Name of a part -> how often it is repeated, and what makes the function that does.
PARTS: dict[str, tuple[int, Callable[[Path], Repeat]]] = {
    "loader": (10_000, load_batches),
    "score": (400, score_here),
    "workers": (100, score_in_workers),
    "extract": (200, extract_features),
    "figures": (50, draw_figures),
    "open": (100, open_datasets),
}

if __name__ == "__main__":
    sys.exit(main())
