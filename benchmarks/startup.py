"""CPU time until a command line is answered: pages of help, and words that are misspelt.

Prints the smallest user + system time of a few processes each, beside the limit that tests hold it to.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

#: Command lines, by the limit in seconds.
COMMANDS = {
    0.3: ["--help", "--version", "score --help", "fetch neural --help", "recipe --help"],
    0.5: [
        "scor",
        "score alexnet_bn_r",
        "score pixels --recipe fastt",
        "score pixels --set nsplits=3",
        "score pixels --splits ten",
        "score alexnet_bn_ir --weights random --layers features.99",
        "score pixels --dataset neuropixel",
        "score pixels --dataset nofile.h5",
        "score pixels --dataset simulated --areas VISq",
        "score pixels --dataset mine.h5 --areas VISq",
        "score pixels --device gpu",
        "score nofile.pt",
        "extract alexnet_bn_r --out a.h5",
        "extract alexnet_bn_ir --weights random --layers features.99 --out a.h5",
        "extract pixels --stimuli neuropixel --out a.h5",
        "extract pixels --out a.csv",
        "train duel_stream_ir",
        "train demo --set train.epoch=3",
        "train demo --images nowhere",
        "list models alexnt",
        "list layers alexnet_bn_r",
        "list layers alexnet_bn_ir -l features.99",
        "list recipes honst",
        "list datasets neuropixel5",
        "prep imagenet_65 --images .",
        "prep demo --images nowhere",
        "prep --verify nofile.beton",
        "fetch checkpoints alexnet_bn",
        "fetch neural --dataset neuropixel",
        "fetch reliability nofile.h5",
        "recipe show honst",
        "recipe check nofile.yaml",
        "cache prune soon",
    ],
}

#: Makes a small neural file.
_MAKE = """
import numpy as np
from mvkit.neural import Recording, write_neural_file
responses, images = np.ones((2, 4, 3), np.float32), np.zeros((4, 8, 8), np.uint8)
recording = Recording(area="VISp", specimen=1, unit_ids=np.arange(3), responses=responses)
write_neural_file("mine.h5", recordings=[recording], stimuli=images, units_of_measure="x")
"""


def cpu_seconds(words: list[str], folder: Path, repeats: int = 3) -> float:
    """Return the smallest user + system time of a command line in a folder, in seconds."""
    environment = {**os.environ, "MVKIT_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    times = []
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "mvkit", *words],
            cwd=folder,
            env=environment,
            capture_output=True,
            check=False,
            timeout=120,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


def main() -> None:
    """Print a row for every command line."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-c", _MAKE], cwd=folder, check=True)
        print(f"{'command':78} CPU s  limit")
        for limit, commands in COMMANDS.items():
            for command in commands:
                seconds = cpu_seconds(command.split(), folder)
                late = "  TOO SLOW" if seconds > limit else ""
                print(f"mvkit {command:72} {seconds:5.2f}  {limit:5.1f}{late}", flush=True)


if __name__ == "__main__":
    main()
