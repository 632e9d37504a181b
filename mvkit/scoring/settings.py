"""Settings of a scoring run."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mvkit.errors import UsageError
from mvkit.naming import unknown_name


class ScoreSettings(BaseModel):
    """What a score depends on besides features and responses.

    The defaults are the protocol of the paper (Nayebi, Kong, Zhuang, Gardner, Norcia, Yamins,
    "Mouse visual cortex as a limited resource system that self-learns an ecologically-general
    representation", methods, "Neural predictivity"): PLS with 25 components, half of the images
    for training, 10 splits of the images, 100 halvings of the trials.

    Attributes
    ----------
    mapping
        Map from features to responses; ``"pls"`` is partial least squares (PLS2), centred, not scaled.
    n_components
        Components of the map.
    n_splits
        Splits of the images into training and test images.
    train_fraction
        Share of the images used for training, rounded up to a whole image.
    n_halves
        Halvings of the trials per split.
    pls_stopping
        ``"reference"`` stops the power iteration where scikit-learn does, so that a weight vector depends
        slightly on the order of the units; ``"converged"`` takes the leading singular vector itself.
    pls_tolerance, pls_max_iterations
        Stopping rule of ``"reference"``: squared distance between successive weight vectors, and the most
        iterations.
    parity
        True keeps the arithmetic of the 2020 code, where two negative reliabilities give a finite
        (meaningless) score; False makes such a halving NaN.
    split_seed, halves_seed
        Seed of the first split and of the first halving; each next one adds 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mapping: Literal["pls"] = "pls"
    n_components: int = Field(default=25, ge=1)
    n_splits: int = Field(default=10, ge=1)
    train_fraction: float = Field(default=0.5, gt=0.0, lt=1.0)
    n_halves: int = Field(default=100, ge=1)
    pls_stopping: Literal["reference", "converged"] = "reference"
    pls_tolerance: float = Field(default=1e-6, gt=0.0)
    pls_max_iterations: int = Field(default=500, ge=2)
    parity: bool = False
    split_seed: int = Field(default=0, ge=0)
    halves_seed: int = Field(default=0, ge=0)


DEFAULT_SETTINGS = ScoreSettings()


def resolve_settings(**options: Any) -> ScoreSettings:
    """Build settings from options, with mvkit's own error for a wrong one.

    Parameters
    ----------
    **options
        Fields of :class:`ScoreSettings`; those left out keep their default.

    Raises
    ------
    UsageError
        If an option does not exist or its value is out of range; every wrong option is named.
    """
    for name in options:
        if name not in ScoreSettings.model_fields:
            raise unknown_name("scoring option", name, ScoreSettings.model_fields)
    try:
        return ScoreSettings(**options)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}, got {fault['input']!r}"
            for fault in error.errors()
        )
        raise UsageError(f"wrong scoring option: {faults}") from None
