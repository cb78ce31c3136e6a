"""The formulas of ADM's evaluator in plain NumPy and float64, as a second opinion."""

import numpy as np


def frechet_distance(mean, covariance, other_mean, other_covariance):
    """|m1 - m2|² + tr S1 + tr S2 - 2 tr (S1 S2)^½; the trace of the root is the sum of the roots of
    the eigenvalues of the product, which may be singular here."""
    difference = mean - other_mean
    values = np.linalg.eigvals(covariance @ other_covariance).real
    root = np.sqrt(np.maximum(values, 0)).sum()
    return float(difference @ difference + np.trace(covariance + other_covariance) - 2 * root)


def moments(features):
    return features.mean(0), np.cov(features, rowvar=False)


def inception_score(logits, size):
    """Mean over runs of `size` rows of exp mean sum p (log p - log mean p)."""
    scores = []
    for first in range(0, len(logits), size):
        part = logits[first : first + size]
        p = np.exp(part - part.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        divergence = p * (np.log(p) - np.log(p.mean(0, keepdims=True)))
        scores.append(np.exp(divergence.sum(1).mean()))
    return float(np.mean(scores))


def squared_distances(x, y):
    return ((x[:, None] - y[None]) ** 2).sum(2)


def precision_recall(real, fake, k):
    """Shares of fakes within the ball of some real, and of reals within the ball of some fake; a
    ball reaches to the k-th nearest other point of its own set."""
    radii = [np.sort(squared_distances(x, x), axis=1)[:, k] for x in (real, fake)]
    between = squared_distances(real, fake)
    precision = (between <= radii[0][:, None]).any(0).mean()
    recall = (between <= radii[1][None]).any(1).mean()
    return float(precision), float(recall)
