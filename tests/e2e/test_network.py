"""mvkit tells nobody anything: the main commands open no connection, ask no hub, and start no pip."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent

#: Run at the start of every process, workers included: notes and forbids what would reach another machine.
WATCH = """
import os, sys

def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        # An address that is no tuple is that of a socket on this machine.
        told = arguments[1] if isinstance(arguments[1], tuple) else None
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        told = arguments[0]
    elif event == "subprocess.Popen":
        told = arguments[1] if any("pip" in str(word).split("/")[-1] for word in arguments[1]) else None
    elif event == "import":
        told = arguments[0] if arguments[0] in ("timm", "huggingface_hub") else None
    else:
        return
    if told is not None:
        with open(os.environ["WATCHED"], "a") as file:
            file.write(f"{event} {told}\\n")
        if not event.startswith("import"):
            raise OSError("a test forbids the network")

sys.addaudithook(watch)
"""

COMMANDS = (
    "--help",
    "list models",
    "list datasets",
    "list layers alexnet_bn_ir",
    "cite alexnet_bn_ir",
    "fetch neural --dataset simulated",
    "extract gabor --stimuli simulated --out gabor.h5",
    "score alexnet_bn_ir --weights random --layers features.3 --dataset simulated --areas VISp --splits 2 "
    "--halves 2 --jobs 2 --out scores",
    "report scores --out scores.html",
    "train dual_stream_ir --dry-run",
)
#: The one exception: a library's weights, where they are asked for.
DOWNLOAD = "score torchvision:resnet18 --weights DEFAULT --layers layer1 --dataset simulated --areas VISp"


def test_only_weights_that_are_asked_for_reach_another_machine(tmp_path: Path) -> None:
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH)
    notes = tmp_path / "notes.txt"
    notes.write_text("")
    code = f"""
from pathlib import Path
from mvkit.cli.main import run
notes = Path({str(notes)!r})
for command in {COMMANDS!r}:
    assert run(command.split()) == 0, command
    assert notes.read_text() == "", (command, notes.read_text())
assert run({DOWNLOAD!r}.split()) == 1
"""
    environment = {name: value for name, value in os.environ.items() if name != "MVKIT_OFFLINE"}
    environment |= {
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "watch"), str(ROOT)]),
        "WATCHED": str(notes),
        "MVKIT_HOME": str(tmp_path / "home"),
        "TORCH_HOME": str(tmp_path / "torch"),
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "download.pytorch.org" in notes.read_text()
