"""README and the pages of the documentation: commands and programs run as printed, outputs as printed.

``make docs-outputs`` (``MVKIT_WRITE_PAGES=1 pytest -m slow tests/e2e/test_pages.py``) writes what commands
print, and the figures they make, into the pages instead of comparing.

In a page, ``sh`` and ``python`` blocks are run from top to bottom in one folder. A ``text`` block with the
title "prints" right below holds what the block prints; one that ends in "..." holds the first lines only.
With a title that begins with "prints, " it is written but not compared. Figures under ``assets/`` are files
that the page's commands made. ``text`` blocks are not run, but their commands and options must exist. A
block that begins with ``# NAME.py`` or ``# NAME.yaml`` is a file.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import os
import pickle
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import typer
import xarray as xr

from mvkit import load_model
from mvkit.cli.main import app, run
from mvkit.images.beton import has_ffcv
from mvkit.models.registry import RELEASED

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
#: Pages with tests of their own, which look at the numbers.
TESTED_ELSEWHERE = {"howto/other-programs.md", "howto/machines.md"}
PAGES = [README, *(path for path in sorted(DOCS.rglob("*.md")))]
WIDTH = 92
WRITE = os.environ.get("MVKIT_WRITE_PAGES") == "1"
#: The command that trains for days: interrupted after its first step here.
TRAINING = "mvkit train recipes/dual_stream_ir.yaml"

BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TITLE = re.compile(r'title="(prints[^"]*)"')
DURATION = re.compile(r"\b(\d+:)?\d+:\d\d\b|\b\d+(\.\d+)? (s|min|h)\b|\b\d+(\.\d+)? images/s")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: language, the title of an output, text, and where it stands."""

    language: str
    title: str
    text: str
    span: tuple[int, int]


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of a page."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        title = TITLE.search(match[2])
        found.append(Block(match[1], title[1] if title else "", match[3], match.span(3)))
    return found


def command_lines(text: str) -> list[str]:
    """Return the commands of a shell block, continued lines joined, comments left out."""
    joined = text.replace("\\\n", " ")
    lines = (re.sub(r"\s+#\s.*$", "", line).strip() for line in joined.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def name_of(page: Path) -> str:
    """Return a page's path as tests show it."""
    return str(page.relative_to(ROOT)) if page == README else str(page.relative_to(DOCS))


def is_run(page: Path) -> bool:
    """Whether this file runs a page's blocks."""
    return name_of(page) not in TESTED_ELSEWHERE and any(
        b.language in ("sh", "python") for b in blocks_of(page)
    )


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


def interrupted(process: subprocess.Popen[str], log: Path) -> int:
    """Press Ctrl-C once a process has begun to log; return its exit code."""
    while process.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    return process.returncode


def test_the_readme_names_the_three_commands_of_the_design() -> None:
    commands = [line for block in blocks_of(README) for line in command_lines(block.text)]
    assert "mvkit fetch neural --dataset neuropixels" in commands
    assert TRAINING in commands
    assert "mvkit score alexnet_bn_ir --layers features.3" in commands


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").split()) <= 700


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_options_exist(page: Path) -> None:
    """Also of commands that are not run: targets of make, commands of mvkit and their options."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for block in blocks_of(page):
        if block.language not in ("sh", "text") or block.title:
            continue
        for line in command_lines(block.text):
            words = line.split()
            if words[0] == "make":
                assert re.search(rf"^{words[1]}:", makefile, flags=re.MULTILINE), line
            if words[0] == "mvkit":
                command = typer.main.get_command(app)
                rest = words[1:]
                while rest and rest[0] in getattr(command, "commands", {}):
                    command = command.commands[rest.pop(0)]  # type: ignore[attr-defined]
                assert not getattr(command, "commands", {}) or rest[0].startswith("--"), line
                known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
                for word in rest:
                    option = word.split("=")[0]
                    assert not option.startswith("--") or option in known, f"{option} of: {line}"


def test_pages_that_messages_and_help_name_exist() -> None:
    for source in sorted((ROOT / "mvkit").rglob("*.py")):
        for name in re.findall(r"docs/[\w/-]+\.(?:md|ipynb|sbatch)", source.read_text(encoding="utf-8")):
            assert (ROOT / name).exists(), f"{source.relative_to(ROOT)}: {name}"


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if is_run(page)], ids=name_of)
def test_page_runs_and_prints_what_it_says(
    page: Path,
    mirror: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    demo_images: Path,
    mvkit_process: Callable[..., subprocess.Popen[str]],
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare_folder(tmp_path, demo_images, page)
    for name, value in {
        "NO_PROXY": "127.0.0.1",
        "MVKIT_HOME": str(tmp_path / "home"),
        "MVKIT_CHECKPOINT_URL": mirror,
        "MVKIT_NEURAL_URL": mirror,
    }.items():
        monkeypatch.setenv(name, value)
    # Tables as wide as a page of the documentation.
    monkeypatch.setattr("mvkit.cli.console.print_width", lambda: WIDTH)
    printed = ""
    outputs: list[tuple[Block, str]] = []
    for block in blocks_of(page):
        if block.language == "sh":
            printed = ""
            for line in command_lines(block.text):
                if line == TRAINING:
                    started = mvkit_process(*shlex.split(line)[1:])
                    assert interrupted(started, Path("runs/dual_stream_ir/log.jsonl")) == 130
                    continue
                printed += run_command(line, capsys)
        elif block.language == "python" and (name := re.match(r"# (\w+\.py)\n", block.text)):
            Path(name[1]).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as stream:
                exec(compile(block.text, name_of(page), "exec"), {"__name__": "page"})
            printed = stream.getvalue()
        elif block.title:
            outputs.append((block, shorten(tidy(printed), block.text)))
        elif block.language == "yaml" and (name := re.match(r"# (\w+\.yaml)", block.text)):
            Path(name[1]).write_text(block.text, encoding="utf-8")
    figures = set(re.findall(r"\]\((?:\.\./)*(?:docs/)?assets/([\w.-]+)\)", page.read_text(encoding="utf-8")))
    if WRITE:
        write_outputs(page, outputs)
        for name in figures:
            if Path(name).exists():
                shutil.copy(name, DOCS / "assets" / name)
        return
    for block, text in outputs:
        if block.title == "prints":
            assert DURATION.sub("#", text) == DURATION.sub("#", block.text)


def prepare_folder(folder: Path, images: Path, page: Path) -> None:
    """Lay out what the pages' commands find: recipes, pictures, session files."""
    (folder / "recipes").symlink_to(ROOT / "recipes")
    (folder / "scripts").symlink_to(ROOT / "scripts")
    if WRITE and name_of(page) == "start/train.md":
        script = ROOT / "scripts" / "make_demo_images.py"
        subprocess.run([sys.executable, script, folder / "images"], check=True, capture_output=True)
    else:
        shutil.copytree(images, folder / "images")
    shutil.copytree(ROOT / "tests" / "allen" / "files", folder / "sessions")
    if not any(TRAINING in block.text for block in blocks_of(page) if block.language == "sh"):
        return
    # Enough images for one batch of the published size.
    full = folder / "home" / "images" / "imagenet_full"
    shutil.copytree(images, full)
    for image in sorted((full / "train").glob("*/*.jpg")):
        for copy in range(4):
            shutil.copy(image, image.with_name(f"{copy}-{image.name}"))


def run_command(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a line of a shell block and return what it prints on standard output."""
    words = shlex.split(line)
    if words[0] == "cat":
        return Path(words[1]).read_text(encoding="utf-8")
    if words[0] == "head":
        return "".join(Path(words[3]).read_text(encoding="utf-8").splitlines(keepends=True)[: int(words[2])])
    assert words[0] == "mvkit", f"only mvkit, cat and head are run: {line}"
    capsys.readouterr()
    code = run(words[1:])
    result = capsys.readouterr()
    if "mvkit prep" in line and "--dry-run" not in line and not has_ffcv():
        assert code == 1 and "install" in result.err
        return ""
    assert code == 0, f"{line}\n{result.err}"
    assert result.out.strip(), f"{line} printed nothing"
    return result.out


def tidy(printed: str) -> str:
    """Return printed text without spaces at ends of lines and empty lines at its ends."""
    return "\n".join(line.rstrip() for line in printed.strip("\n").splitlines()) + "\n"


def shorten(printed: str, shown: str) -> str:
    """Cut a text to as many lines as a block shows, if that ends in "..."."""
    lines = shown.splitlines()
    if not lines or lines[-1] != "...":
        return printed
    return "\n".join([*printed.splitlines()[: max(len(lines) - 1, 1)], "...", ""])


def write_outputs(page: Path, outputs: list[tuple[Block, str]]) -> None:
    """Put outputs where their blocks stand."""
    text = page.read_text(encoding="utf-8")
    for block, printed in reversed(outputs):
        text = text[: block.span[0]] + printed + text[block.span[1] :]
    page.write_text(text, encoding="utf-8")
