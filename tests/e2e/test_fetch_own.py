"""``mvkit fetch neural --from FILE`` with recordings of one's own, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mvkit.cli.main import run
from mvkit.neural import open_dataset


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Clear responses of two animals, colour stimuli as floats."""
    rng = np.random.default_rng(0)
    drive = rng.normal(size=(12, 5))
    arrays = {
        f"resp_{name}": (drive + 0.5 * rng.normal(size=(n_trials, 12, 5))).astype(np.float32)
        for name, n_trials in (("ada", 8), ("bob", 6))
    }
    arrays["resp_bob"][0, 3] = np.nan
    path = tmp_path / "mine.npz"
    np.savez(path, stimuli=rng.random((12, 16, 16, 3)), **arrays)
    return path


def test_imports_prints_and_names_what_comes_next(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = mine.with_suffix(".h5")
    words = ["fetch", "neural", "--from", str(mine), "--responses", "resp_{animal}", "--area", "VISp"]
    assert run([*words, "--out", str(out), "--dry-run"]) == 0
    assert not out.exists()
    assert f"would write {out} (--dry-run)" in capsys.readouterr().out
    assert run([*words, "--out", str(out), "--units-of-measure", "dF/F"]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[:2] == [
        "axes: trials,images,units (12 images fit the second axis; trials before units by default)",
        "stimuli: 12 images, 16 x 16 px; RGB float in [0, 1] converted to 8-bit grey",
    ]
    rows = [line.split() for line in lines if line.startswith(("area", "VISp"))]
    assert rows[0] == ["area", "animal", "trials", "images", "units", "missing", "reliability"]
    assert rows[1][:6] == ["VISp", "ada", "8", "12", "5", "0"]
    assert rows[2][:7] == ["VISp", "bob", "6", "12", "5", "1.4", "%"]
    assert float(rows[1][6]) > 0.9
    assert lines[-3].startswith(f"wrote {out} (")
    assert lines[-3].endswith(", dF/F")
    assert lines[-2:] == [
        f"next: mvkit fetch reliability {out}",
        f"      mvkit score gabor --dataset {out} --recipe honest",
    ]
    dataset = open_dataset(out, selection="none")
    with np.load(mine) as arrays:
        for one in dataset.recordings:
            np.testing.assert_array_equal(one.responses, arrays[f"resp_{one.animal}"])
    # What comes next works.
    assert run(["fetch", "reliability", str(out), "--halves", "4"]) == 0
    assert [one.animal for one in open_dataset(out).recordings] == ["ada", "bob"]
    capsys.readouterr()
    assert run([*words, "--out", str(out)]) == 2
    assert (
        f"error: {out}: exists already; choose another name, or overwrite it (--force)"
        in capsys.readouterr().err
    )
    assert run([*words, "--out", str(out), "--force", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["written"] is True
    assert [row["animal"] for row in document["recordings"]] == ["ada", "bob"]
    assert document["recordings"][0]["median_reliability"] > 0.9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--from", "a.npz"], "--out: name the neural file to write, such as --out mine.h5"),
        (
            ["--from", "a.npz", "--out", "a.csv"],
            "--out a.csv: a neural file is HDF5; give a name that ends in .h5",
        ),
        (["--from", "a.npz", "--out", "a.h5"], "a.npz: no such file"),
        (
            ["--from", "a.npz", "--out", "a.h5", "--verify"],
            "--verify: not for recordings of your own (--from a.npz)",
        ),
        (["--area", "VISp"], "--area: only for recordings of your own: add --from FILE"),
        (
            ["--from", "a.pkl", "--area", "VISp", "--dataset", "calcium"],
            "--area: only for recordings of your own: a.pkl is a published pickle",
        ),
        (
            ["--from", "a.npz", "--out", "a.h5", "--dataset", "calcium"],
            "--out: only for recordings of your own: leave out --dataset",
        ),
        (
            ["--from", "a.pkl", "--from", "b.pkl", "--dataset", "calcium"],
            "of published recordings, name one pickle",
        ),
        (
            ["--from", "a.npz", "--dataset", "calcium"],
            "--from: only for recordings of your own: leave out --dataset",
        ),
    ],
)
def test_wrong_options(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["fetch", "neural", *words]) in (1, 2)
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err
