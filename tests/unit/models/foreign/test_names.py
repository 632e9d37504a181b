"""Which names are those of models from elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mvkit.errors import UsageError
from mvkit.models.external import parse_foreign
from mvkit.models.registry import list_models
from mvkit.report.files import folder_names


@pytest.mark.parametrize(
    ("text", "kind", "place", "inside", "shown"),
    [
        ("torchvision:resnet50", "torchvision", "torchvision", "resnet50", "torchvision:resnet50"),
        ("timm:vit_tiny.augreg", "timm", "timm", "vit_tiny.augreg", "timm:vit_tiny.augreg"),
        ("lab.nets:make", "module", "lab.nets", "make", "lab.nets:make"),
        ("lab:Nets.make", "module", "lab", "Nets.make", "lab:Nets.make"),
        ("a b/nets.py:make", "file", "a b/nets.py", "make", "nets.py:make"),
        ("timm.py:make", "file", "timm.py", "make", "timm.py:make"),
    ],
)
def test_names_are_taken_apart(text: str, kind: str, place: str, inside: str, shown: str) -> None:
    name = parse_foreign(text)
    assert name is not None
    assert (name.kind, name.place, name.inside, name.shown) == (kind, place, inside, shown)


def test_mvkits_own_names_and_checkpoints_are_left_alone(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "weights.pt")
    names = [*list_models(), "runs/demo", str(tmp_path / "weights.pt"), tmp_path, "no.pt", "a:b c", "1:2"]
    assert [parse_foreign(name) for name in names] == [None] * len(names)


def test_a_file_without_a_function_is_refused() -> None:
    with pytest.raises(UsageError, match=r"nets\.py:FUNCTION"):
        parse_foreign("lab/nets.py")


def test_an_exported_program_needs_a_function_that_opens_it() -> None:
    with pytest.raises(UsageError, match=r"FUNCTION\(\): return torch\.export\.unflatten"):
        parse_foreign("runs/net.pt2")


def test_the_same_file_under_two_names_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = parse_foreign("nets.py:make"), parse_foreign(f"{tmp_path}/nets.py:make")
    other = parse_foreign("nets.py:other")
    assert first is not None and second is not None and other is not None
    assert first.identity == second.identity != other.identity


def test_folders_of_such_names_are_safe() -> None:
    names = ["torchvision:alexnet", "../lab/nets.py:make", "timm:alexnet"]
    assert list(folder_names(names).values()) == ["torchvision_alexnet", "lab_nets.py_make", "timm_alexnet"]
