"""Every command and program in the README, run as printed."""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import re
import shlex
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mvkit.cli.main import run

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
SHELL_LINES = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines() if line.strip()]
COMMANDS = [line for line in SHELL_LINES if line.startswith("mvkit ")]
PROGRAMS = [text for kind, text in BLOCKS if kind == "python"]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[str]:
    """A mirror on this machine that holds stand-ins for the published files."""
    import lzma
    import shutil

    import torch

    from mvkit import load_model
    from mvkit.models.released import RELEASED

    folder = tmp_path_factory.mktemp("mirror")
    torch.save(
        {"state_dict": load_model("alexnet_bn_ir", weights="random").state_dict()},
        folder / "alexnet_bn_ir.pt",
    )
    for name in RELEASED:
        if not (folder / f"{name}.pt").exists():
            torch.save({"state_dict": {}}, folder / f"{name}.pt")
    published: Path = request.getfixturevalue("legacy_published")
    for source in published.glob("*.pkl*"):
        target = folder / source.name.removesuffix(".xz")
        with (
            lzma.open(source) if source.suffix == ".xz" else source.open("rb") as packed,
            target.open("wb") as plain,
        ):
            shutil.copyfileobj(packed, plain)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_readme_names_the_three_commands_of_the_design() -> None:
    assert "mvkit fetch neural --dataset neuropixels" in COMMANDS
    assert "mvkit score alexnet_bn_ir --layers features.3" in COMMANDS


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [line.split()[1] for line in SHELL_LINES if line.startswith("make ")]
    assert targets == ["demo", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


@pytest.mark.slow
def test_readme_commands_and_programs(
    mirror: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MVKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MVKIT_CHECKPOINT_URL", mirror)
    monkeypatch.setenv("MVKIT_NEURAL_URL", mirror)
    # Programs first: one of them writes the file that a command scores.
    for program in PROGRAMS:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(program, "README.md", "exec"), {"__name__": "readme"})
    for command in COMMANDS:
        code = run(shlex.split(command)[1:])
        printed = capsys.readouterr()
        assert code == 0, f"{command}\n{printed.err}"
        assert printed.out.strip(), f"{command} printed nothing"
