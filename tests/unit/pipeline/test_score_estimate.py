"""What a run would need, against arithmetic by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mvkit
from mvkit.cli.main import run
from mvkit.errors import RecipeError, UsageError
from mvkit.machine import Resources
from mvkit.neural import Recording
from mvkit.pipeline import estimate as score_estimate
from mvkit.pipeline import score as score_run
from mvkit.pipeline.estimate import ResourceEstimate, estimate_page, estimate_run
from mvkit.pipeline.request import ScoreRequest
from mvkit.pipeline.score import run_score

N_IMAGES, N_UNITS = 12, (5, 7)
GB = 10**9

NET = """
from torch import nn


def make():
    return nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16 * 16, 10))


def make_larger():
    return nn.Sequential(nn.Conv2d(3, 6, 4, 4))
"""
#: By hand: 64 px in strides of 4 are 16 x 16, of 4 channels; and 10 of the last layer.
WIDTHS = {"0": 4 * 16 * 16, "3": 10}

QUICK: dict[str, Any] = {"n_splits": 2, "n_halves": 3, "mapping": "ridge"}


@pytest.fixture(autouse=True)
def dataset(monkeypatch: pytest.MonkeyPatch) -> mvkit.NeuralDataset:
    """Two animals of an area, whatever dataset is asked for."""
    rng = np.random.default_rng(3)
    recordings = tuple(
        Recording(
            area="VISp",
            specimen=specimen,
            unit_ids=np.arange(n_units),
            responses=rng.normal(size=(8, N_IMAGES, n_units)).astype(np.float32),
        )
        for specimen, n_units in enumerate(N_UNITS, start=1)
    )
    dataset = mvkit.NeuralDataset(
        name="toy",
        stimuli=rng.integers(0, 256, (N_IMAGES, 64, 64), dtype=np.uint8),
        frame_ids=np.arange(N_IMAGES),
        units_of_measure="spikes/s",
        recordings=recordings,
    )
    monkeypatch.setattr(score_run, "open_default", lambda name, **options: dataset)
    return dataset


@pytest.fixture
def network(tmp_path: Path) -> str:
    """A user's network."""
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    return f"{tmp_path / 'net.py'}:make"


def asked(
    *models: str,
    layers: tuple[str, ...] = ("0", "3"),
    resources: Resources | None = None,
    **settings: Any,
) -> ScoreRequest:
    """Request a quick run of layers of a user's network, in one process."""
    return ScoreRequest(
        models=models,
        layers=layers,
        weights="random",
        options={"input.size_px": 64},
        overrides=tuple(f"{key}={value}" for key, value in {**QUICK, **settings}.items()),
        resources=resources or Resources(n_jobs=1, cache=False),
    )


def estimated(request: ScoreRequest) -> ResourceEstimate:
    return estimate_run(request, note=lambda text: None)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what the machine has, in bytes; 4 GB of memory and 8 GB of disk to begin with."""

    def set_machine(*, available: int | None = 4 * GB, free: int = 8 * GB) -> None:
        monkeypatch.setattr(score_estimate, "available_memory", lambda: available)
        monkeypatch.setattr(score_estimate, "resident_memory", lambda: GB)
        monkeypatch.setattr(score_estimate, "free_disk", lambda folder: free)

    set_machine()
    return set_machine


def test_widths_bytes_and_fits_are_those_of_the_network(network: str) -> None:
    estimate = estimated(asked(network))
    (model,) = estimate.models
    assert {layer.name: layer.n_features for layer in model.layers} == WIDTHS
    assert [layer.shape for layer in model.layers] == [(4, 16, 16), (10,)]
    assert [layer.n_bytes for layer in model.layers] == [4 * 12 * 1024, 4 * 12 * 10]
    assert (estimate.n_images, estimate.n_recordings, estimate.n_units) == (12, 2, 12)
    # Layers, animals, splits, halvings, halves.
    assert model.n_fits == 2 * 2 * 2 * 3 * 2
    assert model.n_cached == 0
    assert "whole run: 48 fits" in page_of(estimate)


@pytest.mark.parametrize("field", ["n_halves", "n_splits"])
def test_twice_the_halvings_or_splits_are_twice_the_fits(network: str, field: str) -> None:
    changed: dict[str, Any] = {field: 2 * QUICK[field]}
    assert estimated(asked(network, **changed)).models[0].n_fits == 2 * 48


@pytest.mark.usefixtures("machine")
def test_worker_processes_prepare_layers_at_a_time(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mvkit.pipeline.estimate.available_cores", lambda: 4)
    # Coordinates, and a training and a test part of each of two splits, of both layers.
    prepared = 2 * 12**2 * 8 * 2
    for n_jobs, n_workers, at_a_time in ((1, 1, 1), (2, 2, 2), (64, 64, 2), (-1, -1, 2)):
        estimate = estimated(asked(network, resources=Resources(n_jobs=n_jobs, cache=False)))
        assert estimate.n_workers == n_workers
        assert estimate.models[0].blocks == at_a_time * 3 * 12 * 1024 * 8 + prepared


def test_a_cluster_is_not_connected_to(network: str) -> None:
    estimate = estimated(asked(network, resources=Resources(cache=False, dask="tcp://nowhere:1")))
    assert estimate.n_workers == -1
    assert "3 trial halves, a dask cluster" in page_of(estimate)


def test_memory_is_refused_with_numbers_where_it_is_short(network: str, machine: Callable[..., None]) -> None:
    estimate = estimated(asked(network))
    (model,) = estimate.models
    assert not estimate.error
    assert estimate.memory_in_use == GB
    assert model.features == 4 * 12 * 1034
    # All images are one batch, which is there twice.
    assert model.batch == 2 * model.features
    assert model.memory == model.features + max(model.batch, model.blocks)
    assert estimate.to_json()["models"][0]["memory"] == model.memory
    machine(available=model.memory)
    assert not estimated(asked(network)).error
    machine(available=model.memory - 1)
    short = estimated(asked(network))
    assert "1.0 GB are in use already" in short.error
    assert short.to_json()["fits"] is False
    machine(available=None)
    assert not estimated(asked(network)).error


def test_features_beyond_the_budget_go_to_disk(
    network: str, machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mvkit.features.buffer.IN_MEMORY_BYTES", 4 * 12 * 1034)
    assert estimated(asked(network)).models[0].features_on_disk == 0
    monkeypatch.setattr("mvkit.features.buffer.IN_MEMORY_BYTES", 4 * 12 * 1034 - 1)
    resources = Resources(n_jobs=1, cache=False, scratch=Path("elsewhere"))
    estimate = estimated(asked(network, resources=resources))
    (model,) = estimate.models
    assert (model.features, model.features_on_disk, estimate.disk_free) == (0, 4 * 12 * 1034, 8 * GB)
    assert "in elsewhere while they are needed (8.0 GB free)" in page_of(estimate)
    machine(free=49631)
    short = estimated(asked(network, resources=resources))
    assert short.error.startswith("net.py:make (random, seed 0): elsewhere: features take 49.6 kB")


def test_features_go_to_disk_where_they_would_take_half_of_the_memory(
    network: str, machine: Callable[..., None]
) -> None:
    machine(available=2 * 4 * 12 * 1034)
    assert estimated(asked(network)).models[0].features_on_disk == 0
    machine(available=2 * 4 * 12 * 1034 - 1)
    assert estimated(asked(network)).models[0].features_on_disk == 4 * 12 * 1034


@pytest.mark.parametrize("mapping", ["lasso", "elasticnet"])
def test_maps_that_need_whole_layers_say_so(network: str, mapping: str, machine: Callable[..., None]) -> None:
    request = asked(network, mapping=mapping)
    whole = estimated(request).models[0].whole
    # Training and test images, and scikit-learn's copy of them.
    assert whole == 2 * 12 * 1024 * 8
    several = asked(network, mapping=mapping, resources=Resources(n_jobs=3, cache=False))
    assert estimated(several).models[0].whole == 3 * whole
    assert estimated(asked(network)).models[0].whole == 0
    there = asked(network, mapping=mapping, resources=Resources(cache=False, dask="tcp://nowhere:1"))
    assert estimated(there).models[0].whole == 0, "the cluster's workers have memory of their own"
    machine(available=whole - 1)
    short = estimated(request).error
    assert f"{mapping} holds all features" in short
    assert "1024 features of layer '0'" in short


def test_scores_and_ceilings_that_are_cached_count_as_done(network: str, tmp_path: Path) -> None:
    request = asked(network, resources=Resources(n_jobs=1, home=tmp_path / "home"), ceiling="holdout")
    new = estimated(request)
    assert new.ceiling_is_cached is False
    assert "ceiling between animals (holdout): not cached" in page_of(new)
    run_score(request, note=lambda text: None)
    cached = estimated(request)
    assert cached.ceiling_is_cached is True
    assert [layer.n_cached for layer in cached.models[0].layers] == [2, 2]
    assert cached.models[0].n_fits == 0
    assert "not needed: every score is cached" in page_of(cached)
    uncached = estimated(asked(network, ceiling="holdout"))
    assert (uncached.models[0].n_cached, uncached.ceiling_is_cached) == (0, False)
    assert estimated(asked(network)).ceiling_is_cached is None


def test_cached_coordinates_need_no_features(network: str, tmp_path: Path) -> None:
    resources = Resources(n_jobs=1, home=tmp_path / "home")
    run_score(asked(network, resources=resources), note=lambda text: None)
    (model,) = estimated(asked(network, resources=resources, n_halves=6)).models
    assert (model.n_cached, model.features, model.batch) == (0, 0, 0)
    assert model.n_fits == 2 * 2 * 2 * 6 * 2


def test_several_models_add_up_and_nothing_is_written(network: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    layers = ("0", "3", "pixels")
    resources = Resources(n_jobs=1, home=home)
    with pytest.raises(UsageError, match="unknown layer 'pixels'"):
        estimated(asked(network, layers=layers, resources=resources))
    other = f"{network}_larger"
    both = estimated(asked(network, other, layers=("0",), resources=resources))
    assert [(model.name, model.layers[0].n_features) for model in both.models] == [
        ("net.py:make (random, seed 0)", 4 * 16 * 16),
        ("net.py:make_larger (random, seed 0)", 6 * 16 * 16),
    ]
    assert f"whole run: {2 * 24} fits" in page_of(both)
    assert not home.exists()


def test_what_a_run_refuses_is_refused(network: str) -> None:
    with pytest.raises(RecipeError, match="did you mean 'ridge'"):
        estimated(asked(network, mapping="rigde"))
    with pytest.raises(UsageError, match="given twice"):
        estimated(asked(network, network))


def test_this_machine_has_memory_and_disk(network: str) -> None:
    estimate = estimated(asked(network))
    assert estimate.memory_in_use > 10**7
    assert estimate.disk_free > 0


def page_of(estimate: ResourceEstimate) -> str:
    return "\n".join(part for part in estimate_page(estimate) if isinstance(part, str))


def command(network: str, *more: str) -> Sequence[str]:
    words = ["score", network, "--layers", "0,3", "--weights", "random", "--map", "ridge", "--splits", "2"]
    words += ["--input-size", "64"]
    return [*words, "--halves", "3", "--jobs", "1", "--dry-run", *more]


def test_the_command_prints_lines_or_one_document(
    network: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    assert run([*command(network, "--home", str(home)), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "2 layers, features 49.6 kB, in memory" in printed
    assert "4 x 16 x 16" in printed
    assert "fits: 48" in printed
    assert run([*command(network, "--json", "--home", str(home))]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["models"][0]["features"] == 4 * 12 * 1034
    assert [layer["n_features"] for layer in document["models"][0]["layers"]] == [1024, 10]
    assert document["fits"] is True
    assert document["models"][0]["memory"] > 0
    assert not home.exists()
    assert not (tmp_path / "out").exists()


def test_the_command_fails_where_the_run_would(
    network: str, machine: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    machine(available=1000)
    assert run(list(command(network, "--json", "--no-cache"))) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["fits"] is False
    assert "1.0 kB more are available" in printed.err
    assert run(list(command(network, "--shard", "1/2"))) == 2
    assert "--shard 1/2: leave --dry-run out" in capsys.readouterr().err
