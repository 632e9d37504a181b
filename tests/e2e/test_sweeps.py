"""Scoring runs that are interrupted, repeated, or divided among machines, as a user starts them."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mvkit.cli.main import run
from mvkit.neural import Recording, write_neural_file
from mvkit.score_shards import parse_shard, shards_of_pairs
from mvkit.store.entries import Store

N_IMAGES = 30
QUICK = ["--splits", "2", "--halves", "4", "--set", "n_components=3", "--jobs", "1"]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A neural file: two areas, three animals each, of different numbers of units."""
    rng = np.random.default_rng(6)
    stimuli = rng.integers(0, 256, (N_IMAGES, 64, 64), dtype=np.uint8)
    signals = stimuli.reshape(N_IMAGES, -1) / 255.0 @ rng.normal(size=(4096, 6)) / 10.0
    recordings = []
    for area in ("VISp", "VISl"):
        for specimen in (1, 2, 3):
            tuning = signals @ rng.normal(size=(6, 3 + specimen))
            noise = rng.normal(size=(8, N_IMAGES, 3 + specimen))
            ids = 100 * specimen + np.arange(3 + specimen) + (50 if area == "VISl" else 0)
            recordings.append(
                Recording(
                    area=area, specimen=specimen, unit_ids=ids, responses=(tuning + noise).astype(np.float32)
                )
            )
    path = tmp_path_factory.mktemp("recorded") / "small.h5"
    write_neural_file(path, recordings=recordings, stimuli=stimuli, units_of_measure="spikes/s")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder but those of shards."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "parts" not in path.parts and not path.name.startswith("run-")
    }


def fine(*words: object) -> None:
    assert run([str(word) for word in words]) == 0


def n_kept(folder: Path) -> int:
    """Count whole entries; a killed process may leave half ones under other names."""
    return sum(path.is_file() and len(path.stem) == 64 for path in (folder / "scores").rglob("*"))


@pytest.mark.slow
def test_killed_runs_go_on_where_they_stopped_and_give_the_same_files(
    recorded: Path, tmp_path: Path, mvkit_process: Start, wait_until: Callable[..., None]
) -> None:
    words = ["score", "pixels", "gabor", "--dataset", str(recorded), *QUICK, "--halves", "120"]
    fine(*words, "--out", tmp_path / "whole", "--no-cache", "--home", tmp_path / "other")
    assert not (tmp_path / "other").exists(), "without a cache, nothing is written"
    home = tmp_path / "home"
    there = 0
    for least in (1, 3):
        process = mvkit_process(*words, "--home", str(home), "--out", str(tmp_path / "killed"))
        wait_until(lambda least=least, there=there: n_kept(home / "cache") >= there + least, process)
        process.kill()
        process.communicate(timeout=30)
        there = n_kept(home / "cache")
        assert there >= least
    assert there < 12, "the second run was killed before its end, too"
    assert not (tmp_path / "killed").exists()
    two = [
        mvkit_process(*words, "--home", str(home), "--out", str(tmp_path / name)) for name in ("one", "two")
    ]
    for process in two:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert "damaged" not in errors
    whole = contents(tmp_path / "whole")
    assert set(whole) >= {"pixels/scores.parquet", "gabor/folds.parquet", "comparison.json"}
    assert contents(tmp_path / "one") == whole
    assert contents(tmp_path / "two") == whole
    assert n_kept(home / "cache") == 12


@pytest.fixture
def whole(recorded: Path, tmp_path: Path) -> list[str]:
    """Words of a run of two models with a ceiling, whose files lie in ``whole``."""
    words = ["score", "pixels", "gabor", "--dataset", str(recorded), *QUICK, "--ceiling", "holdout"]
    fine(*words, "--out", tmp_path / "whole", "--no-cache")
    return words


@pytest.mark.parametrize("order", [(3, 1, 2), (2, 3, 1)])
def test_shards_in_any_order_give_the_files_of_one_process(
    order: tuple[int, ...], whole: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shards"
    capsys.readouterr()
    for done, number in enumerate(order, start=1):
        fine(*whole, "--shard", f"{number}/3", "--out", out)
        printed = capsys.readouterr().out.splitlines()
        assert printed[0] == f"shard {number}/3: 4 of 12 pairs of layer and recording"
        if done < 3:
            assert printed[1] == (
                f"{12 - 4 * done} of 12 pairs are still missing; when all shards are done: "
                f"mvkit score --merge {out}"
            )
            assert run(["score", "--merge", str(out)]) == 1
            errors = capsys.readouterr().err
            assert f"{12 - 4 * done} of 12 pairs of layer and recording are missing" in errors
            missing = [f"--shard {other}/3" for other in sorted(order[done:])]
            assert f"run again: {', '.join(missing)}\n" in errors
    assert printed[1] == f"every shard is done; put them together: mvkit score --merge {out}"
    assert contents(out) == {}, "shards write no report"
    fine("score", "--merge", out)
    assert "pixels minus gabor" in capsys.readouterr().out
    expected = contents(tmp_path / "whole")
    assert contents(out) == expected
    assert {"ceiling/scores.parquet", "gabor/fractions.csv", "comparison.csv"} <= set(expected)
    fine("score", "--merge", out, "--out", tmp_path / "elsewhere", "--figure", tmp_path / "f.svg", "--json")
    assert json.loads(capsys.readouterr().out)["comparison"]["models"] == ["pixels", "gabor"]
    assert contents(tmp_path / "elsewhere") == expected
    assert "<svg" in (tmp_path / "f.svg").read_text()[:500]


@pytest.mark.parametrize("mapping", ["one-to-one", "rsa"])
def test_shards_of_other_mappings_and_more_shards_than_pairs(
    mapping: str, recorded: Path, tmp_path: Path
) -> None:
    words = ["score", "gabor", "--dataset", recorded, *QUICK, "--map", mapping, "--areas", "VISl"]
    words += ["--set", "population=pooled"] if mapping == "rsa" else []
    fine(*words, "--out", tmp_path / "whole")
    for number in range(1, 6):
        fine(*words, "--shard", f"{number}/5", "--out", tmp_path / "shards", "--no-cache")
    fine("score", "--merge", tmp_path / "shards")
    assert contents(tmp_path / "shards") == contents(tmp_path / "whole")


def test_a_shard_does_not_do_again_what_is_there(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mvkit.scoring import run

    out = tmp_path / "shards"
    words = ["score", "pixels", "--dataset", recorded, *QUICK, "--out", out, "--no-cache", "--json"]
    fine(*words, "--shard", "1/2")
    first = json.loads(capsys.readouterr().out)
    assert (first["pairs"], first["pairs_of_shard"], first["pairs_before"]) == (6, 3, 0)
    assert first["pairs_missing"] == 3
    kept = sorted(path for path in (out / "parts").rglob("*") if path.is_file())
    kept[0].unlink()
    jobs = []
    measure = run._score_specimen
    monkeypatch.setattr(
        run, "_score_specimen", lambda *arguments: jobs.append(len(arguments[3])) or measure(*arguments)
    )
    fine(*words, "--shard", "1/2")
    again = json.loads(capsys.readouterr().out)
    assert (again["pairs_before"], again["pairs_missing"]) == (2, 3)
    assert jobs == [1]


def test_shards_use_and_fill_the_cache(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mvkit.scoring import run

    words = ["score", "pixels", "--dataset", recorded, *QUICK]
    fine(*words, "--shard", "1/2", "--out", tmp_path / "shards")
    fine(*words, "--out", tmp_path / "whole")
    monkeypatch.setattr(run, "_score_specimen", lambda *arguments: pytest.fail("all of it is kept"))
    fine(*words, "--shard", "2/2", "--out", tmp_path / "shards")
    fine("score", "--merge", tmp_path / "shards")
    assert contents(tmp_path / "shards") == contents(tmp_path / "whole")


def test_what_does_not_belong_together_is_refused(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shards"
    words = ["score", "pixels", "--dataset", recorded, *QUICK, "--out", out]
    fine(*words, "--shard", "1/2")
    for changes, message in (
        (["--halves", "5"], "n_halves: 4 there, 5 here"),
        (["--areas", "VISp"], "areas: None there, VISp here"),
        (["gabor"], "models: pixels there, pixels, gabor here"),
        (["--ceiling", "holdout"], "ceiling: none there, holdout here"),
    ):
        assert run([str(word) for word in [*words, "--shard", "2/2", *changes]]) == 2
        errors = capsys.readouterr().err
        assert "holds shards of another run" in errors
        assert message in errors
    fine(*words, "--shard", "2/2")
    for changes in (["gabor"], ["--halves", "4"], ["--areas", "VISp"]):
        assert run(["score", "--merge", str(out), *changes]) == 2
        assert "those of the shards (pixels)" in capsys.readouterr().err
    fine("score", "pixels", "--merge", out)
    (manifest,) = out.glob("run-*.json")
    other = json.loads(manifest.read_text())
    other["settings"]["halves_seed"] = 9
    (out / "run-0.json").write_text(json.dumps(other))
    capsys.readouterr()
    assert run(["score", "--merge", str(out)]) == 2
    assert "halves_seed: 9 there, 0 here" in capsys.readouterr().err


def test_shards_that_disagree_about_a_layer_are_refused(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shards"
    words = ["score", "pixels", "--dataset", recorded, *QUICK, "--shard", "1/1", "--out", out]
    fine(*words)
    store = Store(out / "parts")
    (manifest,) = out.glob("run-*.json")
    (layer,) = json.loads(manifest.read_text())["layers"]
    entry = store.read("scores", layer["keys"][2])
    assert entry is not None
    arrays = {**entry.arrays, "probe": entry.arrays["probe"] * (1 + 1e-8)}
    store.write("scores", layer["keys"][2], arrays, entry.about)
    fine("score", "--merge", out)
    arrays["probe"] = entry.arrays["probe"] * 1.1
    store.write("scores", layer["keys"][2], arrays, entry.about)
    capsys.readouterr()
    assert run(["score", "--merge", str(out)]) == 1
    assert "layer 'pixels' of pixels: shards disagree" in capsys.readouterr().err
    document = json.loads(manifest.read_text())
    document["layers"][0]["probe"][2] += 1.0
    manifest.write_text(json.dumps(document))
    assert run([str(word) for word in words]) == 1
    assert "layer 'pixels' of pixels: shards disagree" in capsys.readouterr().err
    manifest.write_text("{")
    assert run(["score", "--merge", str(out)]) == 1
    assert "damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["pixels", "--shard", "2/1", "--out", "x"], 2, "i from 1 to n"),
        (["pixels", "--shard", "0/3", "--out", "x"], 2, "for example 2/8"),
        (["pixels", "--shard", "half", "--out", "x"], 2, "for example 2/8"),
        (["pixels", "--shard", "1/2"], 2, "--out DIR"),
        (["pixels", "--shard", "1/2", "--out", "x", "--figure", "f.svg"], 2, "give it with --merge"),
        (["pixels", "--shard", "1/2", "--out", "x", "--merge", "x"], 2, "then merge"),
        (["--merge", "nowhere"], 1, "no shards here"),
        (["pixls", "--shard", "1/2", "--out", "x"], 2, "did you mean 'pixels'"),
        (["--shard", "1/2", "--out", "x"], 2, "MODEL"),
    ],
)
def test_wrong_options_are_refused(
    words: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["score", *words]) == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == []


def test_other_responses_at_the_merge_are_refused(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "recorded.h5"
    shutil.copy(recorded, file)
    words = ["score", "pixels", "--dataset", file, *QUICK, "--ceiling", "pairwise", "--map", "ridge"]
    fine(*words, "--shard", "1/1", "--out", tmp_path / "shards")
    stimuli = np.zeros((N_IMAGES, 64, 64), np.uint8)
    rng = np.random.default_rng(0)
    others = [
        Recording("VISp", specimen, np.arange(4), rng.normal(size=(8, N_IMAGES, 4)).astype(np.float32))
        for specimen in (1, 2)
    ]
    file.unlink()
    write_neural_file(file, recordings=others, stimuli=stimuli, units_of_measure="spikes/s")
    capsys.readouterr()
    assert run(["score", "--merge", str(tmp_path / "shards")]) == 1
    assert "other responses than the shards scored" in capsys.readouterr().err


def test_pairs_are_divided_in_contiguous_parts_of_equal_weight() -> None:
    rng = np.random.default_rng(1)
    for count in (1, 2, 3, 7, 40):
        weights = [int(weight) for weight in rng.integers(1, 60, 35)]
        shards = shards_of_pairs(weights, count)
        assert shards == sorted(shards)
        assert set(shards) <= set(range(1, count + 1))
        parts = [sum(w for w, s in zip(weights, shards, strict=True) if s == n) for n in range(1, count + 1)]
        assert sum(parts) == sum(weights)
        assert max(abs(part - sum(weights) / count) for part in parts) <= max(weights)
    assert shards_of_pairs([1, 1, 1, 1], 2) == [1, 1, 2, 2]
    assert shards_of_pairs([3, 1, 1, 1], 2) == [1, 2, 2, 2]
    assert (parse_shard("2/8").number, parse_shard("8/8").count) == (2, 8)
