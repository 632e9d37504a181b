"""``mvkit fetch reliability`` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mvkit.cli.main import run
from mvkit.neural import Recording, open_dataset, open_neural_file, write_neural_file


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Recordings without reliabilities: per animal three clear units, two fair ones and a silent one."""
    rng = np.random.default_rng(0)
    recordings = []
    for specimen in (1, 2):
        drive = rng.standard_normal((40, 6)) * np.array([3.0, 3.0, 3.0, 0.22, 0.22, 0.0])
        values = drive + rng.standard_normal((20, 40, 6))
        values[:, :, 5] = 0.0
        recordings.append(Recording.from_arrays(values, unit_ids=range(6), area="VISp", specimen=specimen))
    path = tmp_path / "mine.h5"
    write_neural_file(path, recordings, stimuli=np.zeros((40, 4, 4), np.uint8), units_of_measure="dF/F")
    return path


def test_measures_prints_and_stores(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = open_dataset(mine)
    assert before.n_units == 12
    assert "mvkit fetch reliability FILE" in str(before.selection["note"])
    assert run(["fetch", "reliability", str(mine), "--halves", "40"]) == 0
    out = capsys.readouterr().out
    stored = open_dataset(mine, selection="none").unit_table()["reliability_mean"].to_numpy()
    known = stored[~np.isnan(stored)]
    row = next(line.split() for line in out.splitlines() if line.startswith("VISp"))
    assert row == [
        "VISp",
        "2",
        "12",
        "2",
        f"{np.median(known):.3f}",
        str((known >= 0.3).sum()),
        str((known >= 0.5).sum()),
    ]
    assert "40 split halves, seed 0" in out
    assert "undefined in 2 units: constant response in one half" in out
    after = open_dataset(mine)
    assert after.selection["applied"] is True
    assert [recording.unit_ids.tolist() for recording in after.recordings] == [[0, 1, 2], [0, 1, 2]]


def test_refuses_to_replace_unless_asked(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fetch", "reliability", str(mine), "--halves", "2"]) == 0
    stored = mine.read_bytes()
    capsys.readouterr()
    assert run(["fetch", "reliability", str(mine)]) == 2
    error = capsys.readouterr().err
    assert "has reliabilities already" in error and "--replace" in error
    assert mine.read_bytes() == stored
    assert run(["fetch", "reliability", str(mine), "--halves", "3", "--replace"]) == 0
    assert "in place of reliability_mean and reliability_std" in capsys.readouterr().out


def test_json_and_copy(mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original, copy = mine.read_bytes(), tmp_path / "copy.h5"
    words = ["fetch", "reliability", str(mine), "--out", str(copy), "--halves", "5", "--seed", "3", "--json"]
    assert run(words) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["written"], document["n_halves"], document["seed"]) == (str(copy), 5, 3)
    assert document["per_time_bin"] is False
    assert document["undefined"] == {"constant response in one half": 2}
    (area,) = document["areas"]
    stored = open_dataset(copy, selection="none").unit_table()["reliability_mean"].to_numpy()
    assert area["median"] == np.nanmedian(stored)
    assert area["at_least"] == {"0.3": int((stored >= 0.3).sum()), "0.5": int((stored >= 0.5).sum())}
    assert mine.read_bytes() == original


def test_table_of_timed_recordings_is_of_best_bins(
    expected: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A converted pickle, few trials and images, so that some reliabilities are undefined."""
    assert run(["fetch", "reliability", str(expected), "--halves", "4", "--replace"]) == 0
    out = capsys.readouterr().out
    assert "split-half reliability, in each unit's best time bin: 4 split halves" in out
    with open_neural_file(expected) as file:
        reliabilities = file.contents.reliabilities["splithalf_r_mean"]
        areas = file.contents.unit_columns["visual_area"]
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.startswith("VIS")}
    assert set(rows) == set(areas)
    for area, row in rows.items():
        best = np.where(np.isnan(reliabilities), -np.inf, reliabilities).max(axis=0)[areas == area]
        known = best[np.isfinite(best)]
        assert [int(row[1]), int(row[2])] == [len(best), len(best) - len(known)]
        assert [int(count) for count in row[-2:]] == [(known >= 0.3).sum(), (known >= 0.5).sum()]


def test_wrong_words(tmp_path: Path, mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fetch", "reliability", str(tmp_path / "none.h5")]) == 1
    assert "none.h5: no such neural file" in capsys.readouterr().err
    assert run(["fetch", "reliability", str(mine), "--halves", "0"]) == 2
    capsys.readouterr()
    assert run(["fetch", "reliability", str(mine), "--seed", str(2**32)]) == 2
    assert "seed=4294967296" in capsys.readouterr().err


@pytest.mark.realdata
@pytest.mark.slow
def test_real_recordings_are_selected_once_measured(neural_file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "real.h5"
    assert open_dataset(neural_file).selection["applied"] is False
    assert run(["fetch", "reliability", str(neural_file), "--out", str(copy)]) == 0
    everything = open_dataset(copy, selection="none")
    table = everything.unit_table()
    stored = table["reliability_mean"].to_numpy()
    # Some of the units by hand, with numpy only.
    recording = everything.recordings[0]
    values = recording.responses.astype(float)
    n_trials = recording.n_trials
    generator, each = np.random.RandomState(0), []
    for _ in range(100):
        order = list(range(n_trials))
        generator.shuffle(order)
        one, other = (
            np.nanmean(values[part, :, :4], axis=0)
            for part in (order[: n_trials // 2], order[n_trials // 2 :])
        )
        r = np.array([np.corrcoef(one[:, unit], other[:, unit])[0, 1] for unit in range(4)])
        each.append(2 * r / (1 + r))
    np.testing.assert_allclose(recording.units["reliability_mean"][:4], np.mean(each, axis=0), atol=1e-9)
    # The selections of the code (0.75 without a time axis) and of the paper (0.3) keep what they say.
    for selection, threshold in (("code", 0.75), ("paper", 0.3)):
        data = open_dataset(copy, selection=selection)
        assert data.selection["applied"] is True
        kept = np.concatenate([part.units["reliability_mean"] for part in data.recordings])
        assert kept.min() >= threshold
        enough = {(part.area, part.specimen): part.n_units for part in data.recordings}
        for (area, specimen), n_units in enough.items():
            own = (table["visual_area"] == area) & (table["specimen_id"] == specimen)
            assert n_units == int((stored[own.to_numpy()] >= threshold).sum())
        assert 0 < data.n_units < everything.n_units
