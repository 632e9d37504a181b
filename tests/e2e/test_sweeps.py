"""Scoring runs that are interrupted, repeated, or divided among machines, as a user starts them."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mvkit.cli.main import run
from mvkit.neural import Recording, write_neural_file
from mvkit.pipeline.request import Shard, parse_shard
from mvkit.pipeline.score import shards_of_pairs
from mvkit.scoring import run as score_module

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
    """Return every file of a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
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
    assert set(whole) >= {"scores.parquet", "best_layers.csv", "comparison.json"}
    assert contents(tmp_path / "one") == whole
    assert contents(tmp_path / "two") == whole
    assert n_kept(home / "cache") == 12


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of layers of each job that was done, of one recording each."""
    done: list[int] = []
    measure = score_module._score_recording
    monkeypatch.setattr(
        score_module,
        "_score_recording",
        lambda *arguments: done.append(len(arguments[3])) or measure(*arguments),
    )
    return done


@pytest.fixture
def words(recorded: Path) -> list[str]:
    """A run of two models with a ceiling and its extrapolation."""
    whole = ["score", "pixels", "gabor", "--dataset", str(recorded), *QUICK, "--splits", "1", "--halves", "2"]
    return [*whole, "--areas", "VISp", "--ceiling", "holdout", "--set", "extrapolate=units"]


@pytest.mark.slow
def test_shards_in_processes_of_their_own_leave_nothing_to_score(
    words: list[str], tmp_path: Path, mvkit_process: Start, jobs: list[int]
) -> None:
    fine(*words, "--out", tmp_path / "whole", "--home", tmp_path / "empty")
    home = tmp_path / "home"
    shards = [mvkit_process(*words, "--shard", f"{index}/2", "--home", str(home)) for index in (1, 2)]
    for process in shards:
        printed, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert "3 of 6 pairs of layer and recording are scored into the cache\n" in printed
    assert n_kept(home / "cache") == 6
    assert not (home / "ceilings").exists(), "the ceiling is measured once, by the command that finishes"
    jobs.clear()
    fine(*words, "--out", tmp_path / "sharded", "--home", home)
    assert jobs == []
    expected = contents(tmp_path / "whole")
    assert contents(tmp_path / "sharded") == expected
    assert {"ceiling/scores.parquet", "fractions.csv", "comparison.csv"} <= set(expected)
    assert any("extrapolation" in name for name in expected)


@pytest.mark.slow
def test_a_killed_shard_goes_on_where_it_stopped(
    recorded: Path,
    tmp_path: Path,
    mvkit_process: Start,
    wait_until: Callable[..., None],
    jobs: list[int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    home = tmp_path / "home"
    shard = ["score", "pixels", "--dataset", str(recorded), *QUICK, "--halves", "120", "--shard", "1/1"]
    process = mvkit_process(*shard, "--home", str(home))
    wait_until(lambda: n_kept(home / "cache") >= 1, process)
    process.kill()
    process.communicate(timeout=30)
    there = n_kept(home / "cache")
    assert 1 <= there < 6
    capsys.readouterr()
    fine(*shard, "--home", home, "--json")
    report = json.loads(capsys.readouterr().out)
    assert (report["n_pairs"], report["n_pairs_of_shard"], report["n_cached_before"]) == (6, 6, there)
    assert sum(jobs) == 6 - there
    assert report["n_cached"] == n_kept(home / "cache") == 6


@pytest.mark.parametrize("order", [(3, 1, 2), (2, 3, 1)])
def test_shards_in_any_order_say_what_they_did_and_how_to_finish(
    order: tuple[int, ...],
    recorded: Path,
    tmp_path: Path,
    jobs: list[int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["score", "pixels", "gabor", "--dataset", str(recorded), *QUICK]
    fine(*words, "--out", tmp_path / "whole", "--home", tmp_path / "empty")
    home = ["--home", str(tmp_path / "a home")]
    capsys.readouterr()
    jobs.clear()
    for done, index in enumerate(order, start=1):
        part = ["--shard", f"{index}/3"] if done % 2 else [f"--shard={index}/3"]
        fine(*words[:3], *part, *words[3:], *home)
        first, second = capsys.readouterr().out.splitlines()
        assert first == f"shard {index}/3: 4 of 12 pairs of layer and recording are scored into the cache"
        finish = shlex.join(["mvkit", *words, *home])
        state = "every pair of the run is in the cache now;"
        if done < 3:
            state = f"{4 * done} of 12 pairs of the run are in the cache now; when all shards are done,"
        assert second == f"{state} finish with: {finish}"
        assert sum(jobs) == 4 * done
    fine(*shlex.split(second.split("mvkit ")[1]), "--out", tmp_path / "sharded")
    assert "pixels minus gabor" in capsys.readouterr().out
    assert sum(jobs) == 12
    assert contents(tmp_path / "sharded") == contents(tmp_path / "whole")


@pytest.mark.parametrize("mapping", ["one-to-one", "rsa"])
def test_shards_of_other_mappings_and_more_shards_than_pairs(
    mapping: str, recorded: Path, tmp_path: Path, jobs: list[int]
) -> None:
    words = ["score", "gabor", "--dataset", recorded, "--halves", "4", "--jobs", "1", "--areas", "VISl"]
    words += ["--map", mapping, *(["--set", "population=pooled"] if mapping == "rsa" else ["--splits", "2"])]
    fine(*words, "--out", tmp_path / "whole", "--no-cache")
    jobs.clear()
    home = ["--home", tmp_path / "home"]
    for index in range(1, 6):
        fine(*words, "--shard", f"{index}/5", *home)
    n_pairs = 1 if mapping == "rsa" else 3
    assert sum(jobs) == n_pairs
    fine(*words, "--out", tmp_path / "sharded", *home)
    assert sum(jobs) == n_pairs
    assert contents(tmp_path / "sharded") == contents(tmp_path / "whole")


def test_a_shard_does_only_what_the_cache_has_not(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], jobs: list[int]
) -> None:
    words = ["score", "pixels", "--dataset", recorded, *QUICK, "--home", tmp_path / "home"]
    fine(*words, "--shard", "1/2", "--json")
    first = json.loads(capsys.readouterr().out)
    assert first["finish"] == shlex.join(["mvkit", *map(str, words), "--json"])
    counts = ["n_pairs", "n_pairs_of_shard", "n_cached_before", "n_cached"]
    assert [first[name] for name in counts] == [6, 3, 0, 3]
    next(path for path in (tmp_path / "home" / "cache" / "scores").rglob("*") if path.is_file()).unlink()
    jobs.clear()
    fine(*words, "--shard", "1/2", "--json")
    again = json.loads(capsys.readouterr().out)
    assert [again[name] for name in counts] == [6, 3, 2, 3]
    assert jobs == [1]
    fine(*words, "--shard", "1/2")
    assert "are scored into the cache, 3 of them before\n" in capsys.readouterr().out
    assert jobs == [1]
    # A command with other settings finds nothing of it.
    fine(*words, "--halves", "5", "--shard", "2/2", "--json")
    assert json.loads(capsys.readouterr().out)["n_cached"] == 3
    assert sum(jobs) == 4


def test_a_shard_whose_scores_cannot_be_cached_fails(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["score", "pixels", "--dataset", str(recorded), *QUICK, "--home", str(tmp_path), "--shard", "1/2"]
    (tmp_path / "cache").write_text("not a folder")
    assert run(words) == 1
    assert "the scores of 3 of 3 pairs could not be written there" in capsys.readouterr().err
    monkeypatch.setattr("mvkit.pipeline.layers.OpenedLayers.score_cache", lambda self, settings: None)
    assert run(words) == 2
    assert "pixels: its scores cannot be cached, so it cannot be scored in shards" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pixels", "--shard", "2/1"], "i from 1 to n"),
        (["pixels", "--shard", "0/3"], "for example 2/8"),
        (["pixels", "--shard", "half"], "for example 2/8"),
        (["pixels", "--shard", "1/2", "--out", "x"], "--shard 1/2: leave --out out"),
        (["pixels", "--shard", "1/2", "--figure", "f.svg"], "leave --figure out"),
        (["pixels", "--shard", "1/2", "--no-cache"], "leave --no-cache out"),
        (["pixels", "--shard", "1/2", "--against", "x", "--out", "y"], "leave --out, --against out"),
        (["pixels", "--shard", "1/2", "--dry-run"], "leave --dry-run out"),
        (["pixls", "--shard", "1/2"], "did you mean 'pixels'"),
        (["--shard", "1/2"], "MODEL"),
    ],
)
def test_wrong_options_are_refused(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["score", *words]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.out == ""
    assert list(tmp_path.iterdir()) == []


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
    assert parse_shard("2/8") == Shard(2, 8)
