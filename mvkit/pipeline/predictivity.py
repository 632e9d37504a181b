"""Neural predictivity as an evaluation during training: where training meets features and scoring."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from mvkit.distributed import all_reduce, is_main_process
from mvkit.errors import RecipeError
from mvkit.features.layers import layers_to_record
from mvkit.models import VisionModel
from mvkit.neural import NeuralDataset, open_dataset
from mvkit.pipeline.request import NetworkInput, ScoreRecipe, choose_recordings
from mvkit.pipeline.score import score
from mvkit.recipes import load_recipe
from mvkit.scoring import ScoreSettings
from mvkit.scoring.results import ALL_AREAS
from mvkit.training.evaluation import EvaluationContext, Evaluator
from mvkit.training.recipe import NeuralPredictivity


class NeuralEvaluator(Evaluator):
    """Noise-corrected predictivity of chosen layers on a neural file, as ``mvkit score`` computes it.

    The first process scores, the others wait for its numbers.

    Parameters
    ----------
    settings
        Dataset, layers, areas.
    name
        Name in the log.
    dataset
        The recordings.
    protocol
        Splits, trial halves and map.
    n_jobs
        Worker processes of scoring; None: one per core.
    """

    headline = ALL_AREAS

    def __init__(
        self,
        settings: NeuralPredictivity,
        *,
        name: str,
        dataset: NeuralDataset,
        protocol: ScoreSettings,
        n_jobs: int | None = None,
    ) -> None:
        super().__init__(name=name, every_epochs=settings.every_epochs)
        self._settings = settings
        self._dataset = dataset
        self._protocol = protocol
        self._n_jobs = n_jobs
        recordings = choose_recordings(dataset, settings.areas)
        self._keys = (*dict.fromkeys(recording.area for recording in recordings), ALL_AREAS)

    def evaluate(self, context: EvaluationContext) -> Mapping[str, float]:
        """Return each area's median score with its best layer, and ``all``: over the units of all areas.

        As in the paper, best layers are chosen on the test images; an area without any score is NaN.
        """
        medians = torch.zeros(len(self._keys), dtype=torch.float64, device=context.device)
        if is_main_process():
            measured = self._score(context)
            medians.copy_(torch.tensor([measured[key] for key in self._keys], dtype=torch.float64))
        return dict(zip(self._keys, all_reduce(medians).tolist(), strict=True))

    def _score(self, context: EvaluationContext) -> dict[str, float]:
        scores = score(
            context.encoder,
            self._dataset,
            layers=self._settings.layers,
            areas=self._settings.areas,
            n_jobs=self._n_jobs,
            device=str(context.device),
            settings=self._protocol,
            # The weights are other ones every time: nothing kept would ever be asked for again.
            cache=False,
            progress=False,
        )
        best = scores.best_layers()
        return dict(zip(best["area"], best["median"], strict=True))


def build_neural_evaluator(
    settings: NeuralPredictivity,
    name: str,
    *,
    encoder: VisionModel,
    home: Path | None = None,
    n_jobs: int | None = None,
) -> Evaluator:
    """Open the recordings and check everything that training would otherwise stumble over epochs later.

    Parameters
    ----------
    settings
        What the recipe says.
    name
        Name in the log.
    encoder
        The network that will be trained.
    home
        mvkit's home directory, where datasets lie.
    n_jobs
        Worker processes of scoring; None: one per core.

    Raises
    ------
    DataError
        If the recordings are not there (names ``mvkit fetch neural --dataset ...``) or are damaged.
    UsageError, RecipeError
        If a layer, an area, a dataset or the scoring recipe is unknown.
    """
    recipe = load_recipe(ScoreRecipe, settings.recipe)
    if recipe.input != NetworkInput():
        raise RecipeError(f"{settings.recipe}: input: a network in training sees images as it is trained")
    layers_to_record(encoder, settings.layers)
    dataset = open_dataset(settings.dataset, selection=recipe.selection.resolve(), home=home)
    return NeuralEvaluator(settings, name=name, dataset=dataset, protocol=recipe.settings, n_jobs=n_jobs)
