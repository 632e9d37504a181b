"""Settings of a scoring run, and what it needs of a recording."""

from __future__ import annotations

from collections import abc
from typing import Annotated, Any, Literal, Protocol, get_args, get_origin

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from mvkit.errors import UsageError, unknown_name
from mvkit.recipes import describe_problems

#: Penalties that cross-validated ridge chooses from: 25 powers of ten from 1e-4 to 1e8.
RIDGE_GRID = tuple(10.0 ** (power / 2) for power in range(-8, 17))

#: Numbers of PLS components that cross-validation chooses from: 10, 20 ... 100.
COMPONENT_GRID = tuple(range(10, 101, 10))

#: Image splits, and trial halves of each, at most: beyond, no run would end.
MOST_SPLITS = 100_000

Mapping = Literal["pls", "ridge", "one-to-one", "rsa", "cka", "lasso", "elasticnet"]
Halving = Literal[
    "split-half", "bootstrap", "bootstrap-full-mean", "subsample-half", "subsample-half-replacement"
]
Measure = Literal["corrected", "feve", "single-trial", "to-average"]
Correction = Literal["spearman-brown-denominator", "spearman-brown-ratio", "attenuation", "none"]

#: Mappings that fit nothing and give one number for a population.
SIMILARITIES = ("rsa", "cka")

#: Fields that say how scores are shown, and fields of the ceiling: scores that differ in these only are
#: scores of one protocol.
REPORTING = frozenset({"layer_choice", "n_resamples", "confidence", "resampling_seed"})
CEILING = frozenset({"ceiling", "source_units", "n_subsamples"})
#: Fields that belong to some mappings only -> these mappings.
FIELDS_OF_MAPPINGS: dict[str, tuple[str, ...]] = {
    "n_components": ("pls",),
    "component_grid": ("pls",),
    "pls_targets": ("pls",),
    "pls_stopping": ("pls",),
    "pls_tolerance": ("pls",),
    "pls_max_iterations": ("pls",),
    "ridge_alpha": ("ridge",),
    "ridge_grid": ("ridge",),
    "penalty": ("lasso", "elasticnet"),
    "l1_ratio": ("elasticnet",),
    "rsa_comparison": ("rsa",),
    "cka_debiased": ("cka",),
    "similarity_images": SIMILARITIES,
    "population": SIMILARITIES,
}
#: Fields that belong to the measure "corrected".
CORRECTED_ONLY = frozenset(
    {"n_halves", "halving", "synchronous", "correction", "estimator", "halves_seed", "parity"}
)


class ScoreSettings(BaseModel):
    """What a score depends on besides features and responses.

    The defaults are the protocol of the paper (Nayebi, Kong, Zhuang, Gardner, Norcia, Yamins,
    "Mouse visual cortex as a limited resource system that self-learns an ecologically-general
    representation") as given to us, not checked against the paper's text: PLS with 25 components, half of
    the images for training, 10 splits of the images, 100 times two halves of the trials.

    Attributes
    ----------
    mapping
        How features are compared with responses, see :mod:`mvkit.scoring.maps`. Maps predict every unit:
        ``"pls"`` (partial least squares, PLS2, centred, not scaled), ``"ridge"``, ``"one-to-one"`` (the
        best-correlated feature), ``"lasso"``, ``"elasticnet"``. Similarities give one number for a
        population: ``"rsa"``, ``"cka"``.
    n_components
        Components of ``"pls"``; ``"cv"`` chooses one of ``component_grid`` within the training images.
    component_grid
        Numbers of components to choose from.
    pls_targets
        Whether ``"pls"`` fits one map to all units of an animal (``"joint"``, PLS2) or one to each
        (``"unit"``, PLS1).
    ridge_alpha
        Penalty of ``"ridge"``; ``"cv"`` chooses one of ``ridge_grid`` per unit inside the training images.
    ridge_grid
        Penalties to choose from.
    penalty, l1_ratio
        ``alpha`` of scikit-learn's ``Lasso`` and ``ElasticNet``, and the latter's ``l1_ratio``.
    rsa_comparison
        How the upper triangles of two dissimilarity matrices are compared.
    cka_debiased
        Whether ``"cka"`` uses the unbiased estimator of HSIC.
    similarity_images
        Images that ``"rsa"`` and ``"cka"`` look at: ``"all"`` (nothing is fitted; then there is one split)
        or the test images of every split.
    population
        What ``"rsa"`` and ``"cka"`` take as one population: the units of an animal, or those of all animals
        of an area pooled.
    n_splits
        Splits of the images into training and test images.
    train_fraction
        Share of the images used for training, rounded up to a whole image.
    scored_images
        Images of a split that predictions of a map are scored on: its ``"test"`` images, or the ``"train"``
        images that the map was fitted to (how far a map can follow them, ``report_train`` of the 2020 code).
    n_halves
        Trial halves: how often the trials are divided in two, per split.
    halving
        How the two sets of trials are drawn: ``"split-half"`` (disjoint halves);
        ``"bootstrap"`` (two resamplings with replacement); ``"bootstrap-full-mean"`` (a resampling, and all
        trials); ``"subsample-half"`` (two independent halves); ``"subsample-half-replacement"``.
    synchronous
        Whether one draw serves all images, or every image has its own.
    correlation
        Correlation over images, everywhere in the score of a map. Similarities have ``rsa_comparison``.
    correction
        ``"spearman-brown-denominator"`` (the paper's): ``r_cross / sqrt(SB(r_map) SB(r_target))``;
        ``"spearman-brown-ratio"``: ``SB(r_cross / sqrt(r_map r_target))``; ``"attenuation"``:
        ``r_cross / sqrt(r_map r_target)`` (Spearman 1904); ``"none"``: ``r_cross``.
        SB(r) = 2 r / (1 + r).
    estimator
        ``"mean-of-corrected"`` averages corrected values and drops trial halves that cannot be corrected, as
        the paper does; ``"corrected-mean"`` averages the correlations and corrects the averages.
    pls_stopping
        ``"reference"`` stops the power iteration where scikit-learn does, so that a weight vector depends
        slightly on the order of the units; ``"converged"`` takes the leading singular vector itself.
    pls_tolerance, pls_max_iterations
        Stopping rule of ``"reference"``: squared distance between successive weight vectors, and the most
        iterations.
    measure
        What the score of a unit is: ``"corrected"``, the correlation corrected for noise by halves of the
        trials (the paper's); or, of maps fitted to all trials, ``"feve"``, ``"single-trial"`` or
        ``"to-average"``, see :mod:`mvkit.scoring.measures`.
    parity
        True keeps the arithmetic of the 2020 code, where two negative reliabilities give a finite
        (meaningless) score; False makes such trial halves NaN.
    split_seed, halves_seed
        Seed of the first split and of the first trial halves; each next one adds 1.
    layer_choice
        Which choice of the best layer is the headline: ``"paper"`` (highest median on the test images it is
        reported on) or ``"held-out"`` (chosen on half of the splits, scored on the others).
    n_resamples, confidence, resampling_seed
        Hierarchical bootstrap of intervals and tests: resamplings, coverage, seed.
    ceiling
        Consistency between animals to compare with: from all other animals' units pooled (``"holdout"``),
        from every other animal by itself (``"pairwise"``), or ``"none"``.
    source_units
        Whether a ceiling uses all units of the source animals or equally many of each source.
    n_subsamples
        Draws of such equally many units.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mapping: Mapping = "pls"
    n_components: Annotated[int, Field(ge=1)] | Literal["cv"] = 25
    component_grid: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=COMPONENT_GRID, min_length=1)
    pls_targets: Literal["joint", "unit"] = "joint"
    ridge_alpha: Annotated[float, Field(gt=0.0)] | Literal["cv"] = 1.0
    ridge_grid: tuple[Annotated[float, Field(gt=0.0)], ...] = Field(default=RIDGE_GRID, min_length=1)
    penalty: float = Field(default=1.0, gt=0.0)
    l1_ratio: float = Field(default=0.5, gt=0.0, le=1.0)
    rsa_comparison: Literal["pearson", "spearman", "cosine"] = "pearson"
    cka_debiased: bool = False
    similarity_images: Literal["all", "test"] = "all"
    population: Literal["animal", "pooled"] = "animal"
    n_splits: int = Field(default=10, ge=1, le=MOST_SPLITS)
    train_fraction: float = Field(default=0.5, gt=0.0, lt=1.0)
    scored_images: Literal["test", "train"] = "test"
    n_halves: int = Field(default=100, ge=1, le=MOST_SPLITS)
    halving: Halving = "split-half"
    synchronous: bool = True
    correlation: Literal["pearson", "spearman"] = "pearson"
    correction: Correction = "spearman-brown-denominator"
    estimator: Literal["mean-of-corrected", "corrected-mean"] = "mean-of-corrected"
    pls_stopping: Literal["reference", "converged"] = "reference"
    pls_tolerance: float = Field(default=1e-6, gt=0.0)
    pls_max_iterations: int = Field(default=500, ge=2)
    measure: Measure = "corrected"
    parity: bool = False
    split_seed: int = Field(default=0, ge=0)
    halves_seed: int = Field(default=0, ge=0)
    layer_choice: Literal["paper", "held-out"] = "paper"
    n_resamples: int = Field(default=2000, ge=100)
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    resampling_seed: int = Field(default=0, ge=0)
    ceiling: Literal["none", "holdout", "pairwise"] = "none"
    source_units: Literal["all", "equal"] = "all"
    n_subsamples: int = Field(default=10, ge=1)

    @field_validator("correlation")
    @classmethod
    def _of_maps_only(cls, value: str, info: ValidationInfo) -> str:
        mapping = info.data.get("mapping")
        if mapping in SIMILARITIES and value != "pearson":
            raise ValueError(f"'{mapping}' has none (rsa compares by rsa_comparison)")
        return value

    @field_validator("measure")
    @classmethod
    def _of_predictions(cls, value: str, info: ValidationInfo) -> str:
        mapping, correlation = info.data.get("mapping"), info.data.get("correlation")
        if value == "corrected":
            return value
        if mapping in SIMILARITIES:
            raise ValueError(f"'{value}' is of predictions, and '{mapping}' predicts nothing")
        if value == "feve" and mapping == "one-to-one":
            raise ValueError("'feve' needs predictions in units of the responses; 'one-to-one' has none")
        if value == "single-trial" and correlation == "spearman":
            raise ValueError("'single-trial' is Pearson's correlation; 'to-average' can be Spearman's")
        return value

    @property
    def is_corrected(self) -> bool:
        """Whether scores are corrected for noise."""
        return self.measure == "corrected" and self.correction != "none"

    @property
    def corrects_means(self) -> bool:
        """Whether correlations are averaged before they are corrected."""
        return self.measure == "corrected" and self.estimator == "corrected-mean"

    @field_validator("scored_images")
    @classmethod
    def _of_fitted_maps(cls, value: str, info: ValidationInfo) -> str:
        if value == "train" and (mapping := info.data.get("mapping")) in SIMILARITIES:
            raise ValueError(f"'{mapping}' is fitted to no images (similarity_images says which it compares)")
        return value

    @property
    def most_components(self) -> int:
        """Components of ``"pls"``, or the most there are to choose from."""
        return max(self.component_grid) if self.n_components == "cv" else self.n_components

    @property
    def compares_all_images(self) -> bool:
        """Whether a similarity looks at all images at once, so that there are no splits."""
        return self.mapping in SIMILARITIES and self.similarity_images == "all"

    @property
    def pools_animals(self) -> bool:
        """Whether a similarity takes the units of all animals of an area as one population."""
        return self.mapping in SIMILARITIES and self.population == "pooled"

    def protocol(self, *, without: frozenset[str] = REPORTING | CEILING) -> dict[str, Any]:
        """Return the fields that the numbers depend on, as plain JSON values.

        Parameters
        ----------
        without
            Fields to leave out; those of reporting and of ceilings, unless others are given.
        """
        return self.model_dump(mode="json", exclude=set(without))


DEFAULT_SETTINGS = ScoreSettings()


def resolve_settings(**options: Any) -> ScoreSettings:
    """Build settings from options, with mvkit's own error for a wrong one.

    Parameters
    ----------
    **options
        Fields of :class:`ScoreSettings`; those left out keep their default.

    Returns
    -------
    ScoreSettings
        The protocol.

    Raises
    ------
    UsageError
        If an option does not exist or its value is out of range; every wrong option is named.
    """
    for name in options:
        if name not in ScoreSettings.model_fields:
            raise unknown_name(
                "scoring option",
                name,
                ScoreSettings.model_fields,
                command="help(mvkit.scoring.ScoreSettings)",
            )
    try:
        return ScoreSettings(**options)
    except ValidationError as error:
        problems = describe_problems(error, ScoreSettings)
        faults = "; ".join(f"{'.'.join(key)}: {text}" for key, text in problems)
        raise UsageError(f"wrong scoring option: {faults}") from None


#: Names the command line uses for two settings; accepted as keywords too.
_SHORT_SETTINGS = {"splits": "n_splits", "halves": "n_halves"}


def merge_settings(base: object, options: abc.Mapping[str, object]) -> ScoreSettings:
    """Put settings given as keywords on top of others.

    Parameters
    ----------
    base
        :class:`ScoreSettings`, or None for the paper's protocol.
    options
        Fields that differ; ``splits`` and ``halves`` are understood.

    Raises
    ------
    UsageError
        An unknown name (with a suggestion) or a value out of range.
    """
    if base is not None and not isinstance(base, ScoreSettings):
        raise UsageError(f"settings: must be a ScoreSettings, got {type(base).__name__}")
    given = {_SHORT_SETTINGS.get(name, name): value for name, value in options.items()}
    for name, value in given.items():
        field = ScoreSettings.model_fields.get(name)
        choices = get_args(field.annotation) if field and get_origin(field.annotation) is Literal else ()
        if choices and isinstance(value, str) and value not in choices:
            raise unknown_name(name, value, choices)
    return resolve_settings(**{**(base.model_dump() if base is not None else {}), **given})


class RecordingLike(Protocol):
    """What scoring needs of a recording (:class:`mvkit.neural.Recording` has it)."""

    @property
    def area(self) -> str:
        """Visual area."""

    @property
    def specimen(self) -> int:
        """Animal."""

    @property
    def unit_ids(self) -> NDArray[np.int64]:
        """int64 (n_units,)."""

    @property
    def responses(self) -> NDArray[np.float32]:
        """(n_trials, n_images, n_units), NaN = missing."""
