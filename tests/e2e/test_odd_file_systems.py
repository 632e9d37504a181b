"""Outputs on shares that lack something, on full disks, and in places that cannot be written to."""

from __future__ import annotations

import errno
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from mvkit.cli.main import run

SCORE = "score pixels --dataset simulated --areas VISp --splits 1 --halves 2 --jobs 1"

#: Commands with an output that is in a file in place of a folder.
UNWRITABLE = (
    f"{SCORE} --out file/x",
    f"{SCORE} --out out --table file/x.tex",
    f"{SCORE} --figure file/x.svg",
    f"{SCORE} --report file/x.html",
    "extract pixels --stimuli simulated --out file/x.h5",
    "extract pixels --export-weights file/x.safetensors",
    "plot areas nosuch --out file/x.pdf",
    "report nosuch --out file/x.html",
    "train demo --images images --out file/x",
    "prep imagenet_64 --images images --out file/x",
    "fetch neural --dataset simulated --home file/x",
    "fetch checkpoints alexnet_bn_ir --home file/x --from weights.pt",
    "recipe copy score/quick file/x.yaml",
)


def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "weights.pt").touch()
    for split in ("train", "val"):
        (tmp_path / "images" / split / "a").mkdir(parents=True)
        Image.new("RGB", (80, 80)).save(tmp_path / "images" / split / "a" / "1.png")
    before = sorted(tmp_path.rglob("*"))
    wrong = []
    for words in UNWRITABLE:
        code = run(words.split())
        shown = capsys.readouterr()
        is_refused = "file/x" in shown.err and re.search(": cannot be written: |: not a directory", shown.err)
        if code not in (1, 2) or not is_refused or shown.out:
            wrong.append((words, code, shown.out, shown.err))
    assert not wrong
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that answers as odd file systems do."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc to build the library with")
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    source = Path(__file__).parent / "shim.c"
    subprocess.run([compiler, "-shared", "-fPIC", str(source), "-o", str(library), "-ldl"], check=True)
    return library


@pytest.mark.slow
def test_a_share_that_lacks_something_and_a_full_disk(
    shim: Path,
    mvkit_process: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LD_PRELOAD", str(shim))
    monkeypatch.setenv("SHIM_FSYNC_FOLDER", str(errno.EINVAL))
    monkeypatch.setenv("SHIM_FALLOCATE", str(errno.EOPNOTSUPP))
    monkeypatch.setenv("SHIM_FLOCK", str(errno.ENOLCK))
    monkeypatch.setenv("MVKIT_HOME", str(tmp_path / "home"))

    def finish(words: str) -> tuple[int, str, str]:
        process = mvkit_process(*shlex.split(words), cwd=tmp_path)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    code, _, err = finish("fetch neural --dataset simulated")
    assert (code, err) == (
        0,
        f"{tmp_path}/home/neural: no locks on this file system (no locks available): "
        "do not run two commands that write there at once\n"
        f"{tmp_path}/home: no locks on this file system (no locks available): "
        "do not run two commands that write there at once\n",
    )
    code, _, err = finish("extract pixels --stimuli simulated --layers '*' --out f.h5")
    assert code == 0, err
    assert (tmp_path / "f.h5").stat().st_size > 4_000_000

    # The scores are there when writing fails: they are printed, and then the error.
    monkeypatch.setenv("SHIM_FSYNC_FILE", str(errno.ENOSPC))
    code, out, err = finish(f"{SCORE} --out {tmp_path}/o --table t.tex")
    full = "no space left on device\nfree some space, or write to another disk"
    assert code == 1
    assert "VISp  0.014" in out
    assert f"error: {tmp_path}/o/units.csv: {full}\nerror: t.tex: {full}\n" in err
    code, out, err = finish(f"{SCORE} --table t.tex --json")
    assert code == 1
    assert json.loads(out)["errors"] == [f"t.tex: {full}"]
    assert not list((tmp_path / "o").iterdir())
