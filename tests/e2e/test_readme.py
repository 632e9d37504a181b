"""Every command and program in the README, run as printed."""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import pickle
import re
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from mvkit import load_model
from mvkit.cli.main import run
from mvkit.images.beton import has_ffcv
from mvkit.models.registry import RELEASED

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
SHELL_LINES = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines() if line.strip()]
COMMANDS = [line for line in SHELL_LINES if line.startswith("mvkit ")]
#: The command that trains for days: interrupted after its first step here.
TRAINING = "mvkit train recipes/dual_stream_ir.yaml"
PROGRAMS = [text for kind, text in BLOCKS if kind == "python"]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def published_pickle() -> bytes:
    """A recording in the published layout, as today's software pickles it: 2 specimens in each of 6 areas."""
    rng = np.random.default_rng(0)
    areas = [area for area in ("VISp", "VISl", "VISal", "VISpm", "VISrl", "VISam") for _ in range(8)]
    count = len(areas)
    names = ["unit_id", "specimen_id", "visual_area", "image_selectivity_ns", "run_pval_ns"]
    specimens = [1 + unit // 4 % 2 for unit in range(count)]
    levels = [range(count), specimens, areas, rng.random(count), rng.random(count)]
    units = xr.Coordinates.from_pandas_multiindex(pd.MultiIndex.from_arrays(levels, names=names), "units")
    rates = rng.gamma(1.0, 1.0, (1, 118, 1, count))
    counts = rng.poisson(np.broadcast_to(rates, (10, 118, 5, count)))
    time_s = "time_relative_to_stimulus_onset"
    responses = xr.DataArray(counts / 0.01, dims=("trials", "frame_id", time_s, "units"), coords=units)
    responses = responses.assign_coords(
        {
            "trials": np.arange(10),
            "frame_id": np.arange(118),
            time_s: 0.005 + 0.01 * np.arange(5),
            "splithalf_r_mean": ((time_s, "units"), np.full((5, count), 0.6)),
            "splithalf_r_std": ((time_s, "units"), np.full((5, count), 0.1)),
        }
    )
    stimuli = rng.integers(0, 256, (118, 46, 59), dtype=np.uint8)
    return pickle.dumps({"stimuli": stimuli, "neural_data": responses}, protocol=4)


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A mirror on this machine that holds stand-ins for the published files."""
    folder = tmp_path_factory.mktemp("mirror")
    weights = load_model("alexnet_bn_ir", weights="random").state_dict()
    torch.save({"state_dict": weights}, folder / "alexnet_bn_ir.pt")
    for name in RELEASED:
        if name != "alexnet_bn_ir":
            torch.save({"state_dict": {}}, folder / f"{name}.pt")
    (folder / "mouse_neuropixels_visual_data_with_reliabilities.pkl").write_bytes(published_pickle())
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_readme_names_the_three_commands_of_the_design() -> None:
    assert "mvkit fetch neural --dataset neuropixels" in COMMANDS
    assert TRAINING in COMMANDS
    assert "mvkit score alexnet_bn_ir --layers features.3" in COMMANDS


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [line.split()[1] for line in SHELL_LINES if line.startswith("make ")]
    assert targets == ["demo", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def interrupted(process: subprocess.Popen[str], log: Path) -> int:
    """Press Ctrl-C once a process has begun to log; return its exit code."""
    while process.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    return process.returncode


@pytest.mark.slow
def test_readme_commands_and_programs(
    mirror: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    demo_images: Path,
    mvkit_process: Callable[..., subprocess.Popen[str]],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipes").symlink_to(ROOT / "recipes")
    shutil.copytree(demo_images, "images")
    shutil.copytree(ROOT / "tests" / "allen" / "files", "sessions")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("MVKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MVKIT_CHECKPOINT_URL", mirror)
    monkeypatch.setenv("MVKIT_NEURAL_URL", mirror)
    assert run(shlex.split(TRAINING)[1:]) == 1
    assert "mvkit prep imagenet_full --images DIR" in capsys.readouterr().err, "names the missing command"
    # Enough images for one batch of the published size.
    for image in sorted(Path("images/train").glob("*/*.jpg")):
        for copy in range(4):
            shutil.copy(image, image.with_name(f"{copy}-{image.name}"))
    shutil.copytree("images", tmp_path / "home" / "images" / "imagenet_full")
    # Programs first: one of them writes the file that a command scores.
    for program in PROGRAMS:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(program, "README.md", "exec"), {"__name__": "readme"})
    for command in COMMANDS:
        words = shlex.split(command)[1:]
        if command == TRAINING:
            assert interrupted(mvkit_process(*words), Path("runs/dual_stream_ir/log.jsonl")) == 130
            assert Path("runs/dual_stream_ir/last.pt").exists()
            continue
        code = run(words)
        printed = capsys.readouterr()
        if "mvkit prep" in command and "--dry-run" not in command and not has_ffcv():
            assert code == 1 and "install" in printed.err
            continue
        assert code == 0, f"{command}\n{printed.err}"
        assert printed.out.strip(), f"{command} printed nothing"
