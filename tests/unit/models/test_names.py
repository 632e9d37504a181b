"""Names of models, and what is checked of them without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mvkit.errors import CheckpointError, UsageError
from mvkit.models import ViewingConditions
from mvkit.models.names import check_inputs, check_models, checkpoint_to_resume, parse_external, split_random
from mvkit.models.preprocessing import InputOptions
from mvkit.models.registry import ARCHITECTURES, BASELINES, layer_names, list_models


@pytest.mark.parametrize(
    ("text", "kind", "source", "item", "label"),
    [
        ("torchvision:resnet50", "torchvision", "torchvision", "resnet50", "torchvision:resnet50"),
        ("timm:vit_tiny.augreg", "timm", "timm", "vit_tiny.augreg", "timm:vit_tiny.augreg"),
        ("lab.nets:make", "module", "lab.nets", "make", "lab.nets:make"),
        ("lab:Nets.make", "module", "lab", "Nets.make", "lab:Nets.make"),
        ("a b/nets.py:make", "file", "a b/nets.py", "make", "nets.py:make"),
        ("timm.py:make", "file", "timm.py", "make", "timm.py:make"),
    ],
)
def test_names_are_taken_apart(text: str, kind: str, source: str, item: str, label: str) -> None:
    name = parse_external(text)
    assert name is not None
    assert (name.kind, name.source, name.item, name.label) == (kind, source, item, label)


def test_mvkits_own_names_and_checkpoints_are_left_alone(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "weights.pt")
    names = [*list_models(), "runs/demo", str(tmp_path / "weights.pt"), tmp_path, "no.pt", "a:b c", "1:2"]
    assert [parse_external(name) for name in names] == [None] * len(names)


def test_a_file_without_a_function_is_refused() -> None:
    with pytest.raises(UsageError, match=r"nets\.py:FUNCTION"):
        parse_external("lab/nets.py")


def test_an_exported_program_needs_a_function_that_opens_it() -> None:
    with pytest.raises(UsageError, match=r"FUNCTION\(\): return torch\.export\.unflatten"):
        parse_external("runs/net.pt2")


def test_the_same_file_under_two_names_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = parse_external("nets.py:make"), parse_external(f"{tmp_path}/nets.py:make")
    other = parse_external("nets.py:other")
    assert first is not None and second is not None and other is not None
    assert first.key == second.key != other.key


def test_random_behind_a_name_means_random_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert split_random("alexnet_bn_ir@random") == ("alexnet_bn_ir", "random")
    assert split_random("runs/a@random", "w.pt") == ("runs/a", "random")
    assert split_random("runs/a", "w.pt") == ("runs/a", "w.pt")
    check_models(["alexnet_bn_ir@random", "torchvision:alexnet@random"])
    with pytest.raises(UsageError, match="did you mean 'gabor'"):
        check_models(["gabr@random"])
    # A folder that is called so is meant itself.
    monkeypatch.chdir(tmp_path)
    Path("a@random").mkdir()
    assert split_random("a@random") == ("a@random", "released")


@pytest.mark.parametrize("row", [*ARCHITECTURES.values(), *BASELINES.values()], ids=lambda row: row.name)
def test_layer_names_are_those_of_the_network_itself(row, shapes_only) -> None:
    assert layer_names(row.blueprint) == tuple(shapes_only(row.name).tap_points())


def test_layers_are_checked_for_each_model() -> None:
    check_models(["alexnet_bn", "dual_stream_ir"], weights="random", layers=["published"])
    with pytest.raises(UsageError, match=r"^dual_stream_ir: unknown layer 'features\.3'"):
        check_models(["alexnet_bn", "dual_stream_ir"], weights="random", layers=["features.3"])


def test_modules_are_installed_or_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"^my_nets:make: no module 'my_nets'"):
        check_models(["my_nets:make"])
    (tmp_path / "my_nets.py").write_text("raise ValueError('not to be imported')")
    check_models(["my_nets:make", "json.decoder:make", "sys:make", "torch:make"])
    (tmp_path / "folder_of_nets").mkdir()
    check_models(["folder_of_nets.alex:make"])


def test_only_external_models_take_another_mean_and_baselines_no_size() -> None:
    wide = InputOptions(input_size=100, viewing=ViewingConditions(0.5))
    for name in ("alexnet_bn_ir", "alexnet_bn@random", "torchvision:resnet18", "runs/a", "net.py:make"):
        check_inputs(name, wide)
    with pytest.raises(UsageError, match="gabor is defined for its own size of images: leave out input_size"):
        check_inputs("gabor", wide)
    check_inputs("torchvision:resnet18", InputOptions(mean=0.5, grey=True))
    for name in ("alexnet_bn@random", "pixels", "runs/a"):
        own = f"^{name.removesuffix('@random')} has its own mean, deviation and colours: leave out mean, grey"
        with pytest.raises(UsageError, match=own):
            check_inputs(name, InputOptions(mean=0.5, grey=True))


def test_checkpoints_to_go_on_from_exist(tmp_path: Path) -> None:
    assert checkpoint_to_resume("auto") is None
    assert checkpoint_to_resume("never") is None
    with pytest.raises(CheckpointError, match=r"none\.pt: no such checkpoint to resume from"):
        checkpoint_to_resume(str(tmp_path / "none.pt"))
    (tmp_path / "last.pt").touch()
    assert checkpoint_to_resume(str(tmp_path / "last.pt")) == tmp_path / "last.pt"


CHECKS = """
import sys
from mvkit.cli.main import run
code = run(sys.argv[1:])
loaded = [name for name in ("torch", "numpy", "h5py") if name in sys.modules]
print("code", code, "loaded", loaded)
"""


@pytest.mark.parametrize("command", ["score", "extract"])
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("nosuch",), 2, "unknown model 'nosuch'"),
        (("alexnet_bn",), 1, "no released weights for 'alexnet_bn'"),
        (("alexnet_bn_ir",), 1, "mvkit fetch checkpoints alexnet_bn_ir"),
        (("alexnet_bn_ir", "--weights", "no/such.pt"), 1, "no/such.pt: no such file"),
        (("alexnet_bn_ir", "--weights", "randm"), 2, "did you mean 'random'?"),
        (("pixels", "--weights", "some.pt"), 2, "'pixels' has no weights to load"),
        (("runs/none",), 2, "runs/none: no such file"),
        (("torchvision:resnet18",), 2, "say which weights"),
        (("torchvision:resnet18", "--weights", "none.pth"), 1, "none.pth: no such file"),
        (("nets.py:make",), 2, "nets.py: no such file"),
        (("nets.alex:make",), 2, "nets.alex:make: no module 'nets', neither installed nor in the current"),
        (("alexnet_bn_ir", "--weights", "random", "--layers", "features.33"), 2, "unknown layer"),
        (("alexnet_bn_ir", "--weights", "random", "--device", "gpu"), 2, "device gpu: give auto, cpu, cuda"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_wrong_names_are_answered_without_torch(
    command: str, words: tuple[str, ...], code: int, message: str, tmp_path: Path
) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", CHECKS, command, *words, "--home", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert message in finished.stderr
    assert finished.stdout == f"code {code} loaded []\n"
