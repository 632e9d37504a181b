"""The training recipe: science only, no device, worker count or path."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mvkit.config.problems import KeyedError
from mvkit.config.settings import Count, NotNegative, Positive, Settings
from mvkit.images.settings import VALIDATION, ViewsSettings
from mvkit.objectives.settings import ObjectiveSettings


class ModelSettings(Settings):
    """The network to train.

    ``architecture`` is a name that ``mvkit.load_model`` knows; ``weights`` is
    where training starts ("random" or "released"; a file is given on the command line).
    """

    architecture: str
    weights: Literal["random", "released"] = "random"


class DataSettings(Settings):
    """The images: the name of the prep recipe whose files are read (``mvkit prep NAME``)."""

    images: str = "imagenet_64"
    drop_last: bool = True


class Sgd(Settings):
    """Stochastic gradient descent with momentum; learning rate at the recipe's batch size."""

    name: Literal["sgd"] = "sgd"
    learning_rate: Positive
    momentum: NotNegative = 0.9
    weight_decay: NotNegative = 0.0
    nesterov: bool = False


class Adam(Settings):
    """Adam, or AdamW with decoupled weight decay."""

    name: Literal["adam", "adamw"] = "adamw"
    learning_rate: Positive
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    weight_decay: NotNegative = 0.0


class Lars(Settings):
    """Layer-wise adaptive rates (You et al. 2017).

    Biases and the parameters of norms (by module type) are neither adapted
    nor decayed when ``exclude_bias_and_norm``; ``bias_and_norm_learning_rate``
    gives them a rate of their own, on the same schedule.
    """

    name: Literal["lars"] = "lars"
    learning_rate: Positive
    momentum: NotNegative = 0.9
    weight_decay: NotNegative = 0.0
    trust_coefficient: Positive = 0.001
    epsilon: NotNegative = 0.0
    nesterov: bool = False
    exclude_bias_and_norm: bool = True
    bias_and_norm_learning_rate: Positive | None = None


Optimiser = Annotated[Sgd | Adam | Lars, Field(discriminator="name")]


class _Warmup(Settings):
    """Linear warm-up from ``warmup_ratio`` times the rate; ``unit``: how often the rate changes."""

    warmup_epochs: NotNegative = 0.0
    warmup_ratio: NotNegative = 0.0
    unit: Literal["epoch", "step"] = "epoch"


class StepSchedule(_Warmup):
    """The rate is multiplied by ``factor`` at each milestone (epochs, 0-based)."""

    name: Literal["step"] = "step"
    milestones: tuple[Count, ...] = ()
    factor: Positive = 0.1


class CosineSchedule(_Warmup):
    """The rate follows half a cosine down to ``final_ratio`` times itself."""

    name: Literal["cosine"] = "cosine"
    final_ratio: NotNegative = 0.0


class ConstantSchedule(_Warmup):
    """The rate stays."""

    name: Literal["constant"] = "constant"


Schedule = Annotated[StepSchedule | CosineSchedule | ConstantSchedule, Field(discriminator="name")]


class TrainSettings(Settings):
    """Length, batch (of all processes together) and seed.

    ``sync_norm``: batch norms see the global batch (else each process its own rows).
    """

    epochs: Count
    batch_size: Count
    seed: Annotated[int, Field(ge=0)] = 0
    sync_norm: bool = True
    max_steps: Count | None = None


class CheckpointSettings(Settings):
    """When checkpoints are written.

    ``every_epochs``: a numbered one is kept; ``every_steps``: ``last.pt`` is
    renewed, besides every epoch's end and an interruption. ``best.pt`` is that
    with the best headline of the first item of ``evaluate`` (without any: the lowest training loss).
    """

    every_epochs: Count | None = 10
    every_steps: Count | None = None


class BankNeighbours(Settings):
    """Label of the nearest neighbour in the memory bank (instance recognition)."""

    name: Literal["bank_neighbours"] = "bank_neighbours"
    every_epochs: Count = 1


class FeatureNeighbours(Settings):
    """k nearest neighbours on features of a layer (None: the output), weighted by cosine similarity."""

    name: Literal["feature_neighbours"] = "feature_neighbours"
    every_epochs: Count = 1
    layer: str | None = None
    k: Count = 20
    temperature: Positive = 0.07
    max_images: Count = 50000


class LinearProbe(Settings):
    """A linear classifier trained on detached features beside the objective."""

    name: Literal["linear_probe"] = "linear_probe"
    every_epochs: Count = 1
    layer: str | None = None
    learning_rate: Positive = 0.1


class ValidationLoss(Settings):
    """The objective's own loss on the validation images."""

    name: Literal["validation_loss"] = "validation_loss"
    every_epochs: Count = 1


class NeuralPredictivity(Settings):
    """Noise-corrected predictivity on a neural file, quick protocol.

    Layers: names, patterns or ``published``; None for the model's default list.
    """

    name: Literal["neural_predictivity"] = "neural_predictivity"
    every_epochs: Count = 10
    dataset: str = "neuropixels"
    layers: tuple[str, ...] | None = None
    areas: tuple[str, ...] | None = None
    recipe: str = "score/quick"


Evaluation = Annotated[
    BankNeighbours | FeatureNeighbours | LinearProbe | ValidationLoss | NeuralPredictivity,
    Field(discriminator="name"),
]


class TrainRecipe(Settings):
    """Everything that decides what a training run computes."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    source: str
    notes: str = ""
    model: ModelSettings
    data: DataSettings = DataSettings()
    views: ViewsSettings
    validation: ViewsSettings = VALIDATION
    objective: ObjectiveSettings
    optimiser: Optimiser
    schedule: Schedule = ConstantSchedule()
    train: TrainSettings
    checkpoint: CheckpointSettings = CheckpointSettings()
    evaluate: tuple[Evaluation, ...] = ()

    @model_validator(mode="after")
    def _sections_agree(self) -> TrainRecipe:
        # Imported here: it reads the table of objectives, whose losses need torch.
        from mvkit.training.consistency import contradictions

        found = contradictions(self)
        if found:
            raise KeyedError(found)
        return self
