"""Similarities between a layer and a population: RSA and CKA.

Every similarity turns a population into a vector over pairs of images, and two populations are as similar as
the cosine of their vectors. A layer's vector is made once per split, a recording's twice per pair of halves.

Noise correction is the reference's for maps with similarities in the place of correlations (goldens section
4, ``identity_rsa``; in Nayebi, Kong et al. 2023 equations 1 and 2, not checked against the paper's text)::

    score = r_cross / sqrt(SB(r_map) SB(r_target)),  SB(r) = 2 r / (1 + r)

    against a layer             between two recorded populations
    r_cross   layer, half 2     source half 1, target half 2
    r_map     1                 source half 1, source half 2
    r_target  half 1, half 2    target half 1, target half 2

The population is the units of one animal, or the pooled pseudo-population of an area (:func:`pool_animals`);
the formula is the same. Like the score of a map it compares halves but corrects to all trials: noise leaves a
factor of about sqrt((1 + r_target) / 2) in the score of a layer. ``ScoreSettings.correlation`` has no part in
it; RSA has its own kind of comparison, CKA none.

SB (Spearman and Brown's formula) holds for correlations between averages whose noise is independent and adds
up. Dissimilarities and Gram matrices are not linear in the responses: noise also shifts them. For RSA and CKA
the formula is borrowed, an approximation that is the better the more reliable the responses are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvkit.errors import UsageError
from mvkit.scoring.correlation import CONSTANT, ExclusionReason, centre, clear_rounding
from mvkit.scoring.gram import LayerCoordinates, LayerInput, feature_blocks, layer_coordinates
from mvkit.scoring.protocol import (
    ImageSplit,
    SplitHalfScores,
    correct_split_halves,
    half_means,
    note_missing,
    pool_responses,
    split_half_groups,
)
from mvkit.scoring.settings import RecordingLike, ScoreSettings

# Dissimilarities lie between 0 and 2 and are differences from 1: their rounding errors are absolute.
_ROUNDING = CONSTANT
# Ranks are taken of dissimilarities rounded to so many decimals, so that rounding errors do not order what
# is equal (a population of two units has no dissimilarities but 0 and 2).
_DECIMALS = 12
#: ``specimen`` of a pseudo-population.
POOLED_SPECIMEN = 0


@dataclass(frozen=True)
class LayerVectors:
    """A layer as it is compared.

    Attributes
    ----------
    vectors
        Per split float64 (n_entries,), of length 1; NaN if the layer has none.
    reason
        Why it has none on some split, or "".
    """

    vectors: tuple[NDArray[np.float64], ...]
    reason: str = ""


@dataclass(frozen=True)
class PopulationHalves:
    """A population on one split.

    Attributes
    ----------
    first, second
        float64 (n_halves, n_entries), of length 1: the two halves of each pair; NaN if undefined.
    exclusions
        uint8 (n_halves,): why not, see :class:`~mvkit.scoring.correlation.ExclusionReason`.
    """

    first: NDArray[np.float64]
    second: NDArray[np.float64]
    exclusions: NDArray[np.uint8]

    def reliability(self) -> NDArray[np.float64]:
        """Similarity of the two halves of each pair."""
        return cosines(self.first, self.second)


class Similarity(ABC):
    """A similarity between a layer and a population; nothing is fitted, nothing is predicted.

    Attributes
    ----------
    title
        Name in sentences.
    per_unit
        False: there is one score for the population, not one per unit.
    from_coordinates
        Whether :class:`~mvkit.scoring.gram.LayerCoordinates` can stand in for the features of a layer.
    n_units_needed
        Fewest units that a population can have.
    undefined
        The reason if a population has no vector although it has enough units.
    """

    title: str
    per_unit = False
    from_coordinates = False
    n_units_needed: int
    undefined: ExclusionReason

    @abstractmethod
    def population_matrices(
        self, patterns: NDArray[np.float64], present: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Compare the images within populations, patterns (n, n_images, n_units), present (n, n_units).

        Returns
        -------
        ndarray
            float64 (n, n_images, n_images).
        """

    @abstractmethod
    def layer_matrices(
        self, name: str, features: LayerInput, splits: Sequence[ImageSplit]
    ) -> list[NDArray[np.float64]]:
        """Compare the test images of every split within a layer, per split float64 (n_test, n_test)."""

    @abstractmethod
    def vectors(self, matrices: NDArray[np.float64], settings: ScoreSettings) -> NDArray[np.float64]:
        """Return float64 (n, n_entries), whose cosine is the similarity; zero or NaN where undefined."""

    @abstractmethod
    def why_undefined(self, matrix: NDArray[np.float64]) -> str:
        """Return why the matrix of a layer has no vector."""

    @abstractmethod
    def n_images_needed(self, settings: ScoreSettings) -> int:
        """Return the fewest images for which the similarity can differ from 1."""

    def n_train_needed(self, settings: ScoreSettings) -> int:
        """Return the fewest training images that settings need."""
        return 2

    def n_features_needed(self, settings: ScoreSettings) -> int:
        """Return the fewest features that a layer can have."""
        return 1

    def warm_up(self) -> None:  # noqa: B027
        """Compile nothing: there is nothing to compile."""

    def reason(self, prepared: LayerVectors) -> str:
        """Return why a layer cannot be compared, or ""."""
        return prepared.reason

    def prepare(
        self,
        name: str,
        features: LayerInput,
        splits: Sequence[ImageSplit],
        settings: ScoreSettings,
        in_turn: object = None,
    ) -> LayerVectors:
        """Turn a layer into vectors, one per split.

        Parameters
        ----------
        name
            Name of the layer, for messages.
        features
            (n_images, n_features), any real dtype, in memory or on disk; coordinates with
            ``from_coordinates``.
        splits
            The image splits; their test images are compared.
        settings
            The kind of comparison.
        in_turn
            Not used: splits share what is made of a layer.

        Raises
        ------
        DataError
            If the features are not a matrix of finite numbers.
        UsageError
            If a split has too few images.
        """
        self._check_images(splits, settings)
        vectors, reason = [], ""
        for matrix in self.layer_matrices(name, features, splits):
            vector = unit_length(self.vectors(matrix[None], settings))[0]
            if np.isnan(vector).any():
                reason = reason or self.why_undefined(matrix)
            vectors.append(vector)
        return LayerVectors(tuple(vectors), reason)

    def score(
        self,
        responses: NDArray[np.floating],
        weights: NDArray[np.generic],
        splits: Sequence[ImageSplit],
        layers: Sequence[LayerVectors],
        settings: ScoreSettings,
    ) -> list[SplitHalfScores]:
        """Compare the units of a recording, as one population, with several layers.

        A unit without a valid trial for some image of a split, in either half of a pair, is left out of
        both halves of that pair; the others stay.

        Parameters
        ----------
        responses
            (n_trials, n_images, n_units), NaN = missing.
        weights
            (n_halves, 2, n_trials[, n_images]): the split halves, see
            :func:`~mvkit.scoring.protocol.half_means`.
        splits
            The image splits; their test images are compared.
        layers
            As :meth:`prepare` returns them. Features have no noise: r_map is 1.
        settings
            Kind of comparison and noise correction.

        Returns
        -------
        list of SplitHalfScores
            Per layer, with one "unit": the population.
        """
        _, n_images, n_units = responses.shape
        shape = (len(splits), weights.shape[0], 1)
        r_target, exclusions = np.empty(shape), np.zeros(shape, dtype=np.uint8)
        r_cross = np.empty((len(layers), *shape))
        missing = np.full(n_units, -1, dtype=np.int64)
        for group in split_half_groups(shape[1], n_images * max(n_units, n_images)):
            means = half_means(responses, weights[group])
            note_missing(means, missing)
            for index, split in enumerate(splits):
                halves = self._population_halves(means, split, settings)
                exclusions[index, group, 0] = halves.exclusions
                r_target[index, group, 0] = halves.reliability()
                for layer, compared in enumerate(layers):
                    r_cross[layer, index, group, 0] = cosines(halves.second, compared.vectors[index])
        scores = []
        for layer, compared in enumerate(layers):
            exact = np.array([np.nan if np.isnan(vector).any() else 1.0 for vector in compared.vectors])
            r_map = np.broadcast_to(exact[:, None, None], shape).copy()
            parts = (r_cross[layer], r_map, r_target)
            scores.append(correct_split_halves(parts, exclusions, _first_missing(missing), settings))
        return scores

    def between(
        self,
        source_means: NDArray[np.float64],
        target_means: NDArray[np.float64],
        splits: Sequence[ImageSplit],
        settings: ScoreSettings,
    ) -> SplitHalfScores:
        """Compare two populations that are both noisy.

        Parameters
        ----------
        source_means, target_means
            float64 (n_halves, 2, n_images, n_units) as from :func:`~mvkit.scoring.protocol.half_means`, with
            the same split halves and images but any numbers of units. Units with NaN are left out as in
            :meth:`score`.
        splits
            The image splits; their test images are compared.
        settings
            Kind of comparison and noise correction.

        Returns
        -------
        SplitHalfScores
            With one "unit". r_cross: source half 1, target half 2; r_map: source half 1, source half 2;
            r_target: target half 1, target half 2. The reason of a pair without a
            score is the target's, where both have one.

        Raises
        ------
        UsageError
            If a split has too few images.
        """
        self._check_images(splits, settings)
        n_halves, _, n_images, n_units = target_means.shape
        shape = (len(splits), n_halves, 1)
        r_cross, r_map, r_target = np.empty((3, *shape))
        exclusions = np.zeros(shape, dtype=np.uint8)
        missing = np.full(source_means.shape[3], -1, dtype=np.int64)
        missing_target = np.full(n_units, -1, dtype=np.int64)
        note_missing(source_means, missing)
        note_missing(target_means, missing_target)
        for group in split_half_groups(n_halves, n_images * max(n_units, missing.size, n_images)):
            for index, split in enumerate(splits):
                source = self._population_halves(source_means[group], split, settings)
                target = self._population_halves(target_means[group], split, settings)
                r_cross[index, group, 0] = cosines(source.first, target.second)
                r_map[index, group, 0] = source.reliability()
                r_target[index, group, 0] = target.reliability()
                exclusions[index, group, 0] = np.where(
                    target.exclusions > 0, target.exclusions, source.exclusions
                )
        first = _first_missing(np.concatenate([missing_target, missing]))
        return correct_split_halves((r_cross, r_map, r_target), exclusions, first, settings)

    def _check_images(self, splits: Sequence[ImageSplit], settings: ScoreSettings) -> None:
        """Check that splits have enough images.

        Raises
        ------
        UsageError
            Says how many are needed.
        """
        needed = self.n_images_needed(settings)
        fewest = min(split.test.size for split in splits)
        if fewest < needed:
            advice = " or lower train_fraction" if settings.similarity_images == "test" else ""
            raise UsageError(
                f"{settings.mapping} of {fewest} images is not defined, it needs at least {needed}: "
                f"give more images{advice}"
            )

    def _population_halves(
        self, means: NDArray[np.float64], split: ImageSplit, settings: ScoreSettings
    ) -> PopulationHalves:
        """Turn both halves of a group of pairs into vectors.

        Parameters
        ----------
        means
            float64 (n_halves, 2, n_images, n_units), NaN where a half has no valid trial. A unit with NaN at
            a test image of the split is left out of both halves of that pair.
        split
            Its test images are compared.
        settings
            The kind of comparison.
        """
        n_halves, _, _, n_units = means.shape
        patterns = np.ascontiguousarray(means[:, :, split.test])
        lost: NDArray[np.bool_] = np.any(np.isnan(patterns), axis=(1, 2))
        if lost.any():
            np.copyto(patterns, 0.0, where=lost[:, None, None, :])
        matrices = self.population_matrices(
            patterns.reshape(2 * n_halves, -1, n_units), np.repeat(~lost, 2, axis=0)
        )
        vectors = unit_length(self.vectors(matrices, settings)).reshape(n_halves, 2, -1)
        undefined = np.isnan(vectors).any(axis=(1, 2))
        few = (~lost).sum(axis=1) < self.n_units_needed
        exclusions = np.where(undefined, np.uint8(self.undefined), np.uint8(ExclusionReason.NONE))
        exclusions[few] = (
            ExclusionReason.NO_TRIAL if n_units >= self.n_units_needed else ExclusionReason.FEW_UNITS
        )
        return PopulationHalves(vectors[:, 0], vectors[:, 1], exclusions)


class RSA(Similarity):
    """Representational similarity analysis: dissimilarities of every two images.

    The dissimilarity of two images is 1 - Pearson's correlation, over units (features), of the patterns they
    evoke (Kriegeskorte, Mur and Bandettini 2008). Two populations are compared by the upper triangles,
    without the diagonal, of their matrices of dissimilarities.

    A unit that responds alike to all images still belongs to every pattern: with the differences between
    units it changes the correlations of patterns. It is therefore included. (It has no part in CKA, which
    centres units over images.)
    """

    title = "RSA"
    n_units_needed = 2
    undefined = ExclusionReason.UNDEFINED_RDM

    def population_matrices(
        self, patterns: NDArray[np.float64], present: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Return 1 - Pearson's correlation between the patterns of every two images.

        NaN in the row and column of an image to which all units respond alike.
        """
        counts = present.sum(axis=1)[:, None, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            means = patterns.sum(axis=2, keepdims=True) / counts
            deviations = patterns - means
            if not present.all():
                np.copyto(deviations, 0.0, where=~present[:, None, :])
            rdms: NDArray[np.float64] = np.matmul(deviations, deviations.transpose(0, 2, 1))
            squares = np.diagonal(rdms, axis1=1, axis2=2)[:, :, None]
            # A pattern that differs from its mean by no more than rounding does not vary.
            varies = squares > counts * np.square(CONSTANT * means)
            lengths = np.where(varies, np.sqrt(squares), np.nan)
            rdms /= lengths
            rdms /= lengths.transpose(0, 2, 1)
            np.subtract(1.0, rdms, out=rdms)
        return rdms

    def layer_matrices(
        self, name: str, features: LayerInput, splits: Sequence[ImageSplit]
    ) -> list[NDArray[np.float64]]:
        """Return a layer's dissimilarities, NaN in the row and column of an image of equal features only.

        The features are read twice, in blocks: for the means of the patterns, then for their products.
        """
        if isinstance(features, LayerCoordinates):
            raise TypeError("dissimilarities need the features of a layer, not its coordinates")
        blocks = [
            (block.sum(axis=1), block.min(axis=1), block.max(axis=1), block.shape[1])
            for block in feature_blocks(name, features)
        ]
        totals, lows, highs, widths = zip(*blocks, strict=True)
        means = np.sum(totals, axis=0) / sum(widths)
        alike = np.min(lows, axis=0) == np.max(highs, axis=0)
        products = np.zeros((means.size, means.size))
        for block in feature_blocks(name, features):
            block -= means[:, None]
            products += block @ block.T
        lengths = np.sqrt(np.diagonal(products))
        lengths[alike] = np.nan
        with np.errstate(invalid="ignore", divide="ignore"):
            matrix = 1.0 - products / lengths[:, None] / lengths
        return [matrix[np.ix_(split.test, split.test)] for split in splits]

    def vectors(self, matrices: NDArray[np.float64], settings: ScoreSettings) -> NDArray[np.float64]:
        """Return upper triangles in the form whose cosine is ``rsa_comparison``.

        Pearson's correlation is the cosine of what is centred, Spearman's that of centred ranks (ties share
        their mean rank), ``"cosine"`` that of the dissimilarities themselves.
        """
        n, n_images, _ = matrices.shape
        rows, columns = np.triu_indices(n_images, k=1)
        triangles: NDArray[np.float64] = matrices.reshape(n, -1).take(rows * n_images + columns, axis=1)
        if settings.rsa_comparison == "spearman":
            triangles = _ranks(triangles)
        if settings.rsa_comparison != "cosine":
            triangles -= triangles.mean(axis=1, keepdims=True)
        clear_rounding(triangles, _ROUNDING, axis=1)
        return triangles

    def why_undefined(self, matrix: NDArray[np.float64]) -> str:
        """Return why a layer's dissimilarities cannot be compared."""
        alike = np.isnan(np.diagonal(matrix))
        if alike.all():
            return "undefined dissimilarities: no image has two different features"
        if alike.any():
            return f"undefined dissimilarities: {int(alike.sum())} images have no two different features"
        return "all dissimilarities are equal"

    def n_images_needed(self, settings: ScoreSettings) -> int:
        """Three images have three dissimilarities."""
        return 3


def _ranks(triangles: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.stats import rankdata

    ranks: NDArray[np.float64] = rankdata(np.round(triangles, _DECIMALS), axis=1)
    ranks[np.isnan(triangles).any(axis=1)] = np.nan
    return ranks


class CKA(Similarity):
    """Centred kernel alignment with a linear kernel.

    Kornblith, Norouzi, Lee and Hinton, "Similarity of neural network representations revisited" (2019): with
    the Gram matrices K and L of two populations that are centred over images, CKA is HSIC(K, L) over the root
    of HSIC(K, K) HSIC(L, L), and HSIC(K, L) is proportional to the sum of the products of their entries. CKA
    is thus the cosine of two Gram matrices.

    That HSIC is biased: with few images and many units it exceeds zero for unrelated populations, far enough
    to mistake noise for a model (400 random features reach about 0.3 to 0.4 on 118 images and a few hundred
    pooled units, 0.0 debiased). Values of biased CKA compare only between layers and populations of like
    size. The unbiased estimator (Song, Smola, Gretton, Bedo and Borgwardt 2012; used for CKA by Nguyen, Raghu
    and Kornblith 2021) is proportional to the sum of the products, off the diagonal, of U-centred matrices
    (Szekely and Rizzo 2014), so that debiased CKA is a cosine too. It can be negative.

    Only Gram matrices between images are formed, never matrices between units.
    """

    title = "CKA"
    from_coordinates = True
    n_units_needed = 1
    undefined = ExclusionReason.CONSTANT_RESPONSE

    def population_matrices(
        self, patterns: NDArray[np.float64], present: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Return Gram matrices of the images, in the squared units of measure of the responses.

        Units are centred over images. One that is not present is zero, and adds nothing, like one that
        responds alike to all images.
        """
        deviations = centre(patterns, axis=1)
        grams: NDArray[np.float64] = np.matmul(deviations, deviations.transpose(0, 2, 1))
        return grams

    def layer_matrices(
        self, name: str, features: LayerInput, splits: Sequence[ImageSplit]
    ) -> list[NDArray[np.float64]]:
        """Return Gram matrices of the features centred over test images; zero where these do not vary.

        Features are first rotated into few coordinates, so that Gram matrices are exact whatever their means.
        """
        layer = features if isinstance(features, LayerCoordinates) else layer_coordinates(name, features)
        rounding = max(layer.noise, CONSTANT * float(np.linalg.norm(layer.coordinates)))
        grams = []
        for split in splits:
            deviations = centre(layer.coordinates[split.test], axis=0)
            varies = np.linalg.norm(deviations, 2) > rounding
            grams.append(deviations @ deviations.T if varies else np.zeros(2 * (split.test.size,)))
        return grams

    def vectors(self, matrices: NDArray[np.float64], settings: ScoreSettings) -> NDArray[np.float64]:
        """Return flat matrices, with ``cka_debiased`` U-centred ones."""
        n = matrices.shape[0]
        if not settings.cka_debiased:
            return matrices.reshape(n, -1)
        largest = np.abs(matrices).reshape(n, -1).max(axis=1, keepdims=True)
        vectors = _u_centre(matrices).reshape(n, -1)
        clear_rounding(vectors, CONSTANT * largest, axis=1)
        return vectors

    def why_undefined(self, matrix: NDArray[np.float64]) -> str:
        """Return why a layer's Gram matrix cannot be compared."""
        if not matrix.any():
            return "constant features: the layer does not vary over the images"
        return "all distances between images are equal"

    def n_images_needed(self, settings: ScoreSettings) -> int:
        """Return the fewest images whose centred Gram matrices can differ in more than their scale."""
        return 4 if settings.cka_debiased else 3


def _u_centre(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centre so that the sum of products of two such matrices is unbiased; diagonals become zero."""
    n_images = matrices.shape[1]
    diagonal = np.arange(n_images)
    off = matrices.copy()
    off[:, diagonal, diagonal] = 0.0
    sums = off.sum(axis=2)
    totals = sums.sum(axis=1)[:, None, None] / ((n_images - 1) * (n_images - 2))
    off += totals - (sums[:, :, None] + sums[:, None, :]) / (n_images - 2)
    off[:, diagonal, diagonal] = 0.0
    return off


SIMILARITIES: dict[str, Similarity] = {"rsa": RSA(), "cka": CKA()}


def unit_length(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide each vector by its length; NaN if that is zero."""
    with np.errstate(invalid="ignore", divide="ignore"):
        lengths = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
        scaled: NDArray[np.float64] = vectors / lengths
    return scaled


def cosines(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Multiply matching vectors of length 1; ``second`` may be a single vector for all.

    One inner product after the other, so that none depends on how many are asked for.
    """
    products = np.matmul(first[:, None, :], second[..., :, None])[:, 0, 0]
    clipped: NDArray[np.float64] = np.clip(products, -1.0, 1.0)
    return clipped


def _first_missing(images: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first image that some unit misses, or -1, as an array of one."""
    missing = images[images >= 0]
    return np.array([missing.min() if missing.size else -1], dtype=np.int64)


@dataclass(frozen=True)
class PooledRecording:
    """Units of several animals side by side.

    Attributes
    ----------
    area
        Visual area.
    specimen
        :data:`POOLED_SPECIMEN`.
    unit_ids
        int64 (n_units,), animal after animal.
    responses
        (n_trials, n_images, n_units), NaN = missing.
    """

    area: str
    specimen: int
    unit_ids: NDArray[np.int64]
    responses: NDArray[np.float32]


def pool_animals(recordings: Sequence[RecordingLike]) -> list[PooledRecording]:
    """Pool the animals of every area, see :func:`~mvkit.scoring.protocol.pool_responses`.

    Animals were not recorded together; trials of different animals share only their number, and the trials
    of all animals are halved alike.

    Parameters
    ----------
    recordings
        Responses to the same images in the same order.

    Returns
    -------
    list of PooledRecording
        One per area, in the order in which areas first appear; units in the order given.
    """
    by_area: dict[str, list[RecordingLike]] = {}
    for recording in recordings:
        by_area.setdefault(recording.area, []).append(recording)
    return [
        PooledRecording(
            area,
            POOLED_SPECIMEN,
            np.concatenate([np.asarray(member.unit_ids, dtype=np.int64) for member in members]),
            pool_responses([member.responses for member in members]),
        )
        for area, members in by_area.items()
    ]
