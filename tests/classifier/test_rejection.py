"""None of these: thresholds by hand, scores on clouds of points."""

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis as reference
from scipy.special import logsumexp

from batik_utils.classifier import rejection
from batik_utils.errors import BatikError


@pytest.fixture
def clouds():
    """Three known clouds on one side, others on the other; 20 directions, 4 of them told."""
    rng = np.random.default_rng(0)

    def draw(n, centre):
        return rng.normal(size=(n, 20)) + np.r_[centre, np.zeros(16)]

    centres = np.array([[4, 3, 0, 0], [4, 0, 3, 0], [4, 0, 0, 3]])
    known = np.concatenate([draw(20, c) for c in centres])
    fresh = np.concatenate([draw(20, c) for c in centres])
    other, foreign = draw(60, np.zeros(4)), draw(60, np.array([-2, 0, 0, 0]))
    return known, np.repeat([0, 1, 2], 20), other, fresh, foreign


@pytest.mark.parametrize("name", [n for n in rejection.SCORES if n != "max_probability"])
def test_every_score_ranks_known_pictures_higher(name, clouds):
    known, labels, other, fresh, foreign = clouds
    score = rejection.SCORES[name](known, labels, other)
    assert rejection.auroc(score(fresh), score(foreign)) > 0.75


def test_the_combined_score_is_the_sum_that_it_says(clouds):
    known, labels, other, fresh, foreign = clouds
    where = slice(0, 5), slice(None)
    score = rejection.combined(known, labels, other, (known + 0.2,), where)
    far = fresh - 50
    for x in (fresh, foreign, far):
        energy = logsumexp(score.motifs.logits(x), axis=1) / score.spread[0]
        told = score.background.logits(x) @ [-1, 1] / score.spread[1]
        lost = sum(np.maximum(0, n.start - n.typical(x[:, n.where])) / n.unit for n in score.near)
        assert np.allclose(score(x), energy + told - rejection.LOSS * lost)
    for near, part in zip(score.near, where, strict=True):
        assert near.where == part and (near.too_far(far) > 0).all()
        assert (near.too_far(fresh) > 0).mean() < 0.2  # few known pictures are called too far
    # copies move the energy alone
    plain = rejection.combined(known, labels, other, (), where)
    assert np.array_equal(plain.background.weight, score.background.weight)
    assert not np.allclose(plain.motifs.weight, score.motifs.weight)


def test_the_largest_probability_is_one(clouds):
    known, labels, other, fresh, _ = clouds
    values = rejection.max_probability(known, labels, other)(fresh)
    assert (values > 1 / 3).all() and (values <= 1).all()


def test_mahalanobis_is_scipys_with_a_ridge(clouds):
    known, labels, other, fresh, _ = clouds
    means = np.stack([known[labels == c].mean(0) for c in range(3)])
    residuals = known - means[labels]
    inverse = np.linalg.inv(residuals.T @ residuals / len(known) + rejection.RIDGE * np.eye(20))
    expected = [-min(reference(x, mean, inverse) ** 2 for mean in means) for x in fresh]
    assert np.allclose(rejection.mahalanobis(known, labels, other)(fresh), expected)


def test_nearest_of_a_known_picture_itself_is_one():
    known = np.array([[1.0, 0.0], [0.0, 2.0]])
    score = rejection.nearest(known, np.array([0, 1]), known, k=1)
    assert np.allclose(score(np.array([[3.0, 0.0], [1.0, 1.0]])), [1, np.sqrt(0.5)])


def test_threshold_keeps_the_share_it_promises():
    known = np.arange(20.0)
    threshold = rejection.threshold_at_recall(known, 0.95)
    assert threshold == 1 and (known >= threshold).mean() == 0.95
    assert rejection.threshold_at_recall(known, 1.0) == 0
    assert rejection.false_positive_rate(known, np.array([0.0, 0.5, 1.0, 7.0]), 0.95) == 0.5


def test_auroc_counts_ties_half():
    assert rejection.auroc(np.array([1.0, 2.0]), np.array([1.0, 0.0])) == 0.875


def test_accuracy_coverage_of_three_pictures():
    covered, accuracy = rejection.accuracy_coverage(
        np.array([True, False, True]), np.array([0.9, 0.1, 0.5])
    )
    assert covered.tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    assert accuracy.tolist() == pytest.approx([1, 1, 2 / 3])


def test_nothing_to_compare_is_an_error():
    with pytest.raises(BatikError, match="known and other"):
        rejection.auroc(np.array([]), np.array([1.0]))
    with pytest.raises(BatikError, match="recall"):
        rejection.threshold_at_recall(np.array([1.0]), 0)
