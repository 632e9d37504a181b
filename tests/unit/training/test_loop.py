"""Runs from a request: what is refused, resumed, recorded, and what stops them."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mvkit.errors import CheckpointError, DataError, FitError, RecipeError, UsageError
from mvkit.files import Lock
from mvkit.pipeline.train import TrainReport, TrainRequest, plan_training, run_training
from mvkit.training.log import Callbacks, Pace

Train = Callable[..., TrainReport]


@pytest.fixture
def request_(tiny: ModuleType, tiny_recipe: str, coloured_images: Path, tmp_path: Path) -> TrainRequest:
    """A run of the tiny recipe."""
    return TrainRequest(tiny_recipe, images=coloured_images, out=tmp_path / "run", device="cpu", workers=0)


def records(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_run_and_what_it_leaves(request_: TrainRequest, tmp_path: Path) -> None:
    paces: list[Pace] = []
    said: list[str] = []
    generator = torch.get_rng_state()
    report = run_training(request_, callbacks=Callbacks(said.append, paces.append))
    assert torch.equal(generator, torch.get_rng_state())
    assert (report.fit.step, report.fit.n_steps, report.fit.epochs) == (18, 18, 2)
    log = records(tmp_path / "run")
    assert [record["kind"] for record in log] == [
        "start", *["step"] * 9, "evaluation", "epoch", *["step"] * 9, "evaluation", "epoch", "end",
    ]  # fmt: skip
    assert log[0]["machine"]["precision"] == "fp32" and "torch" in log[0]["versions"]  # type: ignore[index, operator]
    losses = [record["loss"] for record in log if record["kind"] == "step"]
    epochs = [record["loss"] for record in log if record["kind"] == "epoch"]
    assert epochs == pytest.approx([sum(losses[:9]) / 9, sum(losses[9:]) / 9])  # type: ignore[arg-type]
    assert [pace.step for pace in paces] == list(range(1, 19))
    assert paces[-1].eta_s == 0 and all(pace.images_per_s > 0 for pace in paces)
    assert [line.split(":")[0] for line in said] == ["epoch 1/2", "epoch 2/2"]
    values = [record["validation_loss.loss"] for record in log if record["kind"] == "evaluation"]
    assert report.fit.best == min(values)  # type: ignore[type-var]
    best = torch.load(tmp_path / "run" / "best.pt", weights_only=True)
    assert best["progress"]["epochs"] == 1 + values.index(min(values))  # type: ignore[type-var]


def test_finished_runs_stay_as_they_are(request_: TrainRequest, tmp_path: Path) -> None:
    run_training(request_)
    before = (tmp_path / "run" / "last.pt").read_bytes()
    again = run_training(request_)
    assert (again.fit.resumed_from, again.fit.step) == (18, 18)
    assert math.isnan(again.fit.loss)
    assert (tmp_path / "run" / "last.pt").read_bytes() == before
    assert [record["kind"] for record in records(tmp_path / "run")].count("step") == 18


def test_max_steps_ends_within_an_epoch(request_: TrainRequest, tmp_path: Path) -> None:
    report = run_training(replace(request_, overrides=("train.max_steps=11",)))
    assert (report.fit.step, report.fit.epochs) == (11, 2)
    assert [r["step"] for r in records(tmp_path / "run") if r["kind"] == "evaluation"] == [9, 11]


def test_another_recipe_is_refused_and_named(request_: TrainRequest, tmp_path: Path) -> None:
    run_training(replace(request_, overrides=("train.max_steps=2",)))
    changed = replace(request_, overrides=("train.max_steps=2", "optimiser.momentum=0.8"))
    with pytest.raises(RecipeError) as caught:
        run_training(changed)
    message = str(caught.value)
    assert "another recipe: optimiser.momentum: 0.9 before, 0.8 now\n" in message
    assert "choose another out= for a new run" in message


def test_other_images_are_refused(request_: TrainRequest, coloured_images: Path, tmp_path: Path) -> None:
    run_training(replace(request_, overrides=("train.max_steps=2",)))
    (tmp_path / "fewer" / "train").mkdir(parents=True)
    for name in ("red", "green", "blue"):
        (tmp_path / "fewer" / "train" / name).symlink_to(coloured_images / "val" / name)
    (tmp_path / "fewer" / "val").symlink_to(coloured_images / "val")
    other = replace(request_, overrides=("train.max_steps=2",), images=tmp_path / "fewer")
    with pytest.raises(CheckpointError, match="trained on other images"):
        run_training(other)


def test_never_resumes_into_nothing_only(request_: TrainRequest) -> None:
    first = replace(request_, overrides=("train.max_steps=1",), resume="never")
    run_training(first)
    with pytest.raises(UsageError, match="already holds a run"):
        run_training(first)


def test_resume_from_a_given_checkpoint(request_: TrainRequest, tmp_path: Path) -> None:
    run_training(replace(request_, overrides=("checkpoint.every_epochs=1",)))
    older = tmp_path / "run" / "epoch_0001.pt"
    elsewhere = tmp_path / "elsewhere"
    report = run_training(replace(request_, resume=str(older), out=elsewhere))
    assert report.fit.resumed_from == 9
    whole, resumed = (
        torch.load(folder / "last.pt", weights_only=True) for folder in (tmp_path / "run", elsewhere)
    )
    for key, value in whole["model"].items():
        assert torch.equal(value, resumed["model"][key])


@pytest.mark.parametrize("contents", [b"", b"no checkpoint"])
def test_a_damaged_checkpoint_is_named(request_: TrainRequest, tmp_path: Path, contents: bytes) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.pt").write_bytes(contents)
    with pytest.raises(CheckpointError, match=r"last\.pt"):
        run_training(request_)


def test_weights_alone_cannot_be_resumed(request_: TrainRequest, tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.ones(1)}}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=r'weights=".*weights\.pt"'):
        run_training(replace(request_, resume=str(tmp_path / "weights.pt")))


def test_two_processes_in_one_folder(request_: TrainRequest, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    lock = Lock(tmp_path / "run" / ".train.lock")
    assert lock.acquire()
    with pytest.raises(UsageError, match="another process is training here"):
        run_training(request_)
    lock.release()


def test_a_loss_that_is_not_finite_stops_the_run(request_: TrainRequest, tmp_path: Path) -> None:
    broken = replace(request_, overrides=("optimiser.learning_rate=1e38", "checkpoint.every_steps=1"))
    with pytest.raises(FitError, match=r"step \d+: the loss is (nan|inf)") as caught:
        run_training(broken)
    assert "try a smaller optimiser.learning_rate" in str(caught.value)
    last = records(tmp_path / "run")[-1]
    assert last["loss"] is None and "the loss is" in str(last["error"])
    kept = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert kept["progress"]["step"] == int(last["step"]) - 1  # type: ignore[call-overload]


def test_ctrl_c_saves_and_the_same_request_goes_on(request_: TrainRequest, tmp_path: Path) -> None:
    said: list[str] = []

    def interrupt(pace: Pace) -> None:
        if pace.step == 4:
            signal.raise_signal(signal.SIGINT)

    report = run_training(request_, callbacks=Callbacks(said.append, interrupt))
    assert report.fit.interrupted and report.fit.step == 4
    assert "stopping after this step" in said[0]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert run_training(request_).fit.resumed_from == 4


def test_a_second_ctrl_c_stops_at_once(request_: TrainRequest, tmp_path: Path) -> None:
    def interrupt(pace: Pace) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_training(request_, callbacks=Callbacks(pace=interrupt))
    assert not (tmp_path / "run" / "last.pt").exists()


def test_missing_images_name_the_command(request_: TrainRequest, tmp_path: Path) -> None:
    absent = replace(request_, images=None, home=tmp_path, overrides=("data.images=pbrnet",))
    with pytest.raises(DataError, match="run: mvkit prep pbrnet --images DIR"):
        run_training(absent)
    with pytest.raises(DataError, match="mvkit prep pbrnet --images DIR"):
        run_training(replace(absent, images=tmp_path / "nowhere"))
    plan = plan_training(absent)
    assert plan.images is None and "mvkit prep pbrnet" in str(plan.problem)
    assert plan.size.n_images == 1_281_167


def test_images_without_depth_are_refused(request_: TrainRequest) -> None:
    with pytest.raises(DataError, match="mvkit prep pbrnet"):
        run_training(replace(request_, recipe="single_stream_depth", overrides=("train.batch_size=8",)))


def test_the_plan_counts(request_: TrainRequest, tmp_path: Path) -> None:
    plan = plan_training(request_)
    size = plan.size
    assert (size.n_images, size.steps_per_epoch, size.n_steps) == (75, 9, 18)
    # Convolution, norm, linear layer to the three classes.
    assert size.n_parameters == size.n_trained == 3 * 6 * 9 + 6 + 2 * 6 + 6 * 49 * 3 + 3
    assert plan.memory.training == 2 * 4 * size.n_trained
    assert plan.memory.activations > 8 * 3 * 16 * 16 * 4
    assert set(plan.files) == {"last.pt", "best.pt"}
    assert not (tmp_path / "run").exists()


def test_the_estimated_checkpoint_is_about_as_large_as_the_file(
    request_: TrainRequest, tmp_path: Path
) -> None:
    run_training(replace(request_, overrides=("train.max_steps=1",)))
    estimated = plan_training(request_).files["last.pt"]
    # Names, recipe and versions come on top.
    assert estimated < (tmp_path / "run" / "last.pt").stat().st_size < estimated + 40_000


def test_a_validation_folder_that_is_a_link_to_nothing_is_refused(
    request_: TrainRequest, coloured_images: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "train").symlink_to(coloured_images / "train")
    (images / "val").symlink_to("/unmounted/val")
    with pytest.raises(DataError, match=r"val: a link to nothing \(/unmounted/val\)"):
        run_training(replace(request_, images=images))
