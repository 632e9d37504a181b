"""Memory that scoring takes when features are streamed, against features kept in memory.

Each way runs in a process of its own, whose peak of resident memory the system tells: ``streamed`` prepares
all layers for PLS as ``mvkit score`` does, ``memory`` extracts all of them into arrays first. What is
prepared is compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from mvkit.machine import available_memory

#: What all layers of a VGG16 take, and room for the rest.
_NEEDED = 18 * 10**9


def main() -> int:
    """Run both ways and print their peaks and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="torchvision:vgg16")
    parser.add_argument("--images", type=int, default=118)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--streamed-only", action="store_true")
    parser.add_argument("--way", choices=("streamed", "memory"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options)))
        return 0
    found = {}
    if not options.streamed_only and (available_memory() or _NEEDED) < _NEEDED:
        print(f"memory: left out, less than {_NEEDED / 1e9:.0f} GB are available")
        options.streamed_only = True
    for way in ("streamed",) if options.streamed_only else ("streamed", "memory"):
        command = [sys.executable, __file__, "--way", way, "--model", options.model]
        command += ["--images", str(options.images), "--side", str(options.side)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            print(f"{way}: failed with {done.returncode} (killed for memory?)")
            return 1
        found[way] = json.loads(done.stdout)
        print(
            "{way:9s} {layers} layers, {gb:.2f} GB of features: peak {mb:.0f} MB, pass {pass_s:.1f} s, inner "
            "products {prepare_s:.1f} s, images shown {shown}".format(way=way, **found[way])
        )
    if len(found) == 2:
        first, second = found["streamed"], found["memory"]
        print(f"ratio of peaks: {second['mb'] / first['mb']:.1f}")
        print(f"coordinates the same to the last bit: {first['digest'] == second['digest']}")
    return 0


def measure(options: argparse.Namespace) -> dict[str, object]:
    """Prepare all leaf layers of a model one way; return peak, times and a digest of what was prepared."""
    from mvkit import extract, load_model
    from mvkit.features.extraction import ForwardPass
    from mvkit.features.stimuli import open_stimuli
    from mvkit.scoring.maps import MAPPINGS, prepare_layers
    from mvkit.scoring.protocol import splits_of
    from mvkit.scoring.settings import ScoreSettings

    shape = (options.images, options.side, options.side)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    model = load_model(options.model, weights="random")
    leaves = [path for path, module in model.network.named_modules() if path and not list(module.children())]
    shown = []
    model.network.get_submodule(leaves[0]).register_forward_pre_hook(
        lambda module, inputs: shown.append(len(inputs[0]))
    )
    settings = ScoreSettings()
    row, splits = MAPPINGS[settings.mapping], splits_of(options.images, settings)
    began = time.perf_counter()
    with ExitStack() as opened:
        if options.way == "streamed":
            forward_pass = ForwardPass(model, open_stimuli(images), leaves)
            names = list(forward_pass.first_batch().layers)
            scratch = opened.enter_context(tempfile.TemporaryDirectory())
            features = opened.enter_context(forward_pass.features(names, scratch=Path(scratch)))
        else:
            features = extract(model, images, leaves)
        passed = time.perf_counter()
        prepared = prepare_layers(row, features, splits, settings, n_jobs=2)
        n_values = sum(int(np.prod(values.shape)) for values in features.values())
    digest = hashlib.sha256()
    for parts in prepared.values():
        for part in parts:
            digest.update(np.ascontiguousarray(part.test).tobytes())
    return {
        "layers": len(prepared),
        "gb": 4 * n_values / 1e9,
        "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "pass_s": passed - began,
        "prepare_s": time.perf_counter() - passed,
        "shown": sum(shown),
        "digest": digest.hexdigest(),
    }


if __name__ == "__main__":
    sys.exit(main())
