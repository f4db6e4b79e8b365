"""The build's tables and files, and the model that is committed."""

import hashlib
import json
from datetime import datetime, timezone
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.special import softmax

from batik_utils import data
from batik_utils.checkpoints import RUN_COLUMNS
from batik_utils.classifier import build, embedding, export, foreign, model_card, selection
from batik_utils.errors import BatikError
from batik_utils.images import files

FOLDER = data.results_root("") / "kaggle" / "model"
KEPT = ("MODEL_CARD.md", "labels.json", "metrics.json", "model.onnx", "preprocessing.json")


@pytest.fixture(scope="module")
def session():
    return export.open_session(FOLDER / "model.onnx")


def read(name):
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def answers(session, pixels):
    return session.run(["probabilities", "familiarity"], {"pixels": pixels})


# --- the committed model ----------------------------------------------------------------------


def test_every_file_is_the_one_that_was_built():
    lines = (FOLDER / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    sums = dict(reversed(line.split()) for line in lines)
    assert sorted(sums) == sorted(KEPT)
    for name, digest in sums.items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest, name


def test_the_folder_is_small_enough():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 20e6


def test_input_and_outputs_are_what_the_app_expects(session):
    size = read("preprocessing.json")["size"]
    (put,) = session.get_inputs()
    assert (put.name, put.type, put.shape[1:]) == ("pixels", "tensor(uint8)", [size, size, 3])
    assert isinstance(put.shape[0], str)  # any number of pictures
    assert [out.name for out in session.get_outputs()] == ["probabilities", "familiarity"]
    probabilities, familiarity = answers(session, np.zeros((2, size, size, 3), np.uint8))
    assert probabilities.shape == (2, 3) and familiarity.shape == (2,)
    assert probabilities.dtype == familiarity.dtype == np.float32
    assert np.allclose(probabilities.sum(1), 1, atol=1e-5)


def test_answers_do_not_depend_on_company(session):
    size = read("preprocessing.json")["size"]
    pixels = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    together = answers(session, pixels)
    for i in range(3):
        alone = answers(session, pixels[i : i + 1])
        assert np.allclose(together[0][i], alone[0][0], atol=1e-4)
        assert np.allclose(together[1][i], alone[1][0], rtol=1e-3, atol=1e-3)


def test_most_plain_textures_are_none_of_these(session):
    size = read("preprocessing.json")["size"]
    found = foreign.textures()
    pixels = np.stack([embedding.pixels_of(picture, size) for picture in found])
    _, familiarity = answers(session, pixels)
    rejected = familiarity < read("labels.json")["familiarity_threshold"]
    # fine noise is not among them, as the card's table says
    assert rejected.sum() >= 9 and len(found) == 12


def test_what_is_said_of_it_agrees():
    labels, found = read("labels.json"), read("metrics.json")
    assert labels["classes"] == ["betawi", "sidoluhur", "tambal"]
    assert labels["opset"] == export.OPSET
    assert labels["familiarity_threshold"] == found["model"]["familiarity_threshold"]
    assert read("preprocessing.json") == {
        "size": embedding.SIZE,
        "fit": "squash",
        "interpolation": embedding.INTERPOLATION,
        "colour": "RGB",
    }
    assert found["model"]["largest_difference_to_torch"] <= export.TOLERANCE
    assert (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8") == model_card.text(found)


def test_its_accuracy_is_that_of_the_committed_predictions():
    place = FOLDER.parent / "cv" / "final"
    predictions = pd.read_csv(place / "predictions.csv")
    runs = pd.read_csv(place / "runs.csv")
    right = predictions["label"] == predictions["predicted"]
    assert right.mean() == pytest.approx(read("metrics.json")["accuracy"]["value"], abs=1e-6)
    assert list(runs.columns) == list(RUN_COLUMNS) and len(runs) == 50
    # every picture once a repeat, in the fold that tests it
    folds = pd.read_csv(FOLDER.parent / "cv" / "folds.csv").set_index("path")
    joined = predictions.merge(runs[["run", "fold", "seed"]], on="run")
    for seed, rows in joined.groupby("seed"):
        expected = folds.loc[rows["path"], f"repeat_{seed}"].to_numpy()
        assert len(rows) == len(folds) and (rows["fold"].to_numpy() == expected).all()


def test_it_knows_pictures_that_it_learned_from(session, real_dataset):
    some = slice(0, None, 15)
    pixels = [embedding.pixels_of(files.open_image(p)) for p in real_dataset.paths[some]]
    probabilities, _ = answers(session, np.stack(pixels))
    right = probabilities.argmax(1) == np.array(real_dataset.labels[some])
    assert right.sum() >= 9


# --- tables and files -------------------------------------------------------------------------


class Pictures:
    classes = ("a", "b")
    labels = (0, 1, 0, 1)
    digest = "d"
    manifest = pd.DataFrame({"path": ["a/1", "b/1", "a/2", "b/2"]})


def test_rows_are_in_the_form_of_all_recipes():
    fold_of = np.array([[0], [0], [1], [1]])
    choices = pd.DataFrame({"repeat": [0, 0], "fold": [0, 1], "candidate": ["s lda", "t lda"]})
    material = SimpleNamespace(
        provenance=("w", "v"),
        parameters={"s": 100, "t": 200},
        columns={"s": np.arange(4), "t": np.arange(9)},
    )
    logits = np.array([[[9.0, 0], [0, 9], [0, 9], [0, 9]]])
    runs, predictions = build.rows(
        Pictures(),
        selection.Nested(logits, choices),
        fold_of,
        material,
        2.0,
        datetime.now(timezone.utc),
    )
    assert tuple(runs.columns) == RUN_COLUMNS
    assert runs["run"].tolist() == ["final-e0-f0-s0", "final-e0-f1-s0"]
    assert runs["accuracy"].tolist() == [1.0, 0.5]
    # of the backbones, and of two linear functions with a bias
    assert runs["params"].tolist() == [110, 220] and set(runs["weights"]) == {"w + v"}
    assert predictions["predicted"].tolist() == ["a", "b", "b", "b"]
    assert np.allclose(predictions[["p_a", "p_b"]], softmax(logits[0], axis=-1))


def test_coverage_begins_with_the_most_familiar():
    table = build.coverage_of(np.eye(3) * 5, np.array([0, 0, 2]), np.array([3.0, 1.0, 2.0]))
    familiar = table[table["by"] == "familiarity"]
    assert familiar["accuracy"].tolist() == pytest.approx([1, 1, 2 / 3])
    assert familiar["coverage"].tolist() == pytest.approx([1 / 3, 2 / 3, 1])


def test_sums_are_those_of_sha256sum(tmp_path):
    (tmp_path / "b.txt").write_text("abc")
    (tmp_path / "a.txt").write_text("")
    build.write_sums(tmp_path)
    build.write_sums(tmp_path)  # itself left out
    lines = (tmp_path / "SHA256SUMS").read_text().splitlines()
    # of "abc": FIPS 180-2, example B.1
    assert lines == [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  a.txt",
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  b.txt",
    ]


def test_missing_files_say_how_to_make_them(tmp_path, picture_tree):
    from batik_utils import data

    dataset = data.load("folder", picture_tree())
    with pytest.raises(BatikError, match="batik_utils audit"):
        build.run(dataset, tmp_path)
    assert Image.open(dataset.paths[0]).size  # the pictures are there
