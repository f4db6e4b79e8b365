"""How good `duplicates` is: what it finds of planted copies, what it says of other pictures.

    >>> from batik_utils.duplicates.pairs import duplicate_check
    >>> kinds, limits = duplicate_check.check(dataset, looks, gallery, edges)

The thresholds of `duplicates` and `features` were set on such tables of round 0, and by looking at
the pairs found among the real pictures; the tables are written for round 1, other copies of other
pictures, which set nothing.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from batik_utils.data import Dataset
from batik_utils.duplicates import local_features as features
from batik_utils.duplicates import pairs as duplicates
from batik_utils.duplicates import planted
from batik_utils.duplicates.pairs import Comparison, Gallery, Look
from batik_utils.images import files

#: Copies of each kind, and random pairs of each sort.
PER_KIND, RANDOM_PAIRS = 24, 600
#: Which copies and pairs are drawn; 0 is what the thresholds were set on.
ROUND = 1

_LIMITS = {
    "hash": duplicates.MIN_HASH,
    "correlation": duplicates.MIN_CORRELATION,
    "inliers": features.MIN_INLIERS,
    "spread": features.MIN_SPREAD,
    "aligned": features.MIN_ALIGNED,
    "overlap": features.MIN_OVERLAP,
}


@dataclass(frozen=True, eq=False)
class Copy:
    """A planted duplicate: what was done, to which picture (manifest position), and its look."""

    kind: str
    source: int
    look: Look


def plant_all(dataset: Dataset, per_kind: int = PER_KIND, *, progress: bool = True) -> list[Copy]:
    """Plant copies of pictures of the data set.

    Args:
        dataset: the data set.
        per_kind: copies of each kind, each of another picture. Which one, and how it is changed,
            follows from the pictures' content, not from their order.
        progress: show a bar.
    """
    digests = dataset.manifest["sha256"].tolist()
    jobs = [
        (kind, i)
        for kind in planted.KINDS
        for i in sorted(range(len(digests)), key=lambda i: _draw(kind, digests[i]))[:per_kind]
    ]

    def one(job: tuple[str, int]) -> Copy:
        kind, i = job
        picture = files.open_image(dataset.paths[i], at_least=features.SIDE)
        copy = planted.plant(kind, picture, _draw(kind, digests[i]) % 2**32)
        return Copy(kind, i, duplicates.look(copy, f"{kind} of {digests[i]}"))

    return list(duplicates.in_threads(one, jobs, "Planting copies", "picture", progress))


def check(
    dataset: Dataset,
    looks: Sequence[Look],
    gallery: Gallery,
    edges: pd.DataFrame,
    per_kind: int = PER_KIND,
    *,
    progress: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure recall and precision on planted copies, end to end, and on random pairs.

    A copy is compared with whatever the shortlist gives of the whole data set. Finding its source,
    or a direct twin of the source, is right; finding anything else is false.

    Args:
        dataset: the data set.
        looks: of `duplicates.look_all`.
        gallery: of these looks.
        edges: of `duplicates.find`; with ``seen``, an edge judged false is no twin.
        per_kind: copies of each kind.
        progress: show bars.

    Returns:
        Two tables. One row a kind: ``kind, n, found, recall, hash, correlation, features`` (recall
        of each method alone), ``false, precision``; the last two rows are random pairs of pictures
        of one motif and of two, where nothing should be found. And one row a quantity: ``quantity,
        threshold``, then its quantiles over copies and over random pairs.
    """
    copies = plant_all(dataset, per_kind, progress=progress)
    twins = _twins(dataset, edges)
    shortlists = gallery.candidates([copy.look for copy in copies], progress=progress)
    rows, of_copies = [], []
    bar = zip(copies, shortlists, strict=True)
    for copy, shortlist in tqdm(
        bar, total=len(copies), desc="Looking for copies", unit="copy", disable=not progress
    ):
        compared = {int(j): duplicates.compare(copy.look, looks[j]) for j in shortlist}
        called = {j for j, comparison in compared.items() if comparison.method}
        source = compared.get(copy.source) or duplicates.compare(copy.look, looks[copy.source])
        of_copies.append(source)
        rows.append(
            {
                "kind": copy.kind,
                "found": copy.source in called,
                **_each_method(source),
                "false": len(called - {copy.source} - twins[copy.source]),
            }
        )
    table = pd.DataFrame(rows)
    kinds = table.groupby("kind", sort=False).agg(
        n=("found", "size"),
        found=("found", "sum"),
        recall=("found", "mean"),
        hash=("hash", "mean"),
        correlation=("correlation", "mean"),
        features=("features", "mean"),
        false=("false", "sum"),
    )
    kinds.loc["all copies"] = [
        *kinds[["n", "found"]].sum(),
        *table[["found", "hash", "correlation", "features"]].mean(),
        kinds["false"].sum(),
    ]
    kinds["precision"] = kinds["found"] / (kinds["found"] + kinds["false"])
    of_random = {}
    for name, pairs in _random_pairs(dataset).items():
        compared = list(
            duplicates.in_threads(
                lambda pair: duplicates.compare(looks[pair[0]], looks[pair[1]]),
                pairs,
                f"Random pairs, {name}",
                "pair",
                progress,
            )
        )
        false = sum(
            bool(c.method) and j not in twins[i] for (i, j), c in zip(pairs, compared, strict=True)
        )
        # a true twin that was drawn by chance says nothing of different pictures
        of_random[name] = [
            c for (i, j), c in zip(pairs, compared, strict=True) if j not in twins[i]
        ]
        kinds.loc[f"random pairs, {name}", ["n", "false"]] = [len(of_random[name]), false]
    kinds = kinds.round(3).reset_index()
    kinds = kinds.astype({"n": int, "found": "Int64", "false": int})
    return kinds, _limits(of_copies, of_random)


def _draw(kind: str, sha256: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{ROUND} {kind} {sha256}".encode()).digest()[:8], "big")


def _each_method(comparison: Comparison) -> dict[str, bool]:
    return {
        "hash": comparison.hash >= duplicates.MIN_HASH,
        "correlation": comparison.correlation >= duplicates.MIN_CORRELATION,
        "features": features.is_same(comparison.verification),
    }


def _twins(dataset: Dataset, edges: pd.DataFrame) -> list[set[int]]:
    """Return the direct twins of every picture, as manifest positions."""
    place = {path: i for i, path in enumerate(dataset.manifest["path"])}
    twins: list[set[int]] = [set() for _ in place]
    if "seen" in edges:
        edges = edges[edges["seen"] != "false"]
    for a, b in zip(edges["path_a"], edges["path_b"], strict=True):
        twins[place[a]].add(place[b])
        twins[place[b]].add(place[a])
    return twins


def _random_pairs(dataset: Dataset) -> dict[str, list[tuple[int, int]]]:
    manifest = dataset.manifest
    # in the order of the content, so that the same pictures give the same pairs
    order = np.argsort(manifest["sha256"].to_numpy(), kind="stable")
    motif = manifest["motif"].to_numpy()
    rng = np.random.default_rng(ROUND)
    drawn: dict[str, set[tuple[int, int]]] = {"same motif": set(), "other motif": set()}
    for _ in range(200 * RANDOM_PAIRS):
        i, j = order[np.sort(rng.choice(len(order), 2, replace=False))]
        kind = drawn["same motif" if motif[i] == motif[j] else "other motif"]
        if len(kind) < RANDOM_PAIRS:
            kind.add((int(i), int(j)))
        elif min(map(len, drawn.values())) == RANDOM_PAIRS:
            break
    return {name: sorted(pairs) for name, pairs in drawn.items()}


def _limits(copies: list[Comparison], random: dict[str, list[Comparison]]) -> pd.DataFrame:
    def values(comparisons: list[Comparison]) -> pd.DataFrame:
        return pd.DataFrame([duplicates.numbers_of(c) for c in comparisons])[list(_LIMITS)]

    table = pd.DataFrame({"threshold": pd.Series(_LIMITS)})
    for share in (0.1, 0.5):
        table[f"copies_{share:.0%}".replace("%", "pct")] = values(copies).quantile(share)
    for name, comparisons in random.items():
        column = name.replace(" ", "_")
        if comparisons:
            table[f"{column}_50pct"] = values(comparisons).quantile(0.5)
            table[f"{column}_max"] = values(comparisons).max()
    return table.round(3).rename_axis("quantity").reset_index()
