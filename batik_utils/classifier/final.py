"""The deployed model: one network of frozen ImageNet layers and a few linear functions.

Run it::

    python -m batik_utils build --data folder --root path/to/indonesian-batik-motifs

A uint8 picture (448 px, squashed) goes in; calibrated probabilities of the motifs and a familiarity
come out. All is decided by `batik_utils.selection` and `batik_utils.rejection` on features that are
computed once and kept in the cache folder. Introduced in notebook 05.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from PIL import Image
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor, nn
from tqdm.auto import tqdm

from batik_utils import baselines
from batik_utils.classifier import embedding, rejection, selection
from batik_utils.classifier.embedding import Branch
from batik_utils.data import Dataset
from batik_utils.errors import BatikError
from batik_utils.images import cache, changes

#: All places where maps are read before anything is chosen.
BRANCHES = (
    Branch("efficientnet_lite0", (2, 3, 4, 5, 6)),
    Branch("mobilenet_v2", (6, 10, 13, 16, 17)),
)
#: Which of the five places make a set of features.
_TAPS = {"last": (4,), "three": (1, 3, 4), "five": (0, 1, 2, 3, 4)}
#: Sets of features to choose from: which backbones, and which of the five places.
_SETS = (
    ("efficientnet_lite0", "three"),
    ("efficientnet_lite0", "five"),
    ("mobilenet_v2", "three"),
    ("both", "three"),
    ("both", "last"),
)
#: Heads to choose from; logistic regression was tried before (``ablation.csv``).
HEADS = (baselines.Head("lda", 0.3), baselines.Head("lda", 1.0))
#: Pictures of other motifs are set aside in this many lots, whole motifs together.
LOTS = 5
RECALL = 0.95
#: Changed copies of each picture that are learned from.
COPIES = 2
#: Of the division of other motifs' pictures, and of other motifs into lots.
SEED = 0


def subsets() -> dict[str, tuple[Branch, ...]]:
    """Return the sets of features to choose from, by name: backbones, and where they are read."""
    found = {}
    for recipe, taps in _SETS:
        found[f"{recipe}/{taps}"] = tuple(
            Branch(branch.recipe, tuple(branch.taps[i] for i in _TAPS[taps]))
            for branch in BRANCHES
            if recipe in (branch.recipe, "both")
        )
    return found


class FinalNetwork(nn.Module):
    """Pixels to probabilities and familiarity.

    Args:
        network: pixels to features (N, F).
        motifs: logits of the motifs, on raw features.
        temperature: by which these logits are divided.
        familiarity: of scaled features.
        scaler: of the features, for the familiarity.
    """

    #: Names of its own numbers, beside the network's.
    OWN = re.compile(
        r"weight|bias|spread"
        r"|distances\.\d+\.(where|centre|scale|means|axes|shrink|start|unit)"
    )

    def __init__(
        self,
        network: nn.Module,
        motifs: baselines.Linear,
        temperature: float,
        familiarity: rejection.Familiarity,
        scaler: baselines.Scaler,
    ):
        super().__init__()
        self.network = network
        energy = baselines.rescaled(familiarity.motifs, scaler)
        background = baselines.rescaled(familiarity.background, scaler)
        # one product for all linear functions: motifs, energy, known less other
        weight = np.concatenate(
            [
                motifs.weight / temperature,
                energy.weight,
                background.weight[:, 1:] - background.weight[:, :1],
            ],
            axis=1,
        )
        bias = np.concatenate(
            [motifs.bias / temperature, energy.bias, background.bias[1:] - background.bias[:1]]
        )
        self.classes = motifs.weight.shape[1]
        self.register_buffer("weight", torch.tensor(weight, dtype=torch.float32))
        self.register_buffer("bias", torch.tensor(bias, dtype=torch.float32))
        self.register_buffer("spread", torch.tensor(familiarity.spread, dtype=torch.float32))
        self.distances = nn.ModuleList(Distance(near, scaler) for near in familiarity.near)
        self.eval()

    @classmethod
    def filled(cls, network: nn.Module, state: dict[str, Tensor]) -> "FinalNetwork":
        """Return a network with saved numbers, without anything being fitted.

        Args:
            network: pixels to features, of the right form; its numbers are replaced.
            state: as of ``state_dict``; float16 becomes float32.

        Raises:
            BatikError: the numbers do not fit the network.
        """
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model.network = network.eval()
        model.distances = nn.ModuleList()
        for name in filter(cls.OWN.fullmatch, sorted(state)):
            *place, own = name.split(".")
            while place and int(place[1]) >= len(model.distances):
                model.distances.append(Distance.__new__(Distance))
                nn.Module.__init__(model.distances[-1])
            model.get_submodule(".".join(place)).register_buffer(own, torch.empty_like(state[name]))
        # counted while training, used by nothing here
        state = state | {
            name: tensor
            for name, tensor in model.state_dict().items()
            if name.endswith("num_batches_tracked")
        }
        try:
            model.load_state_dict(state)
            model.classes = len(model.distances[0].means)
            # sizes of its own numbers are only known to be right when they have been used
            with torch.inference_mode():
                model(torch.zeros(2, 64, 64, 3, dtype=torch.uint8))
        except (RuntimeError, AttributeError, TypeError, IndexError) as error:
            first = " ".join(str(error).split())[:200]
            raise BatikError(f"These numbers are not of this network: {first}") from error
        return model.eval()

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, K) probabilities and (N,) familiarity of uint8 pixels (N, S, S, 3)."""
        return self.answer(self.network(pixels))

    def answer(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same from features (N, F)."""
        k = self.classes
        values = features @ self.weight + self.bias
        energy = torch.logsumexp(values[:, k:-1], 1)
        familiarity = energy / self.spread[0] + values[:, -1] / self.spread[1]
        too_far = torch.stack([distance(features) for distance in self.distances]).sum(0)
        return torch.softmax(values[:, :k], 1), familiarity - rejection.LOSS * too_far


class Distance(nn.Module):
    """How much too far features (N, F) lie, see `rejection.Nearness`."""

    def __init__(self, near: rejection.Nearness, scaler: baselines.Scaler):
        super().__init__()
        self.register_buffer("where", torch.arange(len(scaler.mean))[near.where])
        typical = near.typical
        for name, values in (
            ("centre", scaler.mean[near.where]),
            ("scale", scaler.scale[near.where]),
            ("means", typical.means),
            ("axes", typical.axes),
            ("shrink", typical.shrink),
            ("start", near.start),
            ("unit", near.unit),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))

    def forward(self, features: Tensor) -> Tensor:
        """Return (N,), 0 or more."""
        near = (features.index_select(1, self.where) - self.centre) / self.scale
        gaps = near[:, None] - self.means  # (N, K, F)
        lengths = gaps.square().sum(2) - (gaps @ self.axes).square() @ self.shrink
        nearness = -lengths.amin(1) / rejection.RIDGE
        return torch.relu((self.start - nearness) / self.unit)


@dataclass(frozen=True)
class Material:
    """Features of everything that the final model learns from or is tested on.

    Attributes:
        paths: (N,) of the pictures of the motifs.
        labels: (N,) class indices.
        groups: (N,) groups of near-twins.
        features: (N, F).
        copies: each (N, F), of changed copies of the pictures (`batik_utils.views`).
        others: one row a picture of another motif: ``path, motif, group``; none is a near-twin of
            a picture of the motifs.
        other_features: (M, F).
        foreign: name to features of pictures that show no batik.
        columns: of the features, by set.
        typical: where among a set's columns distances to the motifs are measured, by set.
        parameters: of the backbones, cut after their last place, by set.
        provenance: where the backbones' weights come from.
    """

    paths: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    features: np.ndarray = field(repr=False)
    copies: tuple[np.ndarray, ...] = field(repr=False)
    others: pd.DataFrame = field(repr=False)
    other_features: np.ndarray = field(repr=False)
    foreign: dict[str, np.ndarray] = field(repr=False)
    columns: dict[str, np.ndarray] = field(repr=False)
    typical: dict[str, tuple[slice, ...]] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    provenance: tuple[str, ...] = ()

    def bank(self, subsets: Collection[str] | None = None) -> selection.Bank:
        """Return what selection works on; other motifs' pictures alone scale the features.

        Args:
            subsets: sets of features; None for all.
        """
        wanted = self.columns if subsets is None else subsets
        return selection.Bank.of(
            self.features,
            self.other_features,
            {name: self.columns[name] for name in wanted},
            self.labels,
            self.groups,
            self.copies,
        )


def other_pictures(groups: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Return pictures of other motifs that are no near-twins of one of the motifs.

    Args:
        groups: ``path, motif, group`` over all motifs (``duplicate_groups.csv``).
        classes: the motifs.

    Raises:
        BatikError: there are none.
    """
    ours = set(groups.loc[groups["motif"].isin(classes), "group"])
    others = groups[~groups["motif"].isin(classes) & ~groups["group"].isin(ours)]
    if others["motif"].nunique() < 2:
        raise BatikError(
            f"'None of these' is learned from pictures of other motifs than {', '.join(classes)}, "
            f"and there are {len(others)}: use a data folder with more motifs, and run "
            f"'python -m batik_utils audit' on it."
        )
    return others.reset_index(drop=True)


def gather(
    dataset: Dataset,
    groups: pd.DataFrame,
    weights_directory: str | Path | None = None,
    *,
    foreign: dict[str, Sequence[Path | Image.Image]] | None = None,
    branches: Sequence[Branch] = BRANCHES,
    sets: dict[str, tuple[Branch, ...]] | None = None,
    size: int = embedding.SIZE,
    copies: int = COPIES,
    progress: bool = True,
) -> Material:
    """Compute all features; what was computed before is taken from the cache folder.

    Args:
        dataset: pictures of the motifs.
        groups: near-twins over all motifs below the same root.
        weights_directory: folder to look for pretrained weights first.
        foreign: pictures that show no batik, by kind, for tests alone.
        branches: all backbones and taps.
        sets: sets of features to choose from; None for `subsets`.
        size: side of the square (px).
        copies: changed copies of each picture.
        progress: show bars.
    """
    network = embedding.build(branches, weights_directory)
    widths = network.widths()
    sets = subsets() if sets is None else sets
    columns = {name: embedding.columns(branches, widths, cut) for name, cut in sets.items()}
    paths = dataset.manifest["path"].to_numpy()
    group_of = dict(zip(groups["path"], groups["group"], strict=True))
    if missing := [path for path in paths if path not in group_of]:
        raise BatikError(
            f"{len(missing)} pictures have no group of near-twins (first: {missing[0]}): run "
            f"'python -m batik_utils audit' first."
        )
    others = other_pictures(groups, dataset.classes)
    store = FeatureCache(network, size)
    return Material(
        paths=paths,
        labels=np.asarray(dataset.labels),
        groups=np.asarray([group_of[path] for path in paths]),
        features=store.features(dataset.paths, progress=progress),
        copies=tuple(
            store.features(dataset.paths, copy=k, progress=progress) for k in range(1, copies + 1)
        ),
        others=others,
        other_features=store.features(
            [dataset.root / p for p in others["path"]], progress=progress
        ),
        foreign={
            kind: store.features(found, progress=progress)
            for kind, found in (foreign or {}).items()
        },
        columns=columns,
        typical={name: near_places(branches, widths, cut) for name, cut in sets.items()},
        parameters={name: embedding.parameters(network, branches, c) for name, c in sets.items()},
        provenance=network.provenance,
    )


def near_places(
    branches: Sequence[Branch], widths: Sequence[Sequence[int]], cut: Sequence[Branch]
) -> tuple[slice, slice]:
    """Return where a set's columns of its first backbone are, and those of its last place alone.

    Distances are measured there: the last place tells photographs of other things, all places
    plain textures; with the second backbone's columns both were told less well.

    Args:
        branches: all backbones and places.
        widths: channels of each place.
        cut: those of the set.
    """
    columns = embedding.columns(branches, widths, cut)
    found = []
    for taps in (cut[0].taps, cut[0].taps[-1:]):
        wanted = embedding.columns(branches, widths, [Branch(cut[0].recipe, taps)])
        place = np.flatnonzero(np.isin(columns, wanted))
        found.append(slice(int(place[0]), int(place[-1]) + 1))
    return found[0], found[1]


class FeatureCache:
    """Features by the content of the file, kept in ``BATIK_CACHE_DIR``; safe to interrupt.

    Args:
        network: pixels to features; another one has another cache.
        size: side of the square (px).
    """

    #: Pictures between two savings.
    STRIDE = 40

    def __init__(self, network: nn.Module, size: int):
        self.network = network
        self.size = size
        digest = hashlib.sha256(f"{size} {embedding.INTERPOLATION}".encode())
        for name, tensor in network.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.numpy().tobytes())
        self.path = cache.cache_folder() / "features" / f"{digest.hexdigest()[:16]}.npz"

    def features(
        self, sources: Sequence[Path | Image.Image], *, copy: int = 0, progress: bool = True
    ) -> np.ndarray:
        """Return (N, F) features of pictures, or of a changed copy of each.

        Args:
            sources: picture files, or opened RGB pictures.
            copy: 0 for the pictures; else the number of the copy, which decides, with the place in
                ``sources``, how it is changed.
            progress: show a bar.

        Raises:
            ImageError: a file is no whole picture.
        """
        names = [_content(source) for source in sources]
        if copy:
            names = [f"{name} copy {copy} of {i}" for i, name in enumerate(names)]
        known = self._read()
        missing = [i for i, name in enumerate(names) if name not in known]
        starts = range(0, len(missing), self.STRIDE)
        for start in tqdm(starts, desc="Features", unit="lot", disable=not progress or not missing):
            lot = missing[start : start + self.STRIDE]
            rows = embedding.features_of(
                self.network,
                [sources[i] for i in lot],
                _copier(copy, lot) if copy else None,
                size=self.size,
                progress=False,
            )
            known.update(zip((names[i] for i in lot), rows, strict=True))
            self._write(known)
        return np.stack([known[name] for name in names])

    def _read(self) -> dict[str, np.ndarray]:
        if not self.path.is_file():
            return {}
        with np.load(self.path) as saved:
            return dict(zip(saved["names"].tolist(), saved["rows"], strict=True))

    def _write(self, known: dict[str, np.ndarray]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock")):
            known = self._read() | known  # another process may have added some
            part = self.path.with_suffix(".part.npz")
            np.savez(part, names=np.array(list(known)), rows=np.stack(list(known.values())))
            part.replace(self.path)


def _content(source: Path | Image.Image) -> str:
    """Return the sha256 of a file, or of an opened picture's size and pixels."""
    if isinstance(source, Image.Image):
        return hashlib.sha256(f"{source.size} ".encode() + source.tobytes()).hexdigest()
    return hashlib.sha256(Path(source).read_bytes()).hexdigest()


def changed_copy(picture: Image.Image, copy: int, place: int) -> Image.Image:
    """Return the changed copy of a picture that features are computed of.

    Args:
        picture: RGB.
        copy: its number, from 1.
        place: of the picture in its data set.
    """
    return changes.changed(picture, np.random.default_rng([copy, place]))


def _copier(copy: int, lot: Sequence[int]) -> Callable[[Image.Image, int], Image.Image]:
    def change(picture: Image.Image, index: int) -> Image.Image:
        return changed_copy(picture, copy, lot[index])

    return change


@dataclass(frozen=True)
class Rejection:
    """How well scores tell pictures that they never saw.

    Attributes:
        table: one row a score and kind of other pictures: ``score, other, n_known, n_other, auroc,
            fpr_at_95, fpr_at_90``.
        known: by score, (N,) of the pictures of the motifs while they were not learned from.
        other: by score, (M,) of other motifs' pictures while they were not learned from.
    """

    table: pd.DataFrame
    known: dict[str, np.ndarray]
    other: dict[str, np.ndarray]


def scores_of(material: Material, subset: str) -> dict:
    """Return `rejection.SCORES` for a set of features: the combined one measures distance in it."""
    where = material.typical[subset]
    return {**rejection.SCORES, "combined": partial(rejection.combined, where=where)}


def leave_motifs_out(
    material: Material,
    fold_of: np.ndarray,
    columns: np.ndarray,
    scores: dict | None = None,
    seed: int = SEED,
) -> Rejection:
    """Test scores on pictures of motifs that they did not learn from.

    Other motifs are divided at random into `LOTS` lots. While a fold of the motifs' pictures is
    tested, one lot is, too: nothing of its motifs, nor a near-twin, is learned from.

    Args:
        material: features.
        fold_of: (N,) fold in which a picture of the motifs is tested.
        columns: which features.
        scores: as `rejection.SCORES`, which None stands for.
        seed: of the lots.
    """
    motifs = np.random.default_rng(seed).permutation(sorted(material.others["motif"].unique()))
    lot_of = material.others["motif"].map({m: i % LOTS for i, m in enumerate(motifs)}).to_numpy()
    held = {fold: lot_of == fold % LOTS for fold in np.unique(fold_of)}
    return _tested(material, fold_of, columns, scores, held, "other motifs", {})


def leave_pictures_out(
    material: Material,
    fold_of: np.ndarray,
    columns: np.ndarray,
    scores: dict | None = None,
    seed: int = SEED,
) -> Rejection:
    """Test scores on new pictures of other motifs that they know, and on what is no batik.

    Other motifs' pictures are divided into as many folds as the motifs', each motif evenly and
    near-twins together; the tested fold is not learned from. Pictures that show no batik never are.

    Args:
        material: features.
        fold_of: (N,) fold in which a picture of the motifs is tested.
        columns: which features.
        scores: as `rejection.SCORES`, which None stands for.
        seed: of the division.
    """
    folds = np.unique(fold_of)
    division = StratifiedGroupKFold(len(folds), shuffle=True, random_state=seed)
    others, held = material.others, {}
    split = division.split(others, others["motif"], others["group"])
    for fold, (_, inside) in zip(folds, split, strict=True):
        held[fold] = np.isin(np.arange(len(others)), inside)
    return _tested(material, fold_of, columns, scores, held, "known other motifs", material.foreign)


def _tested(
    material: Material,
    fold_of: np.ndarray,
    columns: np.ndarray,
    scores: dict | None,
    held_in: dict[int, np.ndarray],
    kind_of_others: str,
    foreign: dict[str, np.ndarray],
) -> Rejection:
    """Test scores; ``held_in`` tells by fold which other pictures are tested (M,)."""
    scores = rejection.SCORES if scores is None else scores
    scaler = baselines.Scaler.of(material.other_features[:, columns])
    known, other, *copies = (
        scaler(x[:, columns])
        for x in (material.features, material.other_features, *material.copies)
    )
    foreign = {kind: scaler(x[:, columns]) for kind, x in foreign.items()}
    twins = material.others["group"]
    of_known = {name: np.full(len(known), np.nan) for name in scores}
    of_other: dict[str, list] = {name: [[] for _ in range(len(other))] for name in scores}
    of_foreign: dict[tuple[str, str], list] = {(n, k): [] for n in scores for k in foreign}
    for fold in np.unique(fold_of):
        tested, held = fold_of == fold, held_in[fold]
        learned = ~held & ~twins.isin(set(twins[held])).to_numpy()
        for name, fit in scores.items():
            score = fit(
                known[~tested],
                material.labels[~tested],
                other[learned],
                [copy[~tested] for copy in copies],
            )
            of_known[name][tested] = score(known[tested])
            for index, value in zip(np.flatnonzero(held), score(other[held]), strict=True):
                of_other[name][index].append(value)
            for kind, x in foreign.items():
                of_foreign[name, kind].append(score(x))
    rows = []
    averaged = {name: np.array([np.mean(v) for v in of_other[name]]) for name in scores}
    for name in scores:
        kinds = {kind_of_others: averaged[name]}
        kinds |= {kind: np.mean(of_foreign[name, kind], axis=0) for kind in foreign}
        for kind, values in kinds.items():
            rows.append(
                {
                    "score": name,
                    "other": kind,
                    "n_known": len(known),
                    "n_other": len(values),
                    "auroc": rejection.auroc(of_known[name], values),
                    "fpr_at_95": rejection.false_positive_rate(of_known[name], values, 0.95),
                    "fpr_at_90": rejection.false_positive_rate(of_known[name], values, 0.90),
                }
            )
    return Rejection(pd.DataFrame(rows), of_known, averaged)


def fit(
    material: Material,
    choice: selection.Choice,
    weights_directory: str | Path | None = None,
    sets: dict[str, tuple[Branch, ...]] | None = None,
) -> FinalNetwork:
    """Fit the chosen candidate to all pictures, and make the network of it.

    Args:
        material: features.
        choice: of `selection.choose` on all pictures.
        weights_directory: folder to look for pretrained weights first.
        sets: sets of features by name; None for `subsets`.
    """
    candidate = choice.candidate
    columns = material.columns[candidate.subset]
    scaler = baselines.Scaler.of(material.other_features[:, columns])
    rows = [material.features, *material.copies[: candidate.copies]]
    motifs = baselines.fit_linear(
        np.concatenate(rows)[:, columns],
        np.tile(material.labels, len(rows)),
        candidate.head,
        scaler,
        baselines.copy_weights(len(material.labels), candidate.copies),
    )
    known, other, *copies = (
        scaler(x[:, columns])
        for x in (material.features, material.other_features, *material.copies)
    )
    familiarity = rejection.combined(
        known, material.labels, other, copies, material.typical[candidate.subset]
    )
    wanted = (subsets() if sets is None else sets)[candidate.subset]
    network = embedding.build(wanted, weights_directory)
    return FinalNetwork(network, motifs, choice.temperature, familiarity, scaler)
