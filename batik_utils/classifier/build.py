r"""Making of the deployed model: test the whole procedure, then learn from all pictures.

Run it::

    python -m batik_utils build --data folder --root path/to/indonesian-batik-motifs \
        --others path/to/not-batik --independent path/to/independent

It writes ``<results>/<data set>/model/`` (the model and what belongs to it), and
``<results>/<data set>/cv/final/`` (its cross-validation, in the form of all recipes; how refusal
and evidence were tested). ``--classes all`` makes one of all motifs, other folders one of theirs.
``--evaluate`` also compares ways to classify (``ablation.csv``) and, with ``--independent``, all
recipes on photographs of other collections (``results/independent/``).
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from PIL import Image
from scipy.special import softmax
from threadpoolctl import threadpool_limits

from batik_utils import checkpoints, data, experiments
from batik_utils.classifier import card, compare, evaluate, export, features, refusal, selection
from batik_utils.classifier.features import BRANCHES
from batik_utils.classifier.network import FinalNetwork
from batik_utils.classifier.selection import Bank
from batik_utils.data import Dataset
from batik_utils.duplicates import audit
from batik_utils.errors import BatikError, replacing
from batik_utils.evaluation.out_of_fold import FINAL
from batik_utils.images import changes, files

#: Side of the square that a picture is squashed to (px).
SIZE = 448
#: Changed copies of each picture that are learned from.
COPIES = 4
#: Pictures on which evidence maps are tested.
N_EVIDENCE = 16


# with another number of threads sums come out otherwise in the last digits, and so would the file
@threadpool_limits.wrap(limits=1)
def run(
    dataset: Dataset,
    results: Path,
    weights_directory: str | Path | None = None,
    *,
    output: Path | None = None,
    others: Path | None = None,
    independent: Path | None = None,
    evaluate_only: bool = False,
) -> Path:
    """Test the procedure by cross-validation, make the model, and test it elsewhere.

    Args:
        dataset: pictures of the motifs; other motifs below the same root are counter-examples.
        results: the results folder.
        weights_directory: folder to look for pretrained weights first.
        output: folder of the model; None for ``<results>/<data set>/model``.
        others: counter-examples, in folders ``songket``, ``textures``, ``photographs``.
        independent: photographs of other collections with a ``manifest.csv``.
        evaluate_only: write no model, but the comparisons.

    Returns:
        Folder of the model, or of the cross-validation if that is all.

    Raises:
        BatikError: a file that is needed is missing or belongs to other pictures.
        weights.WeightsNotFound: pretrained weights are nowhere to be had.
    """
    started, home = datetime.now(timezone.utc), results / dataset.name
    groups_file = audit.groups_of(dataset, results)
    groups = data.read_table(groups_file, ("path", "motif", "group"))
    setup = experiments.prepare(dataset, "cv", results=results, device="cpu")
    folds = setup.folds.set_index("path").loc[dataset.manifest["path"]]
    fold_of = folds[[c for c in folds if c.startswith("repeat_")]].to_numpy()
    network = features.build(BRANCHES, weights_directory)
    negatives = counter_examples(dataset, groups, others)
    outside = independent_pictures(independent, dataset.classes)
    bank = gather(dataset, folds["group"].to_numpy(), negatives, network)
    nested = selection.nested(bank, fold_of)
    tables = _runs(setup, nested, network, started) | {"choices": nested.choices}
    tested = evaluate.refused(bank, negatives, fold_of, nested.choices)
    words = evaluate.choose_words(tested, not all(map(refusal.KINDS.get, bank.kinds)))
    tables["rejection"] = evaluate.refusal_rows(tested, words)
    everything = np.arange(len(bank.labels)), np.arange(len(bank.kinds))
    choice = selection.choose(bank, everything[0], seed=0)
    known = tested.loc[tested["kind"] == "motifs", evaluate.PARTS].to_numpy()
    fitted = refusal.fit(bank, *everything, choice.ridge).calibrated(known)
    final = FinalNetwork.of(network, BRANCHES, SIZE, bank, choice, fitted)
    found = card.summary(dataset, bank, nested, audit.doubted(groups_file.parent) or set())
    found["counter_examples"] = negatives["kind"].value_counts().to_dict()
    found["refusal"] = tables["rejection"].to_dict("records")
    found["words"] = words.as_json() | {"folds": evaluate.words_rows(tested)}
    answered = pd.DataFrame()
    if len(outside):
        scaled = bank.scaler(features.compute(network, outside["path"], SIZE))
        labels = outside["motif"].map(dataset.classes.index)
        answered = evaluate.answers(fitted, scaled, choice.temperature, labels)
        found["independent"] = evaluate.independent(evaluate.with_words(answered, words), outside)
        found["words"]["clear"] = found["independent"].pop("words")
    clear = outside.loc[outside["label"] == "clear", "path"]
    tables["evidence"] = evaluate.evidence_checks(final, _some([*clear] or dataset.paths))
    found["evidence"] = tables["evidence"].mean().to_dict()
    place = home / "cv" / FINAL
    if evaluate_only:
        copiers = [copier(k) for k in range(1, COPIES + 1)]
        tables["ablation"] = compare.ablation(
            dataset, bank.groups, fold_of, outside, copiers, weights_directory
        )
        if len(outside):
            row = {key: found[key]["value"] for key in ("accuracy", "accuracy_groups")}
            row["right"] = answered["right"].to_numpy()
            compare.write_independent(
                dataset, independent, outside, row, results, weights_directory
            )
        write_json(place / "metrics.json", found)
    for name, table in tables.items():
        data.write_table(table, place / f"{name}.csv")
    if evaluate_only:
        return place
    return write_model(output or home / "model", dataset, final, choice, words, found)


def gather(
    dataset: Dataset, groups: np.ndarray, negatives: pd.DataFrame, network: features.Features
) -> Bank:
    """Compute features of the pictures, of changed copies and of counter-examples."""
    compute = partial(features.compute, network, size=SIZE)
    pictures = [compute(dataset.paths)]
    for k in range(1, COPIES + 1):
        pictures.append(compute(dataset.paths, change=copier(k), name=f"copy {k}"))
    others = compute(negatives["path"]) if len(negatives) else pictures[0][:0]
    kinds = negatives["kind"].to_numpy()
    return Bank.of(pictures, np.array(dataset.labels), groups, others, kinds)


def copier(copy: int) -> Callable[[Image.Image, int], Image.Image]:
    """Return what changes a picture, given its number in the data set, for one round of copies."""
    return lambda image, number: changes.changed(image, np.random.default_rng([copy, number]))


def counter_examples(dataset: Dataset, groups: pd.DataFrame, folder: Path | None) -> pd.DataFrame:
    """Return pictures of other motifs below the same root, and those of ``--others``.

    A picture of another motif that is a near-duplicate of one of the motifs is left out. The class
    of a picture of ``--others`` is its file name without the number: ``banded_0012.jpg``.

    Raises:
        BatikError: ``folder`` holds none of the folders of `refusal.KINDS`.
    """
    ours = set(groups.loc[groups["motif"].isin(dataset.classes), "group"])
    batik = groups[~groups["motif"].isin(dataset.classes) & ~groups["group"].isin(ours)]
    rows = [
        {"path": dataset.root / row.path, "kind": "batik", "name": row.motif, "group": row.group}
        for row in batik.itertuples()
    ]
    kinds = [k for k in list(refusal.KINDS)[1:] if folder and (folder / k).is_dir()]
    if folder and not kinds:
        raise BatikError(f"{folder} has none of the folders {', '.join(list(refusal.KINDS)[1:])}.")
    for kind in kinds:
        for path in files.walk(folder / kind):
            name = re.sub(r"[-_][0-9a-f]{4,}$", "", path.stem)
            rows.append({"path": path, "kind": kind, "name": name, "group": str(path)})
    return pd.DataFrame(rows, columns=["path", "kind", "name", "group"])


def independent_pictures(folder: Path | None, classes: Sequence[str]) -> pd.DataFrame:
    """Return the photographs of other collections that a folder's ``manifest.csv`` names."""
    columns = ["path", "motif", "label", "sha256", "repository", "repository_path"]
    if folder is None:
        return pd.DataFrame(columns=columns)
    table = data.read_table(folder / "manifest.csv", ("path", "motif", "label"))
    table = table[table["motif"].isin(classes)].reset_index(drop=True)
    table["path"] = [folder / path for path in table["path"]]
    table["sha256"] = [hashlib.sha256(p.read_bytes()).hexdigest() for p in table["path"]]
    return table[columns]


def _some(paths: Sequence[Path]) -> list[np.ndarray]:
    """Return pixels of pictures to test evidence on."""
    some = paths[:: max(1, len(paths) // N_EVIDENCE)]
    return [features.pixels_of(files.open_image(path), SIZE) for path in some]


def _runs(
    setup: experiments.Setup,
    nested: selection.Nested,
    network: features.Features,
    started: datetime,
) -> dict[str, pd.DataFrame]:
    """Return the cross-validation as rows of ``runs.csv`` and ``predictions.csv``."""
    facts = {
        "weights": " + ".join(network.provenance),
        "params": sum(p.numel() for p in network.parameters()),
        "device": "cpu",
    }
    recipe = SimpleNamespace(name=FINAL, family="ours", epochs=0)
    seconds = (datetime.now(timezone.utc) - started).total_seconds() / len(nested.choices)
    runs, parts = [], []
    for row in nested.choices.itertuples():
        here = setup.at(row.repeat, row.fold)
        probabilities = softmax(nested.logits[row.repeat, here.rows("test")], axis=1)
        arguments = (row.repeat, probabilities, pd.DataFrame(), started, seconds, facts)
        run = checkpoints.finish(here, recipe, *arguments)
        runs.append({column: run.row[column] for column in checkpoints.RUN_COLUMNS})
        run.predictions.insert(0, "run", run.row["run"])
        parts.append(run.predictions)
    return {"runs": pd.DataFrame(runs), "predictions": pd.concat(parts, ignore_index=True)}


def write_model(
    folder: Path,
    dataset: Dataset,
    network: FinalNetwork,
    choice: selection.Choice,
    words: evaluate.Words,
    found: dict,
) -> Path:
    """Write the model folder; ``found`` is what ``metrics.json`` holds beside the model's facts."""
    notes = {"network": json.dumps(network.facts()), "dataset": dataset.digest}
    path = export.to_onnx(network, folder / "model.onnx", size=SIZE, notes=notes)
    pixels = [features.pixels_of(files.open_image(p), SIZE) for p in dataset.paths[::37]]
    found["model"] = {
        "candidate": f"lda {choice.ridge:g}",
        "copies": COPIES,
        "temperature": choice.temperature,
        "familiarity_threshold": words.familiarity_threshold,
        "cloth_threshold": words.cloth_threshold,
        "megabytes": path.stat().st_size / 1e6,
        "parameters": int(sum(t.numel() for t in network.state_dict().values())),
        "largest_difference_to_torch": export.check(path, network, np.stack(pixels)),
        "weights": list(network.network.provenance),
    }
    labels = {"classes": list(dataset.classes)} | words.as_json() | {"opset": export.OPSET}
    framing = {"size": SIZE, "fit": "squash", "interpolation": features.INTERPOLATION}
    write_json(folder / "labels.json", labels)
    write_json(folder / "preprocessing.json", framing | {"colour": "RGB"})
    write_json(folder / "metrics.json", found)
    _write(folder / "MODEL_CARD.md", card.text(found, dataset.classes))
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and p.name != "SHA256SUMS")
    sums = [f"{hashlib.sha256((folder / n).read_bytes()).hexdigest()}  {n}\n" for n in names]
    _write(folder / "SHA256SUMS", "".join(sums))
    return folder


def write_json(path: Path, values: dict) -> None:
    """Write plain values, readable."""
    _write(path, json.dumps(values, indent=2, ensure_ascii=False, default=float) + "\n")


def _write(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
