"""Features of all published layers: one pass for all of them against one pass for each.

The reference implementation ran the network once per layer and batch. Here the same layers are taken both
ways from the same network and images, on one thread, and compared. Usage::

    python benchmarks/extract_layers.py [MODEL ...] [--images 118]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from record import Record, add_record_option
from torch import Tensor, nn

import mvkit
from mvkit.features import tappable_layers

BATCH_SIZE = 64
REPEATS = 3


def one_pass_per_layer(model: nn.Module, inputs: Tensor, layers: tuple[str, ...]) -> dict[str, np.ndarray]:
    """A forward hook on one layer, all batches, then the next layer."""
    paths = tappable_layers(model)
    features = {}
    for layer in layers:
        rows: list[np.ndarray] = []
        handle = model.get_submodule(paths[layer]).register_forward_hook(
            lambda module, arguments, output, rows=rows: rows.append(output.flatten(1).numpy().copy())
        )
        with torch.no_grad():
            for start in range(0, len(inputs), BATCH_SIZE):
                model(inputs[start : start + BATCH_SIZE])
        handle.remove()
        features[layer] = np.concatenate(rows)
    return features


def cpu_seconds(work: Callable[[], object]) -> float:
    """Least CPU time of a few repeats."""
    spent = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        spent.append(time.process_time() - start)
    return min(spent)


def compare(name: str, n_images: int, record: Record) -> None:
    """Report both times, their ratio and the largest difference relative to a layer's largest value."""
    model = mvkit.load_model(name, weights="random")
    images = np.random.default_rng(0).integers(0, 256, (n_images, 64, 64), dtype=np.uint8)
    inputs = model.preprocess(images)
    together = mvkit.extract(model, inputs, batch_size=BATCH_SIZE)
    apart = one_pass_per_layer(model, inputs, together.layers)
    worst = max(np.abs(together[layer] - apart[layer]).max() / np.abs(apart[layer]).max() for layer in apart)
    t_together = cpu_seconds(lambda: mvkit.extract(model, inputs, batch_size=BATCH_SIZE))
    t_apart = cpu_seconds(lambda: one_pass_per_layer(model, inputs, together.layers))
    print(
        f"{name}: {len(apart)} layers, {n_images} images: one pass {t_together:.2f} s CPU, "
        f"one pass per layer {t_apart:.2f} s CPU, "
        f"ratio {t_apart / t_together:.1f}, largest difference {worst:.1e}"
    )
    record.add(
        "Features",
        f"{name}, {len(apart)} layers of {n_images} images of 64 px",
        peer="torch, one pass per layer",
        mvkit=t_together,
        other=t_apart,
        unit="s CPU",
        note=f"largest difference {worst:.0e} of a layer's largest value",
    )


def main() -> None:
    """Run the comparison for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["alexnet_bn_ir", "dual_stream_ir"])
    parser.add_argument("--images", type=int, default=118)
    add_record_option(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.models:
        compare(name, arguments.images, arguments.record)


if __name__ == "__main__":
    main()
