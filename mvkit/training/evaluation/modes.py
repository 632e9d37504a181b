"""Looking at a network in training without leaving a trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def undisturbed(*modules: nn.Module) -> Iterator[None]:
    """Put modules into eval mode without gradients; put every mode and every generator back afterwards.

    In eval mode batch norms use their running statistics and leave them as they are.
    The generators are Python's, NumPy's legacy one, torch's and those of the modules' CUDA devices.
    """
    modes = [(module, module.training) for tree in modules for module in tree.modules()]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    places = {parameter.device for tree in modules for parameter in tree.parameters()}
    devices = [place for place in places if place.type == "cuda"]
    try:
        for tree in modules:
            tree.eval()
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
