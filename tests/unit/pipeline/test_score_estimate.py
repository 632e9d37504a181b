"""What a run would need, against arithmetic by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mvkit
from mvkit import score_run
from mvkit.cli.main import run
from mvkit.errors import UsageError
from mvkit.models.foreign.options import InputOptions
from mvkit.neural import Recording
from mvkit.report.estimate import RunEstimate
from mvkit.report.estimate_page import duration, estimate_page
from mvkit.resources import Resources
from mvkit.score_estimate import estimate_run
from mvkit.score_machine import THIS_MACHINE, Machine
from mvkit.score_request import ScoreRequest
from mvkit.score_run import run_score
from mvkit.scoring.speed import Speed

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

#: Powers of two, so that sums of them are exact.
SPEED = Speed(feature_s=2.0**-20, wide_feature_s=2.0**-21, split_s=0.25, halving_s=0.5, unit_s=0.125)
MACHINE = Machine(
    available=lambda: 4 * GB,
    resident=lambda: GB,
    free_disk=lambda folder: 8 * GB,
    image_s=lambda journey, stimuli: 0.5,
    speed=lambda images, recordings, widths, settings: SPEED,
    ceiling_s=lambda recordings, settings: 2.0,
    clock=lambda: 0.0,
)
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
        inputs=InputOptions(input_size=64),
        settings={**QUICK, **settings},
        resources=resources or Resources(n_jobs=1, cache=False),
    )


def estimated(request: ScoreRequest, machine: Machine = MACHINE) -> RunEstimate:
    return estimate_run(request, remark=lambda text: None, machine=machine)


def test_widths_bytes_and_fits_are_those_of_the_network(network: str) -> None:
    estimate = estimated(asked(network))
    (model,) = estimate.models
    assert {layer.name: layer.n_features for layer in model.layers} == WIDTHS
    assert [layer.shape for layer in model.layers] == [(4, 16, 16), (10,)]
    assert [layer.n_bytes for layer in model.layers] == [4 * 12 * 1024, 4 * 12 * 10]
    assert model.n_bytes == 4 * 12 * 1034
    assert (estimate.n_images, estimate.n_recordings, estimate.n_units) == (12, 2, 12)
    # Layers, animals, splits, halvings, halves.
    assert model.n_fits == 2 * 2 * 2 * 3 * 2
    assert (model.n_pairs, model.n_kept) == (4, 0)


def test_seconds_are_those_of_the_parts(network: str) -> None:
    (model,) = estimated(asked(network)).models
    assert model.seconds.forward == 12 * 0.5
    assert model.seconds.preparing == 1034 * 2.0**-20 + 2 * 2 * 0.25
    per_layer = (0.5 + 5 * 0.125) + (0.5 + 7 * 0.125)
    assert model.seconds.fits == 2 * per_layer * 2 * 3
    estimate = estimated(asked(network))
    assert estimate.seconds == model.seconds.total
    assert f"whole run: about {duration(model.seconds.total)}" in page_of(estimate)


@pytest.mark.parametrize("field", ["n_halves", "n_splits"])
def test_twice_the_halvings_or_splits_take_twice_as_long(network: str, field: str) -> None:
    once = estimated(asked(network)).models[0].seconds
    changed: dict[str, Any] = {field: 2 * QUICK[field]}
    twice = estimated(asked(network, **changed)).models[0].seconds
    assert twice.fits == 2 * once.fits
    assert twice.forward == once.forward


def test_worker_processes_share_fits(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mvkit.score_estimate.available_cores", lambda: 4)
    alone = estimated(asked(network)).models[0].seconds
    # More processes than cores take as long as one for each core; -1 is a cluster's.
    for wanted, processes, used in ((2, 2, 2), (64, 64, 4), (-1, 4, 4)):
        several = estimated(asked(network, resources=Resources(n_jobs=wanted, cache=False)))
        assert several.n_workers == processes
        assert several.models[0].seconds.fits == alone.fits / used
        assert several.models[0].seconds.forward == alone.forward


def test_memory_is_refused_with_numbers_where_it_is_short(network: str) -> None:
    estimate = estimated(asked(network))
    memory = estimate.models[0].memory
    assert estimate.fits
    assert memory.started == GB
    assert memory.features == 4 * 12 * 1034
    # All images are one batch, which is there twice.
    assert memory.batch == 2 * memory.features
    extra = memory.peak - memory.started
    assert extra == memory.features + max(memory.batch, memory.blocks)
    enough = replace(MACHINE, available=lambda: extra)
    assert estimated(asked(network), enough).fits
    short = estimated(asked(network), replace(MACHINE, available=lambda: extra - 1))
    assert not short.fits
    assert "1.0 GB are in use already" in short.refusal
    assert estimated(asked(network), replace(MACHINE, available=lambda: None)).fits


def test_features_beyond_the_budget_go_to_disk(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mvkit.features.scratch.IN_MEMORY_BYTES", 4 * 12 * 1034)
    assert estimated(asked(network)).models[0].disk.needed == 0
    monkeypatch.setattr("mvkit.features.scratch.IN_MEMORY_BYTES", 4 * 12 * 1034 - 1)
    resources = Resources(n_jobs=1, cache=False, scratch=Path("elsewhere"))
    estimate = estimated(asked(network, resources=resources))
    (model,) = estimate.models
    assert (model.memory.features, model.disk.needed, model.disk.free) == (0, 4 * 12 * 1034, 8 * GB)
    assert "in elsewhere while they are needed (8.0 GB free)" in page_of(estimate)
    full = replace(MACHINE, free_disk=lambda folder: 49631)
    short = estimated(asked(network, resources=resources), full)
    assert short.refusal.startswith(f"{network}: elsewhere: features take 49.6 kB")


@pytest.mark.parametrize("mapping", ["lasso", "elasticnet"])
def test_maps_that_need_whole_layers_say_so(network: str, mapping: str) -> None:
    request = asked(network, mapping=mapping)
    whole = estimated(request).models[0].memory.whole
    # Training and test images, and scikit-learn's copy of them.
    assert whole == 2 * 12 * 1024 * 8
    short = estimated(request, replace(MACHINE, available=lambda: whole - 1))
    assert not short.fits
    assert f"{mapping} holds all features" in short.refusal
    assert "1024 features of layer '0'" in short.refusal
    several = asked(network, mapping=mapping, resources=Resources(n_jobs=3, cache=False))
    assert estimated(several).models[0].memory.whole == 3 * whole
    assert estimated(asked(network)).models[0].memory.whole == 0


def test_ceiling_counts_until_it_is_kept(network: str, tmp_path: Path) -> None:
    resources = Resources(n_jobs=1, home=tmp_path / "home")
    request = asked(network, resources=resources, ceiling="holdout")
    new = estimated(request).ceiling
    assert new is not None
    assert (new.kind, new.is_kept, new.seconds) == ("holdout", False, 2.0 * 2 * 3)
    run_score(request, remark=lambda text: None)
    kept = estimated(request)
    assert kept.ceiling is not None
    assert (kept.ceiling.is_kept, kept.ceiling.seconds) == (True, 0.0)
    assert kept.models[0].n_kept == kept.models[0].n_pairs == 4
    assert kept.seconds == 0.0
    assert kept.models[0].n_fits == 0
    assert "not needed: every score is kept" in page_of(kept)
    uncached = asked(network, ceiling="holdout")
    assert estimated(uncached).models[0].n_kept == 0


def test_kept_coordinates_need_no_images(network: str, tmp_path: Path) -> None:
    resources = Resources(n_jobs=1, home=tmp_path / "home")
    run_score(asked(network, resources=resources), remark=lambda text: None)
    (model,) = estimated(asked(network, resources=resources, n_halves=6)).models
    assert model.n_kept == 0
    assert model.seconds.forward == 0.0
    assert model.memory.features == 0
    assert model.seconds.preparing == 2 * 2 * 0.25
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
        (network, 4 * 16 * 16),
        (other, 6 * 16 * 16),
    ]
    assert both.seconds == sum(model.seconds.total for model in both.models)
    assert not home.exists()


def test_what_a_run_refuses_is_refused(network: str) -> None:
    with pytest.raises(UsageError, match="did you mean 'ridge'"):
        estimated(asked(network, mapping="rigde"))
    with pytest.raises(UsageError, match="given twice"):
        estimated(asked(network, network))


def test_this_machine_tells_of_itself(network: str) -> None:
    estimate = estimated(asked(network), THIS_MACHINE)
    assert estimate.seconds > 0.0
    assert estimate.models[0].memory.started > 10**7
    assert estimate.models[0].disk.free > 0


def page_of(estimate: RunEstimate) -> str:
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
    assert "for 48 fits" in printed
    assert run([*command(network, "--json", "--home", str(home))]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["models"][0]["n_bytes"] == 4 * 12 * 1034
    assert [layer["n_features"] for layer in document["models"][0]["layers"]] == [1024, 10]
    assert document["fits"] is True
    assert document["models"][0]["memory"]["peak"] > 0
    assert not home.exists()
    assert not (tmp_path / "out").exists()


def test_the_command_fails_where_the_run_would(
    network: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tight = replace(MACHINE, available=lambda: 1000)
    monkeypatch.setattr("mvkit.score_estimate.THIS_MACHINE", tight)
    assert run(list(command(network, "--json", "--no-cache"))) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["fits"] is False
    assert "1.0 kB more are available" in printed.err
    assert run(list(command(network, "--shard", "1/2", "--out", "x"))) == 2
    assert "--dry-run is about a whole run" in capsys.readouterr().err
