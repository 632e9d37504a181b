"""Goldens of the losses (README section 3), and objectives filled from them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mvkit.images.settings import Batch
from mvkit.objectives.base import BuildContext, Loss, Objective
from mvkit.objectives.registry import row_of

#: How the original named what this package names otherwise.
RENAMED = (
    (r"^(backbone:|backbone\.|encoder_q:0\.|model:)", "encoder."),
    (r"^encoder_q:1\.mlp\.0", "objective.neck.fc0"),
    (r"^encoder_q:1\.mlp\.2", "objective.neck.fc1"),
    (r"^encoder_k:0\.", "objective.key_encoder."),
    (r"^encoder_k:1\.mlp\.0", "objective.key_neck.fc0"),
    (r"^encoder_k:1\.mlp\.2", "objective.key_neck.fc1"),
    (r"^_embedding_func", "objective.fc"),
    (r"^neck\.(fc|bn)\.", r"objective.\g<1>0."),
    (r"^head\.fc_cls", "objective.fc1"),
    (r"^neck\.", "objective.neck."),
    (r"^(projec|predic)tion_mlp\.layer(\d)\.0", lambda m: f"objective.{m[1]}tion.fc{int(m[2]) - 1}"),
    (r"^(projec|predic)tion_mlp\.layer(\d)\.1", lambda m: f"objective.{m[1]}tion.bn{int(m[2]) - 1}"),
    (
        r"^(projec|predic)tion_mlp\.layer(\d)\.(\D)",
        lambda m: f"objective.{m[1]}tion.fc{int(m[2]) - 1}.{m[3]}",
    ),
    (
        r"^projector\.(\d+)",
        lambda m: f"objective.projector.{('fc', 'bn')[int(m[1]) % 3]}{int(m[1]) // 3}",
    ),
    (r"^bn\.", "objective.norm."),
    (r"^fc\.", "objective.fc."),
    (r"^decoder\.", "objective.head."),
    (r"^readout\.classifier\.(fc\.1|linear_classifier)", "objective.readout.fc"),
    (r"^readout\.classifier\.batchnorm", "objective.readout.norm"),
)


def renamed(name: str) -> str:
    for pattern, new in RENAMED:
        if re.match(pattern, name):
            return re.sub(pattern, new, name)
    raise KeyError(name)


class Golden:
    """One file: arrays as float64 and int64 tensors."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as arrays:
            self.arrays = {key: arrays[key] for key in arrays.files}

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def __getitem__(self, key: str) -> Tensor:
        return torch.from_numpy(np.array(self.arrays[key]))

    def leaf(self, key: str) -> Tensor:
        return self[key].requires_grad_()

    def number(self, key: str) -> float:
        return float(self.arrays[key])

    def weight(self, prefix: str, default: float) -> float:
        """A scalar whose name starts so; the default where the file has none."""
        found = [key for key, array in self.arrays.items() if key.startswith(prefix) and array.ndim == 0]
        return self.number(found[0]) if found else default

    def steps(self) -> list[str]:
        """Names of successive steps."""
        return sorted({key.split(":")[0] for key in self.arrays if re.match(r"step\d+:", key)})

    def under(self, prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): self[key] for key in self.arrays if key.startswith(prefix)}

    def widths(self, pattern: str) -> list[int]:
        """Rows of the matrices whose names match, in order of their names."""
        names = sorted(
            key for key, array in self.arrays.items() if re.fullmatch(pattern, key) and array.ndim == 2
        )
        return [len(self.arrays[name]) for name in names]


class Toy(nn.Module):
    """The goldens' toy network: ReLU(norm(W flatten(x) + b)), the norm where the file has one."""

    def __init__(self, weight: Tensor, *, norm: bool) -> None:
        super().__init__()
        self.fc = nn.Linear(weight.shape[1], weight.shape[0])
        self.bn = nn.BatchNorm1d(weight.shape[0]) if norm else nn.Identity()
        self.double()

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(self.bn(self.fc(images.flatten(1))))


class Fitting(nn.Module):
    """Encoder and objective, filled from a golden."""

    def __init__(self, golden: Golden, encoder: nn.Module, chosen: Any, **around: Any) -> None:
        super().__init__()
        self.golden = golden
        self.encoder = encoder
        around.setdefault("shape", torch.Size([around.pop("width", 0)]))
        self.objective: Objective = row_of(chosen).build(chosen, BuildContext(encoder=encoder, **around))
        self.double()

    def fill(self, *prefixes: str) -> None:
        here = dict(self.state_dict())
        for prefix in prefixes:
            values = self.golden.under(prefix)
            assert values, prefix
            for name, value in values.items():
                whole = name if prefix.startswith("param:") else prefix + name
                with torch.no_grad():
                    here[renamed(whole)].copy_(value)

    def check_gradients(self, prefix: str = "grad:", **inputs: Tensor) -> None:
        parameters = dict(self.named_parameters())
        expected = self.golden.under(prefix)
        assert expected
        for name, gradient in expected.items():
            leaf = inputs[name] if name in inputs else parameters[renamed(name)]
            close(leaf.grad, gradient, f"{prefix}{name}")

    def finish(self, loss: Loss, prefix: str = "", **inputs: Tensor) -> None:
        """Compare a loss, its accuracies and all its gradients."""
        self.check_loss(loss, prefix)
        loss.total.backward()
        self.check_gradients(f"grad:{prefix}", **inputs)

    def check_loss(self, loss: Loss, prefix: str = "") -> None:
        close(loss.total, self.golden[f"out:{prefix}loss"], f"{prefix}loss")
        for name, part in (("acc1", "top1"), ("acc5", "top5")):
            if f"out:{prefix}{name}" in self.golden:
                close_in_float32(loss.parts[part], self.golden[f"out:{prefix}{name}"], f"{prefix}{name}")

    def check_state(self, prefix: str) -> None:
        here = self.state_dict()
        expected = self.golden.under(prefix)
        assert expected
        for name, value in expected.items():
            close(here[renamed(name)], value, f"{prefix}{name}")


def close(actual: Any, expected: Any, name: str = "") -> None:
    """1e-9 relative; what is exactly zero in theory is compared absolutely."""
    torch.testing.assert_close(
        torch.as_tensor(actual).detach(),
        torch.as_tensor(expected),
        rtol=1e-9,
        atol=1e-12,
        check_dtype=False,
        msg=lambda text: f"{name}: {text}",
    )


def close_in_float32(actual: Any, expected: Any, name: str = "") -> None:
    """The reference computes accuracies in float32, whatever type they are recorded in."""
    torch.testing.assert_close(
        torch.as_tensor(actual).detach().to(torch.float32),
        torch.as_tensor(expected).to(torch.float32),
        rtol=2 * torch.finfo(torch.float32).eps,
        atol=0.0,
        msg=lambda text: f"{name}: {text}",
    )


def batch_of(*views: Tensor, index: Tensor | None = None, **more: Tensor) -> Batch:
    return Batch(views=views, index=torch.arange(len(views[0])) if index is None else index, **more)


@pytest.fixture
def loss_golden(goldens: Path) -> Callable[[str], Golden]:
    """Reads a file by its name."""

    def read(name: str) -> Golden:
        path = goldens / "losses" / f"{name}.npz"
        if not path.exists():
            pytest.skip(f"{path} is not in this set")
        return Golden(path)

    return read


@pytest.fixture
def golden_at() -> Callable[[Path], Golden]:
    """Reads a file by its path."""
    return Golden


@pytest.fixture
def fit() -> Callable[..., Fitting]:
    """Makes an objective in float64: golden, encoder, settings, surroundings."""
    return Fitting


@pytest.fixture
def toy() -> Callable[[Golden, str], Toy]:
    """Makes the toy network whose weights lie under a prefix."""
    return lambda golden, prefix: Toy(golden[f"{prefix}fc.weight"], norm=f"{prefix}bn.weight" in golden)


@pytest.fixture(name="close")
def _close() -> Callable[..., None]:
    return close


@pytest.fixture(name="batch_of")
def _batch_of() -> Callable[..., Batch]:
    return batch_of
