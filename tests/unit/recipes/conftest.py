"""The training recipes that come with mvkit, and small images to run them on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from mvkit.errors import command_line
from mvkit.images.settings import RawBatch
from mvkit.recipes import load_recipe
from mvkit.training.recipe import TrainRecipe


@pytest.fixture(autouse=True)
def _at_command_line() -> Iterator[None]:
    """Word messages about overrides as for ``--set``."""
    with command_line():
        yield


@pytest.fixture(scope="session")
def recipe_named() -> Callable[..., TrainRecipe]:
    """Load a packaged training recipe, with overrides as for ``--set``."""

    def load(name: str, *overrides: str) -> TrainRecipe:
        return load_recipe(TrainRecipe, name, overrides)

    return load


@pytest.fixture(scope="session")
def raw_batch() -> Callable[[TrainRecipe, int], RawBatch]:
    """Make what a loader would yield for a recipe: noise that differs between images and views."""

    def make(recipe: TrainRecipe, n_images: int) -> RawBatch:
        draws = torch.Generator().manual_seed(1)
        side = recipe.views.size_px
        shape = (n_images, side, side, 3)
        return RawBatch(
            crops=tuple(
                torch.randint(0, 256, shape, dtype=torch.uint8, generator=draws) for _ in recipe.views.each()
            ),
            index=torch.arange(n_images),
            label=torch.arange(n_images) % 2,
            depth=torch.rand(n_images, 1, side, side, generator=draws),
        )

    return make
