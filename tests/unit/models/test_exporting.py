"""Exporting weights: every value comes back, the metadata say what is known, nothing is half-written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import mvkit
from mvkit.errors import CheckpointError, UsageError
from mvkit.models.exporting import export_weights
from mvkit.models.loading import build_for_training
from mvkit.models.preprocessing import Preprocessing
from mvkit.models.registry import PAPER, RELEASED
from mvkit.training import checkpoint as checkpoints

ENCODER, CLASSIFIER = "single_stream_encoder", "single_stream_classifier"
PREPROCESS = Preprocessing(None, None, 64, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
RECIPE = json.dumps({"name": "demo", "train": {"note": 'quotes " and ü'}})


@pytest.fixture
def run_file(tmp_path: Path) -> Callable[..., Path]:
    """Write ``runs/demo/last.pt`` as the training loop does."""

    def written(network: str = ENCODER, classes: int | None = None) -> Path:
        model = build_for_training(network, n_classes=classes, seed=9)
        with torch.no_grad():
            for value in model.parameters():
                value.mul_(1.5)
        document = {
            "model": model.state_dict(),
            "architecture": network,
            "n_classes": classes,
            "preprocessing": PREPROCESS.as_dict(),
            "layers": ["VISp", "ventral"],
            "recipe": RECIPE,
            "digest": "ab" * 32,
            "seed": 9,
            "objective": {"bank": torch.zeros(3)},
            "progress": {"step": 400, "epochs": 3},
        }
        return checkpoints.write_checkpoint(tmp_path / "runs" / "demo", document)

    return written


def texts_of(path: Path) -> dict[str, str]:
    """The metadata as the library itself reads them."""
    with safe_open(path, framework="np") as file:
        return dict(file.metadata())


def assert_same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    """Same names, dtypes, shapes and bytes (so that -0.0 and NaN count)."""
    assert set(first) == set(second)
    for key, value in first.items():
        assert (value.dtype, value.shape) == (second[key].dtype, second[key].shape)
        assert value.contiguous().numpy().tobytes() == second[key].contiguous().numpy().tobytes(), key


def test_weights_and_features_come_back_bit_for_bit(tmp_path):
    model = mvkit.load_model(ENCODER, weights="random", seed=5)
    report = export_weights(model, tmp_path / "w.safetensors")
    assert_same_bits(dict(model.state_dict()), load_file(report.path))
    assert (report.n_tensors, report.n_bytes) == (len(model.state_dict()), report.path.stat().st_size)
    again = mvkit.load_model(ENCODER, weights=report.path)
    assert again.weights_id == hashlib.sha256(report.path.read_bytes()).hexdigest()
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    before, after = mvkit.extract(model, images), mvkit.extract(again, images)
    assert list(before) == list(after) == list(model.layers)
    for layer in before:
        np.testing.assert_array_equal(before[layer], after[layer])


def test_metadata_say_what_is_known(tmp_path):
    report = export_weights(
        mvkit.load_model(ENCODER, weights="random", seed=3), str(tmp_path / "w.safetensors")
    )
    texts = texts_of(report.path)
    assert texts == dict(report.metadata)
    assert len(bytes.fromhex(texts.pop("crc32"))) == 4
    model = mvkit.load_model(ENCODER, weights="random")
    assert json.loads(texts.pop("layers")) == list(model.layers)
    assert Preprocessing.from_dict(json.loads(texts.pop("preprocessing"))) == model.preprocess
    assert texts == {
        "format": "pt",
        "mvkit_format": "mvkit-weights",
        "mvkit_format_version": "1",
        "mvkit_version": mvkit.__version__,
        "model": ENCODER,
        "architecture": model.provenance.architecture,
        "weights_id": "random:seed=3",
        "source": "random, seed 3",
        "citation": PAPER,
    }


def test_published_weights_name_address_papers_and_licence(tmp_path):
    home = tmp_path / "home"
    name = "shi_mousenet_ir"
    state = mvkit.load_model(name, weights="random", seed=2).state_dict()
    (home / "checkpoints").mkdir(parents=True)
    torch.save({"state_dict": state}, home / "checkpoints" / f"{name}.pt")
    published = mvkit.load_model(name, home=home)
    report = export_weights(published, tmp_path / "w.safetensors")
    assert_same_bits(dict(state), load_file(report.path))
    texts = texts_of(report.path)
    assert texts["source"] == f"https://mouse-vision-ckpts.s3.amazonaws.com/{name}.pt"
    assert texts["weights_id"] == published.weights_id
    assert texts["architecture"] == RELEASED[name].architecture
    assert texts["citation"].splitlines() == list(RELEASED[name].citation)
    assert texts["licence"].startswith("not stated")


@pytest.mark.parametrize(("network", "classes"), [(ENCODER, None), (CLASSIFIER, 7)])
def test_a_training_run_comes_back_by_the_file_alone(tmp_path, run_file, network, classes):
    trained = mvkit.load_model(run_file(network, classes))
    report = export_weights(trained, tmp_path / "w.safetensors")
    assert texts_of(report.path)["source"] == f"mvkit train, recipe demo, digest {'ab' * 32}, step 400"
    again = mvkit.load_model(report.path)
    assert_same_bits(dict(trained.state_dict()), dict(again.state_dict()))
    assert (again.name, again.layers, again.preprocess) == ("demo@step400", ("VISp", "ventral"), PREPROCESS)
    # An export of what was exported is the same file but for the identity of the weights it was made of.
    second = export_weights(again, tmp_path / "second.safetensors")
    own = {"weights_id": trained.weights_id, "crc32": report.metadata["crc32"]}
    assert {**second.metadata, **own} == dict(report.metadata)
    start = mvkit.load_model(str(report.path), weights="random")
    assert_same_bits(
        dict(start.state_dict()), dict(build_for_training(network, n_classes=classes, seed=9).state_dict())
    )


def test_a_run_exported_is_refused_for_another_network(tmp_path, run_file):
    report = export_weights(run_file(), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"is of 'single_stream_encoder' \(recipe demo\), not of 'dual"):
        mvkit.load_model("dual_stream_encoder", weights=report.path)
    assert mvkit.load_model(ENCODER, weights=report.path).provenance.training_run["digest"] == "ab" * 32


def test_the_same_weights_give_the_same_bytes(tmp_path):
    model = mvkit.load_model(ENCODER, weights="random")
    files = [export_weights(model, tmp_path / f"{number}.safetensors").path for number in range(6)]
    assert len({path.read_bytes() for path in files}) == 1


class Aliased(nn.Module):
    """One tensor under two names, views of one memory, a transposed and an empty one."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3, dtype=torch.float64)
        self.neck = self.head
        base = torch.arange(12.0).reshape(3, 4)
        self.register_buffer("whole", base)
        self.register_buffer("part", base[1:, ::2])
        self.register_buffer("turned", base.t())
        self.register_buffer("empty", torch.empty(0, 4))
        self.register_buffer(
            "special", torch.tensor([float("nan"), -0.0, float("inf")], dtype=torch.bfloat16)
        )


def test_aliases_views_and_odd_layouts_keep_their_names_and_values(tmp_path):
    model = Aliased()
    report = export_weights(model, tmp_path / "w.safetensors")
    found = load_file(report.path)
    expected = dict(model.state_dict())
    assert {"neck.weight", "head.weight", "neck.bias", "head.bias"} < set(found)
    special, wanted = found.pop("special"), expected.pop("special")
    assert torch.equal(special.view(torch.int16), wanted.view(torch.int16))
    assert_same_bits(expected, found)
    texts = texts_of(report.path)
    assert texts["model"] == "Aliased"
    assert texts["architecture"].endswith(".Aliased")
    assert texts["weights_id"].startswith("state:")
    assert not {"source", "citation", "licence", "training_run"} & set(texts)


def test_what_cannot_be_written_is_refused(tmp_path):
    target = tmp_path / "w.safetensors"
    with pytest.raises(
        UsageError, match=r"w\.pt: weights are written as safetensors; name the file \*\.safe"
    ):
        export_weights(nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(UsageError, match="'pixels' has no weights to export"):
        export_weights("pixels", target)
    with pytest.raises(CheckpointError, match=r"'weight' is torch\.sparse_coo: safetensors files hold dense"):
        sparse = nn.Module()
        sparse.register_buffer("weight", torch.eye(2).to_sparse())
        export_weights(sparse, target)
    with torch.device("meta"):
        unfilled = nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match="with values only"):
        export_weights(unfilled, target)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept_unless_overwritten(tmp_path):
    target = tmp_path / "w.safetensors"
    target.write_text("precious")
    with pytest.raises(UsageError, match="exists already"):
        export_weights(nn.Linear(2, 2), target)
    assert target.read_text() == "precious"
    with pytest.raises(UsageError, match="unknown model"):
        export_weights("alexnt", target, overwrite=True)
    assert target.read_text() == "precious"
    export_weights(nn.Linear(2, 2), target, overwrite=True)
    assert set(load_file(target)) == {"weight", "bias"}
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def broken(path: Path) -> None:
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mvkit.models.exporting._sort_metadata", broken)
    with pytest.raises(OSError, match="No space left"):
        export_weights(nn.Linear(2, 2), tmp_path / "w.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_model_from_elsewhere_is_written_under_its_library_s_names(tmp_path):
    from torchvision.models import squeezenet1_1

    name = "torchvision:squeezenet1_1"
    model = mvkit.load_model(name, weights="random", seed=1)
    report = export_weights(model, tmp_path / "w.safetensors")
    found = load_file(report.path)
    assert report.metadata["architecture"] == name
    assert report.metadata["source"] == "random, seed 1"
    assert not {"citation", "licence"} & set(report.metadata)
    theirs = squeezenet1_1()
    theirs.load_state_dict(found)
    assert_same_bits(dict(theirs.state_dict()), dict(model.network.state_dict()))
    again = mvkit.load_model(name, weights=report.path)
    assert again.weights_id == model.weights_id
    assert export_weights(again, tmp_path / "x.safetensors").metadata["source"] == "file w.safetensors"


def test_wrappers_leave_no_trace_in_names(tmp_path):
    plain = nn.Linear(2, 2)
    report = export_weights(nn.DataParallel(plain), tmp_path / "w.safetensors")
    assert_same_bits(load_file(report.path), dict(plain.state_dict()))
    assert report.metadata["model"] == "Linear"


def test_a_changed_bit_of_a_weight_or_a_text_is_noticed(tmp_path, run_file):
    path = export_weights(mvkit.load_model(run_file(ENCODER, None)), tmp_path / "w.safetensors").path
    whole = path.read_bytes()
    for at in (len(whole) - 3, whole.index(b"step 400")):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CheckpointError, match="its CRC-32 differs"):
            mvkit.load_model(path)
