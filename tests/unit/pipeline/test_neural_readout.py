"""Networks trained on recordings: known truth, unseen test images, resuming, fair scoring, refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

import mvkit
from mvkit.errors import DataError, RecipeError, UsageError
from mvkit.images.loader import image_digest
from mvkit.models.checkpoints import read_checkpoint
from mvkit.models.exporting import export_weights
from mvkit.neural import NeuralDataset
from mvkit.pipeline.neural_readout import open_neural_split
from mvkit.pipeline.train import TrainRequest, plan_training, train
from mvkit.scoring.protocol import image_splits
from mvkit.training.recipe import NeuralData

#: Small views: a quarter of the work.
SIDE = 24
N_IMAGES, N_UNITS, N_TRIALS = 20, 5, 4
SMALL = {
    "views.size_px": SIDE,
    "views.views[0].crop": {"name": "centre", "resize_px": SIDE, "crop_px": SIDE},
    "validation.views[0].crop": {"name": "centre", "resize_px": SIDE, "crop_px": SIDE},
    "train.epochs": 2,
    "data.neural.selection": "none",
}


def recordings(seed: int = 0) -> NeuralDataset:
    """Noise: responses of two areas to noise images."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (N_IMAGES, SIDE, SIDE), dtype=np.uint8)
    noise = {area: rng.gamma(2.0, size=(N_TRIALS, N_IMAGES, N_UNITS)) for area in ("VISp", "VISl")}
    return NeuralDataset.from_arrays({area: {"1": values} for area, values in noise.items()}, images)


Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Trains the packaged recipe, made small, on recordings."""

    def start(dataset: NeuralDataset, name: str = "run", **changes: object) -> Any:
        path = dataset.save(tmp_path / f"{name}.h5", overwrite=True)
        overrides = {**SMALL, "data.neural.dataset": str(path), **changes}
        return train(
            "neural_readout", overrides, out=tmp_path / name, device="cpu", workers=0, progress=False
        )

    return start


def weights(folder: Path, part: str) -> dict[str, torch.Tensor]:
    contents: Any = read_checkpoint(folder / "last.pt")
    return dict(contents[part])


def with_arrays(dataset: NeuralDataset, images: Any, responses: list[Any]) -> NeuralDataset:
    areas = zip(dataset.areas, responses, strict=True)
    return NeuralDataset.from_arrays({area: {"1": values} for area, values in areas}, images)


def test_pixels_of_and_responses_to_test_images_change_nothing(run: Run) -> None:
    dataset = recordings()
    (split,) = image_splits(N_IMAGES, n_splits=1, train_fraction=0.5)
    images = dataset.stimuli.copy()
    images[split.test] = 255 - images[split.test]
    responses = [recording.responses.copy() for recording in dataset.recordings]
    for values in responses:
        values[:, split.test] *= 3
    first = run(dataset)
    second = run(with_arrays(dataset, images, responses), "second")
    for part in ("model", "objective"):
        before, after = weights(first.folder, part), weights(second.folder, part)
        assert all(torch.equal(value, after[key]) for key, value in before.items())
    responses[0][0, split.train[0]] += 1
    third = run(with_arrays(dataset, images, responses), "third")
    changed = weights(third.folder, "model")
    assert not all(torch.equal(value, changed[key]) for key, value in weights(first.folder, "model").items())


def test_units_are_measured_as_written_in_the_definitions(run: Run) -> None:
    """The table against NumPy: the network is loaded as a model, and its readout applied by hand."""
    dataset = recordings()
    report = run(dataset, **{"train.epochs": 15})
    table = pandas.read_csv(report.folder / "units.csv")
    assert table["area"].tolist() == ["VISp"] * N_UNITS + ["VISl"] * N_UNITS
    (split,) = image_splits(N_IMAGES, n_splits=1, train_fraction=0.5)
    maps = mvkit.extract(report.folder, dataset.stimuli, layers=["features"])["features"]
    state = {
        key: value.numpy().astype(np.float64) for key, value in weights(report.folder, "objective").items()
    }
    by_channel = np.einsum(
        "ncp,up->nuc",
        np.asarray(maps).reshape(N_IMAGES, 32, -1).astype(np.float64),
        state["readout.masks"],
    )
    predicted = np.einsum("nuc,uc->nu", by_channel, state["readout.weights"]) + state["readout.bias"]
    predicted = predicted * state["deviation"] + state["mean"]
    responses = np.concatenate([recording.responses for recording in dataset.recordings], axis=2)
    averages = responses.astype(np.float64).mean(0)
    np.testing.assert_allclose(state["mean"], averages[split.train].mean(0), rtol=1e-6)

    def correlations(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[float]:
        return [np.corrcoef(x[..., unit].ravel(), y[..., unit].ravel())[0, 1] for unit in range(x.shape[-1])]

    test, trials = predicted[split.test], responses[:, split.test].astype(np.float64)
    np.testing.assert_allclose(table["to_average"], correlations(test, averages[split.test]), atol=1e-4)
    np.testing.assert_allclose(
        table["single_trial"], correlations(np.broadcast_to(test, trials.shape), trials), atol=1e-4
    )
    in_training = correlations(predicted[split.train], averages[split.train])
    np.testing.assert_allclose(table["to_average_train"], in_training, atol=1e-4)
    noise = trials.var(0, ddof=1).mean(0)
    total = trials.reshape(-1, 2 * N_UNITS).var(0, ddof=1)
    feve = 1 - (((trials - test) ** 2).mean((0, 1)) - noise) / (total - noise)
    defined = total > noise
    np.testing.assert_allclose(table["feve"][defined], feve[defined], rtol=1e-4)
    assert table["feve"][~defined].isna().all()
    assert report.metrics["unit_predictions.test"] == pytest.approx(table["to_average"].median())
    assert report.metrics["unit_predictions.train"] == pytest.approx(table["to_average_train"].median())


def test_a_resumed_run_has_the_same_bits(run: Run) -> None:
    dataset = recordings()
    whole = run(
        dataset, **{"train.epochs": 3, "checkpoint.every_epochs": 1, "schedule": {"name": "constant"}}
    )
    after_one = whole.folder / "epoch_0001.pt"
    path = whole.folder.parent / "run.h5"
    again = train(
        "neural_readout",
        {
            **SMALL,
            "data.neural.dataset": str(path),
            "train.epochs": 3,
            "checkpoint.every_epochs": 1,
            "schedule": {"name": "constant"},
        },
        out=whole.folder.parent / "resumed",
        resume=after_one,
        device="cpu",
        workers=0,
        progress=False,
    )
    assert again.fit.resumed_from == 1 and again.fit.step == whole.fit.step
    for part in ("model", "objective"):
        before, after = weights(whole.folder, part), weights(again.folder, part)
        assert before.keys() == after.keys()
        assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_only_images_that_were_not_trained_on_are_scored(run: Run) -> None:
    dataset = recordings()
    folder = run(dataset, **{"data.neural.split_seed": 4}).folder
    quick = {"n_halves": 2, "n_components": 2, "n_jobs": 1, "cache": False, "layers": "features.2"}
    own = mvkit.score(folder, dataset, n_splits=1, split_seed=4, train_fraction=0.5, **quick)
    assert len(own.columns["score"]) == 2 * N_UNITS
    with pytest.raises(UsageError, match=r"trained on \d+ of the 10 test images of split 0\n.*split_seed=4"):
        mvkit.score(folder, dataset, n_splits=1, **quick)
    with pytest.raises(UsageError, match="test images of split 1"):
        mvkit.score(folder, dataset, n_splits=2, split_seed=4, **quick)
    with pytest.raises(UsageError, match="trained on 10 of the 20 test images"):
        mvkit.score(folder, dataset, mapping="rsa", **{**quick, "n_components": 25})
    exported = folder / "weights.safetensors"
    export_weights(folder, exported)
    with pytest.raises(UsageError, match="trained on"):
        mvkit.score(exported, dataset, n_splits=1, **quick)
    # Other images are nobody's test images; training images are scored where that is asked for.
    mvkit.score(folder, recordings(seed=1), n_splits=1, **quick)
    mvkit.score(folder, dataset, n_splits=1, scored_images="train", **quick)
    random = mvkit.load_model(folder, weights="random")
    mvkit.score(random, dataset, n_splits=1, **quick)


def test_missing_trials_are_left_out_of_the_means(tmp_path: Path) -> None:
    dataset = recordings()
    responses = [recording.responses.copy() for recording in dataset.recordings]
    (split,) = image_splits(N_IMAGES, n_splits=1, train_fraction=0.5)
    responses[0][:3, split.train[0], 1] = np.nan
    responses[0][:, split.train[1], 2] = np.nan
    path = with_arrays(dataset, dataset.stimuli, responses).save(tmp_path / "missing.h5")
    neural = open_neural_split(NeuralData(dataset=str(path), selection="none"))
    means = neural.train.responses
    assert means is not None and means.shape == (10, 2 * N_UNITS)
    assert means[0, 1] == np.float32(responses[0][3, split.train[0], 1])
    assert np.argwhere(np.isnan(means)).tolist() == [[1, 2]]
    assert neural.train.image_digests == tuple(image_digest(dataset.stimuli[one]) for one in split.train)
    assert neural.test.responses is not None and np.isnan(neural.test.responses).all()


def test_units_without_any_response_are_named(tmp_path: Path) -> None:
    dataset = recordings()
    responses = [recording.responses.copy() for recording in dataset.recordings]
    (split,) = image_splits(N_IMAGES, n_splits=1, train_fraction=0.5)
    responses[1][:, split.train, 3] = np.nan  # the file itself refuses units without any
    path = with_arrays(dataset, dataset.stimuli, responses).save(tmp_path / "silent.h5")
    with pytest.raises(DataError, match=r"VISl.*1 units have no response to any training image: 8\nleave"):
        open_neural_split(NeuralData(dataset=str(path), selection="none"))


def test_contradictions_of_the_recipe_are_reported() -> None:
    def plan(*overrides: str, recipe: str = "neural_readout", images: Path | None = None) -> object:
        return plan_training(TrainRequest(recipe, overrides=overrides, images=images))

    with pytest.raises(RecipeError, match=r"data\.neural.*neural_readout needs recordings"):
        plan("data.neural=null")
    with pytest.raises(RecipeError, match=r"data\.images.*neural_readout needs null"):
        plan("data.images=imagenet_64")
    with pytest.raises(RecipeError, match=r"data\.neural.*simclr needs none"):
        plan("data.neural={dataset: simulated}", recipe="demo")
    with pytest.raises(RecipeError, match="use unit_predictions"):
        plan("evaluate=[{name: neural_predictivity}]")
    with pytest.raises(RecipeError, match="simclr predicts no units; use neural_predictivity"):
        plan("evaluate=[{name: unit_predictions}]", recipe="demo")
    with pytest.raises(RecipeError, match=r"'unit_predictions\.test' is not measured"):
        plan("checkpoint.best_by=unit_predictions.test")
    with pytest.raises(DataError, match=r"nowhere\.h5"):
        plan("data.neural.dataset=nowhere.h5")


def test_folders_of_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="trains on the images of recordings"):
        train("neural_readout", images=tmp_path, device="cpu", progress=False)


def test_the_plan_counts_the_units(tmp_path: Path) -> None:
    path = recordings().save(tmp_path / "small.h5")
    plan = plan_training(
        TrainRequest("neural_readout", (f"data.neural.dataset={path}", "data.neural.selection=none"))
    )
    assert plan.size.n_images == 10
    assert plan.size.n_parameters == 26_496 + 2 * N_UNITS * (32 * 32 + 32 + 1)
    with pytest.raises(UsageError, match="unknown area 'VISx'"):
        plan_training(
            TrainRequest("neural_readout", (f"data.neural.dataset={path}", "data.neural.areas=[VISx]"))
        )


def convolution_units(
    images: NDArray[np.uint8],
    *,
    n_units: int = 40,
    n_trials: int = 10,
    reliability: float = 0.9,
    seed: int = 0,
) -> NeuralDataset:
    """Units that are a local mask times feature weights of eight rectified Gabor convolutions, plus noise.

    ``reliability``: of the mean of all trials; the true features reach a correlation to average of its root.
    """
    n_trials = 10
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-4:5, -4:5]
    bank = []
    for angle in np.arange(4) * np.pi / 4:
        along = x * np.cos(angle) + y * np.sin(angle)
        for phase in (0, np.pi / 2):
            gabor = np.cos(2 * np.pi * along / 6 + phase) * np.exp(-(x**2 + y**2) / 8)
            bank.append(gabor - gabor.mean())
    filters = torch.tensor(np.array(bank), dtype=torch.float32)[:, None]
    grey = torch.from_numpy(images.astype(np.float32) / 255)[:, None]
    convolved = [functional.conv2d(part, filters, stride=2, padding=4) for part in grey.split(100)]
    maps = torch.cat(convolved).relu().numpy()
    side = maps.shape[-1]
    rows, columns = np.mgrid[:side, :side]
    centres = rng.uniform(0.2 * side, 0.8 * side, (n_units, 2, 1, 1))
    masks = np.exp(-((rows - centres[:, 0]) ** 2 + (columns - centres[:, 1]) ** 2) / 8).reshape(n_units, -1)
    pooled = maps.reshape(len(images), 8, -1) @ masks.T
    signal = np.einsum("ncu,uc->nu", pooled, rng.standard_normal((n_units, 8)))
    signal = (signal - signal.mean(0)) / signal.std(0)
    deviation = np.sqrt(n_trials * (1 - reliability) / reliability)
    responses = signal + deviation * rng.standard_normal((n_trials, len(images), n_units))
    return NeuralDataset.from_arrays({"VISp": {"1": responses.astype(np.float32)}}, images)


def pink_noise(n_images: int, side: int, seed: int) -> NDArray[np.uint8]:
    """Images with the amplitude spectrum 1/f."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)) + 1 / side
    spectrum = np.fft.rfft2(rng.standard_normal((n_images, side, side))) / frequency
    noise = np.fft.irfft2(spectrum, s=(side, side))
    scaled: NDArray[np.uint8] = np.clip(128 + 45 * noise / noise.std(), 0, 255).astype(np.uint8)
    return scaled


@pytest.mark.slow
def test_the_true_features_are_reached_with_enough_images(run: Run) -> None:
    """Units of known features: 59 training images do not determine the network, 800 do."""
    dataset = convolution_units(pink_noise(1000, SIDE, seed=1))
    reached = {}
    for n_train, epochs in ((59, 60), (800, 16)):
        changes = {"data.neural.train_fraction": n_train / 1000, "train.epochs": epochs}
        report = run(dataset, f"run{n_train}", **changes)
        reached[n_train] = report.metrics["unit_predictions.test"]
        assert report.metrics["unit_predictions.train"] > reached[n_train]
    truth = 0.9**0.5
    assert reached[59] < 0.6 * truth
    assert 0.9 * truth < reached[800] < 1.02 * truth
