"""The geometry of token representations by role: distances, similarity, mixing, a probe, and planes to plot.

All functions take float arrays of one layer. Distances are by cosine, not Euclidean, as residual streams grow with
depth.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def cosine_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """1 - cosine of two vectors, (..., d) each; 1 where one of them is 0."""
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.asarray(1 - (a * b).sum(-1) / np.where(lengths > 0, lengths, 1))


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear centred kernel alignment of two (n, d) matrices with paired rows (Kornblith et al. 2019, eq. 3).

    ||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F) of the centred matrices, from (n, n) Gram matrices. NaN where one is constant up
    to float32 rounding (a first token, which is the same in every example). With fewer rows than dimensions it is
    larger than many rows would give: compare layers, not studies.
    """
    a, b = (m - m.mean(0) for m in (x.astype(np.float64), y.astype(np.float64)))
    if any(np.linalg.norm(c) <= 1e-6 * np.linalg.norm(m) for c, m in ((a, x), (b, y))):
        return float("nan")
    k, m = a @ a.T, b @ b.T
    return float((k * m).sum() / (np.linalg.norm(k) * np.linalg.norm(m)))


def mixing(vectors: np.ndarray, roles: np.ndarray, neighbours: int) -> dict[str, tuple[float, float]]:
    """role -> (share of its tokens' nearest neighbours by cosine that have another role, the share by chance)."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30)
    closeness = unit @ unit.T
    np.fill_diagonal(closeness, -np.inf)
    k = min(neighbours, len(roles) - 1)
    nearest = np.argsort(-closeness, axis=-1, kind="stable")[:, :k]
    has_other_role = (roles[nearest] != roles[:, None]).mean(-1)
    by_role = {}
    for role in np.unique(roles):
        of_role = roles == role
        by_role[str(role)] = (float(has_other_role[of_role].mean()), float((~of_role).sum() / (len(roles) - 1)))
    return by_role


def probe(vectors: np.ndarray, roles: np.ndarray, held_out: np.ndarray) -> tuple[np.ndarray, int] | None:
    """Which held-out tokens a linear classifier of roles gets right, (held-out tokens,) bool, and how many of them have
    the commonest role.

    Logistic regression on standardised vectors (scikit-learn's defaults). held_out: (n,) bool. None where the training
    tokens have a single role, or nothing is held out.
    """
    from sklearn.linear_model import LogisticRegression

    train, test = vectors[~held_out], vectors[held_out]
    if not len(test) or len(np.unique(roles[~held_out])) < 2:
        return None
    spread = train.std(0)
    centre, scale = train.mean(0), np.where(spread > 1e-6, spread, 1)
    model = LogisticRegression(max_iter=2000).fit((train - centre) / scale, roles[~held_out])
    right: np.ndarray = model.predict((test - centre) / scale) == roles[held_out]
    commonest = int(np.unique(roles[held_out], return_counts=True)[1].max())
    return right, commonest


def pca(vectors: np.ndarray, like: np.ndarray | None = None) -> np.ndarray:
    """(n, 2) coordinates on the two principal axes, each axis turned so that its largest loading is positive.

    like: other vectors, (m, d), on whose axes and from whose mean; by default these.
    """
    of_axes = (vectors if like is None else like).astype(np.float64)
    centre = of_axes.mean(0)
    _, s, axes = np.linalg.svd(of_axes - centre, full_matrices=False)
    flat = np.zeros((len(vectors), 2))
    for i in range(min(2, len(s))):
        flat[:, i] = (vectors - centre) @ axes[i] * np.sign(axes[i, np.abs(axes[i]).argmax()])
    return flat


def tsne(vectors: np.ndarray, seed: int, like: np.ndarray | None = None) -> np.ndarray:
    """(n, 2) coordinates by t-SNE, started from `pca`; perplexity 30, or a third of the tokens if few."""
    from sklearn.manifold import TSNE

    start = pca(vectors, like)
    start = start / max(start[:, 0].std(), 1e-30) * 1e-4
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    model = TSNE(init=start.astype(np.float32), perplexity=perplexity, random_state=seed, learning_rate="auto")
    return np.asarray(model.fit_transform(vectors.astype(np.float32)), dtype=np.float64)


def umap(vectors: np.ndarray, seed: int, like: np.ndarray | None = None) -> np.ndarray:
    """(n, 2) coordinates by UMAP (McInnes et al. 2018) with its defaults, started from `pca`; 15 neighbours, or all of
    the others if few."""
    from umap import UMAP

    start = pca(vectors, like)
    start = start / max(np.abs(start).max(), 1e-30) * 10  # what its own start is scaled to
    model = UMAP(n_neighbors=min(15, len(vectors) - 1), init=start.astype(np.float32), random_state=seed, n_jobs=1)
    return np.asarray(model.fit_transform(vectors.astype(np.float32)), dtype=np.float64)


def plane(projection: str, vectors: np.ndarray, seed: int, like: np.ndarray | None = None) -> np.ndarray:
    """(n, 2) coordinates by a projection, "pca", "tsne" or "umap".

    like: the same tokens under another condition, (n, d): `pca` is on their axes, and the others start there, so that
    the planes can be compared.
    """
    if projection == "pca":
        return pca(vectors, like)
    return (tsne if projection == "tsne" else umap)(vectors, seed, like)


def to_cluster(vectors: Mapping[str, np.ndarray], anchor: str) -> dict[str, np.ndarray]:
    """role -> (n,) cosine distance of each of its tokens from the centroid of the anchor's tokens."""
    centre = vectors[anchor].mean(0)
    return {role: cosine_distance(role_vectors, centre) for role, role_vectors in vectors.items()}
