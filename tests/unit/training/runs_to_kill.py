"""Run as a script: train recipes unbroken, and again with processes that are killed at random steps.

``runs_to_kill.py FOLDER IMAGES SEED`` trains every ``FOLDER/*.yaml`` into
``FOLDER/NAME/whole``, ``.../killed`` (SIGKILL) and ``.../stopped`` (SIGTERM),
and writes what happened to ``FOLDER/kills.json``.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
import torch._dynamo  # three seconds, in each process that makes an optimiser
from torch import Tensor, nn

from mvkit.models.base import VisionModel
from mvkit.pipeline import train
from mvkit.pipeline.train import TrainRequest, run_training
from mvkit.training import loop, setup  # noqa: F401  (imported once, before processes are forked)

N_KILLS = 3
#: Recipes that are also interrupted by SIGTERM.
STOPPED = ("bank",)


class TinyNet(VisionModel):
    """Batch norm, dropout and few weights: a step takes milliseconds."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3),
            nn.Linear(6 * 7 * 7, width),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.net(images)
        return output


def build_tiny(architecture: str, *, n_classes: int | None, seed: int, **unused: object) -> VisionModel:
    """Stand in for the networks of the paper, which take too long to be killed often."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TinyNet(n_classes or 8).train()


def forked(recipe: Path, images: Path, out: Path) -> int:
    """Train in a new process; return its id."""
    child = os.fork()
    if child:
        return child
    torch.set_num_threads(1)
    setup.build_for_training = build_tiny
    train.is_model = lambda name: True
    request = TrainRequest(str(recipe), images=images, out=out, device="cpu", workers=1)
    code = 1
    try:
        code = 130 if run_training(request).fit.interrupted else 0
    finally:
        os._exit(code)


def last_step(log: Path) -> int:
    """Return the number of the last step in a log that another process may be writing."""
    if not log.exists():
        return 0
    found = 0
    for line in log.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record["kind"] == "step":
            found = record["step"]
    return found


def end_at(child: int, log: Path, step: int, number: signal.Signals, delay_s: float) -> int:
    """Send a signal once a step is in the log (and a moment later); return the wait status."""
    while last_step(log) < step:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status
        time.sleep(0.001)
    time.sleep(delay_s)
    os.kill(child, number)
    return os.waitpid(child, 0)[1]


def stop(recipe: Path, images: Path, out: Path, step: int) -> dict[str, int]:
    """Train, interrupt with SIGTERM, and go on."""
    stopped = end_at(forked(recipe, images, out), out / "log.jsonl", step, signal.SIGTERM, 0.0)
    at = torch.load(out / "last.pt", weights_only=True)["progress"]["step"]
    rest = os.waitpid(forked(recipe, images, out), 0)[1]
    return {"stopped": stopped, "stopped_at": at, "asked_at": step, "rest": rest}


def main(folder: Path, images: Path, seed: int) -> None:
    """Train everything."""
    draw = random.Random(seed)
    happened: dict[str, dict[str, object]] = {}
    for recipe in sorted(folder.glob("*.yaml")):
        place = folder / recipe.stem
        whole = os.waitpid(forked(recipe, images, place / "whole"), 0)[1]
        n_steps = last_step(place / "whole" / "log.jsonl")
        targets = sorted(draw.sample(range(1, n_steps - 3), N_KILLS))
        statuses = []
        for target in targets:
            child = forked(recipe, images, place / "killed")
            log = place / "killed" / "log.jsonl"
            statuses.append(end_at(child, log, target, signal.SIGKILL, draw.uniform(0, 0.01)))
        finish = os.waitpid(forked(recipe, images, place / "killed"), 0)[1]
        happened[recipe.stem] = {"whole": whole, "killed": statuses, "finish": finish}
        if recipe.stem in STOPPED:
            happened[recipe.stem] |= stop(recipe, images, place / "stopped", targets[0])
    (folder / "kills.json").write_text(json.dumps(happened))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
