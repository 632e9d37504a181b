"""Scores of two matrices, features and responses to the same images, without models, datasets or recipes.

>>> import numpy as np
>>> from mvkit.scoring import ridge_score
>>> rng = np.random.default_rng(0)
>>> features = rng.standard_normal((100, 30))
>>> responses = features @ rng.standard_normal((30, 5)) + rng.standard_normal((20, 100, 5))
>>> ridge_score(features, responses).round(2)
array([0.99, 0.98, 0.99, 0.99, 0.99])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import DataError, FitError, UsageError
from mvkit.scoring.correlation import REASONS, UNMAPPED, ExclusionReason
from mvkit.scoring.protocol import splits_of
from mvkit.scoring.run import score_features
from mvkit.scoring.settings import ScoreSettings, merge_settings
from mvkit.scoring.similarity import SIMILARITIES

_NAME = "features"


def pls_score(
    features: NDArray[np.floating],
    responses: NDArray[np.floating],
    *,
    n_components: int | str = 25,
    settings: ScoreSettings | None = None,
    **options: Any,
) -> NDArray[np.float64]:
    """Score how well PLS predicts every unit from features, by the protocol of the paper.

    Parameters
    ----------
    features
        (n_images, n_features), any real dtype, finite.
    responses
        (n_trials, n_images, n_units), NaN = missing: scores are correlations over test images corrected for
        noise by halves of the trials. Or (n_images, n_units), without trials: correlations over test images,
        not corrected.
    n_components
        Components of PLS; ``"cv"`` chooses them within the training images.
    settings
        The protocol; the defaults are the paper's.
    **options
        Fields of :class:`~mvkit.scoring.ScoreSettings` that differ from it, ``n_splits=2`` say.

    Returns
    -------
    ndarray
        float64 (n_units,), mean over image splits and trial halves; NaN where no half can be corrected:
        :func:`~mvkit.scoring.score_features` gives the reasons.

    Raises
    ------
    DataError
        If the arrays do not go together or are not finite.
    FitError
        If there are fewer training images or features than components, or the features are constant.
    UsageError
        For an option that does not exist, or responses without trials that are to be corrected.
    """
    return _score_units("pls", features, responses, settings, {"n_components": n_components, **options})


def ridge_score(
    features: NDArray[np.floating],
    responses: NDArray[np.floating],
    *,
    alpha: float | str = 1.0,
    settings: ScoreSettings | None = None,
    **options: Any,
) -> NDArray[np.float64]:
    """Score how well ridge regression predicts every unit from features.

    Parameters
    ----------
    features
        (n_images, n_features), any real dtype, finite.
    responses
        (n_trials, n_images, n_units) or (n_images, n_units), as for :func:`pls_score`.
    settings, **options
        As for :func:`pls_score`.
    alpha
        Penalty; ``"cv"`` chooses one for every unit within the training images.

    Returns
    -------
    ndarray
        float64 (n_units,), as of :func:`pls_score`.

    Raises
    ------
    DataError, FitError, UsageError
        As :func:`pls_score`.
    """
    return _score_units("ridge", features, responses, settings, {"ridge_alpha": alpha, **options})


def rsa_score(
    features: NDArray[np.floating],
    responses: NDArray[np.floating],
    *,
    settings: ScoreSettings | None = None,
    **options: Any,
) -> float:
    """Compare the representational dissimilarities of features and of units.

    Parameters
    ----------
    features
        (n_images, n_features), any real dtype, finite.
    responses
        (n_trials, n_images, n_units), NaN = missing: corrected for noise by halves of the trials. Or
        (n_images, n_units), without trials: not corrected.
    settings, **options
        As for :func:`pls_score`; ``rsa_comparison="spearman"`` say.

    Returns
    -------
    float
        Correlation of the upper triangles of both matrices of dissimilarities (1 - Pearson's correlation).

    Raises
    ------
    DataError
        If the arrays do not go together or are not finite.
    FitError
        If the similarity is not defined, with the reason.
    UsageError
        For an option that does not exist.
    """
    return _similarity("rsa", features, responses, settings, options)


def cka_score(
    features: NDArray[np.floating],
    responses: NDArray[np.floating],
    *,
    debiased: bool = False,
    settings: ScoreSettings | None = None,
    **options: Any,
) -> float:
    """Measure the linear centred kernel alignment of features and units.

    Parameters
    ----------
    features
        (n_images, n_features), any real dtype, finite.
    responses
        (n_trials, n_images, n_units) or (n_images, n_units), as for :func:`rsa_score`.
    settings, **options
        As for :func:`pls_score`.
    debiased
        Whether to use the unbiased estimator of HSIC.

    Returns
    -------
    float
        The alignment.

    Raises
    ------
    DataError, FitError, UsageError
        As :func:`rsa_score`.
    """
    return _similarity("cka", features, responses, settings, {"cka_debiased": debiased, **options})


@dataclass(frozen=True)
class _Recording:
    responses: NDArray[np.float32]
    unit_ids: NDArray[np.int64]
    area: str = "units"
    specimen: int = 0


def _recording(responses: NDArray[np.floating]) -> _Recording:
    values = np.asarray(responses)
    if values.ndim not in (2, 3) or values.dtype.kind not in "fiu":
        raise DataError(
            f"responses: {values.dtype} of shape {values.shape}; give numbers of shape "
            "(n_trials, n_images, n_units), or (n_images, n_units) without trials"
        )
    return _Recording(values if values.ndim == 3 else values[None], np.arange(values.shape[-1]))


def _score_units(
    mapping: str,
    features: NDArray[np.floating],
    responses: NDArray[np.floating],
    settings: ScoreSettings | None,
    options: dict[str, Any],
) -> NDArray[np.float64]:
    recording = _recording(responses)
    if np.ndim(responses) == 2:
        options = {"measure": "to-average", **options}
    chosen = merge_settings(settings, {"mapping": mapping, **options})
    if chosen.measure == "corrected" and len(recording.responses) < 2:
        raise UsageError("a correction for noise needs two trials or more; without: measure='to-average'")
    columns = score_features({_NAME: features}, [recording], chosen).columns
    if (columns["reason"] == UNMAPPED).all():
        raise FitError(f"{mapping} cannot be fitted: {columns['detail'][0]}")
    return columns["score"].astype(np.float64)


def _similarity(
    mapping: str,
    features: NDArray[np.floating],
    responses: NDArray[np.floating],
    settings: ScoreSettings | None,
    options: dict[str, Any],
) -> float:
    recording = _recording(responses)
    chosen = merge_settings(settings, {"mapping": mapping, **options})
    if np.ndim(responses) == 3:
        columns = score_features({_NAME: features}, [recording], chosen).columns
        score, reason, detail = (columns[name][0] for name in ("score", "reason", "detail"))
        reason = detail or REASONS.get(str(reason), "")
    else:
        score, reason = _of_one_trial(features, recording, chosen)
    if np.isnan(score):
        raise FitError(f"{mapping} is not defined: {reason}")
    return float(score)


def _of_one_trial(
    features: NDArray[np.floating], recording: _Recording, settings: ScoreSettings
) -> tuple[float, str]:
    """Compare features with responses that have no noise to correct for."""
    n_images = recording.responses.shape[1]
    if np.shape(features)[:1] != (n_images,):
        raise DataError(f"features: shape {np.shape(features)}, but the responses are to {n_images} images")
    similarity, splits = SIMILARITIES[settings.mapping], splits_of(n_images, settings)
    layer = similarity.prepare(_NAME, features, splits, settings)
    plain = settings.model_copy(update={"correction": "none"})
    # Both "halves" are all there is.
    of_layer = similarity.score(recording.responses, np.ones((1, 2, 1)), splits, [layer], plain)[0]
    exclusion = ExclusionReason(int(of_layer.exclusions.max()))
    return float(of_layer.scores.mean()), layer.reason or REASONS.get(exclusion.code, "")
