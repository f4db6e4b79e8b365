"""Making of the deployed model: test the whole procedure, then learn from all pictures.

``build`` writes ``<results>/<data set>/model/`` and ``.../cv/final/`` (its cross-validation, in the
form of all recipes; how refusal and evidence were tested). ``build --evaluate`` compares designs
(``cv/final/ablation.csv``) and, with ``--independent``, recipes on photographs of other collections
(``results/independent/``) instead.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from scipy.special import softmax
from threadpoolctl import threadpool_limits

from batik_utils import checkpoints, data, experiments, splits
from batik_utils.classifier import card, compare, evaluate, export, features, refusal, selection
from batik_utils.classifier.export import FinalNetwork
from batik_utils.classifier.features import BRANCHES
from batik_utils.classifier.selection import FeatureSet
from batik_utils.data import Dataset
from batik_utils.duplicates import audit
from batik_utils.errors import BatikError, replacing
from batik_utils.evaluation.out_of_fold import FINAL
from batik_utils.images import files

#: Side of the square that a picture is squashed to (px).
SIZE = 448
#: Changed copies of each picture that are learned from.
COPIES = 4
#: Groups of near-duplicates a motif must have: five folds inside each training part.
FEWEST = selection.INNER_FOLDS + 1
#: Pictures on which evidence maps are tested.
N_EVIDENCE = 50


# with another number of threads sums come out otherwise in the last digits, and so would the file
@threadpool_limits.wrap(limits=1)
def run(
    dataset: Dataset,
    results: Path,
    *,
    output: Path | None = None,
    others: Path | None = None,
    independent: Path | None = None,
    evaluate_only: bool = False,
) -> Path:
    """Test the procedure by cross-validation, make the model, and return its folder.

    Other motifs below the root of ``dataset`` are counter-examples; ``others`` are more of them, in
    folders ``songket``, ``textures``, ``photographs``. ``independent`` holds photographs of other
    collections with a ``manifest.csv``. ``evaluate_only`` writes no model, but the comparisons.
    """
    started, home = datetime.now(timezone.utc), results / dataset.name
    whole = data.load("folder", dataset.root, "all") if dataset.name[:6] == "folder" else dataset
    groups_file = audit.groups_of(whole, results)
    divide(dataset, home / "cv" / "folds.csv", groups_file)
    setup = experiments.prepare(dataset, "cv", results=results, device="cpu")
    negatives = counter_examples(dataset, groups_file, others)
    outside = independent_pictures(independent, dataset.classes)
    network = features.build(BRANCHES)
    samples, fold_of = gather(setup, negatives, network)
    nested = selection.nested(samples, fold_of)
    tested = evaluate.refused(samples, negatives, fold_of, nested.choices)
    words = evaluate.choose_words(tested)
    rejection = evaluate.refusal_rows(tested, words)
    fitted, choice = learned(samples, tested)
    found = evaluate.accuracy(dataset, samples, nested, audit.doubted(groups_file.parent) or set())
    found |= {
        "counter_examples": negatives["kind"].value_counts().to_dict(),
        "refusal": rejection.to_dict("records"),
        "words": words | {"folds": evaluate.words_rows(tested)},
    }
    if len(outside):
        scaled = samples.scaler(features.compute(network, outside["path"], SIZE))
        answered = evaluate.answers(fitted, scaled, outside["motif"].map(dataset.classes.index))
        outside = outside.join(evaluate.with_words(answered, words))
        found["independent"] = evaluate.independent(outside)
        found["words"]["clear"] = found["independent"].pop("words")
    final = FinalNetwork(network, BRANCHES, SIZE, fitted.of_raw(samples.scaler).state_dict())
    shown = [*outside.loc[outside["label"] == "clear", "path"]] or dataset.paths
    evidence = evaluate.evidence_checks(final, shown[:: max(1, len(shown) // N_EVIDENCE)])
    found["evidence"] = evidence.mean().to_dict()
    tables = {"rejection": rejection, "evidence": evidence, "choices": nested.choices}
    for name, table in (_runs(setup, nested, network, started) | tables).items():
        data.write_table(table, home / "cv" / FINAL / f"{name}.csv")
    if not evaluate_only:
        return write_model(output or home / "model", dataset, final, choice, found)
    _write(home / "cv" / FINAL / "metrics.json", found)
    designs = compare.ablation(dataset, samples.groups, fold_of, outside)
    data.write_table(designs, home / "cv" / FINAL / "ablation.csv")
    if len(outside):
        compare.write_independent(dataset, outside, found, results)
    return home / "cv" / FINAL


def divide(dataset: Dataset, path: Path, groups_file: Path) -> None:
    """Make the folds where they are missing: ten, or fewer where a motif has few pictures."""
    groups = data.read_table(groups_file, ("path", "motif", "group"))
    known = groups[groups["path"].isin(dataset.manifest["path"])].groupby("motif")["group"]
    least = known.nunique().min()
    if least < FEWEST:
        raise BatikError(
            f"Motif '{known.nunique().idxmin()}' has {least} pictures in {dataset.root} that are "
            f"no near-duplicates of each other, but a model needs {FEWEST}: add pictures, or name "
            f"the other motifs with --classes."
        )
    if not path.is_file():
        splits.open_or_make_folds(dataset, path, groups_file, folds=min(10, least))


def gather(
    setup: experiments.Setup, negatives: pd.DataFrame, network: features.Features
) -> tuple[FeatureSet, np.ndarray]:
    """Return features of pictures, copies and counter-examples, and folds (N, R) of pictures."""
    dataset, compute = setup.dataset, partial(features.compute, network, size=SIZE)
    rounds = ["", *(f"copy {k}" for k in range(1, COPIES + 1))]
    pictures = [compute(dataset.paths, change=change) for change in rounds]
    others = compute(negatives["path"]) if len(negatives) else pictures[0][:0]
    folds = setup.folds.set_index("path").loc[dataset.manifest["path"]]
    known = np.array(dataset.labels), folds["group"].to_numpy()
    samples = FeatureSet.of(pictures, *known, others, negatives["kind"].to_numpy())
    return samples, folds.filter(like="repeat_").to_numpy()


def learned(samples: FeatureSet, tested: pd.DataFrame) -> tuple[refusal.Refusal, selection.Choice]:
    """Return what is learned from everything, calibrated on answers of `evaluate.refused`."""
    pictures, others = np.arange(len(samples.labels)), np.arange(len(samples.kinds))
    choice = selection.choose(samples, pictures, seed=0)
    fitted = refusal.fit(samples, pictures, others, choice.ridge, choice.temperature)
    known = tested.loc[tested["kind"] == "motifs", [*refusal.PARTS]]
    return fitted.calibrated(known.to_numpy()), choice


def counter_examples(dataset: Dataset, groups_file: Path, folder: Path | None) -> pd.DataFrame:
    """Return pictures of other motifs below the same root, and those of ``--others``.

    A picture of another motif that is a near-duplicate of one of the motifs is left out. The class
    of a picture of ``--others`` is its file name without the number: ``banded_0012.jpg``.
    """
    groups = data.read_table(groups_file, ("path", "motif", "group"))
    ours = groups["motif"].isin(dataset.classes)
    batik = groups[~ours & ~groups["group"].isin(groups.loc[ours, "group"])]
    rows = [(dataset.root / row.path, "batik", row.motif, row.group) for row in batik.itertuples()]
    kinds = [k for k in list(refusal.KINDS)[1:] if folder and (folder / k).is_dir()]
    if folder and not kinds:
        raise BatikError(f"{folder} has none of the folders {', '.join(list(refusal.KINDS)[1:])}.")
    for kind in kinds:
        for path in files.walk(folder / kind):
            name = re.sub(r"[-_][0-9a-f]{4,}$", "", path.stem)
            rows.append((path, kind, name, str(path)))
    return pd.DataFrame(rows, columns=["path", "kind", "name", "group"])


def independent_pictures(folder: Path | None, classes: Sequence[str]) -> pd.DataFrame:
    """Return the photographs of other collections that a folder's ``manifest.csv`` names."""
    columns = ["path", "motif", "label", "sha256", "repository", "repository_path"]
    if folder is None:
        return pd.DataFrame(columns=columns)
    table = data.read_table(folder / "manifest.csv", columns[:3])
    table = table[table["motif"].isin(classes)].reset_index(drop=True)
    table["path"] = [folder.resolve() / path for path in table["path"]]
    table["sha256"] = [hashlib.sha256(p.read_bytes()).hexdigest() for p in table["path"]]
    return table[columns]


def _runs(setup, nested, network: features.Features, started: datetime) -> dict:
    """Return ``runs.csv`` and ``predictions.csv`` of the cross-validation."""
    params = sum(p.numel() for p in network.parameters())
    facts = {"weights": " + ".join(network.provenance), "params": params, "device": "cpu"}
    recipe = SimpleNamespace(name=FINAL, family="ours", epochs=0)
    seconds = (datetime.now(timezone.utc) - started).total_seconds() / len(nested.choices)
    facts |= {"started": started, "train_seconds": seconds}
    rows, parts = [], []
    for choice in nested.choices.itertuples():
        here = setup.at(choice.repeat, choice.fold)
        probabilities = softmax(nested.logits[choice.repeat, here.rows("test")], axis=1)
        arguments = (choice.repeat, probabilities, pd.DataFrame(), facts)
        row, predictions, _ = checkpoints.finish(here, recipe, *arguments)
        rows.append(row)
        parts.append(predictions.assign(run=row["run"])[["run", *predictions]])
    return {"runs": pd.DataFrame(rows)[[*checkpoints.RUN_COLUMNS]], "predictions": pd.concat(parts)}


def write_model(
    folder: Path, dataset: Dataset, network: FinalNetwork, choice: selection.Choice, found: dict
) -> Path:
    """Write the model folder; ``found`` is what ``metrics.json`` holds beside the model's facts."""
    path = export.to_onnx(network, folder / "model.onnx", {"dataset": dataset.digest})
    pixels = [features.pixels_of(files.open_image(p), SIZE) for p in dataset.paths[::37]]
    words = {name: value for name, value in found["words"].items() if isinstance(value, float)}
    found["model"] = {
        "candidate": f"lda {choice.ridge:g}",
        "copies": COPIES,
        "temperature": choice.temperature,
        **{name: value for name, value in words.items() if name.endswith("threshold")},
        "megabytes": path.stat().st_size / 1e6,
        "parameters": sum(t.numel() for t in network.state_dict().values()),
        "largest_difference_to_torch": export.check(path, network, np.stack(pixels)),
        "weights": list(network.network.provenance),
    }
    seen = {"size": SIZE, "fit": "squash", "interpolation": features.INTERPOLATION, "colour": "RGB"}
    labels = {"classes": list(dataset.classes)} | words | {"opset": export.OPSET}
    _write(folder / "labels.json", labels)
    _write(folder / "preprocessing.json", seen)
    _write(folder / "metrics.json", found)
    _write(folder / "MODEL_CARD.md", card.text(found, dataset.classes))
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and p.name != "SHA256SUMS")
    sums = [f"{hashlib.sha256((folder / n).read_bytes()).hexdigest()}  {n}\n" for n in names]
    _write(folder / "SHA256SUMS", "".join(sums))
    return folder


def _write(path: Path, content: str | dict) -> None:
    if isinstance(content, dict):
        content = json.dumps(content, indent=2, ensure_ascii=False, default=float) + "\n"
    with replacing(path) as partial:
        partial.write_text(content, encoding="utf-8")
