"""However a program leaves an epoch, it ends: with its own exit code, and soon."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvkit.images.beton import has_ffcv
from mvkit.images.prep import PrepSettings, prepare

pytestmark = pytest.mark.skipif(not has_ffcv(), reason="FFCV is not installed")

PROGRAM = """
import hashlib, os, signal, sys, threading
from pathlib import Path
import numpy as np, torch

n_threads = torch.get_num_threads()
from mvkit.images.loader import open_images
from mvkit.images.settings import RandomResizedCrop

source = open_images(Path(sys.argv[1]), "train")
assert source.kind == "beton" and torch.get_num_threads() == n_threads == 2
plan = [np.random.default_rng(i).integers(0, source.n_images, 20) for i in range(200)]

def batches(epoch):
    return source.batches(plan, [(RandomResizedCrop(), 64)] * 2, seed=1, epoch=epoch, workers=2)

digest = hashlib.sha256()
for epoch in range(20):
    try:
        with batches(epoch) as stream:
            for number, batch in enumerate(stream):
                digest.update(batch.crops[0].numpy())
                if number == epoch % 4:
                    if epoch % 2:
                        raise ArithmeticError
                    break
    except ArithmeticError:
        pass
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("mvkit")]
    assert not left, left
print(digest.hexdigest(), flush=True)

next(batches(0))  # and dropped, without being closed
ending = sys.argv[2]
if ending == "kept open":
    stream = batches(0)
    next(stream)
elif ending == "exit":
    with batches(0) as stream:
        next(stream)
        sys.exit(5)
elif ending == "interrupt":
    with batches(0) as stream:
        for number, batch in enumerate(stream):
            if number == 3:
                os.kill(os.getpid(), signal.SIGINT)
"""

ENDINGS = {"kept open": 0, "exit": 5, "interrupt": -signal.SIGINT}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files, out = tmp_path_factory.mktemp("files"), tmp_path_factory.mktemp("out")
    for number in range(30):
        coarse = np.random.default_rng(number).integers(0, 256, (9, 12, 3), np.uint8)
        Image.fromarray(coarse).resize((160, 120)).save(files / f"{number:02}.jpg")
    prepare(PrepSettings(name="test", format="jpeg"), files, out)
    return out


@pytest.mark.slow
def test_a_program_ends_as_it_means_to(place: Path) -> None:
    """Three programs, sixty epochs left early; the batches they saw are the same, bit for bit."""
    environment = {"PATH": "", "OMP_NUM_THREADS": "2", "HOME": str(place)}
    programs = {
        ending: subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(place), ending],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for ending in ENDINGS
    }
    digests = set()
    for ending, program in programs.items():
        printed, errors = program.communicate(timeout=300)
        assert program.returncode == ENDINGS[ending], f"{ending}: {errors}"
        assert errors.strip().splitlines()[-1:] == ["KeyboardInterrupt"] * (ending == "interrupt"), errors
        digests.add(printed.strip())
    assert len(digests) == 1
    assert len(digests.pop()) == 64
