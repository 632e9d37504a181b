"""CPU time and memory until a command line is answered: pages of help, misspelt words, lists, dry runs.

Prints the smallest user + system time and the peak memory of a few processes each; tests hold what is
imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

#: Command lines that import nothing heavy (torch, numba, scipy, pandas, matplotlib), by the limit in seconds.
COMMANDS = {
    0.3: ["--help", "--version", "score --help", "train --help", "fetch neural --help", "recipe --help"],
    0.5: [
        "scor",
        "score alexnet_bn",
        "score alexnet_bn_r",
        "score alexnet_bn_ir",
        "score alexnet_bn_ir --weights nofile.pt",
        "score alexnet_bn_ir --weights random --dataset nofile.h5",
        "score alexnet_bn_ir --weights random --layers features.99",
        "score alexnet_bn_ir --weights random --areas VISx",
        "score alexnet_bn_ir --weights random --as pooled",
        "score pixels pixels",
        "score pixels --recipe fastt",
        "score pixels --set nsplits=3",
        "score pixels --splits ten",
        "score pixels --splits 0",
        "score pixels --dataset neuropixel",
        "score pixels --dataset nofile.h5",
        "score pixels --dataset simulated --areas VISq",
        "score pixels --dataset mine.h5 --areas VISq",
        "score pixels --device gpu",
        "score pixels --input-size 100",
        "score pixels --set input.mean=0",
        "score pixels --shard 3/2",
        "score pixels --figure a.bmp",
        "score pixels --table a.csv",
        "score pixels --report a.txt",
        "score pixels --against nowhere",
        "score pixels --task nowhere",
        "score pixels --task empty",
        "score nofile.pt",
        "score nomodule:f",
        "extract alexnet_bn_r --out a.h5",
        "extract alexnet_bn_ir --weights random --layers features.99 --out a.h5",
        "extract pixels --stimuli neuropixel --out a.h5",
        "extract pixels --stimuli empty --out a.h5",
        "extract pixels --out a.csv",
        "extract pixels --mean x --out a.h5",
        "extract pixels --std 0 --out a.h5",
        "extract pixels --export-weights a.txt",
        "extract pixels --export-weights a.safetensors",
        "report nowhere --out a.html",
        "plot areas nowhere --out a.pdf",
        "plot input pixels --stimuli empty --out a.pdf",
        "plot rdm pixels --area VISq --dataset simulated --layer pixels --out a.pdf",
        "plot unit simulated --area VISq --out a.pdf",
        "train duel_stream_ir",
        "train demo --set train.epoch=3",
        "train demo --images nowhere",
        "train demo --images empty",
        "train demo --images images --resume nowhere",
        "train demo --images images --weights nofile.pt",
        "train demo --images images --processes 3",
        "list models",
        "list models alexnt",
        "list layers alexnet_bn_r",
        "list layers alexnet_bn_ir -l features.99",
        "list layers nofile.pt",
        "list recipes",
        "list recipes honst",
        "list datasets",
        "list datasets neuropixel5",
        "prep imagenet_65 --images .",
        "prep demo --images nowhere",
        "prep --verify nofile.beton",
        "fetch checkpoints alexnet_bn",
        "fetch checkpoints --dry-run",
        "fetch neural --dataset neuropixel",
        "fetch neural --dataset neuropixels --dry-run",
        "fetch reliability nofile.h5",
        "recipe show quick",
        "recipe show honst",
        "recipe check nofile.yaml",
        "cache info",
        "cache prune soon",
    ],
}
#: Command lines that do without torch, but not without numba: crops are drawn as in training.
WITHOUT_TORCH = ["prep imagenet_64 --images images --dry-run"]
#: Command lines that build a network: shapes of layers, memory and numbers of parameters are those of it.
WITH_TORCH = [
    "list layers alexnet_bn_ir",
    "train demo --images images --dry-run",
    "score pixels --dataset mine.h5 --dry-run",
]
#: Peak memory of a command that imports nothing heavy, in MB.
_MOST_MB = 120

#: Makes a small neural file, and folders without and with images.
_MAKE = """
from pathlib import Path
import numpy as np
from PIL import Image
from mvkit.neural import Recording, write_neural_file
responses, images = np.ones((2, 4, 3), np.float32), np.zeros((4, 8, 8), np.uint8)
recording = Recording(area="VISp", specimen=1, unit_ids=np.arange(3), responses=responses)
write_neural_file("mine.h5", recordings=[recording], stimuli=images, units_of_measure="x")
Path("empty").mkdir()
for name in ("train/a", "val/a"):
    Path("images", name).mkdir(parents=True)
    Image.fromarray(np.zeros((80, 80, 3), np.uint8)).save(Path("images", name, "1.png"))
"""


def measure(words: list[str], folder: Path, repeats: int = 3) -> tuple[float, float]:
    """Return the smallest user + system time of a command line in a folder (s), and its peak memory (MB)."""
    environment = {**os.environ, "MVKIT_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    figures = []
    for _ in range(repeats):
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, process.returncode, usage = os.wait4(process.pid, 0)
        # Linux counts in units of 1024 bytes.
        figures.append((usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6))
    return min(figures)


def main() -> None:
    """Print a row for every command line."""
    groups: list[tuple[float | None, list[str]]] = [*COMMANDS.items(), (None, WITHOUT_TORCH + WITH_TORCH)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-c", _MAKE], cwd=folder, check=True)
        print(f"{'command':72} CPU s  limit  peak MB")
        for limit, commands in groups:
            for command in commands:
                seconds, megabytes = measure(["-m", "mvkit", *command.split()], folder)
                wrong = "  TOO SLOW" if limit is not None and seconds > limit else ""
                wrong += "  TOO LARGE" if limit is not None and megabytes > _MOST_MB else ""
                shown = "" if limit is None else f"{limit:.1f}"
                print(f"mvkit {command:66} {seconds:5.2f}  {shown:>5}  {megabytes:7.0f}{wrong}", flush=True)
        seconds, megabytes = measure(["-c", "import torch"], folder)
        print(f"{'import torch':72} {seconds:5.2f}         {megabytes:7.0f}")


if __name__ == "__main__":
    main()
