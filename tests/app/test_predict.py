"""The one door for new pictures: right answers, a checked model folder, batches, no torch."""

import csv
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import standin
from PIL import Image

from batik_utils.__main__ import main
from batik_utils.app import predict, sources, tables
from batik_utils.app.predict import Prediction, Predictor
from batik_utils.errors import PROJECT, BatikError
from batik_utils.images import cloth as synthetic
from batik_utils.images.resize import Framing, frame

ROOT = PROJECT
COMMITTED = ROOT / "results" / "kaggle" / "model"


@pytest.fixture(scope="module")
def cloth():
    return [(motif, picture) for motif, seed, picture in standin.examples() if seed < 3]


@pytest.fixture
def copy(model_folder, tmp_path):
    return Path(shutil.copytree(model_folder, tmp_path / "copy"))


def test_known_cloth_is_named_and_noise_is_none_of_these(predictor, cloth):
    answers = predictor.predict([picture for _, picture in cloth])
    assert [answer.motif for answer in answers] == [motif for motif, _ in cloth]
    assert {answer.verdict for answer in answers} == {"sure"}
    for answer in answers:
        assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-5)
    blocks = np.kron(np.random.default_rng(0).integers(0, 2, (8, 8, 3)), np.ones((9, 9, 1)))
    noise = predictor.predict([Image.fromarray(np.uint8(255 * blocks))])[0]
    assert (noise.motif, noise.verdict) == (None, "none")
    assert noise.familiarity < predictor.threshold
    assert noise.probabilities  # what it would have been stays visible


def test_the_graph_computes_what_the_stand_in_was_fitted_with(predictor, cloth):
    """Preprocessing in the folder gives, through ONNX, the numbers of plain NumPy."""
    pixels = np.stack([frame(picture, predictor.framing) for _, picture in cloth])
    together = predictor.run(pixels).probabilities
    alone = np.concatenate([predictor.run(one[None])[0] for one in pixels])
    assert np.abs(together - alone).max() < 1e-5
    from_paths = predictor.predict(picture for _, picture in cloth)
    shares = [[a.probabilities[c] for c in predictor.classes] for a in from_paths]
    assert np.abs(together - shares).max() < 1e-6


def test_file_bytes_and_picture_give_one_answer(predictor, cloth, tmp_path):
    path = tmp_path / "cloth.png"
    cloth[0][1].save(path)
    answers = predictor.predict([path, str(path), path.read_bytes(), cloth[0][1]])
    assert len({tuple(answer.probabilities.values()) for answer in answers}) == 1
    assert [answer.name for answer in answers] == [str(path)] * 2 + ["picture 3", "picture 4"]


def test_a_bad_file_does_not_disturb_its_batch(predictor, cloth, tmp_path):
    good = cloth[0][1]
    mixed = [good, b"no picture", good, tmp_path / "missing.jpg", good]
    gathered = Predictor.load(predictor.folder, threads=2)
    for workers, batch, model in itertools.product((1, 3), (1, 2, 16), (predictor, gathered)):
        answers = list(model.stream(mixed, batch=batch, workers=workers))
        assert [a.verdict for a in answers] == ["sure", "refused", "sure", "refused", "sure"]
        assert answers[1].kind == "format"
        assert math.isnan(answers[3].familiarity)
        assert "No such file" in answers[3].reason
    assert predictor.predict([b""])[0].reason == "This file was refused: empty file."
    assert predictor.predict([]) == []


def test_a_stream_reads_only_a_little_ahead(predictor, cloth):
    seen = itertools.count()

    def endless():
        while True:
            next(seen)
            yield cloth[0][1]

    answers = predictor.stream(endless(), batch=4, workers=2)
    assert [next(answers).verdict for _ in range(6)] == ["sure"] * 6
    assert next(seen) <= 8 + 2 * 2 + 1
    answers.close()


@pytest.mark.parametrize("setting", [{"batch": 0}, {"workers": 0}])
def test_settings_that_make_no_sense(predictor, setting):
    with pytest.raises(BatikError, match="at least 1"):
        list(predictor.stream([], **setting))


def test_an_answer_can_be_unsure(predictor):
    middling = np.array([0.45, 0.35, 0.2], np.float32)
    answer = predictor.judge("x", middling, predictor.threshold + 1)
    assert (answer.motif, answer.verdict) == ("betawi", "unsure")
    assert answer.reason == "Not sure: betawi is likeliest, with 45%."
    edge = predictor.judge("x", np.array([0.8, 0.1, 0.1]), predictor.threshold)
    assert edge.verdict == "sure"
    assert predictor.judge("x", middling, math.nan).verdict == "none"
    with pytest.raises(AttributeError):
        answer.motif = "tambal"


# ---- the model folder


def test_a_changed_file_is_refused(copy):
    Predictor.load(copy)
    with (copy / "metrics.json").open("a") as stream:
        stream.write(" ")
    with pytest.raises(BatikError, match=r"metrics.json is not the published file"):
        Predictor.load(copy)


@pytest.mark.parametrize("name", ["model.onnx", "labels.json", "preprocessing.json", "SHA256SUMS"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(BatikError, match=name):
        Predictor.load(copy)


def test_a_missing_folder_says_what_to_do(tmp_path):
    with pytest.raises(BatikError, match="--model, or set BATIK_MODEL_DIR"):
        Predictor.load(tmp_path / "none")


DAMAGE = {
    "no classes": ("labels.json", {"familiarity_threshold": 0}, "does not say"),
    "a threshold in words": (
        "labels.json",
        {"classes": ["a"] * 3, "familiarity_threshold": "high"},
        "does not say",
    ),
    "two classes": (
        "labels.json",
        {"classes": ["a", "b"], "familiarity_threshold": 0},
        r"expected \(2, 2\)",
    ),
    "no table": ("labels.json", [1], "no table"),
    "another fit": (
        "preprocessing.json",
        {"size": 64, "fit": "stretch", "interpolation": "box", "colour": "RGB"},
        "Unknown fit 'stretch'",
    ),
    "another colour order": (
        "preprocessing.json",
        {"size": 64, "fit": "squash", "interpolation": "box", "colour": "BGR"},
        "only RGB",
    ),
    "another size": (
        "preprocessing.json",
        {"size": 65, "fit": "squash", "interpolation": "box", "colour": "RGB"},
        "expected pixels",
    ),
    "no size": ("preprocessing.json", {"colour": "RGB"}, "incomplete"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_folder_that_does_not_fit_together(copy, case):
    name, content, reason = DAMAGE[case]
    (copy / name).write_text(json.dumps(content))
    standin.seal(copy)
    with pytest.raises(BatikError, match=reason):
        Predictor.load(copy)


def test_a_file_that_is_no_model(copy):
    (copy / "model.onnx").write_bytes(b"not a model")
    standin.seal(copy)
    with pytest.raises(BatikError, match="no model that onnxruntime can open"):
        Predictor.load(copy)


def test_the_folder_can_be_set(model_folder, monkeypatch):
    monkeypatch.setenv("BATIK_MODEL_DIR", str(model_folder))
    assert predict.default_folder() == model_folder
    assert Predictor.load().folder == model_folder
    monkeypatch.delenv("BATIK_MODEL_DIR")
    assert predict.default_folder() == COMMITTED


def test_no_torch_is_loaded(model_folder):
    code = (
        "import sys; from batik_utils.app.predict import Predictor; "
        f"Predictor.load({str(model_folder)!r}).predict([b'']); "
        "print(sorted({'torch', 'pandas', 'gradio', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("words", [["--help"], ["predict", "x.jpg", "--model"]])
def test_the_command_line_starts_without_torch(model_folder, words):
    """Help needs nothing at all; one picture needs onnxruntime, NumPy and Pillow."""
    heavy = {"torch", "pandas", "matplotlib", "gradio"}
    if words == ["--help"]:
        heavy |= {"numpy", "PIL", "onnxruntime"}
    else:
        words = [*words, str(model_folder)]
    code = (
        "import atexit, sys; from batik_utils.__main__ import main; "
        f"atexit.register(lambda: print('heavy:', sorted({heavy!r} & set(sys.modules)))); "
        f"main({words!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip().endswith("heavy: []"), done.stdout + done.stderr
    assert "No such file" in done.stderr if "predict" in words else "usage" in done.stdout


@pytest.mark.skipif(not COMMITTED.is_dir(), reason="no model is committed yet")
def test_the_committed_model_answers(tmp_path):
    predictor = Predictor.load(COMMITTED)
    assert predictor.classes == ("betawi", "sidoluhur", "tambal")
    answers = predictor.predict([synthetic.draw(motif, 1) for motif in predictor.classes])
    for answer in answers:
        assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-4)
        assert math.isfinite(answer.familiarity)


# ---- framing


def picture(width, height):
    pixels = np.random.default_rng([width, height]).integers(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "box"])
def test_framing_is_pillows_resize(interpolation):
    method = Image.Resampling[interpolation.upper()]
    wide = picture(96, 64)
    squashed = frame(wide, Framing(32, "squash", interpolation))
    assert np.array_equal(squashed, np.asarray(wide.resize((32, 32), method)))
    # resize to 48 x 32, then the middle 32 columns
    covered = frame(wide, Framing(32, "cover", interpolation))
    cropped = np.asarray(wide.resize((48, 32), method).crop((8, 0, 40, 32)))
    assert np.abs(covered.astype(int) - cropped).max() <= 1
    contained = frame(wide, Framing(48, "contain", interpolation))
    assert np.array_equal(contained[8:40], np.asarray(wide.resize((48, 32), method)))
    assert (contained[:8] == 255).all()
    assert (contained[40:] == 255).all()


@pytest.mark.parametrize("fit", ["squash", "cover", "contain"])
@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1), (33, 17)])
def test_any_shape_can_be_framed(fit, size):
    assert frame(picture(*size), Framing(24, fit)).shape == (24, 24, 3)


def test_framing_survives_json():
    framing = Framing(300, "cover", "bicubic")
    assert Framing.from_dict(json.loads(json.dumps(framing.as_dict()))) == framing
    for wrong in ({"size": 0}, {"size": 5000}, {"fit": ""}, {"interpolation": "lanczos"}):
        with pytest.raises(BatikError):
            Framing.from_dict(framing.as_dict() | wrong)


# ---- files, tables, the command


def test_folders_are_read_in_order_and_other_files_passed_over(tmp_path):
    for name in ("b/2.jpg", "b/1.png", "a.webp", "notes.txt", ".hidden/3.jpg", "b/no-suffix"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in sources.files([tmp_path])]
    assert found == ["a.webp", "b/1.png", "b/2.jpg", "b/no-suffix"]
    named = tmp_path / "notes.txt"
    assert list(sources.files([named, "missing.jpg"])) == [named, Path("missing.jpg")]


def test_a_table_runs_no_formula():
    answer = Prediction("=HYPERLINK(1)", None, "refused", {}, math.nan, "why")
    cells = tables.row(answer, ["betawi"])
    assert cells == ["'=HYPERLINK(1)", "refused", "", "", "", "why"]
    assert len(tables.columns(["betawi"])) == len(cells)


def test_the_command_names_pictures_and_writes_a_table(
    model_folder, cloth, tmp_path, capsys, caplog, monkeypatch
):
    monkeypatch.setenv("BATIK_MODEL_DIR", str(model_folder))
    shop = tmp_path / "shop"
    shop.mkdir()
    for number, (motif, one) in enumerate(cloth):
        one.save(shop / f"{motif}{number}.png")
    (shop / "zz.jpg").write_bytes(b"<html>")
    table = tmp_path / "out.csv"
    caplog.set_level("INFO")
    # one file failed: the others are answered all the same
    assert main(["predict", str(shop), "--csv", str(table)]) == 1
    with table.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["motif"] for row in rows] == [motif for motif, _ in cloth] + [""]
    assert float(rows[0]["p_betawi"]) > 0.7
    assert rows[-1]["verdict"] == "refused"
    assert "zz.jpg: This file was refused: HTML page" in caplog.text
    assert "10 pictures: betawi 3, sidoluhur 3, tambal 3; none of these 0, refused 1" in caplog.text
    assert main(["predict", str(shop / "betawi0.png")]) == 0
    assert capsys.readouterr().out.split("\t")[1:4:2] == ["betawi", "sure\n"]
    assert main(["predict", str(shop / "zz.jpg")]) == 1
    capsys.readouterr()
    assert main(["predict", str(shop), "--json"]) == 1
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["motif"] for one in found] == [motif for motif, _ in cloth] + [None]
    assert [one["rejected"] for one in found] == [False] * len(cloth) + [True]
    first, last = found[0], found[-1]
    assert first["probability"] == max(first["probabilities"].values())
    assert first["path"] == str(shop / "betawi0.png")
    assert last["probability"] is None and "HTML" in last["reason"]


def test_one_core_a_picture_gives_the_answers_of_the_batch(predictor, cloth):
    """The model of these tests has one thread, so its workers go from file to answer alone."""
    pictures = [picture for _, picture in cloth] * 3
    alone = list(predictor.stream(iter(pictures), workers=4))
    batched = predictor.predict(pictures)
    assert [a.name for a in alone] == [b.name for b in batched]
    for one, other in zip(alone, batched, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
        assert one.familiarity == pytest.approx(other.familiarity, abs=1e-4)


@pytest.fixture
def shop(cloth, tmp_path):
    folder = tmp_path / "shop"
    folder.mkdir()
    for number, (_, one) in enumerate(cloth):
        one.save(folder / f"{number}.png")
    (folder / '5, "odd".jpg').write_bytes(b"<html>")
    return folder


def test_an_interrupted_table_is_resumed_and_becomes_the_same(
    model_folder, predictor, shop, tmp_path, monkeypatch
):
    whole, table = tmp_path / "whole.csv", tmp_path / "table.csv"
    words = ["predict", str(shop), "--model", str(model_folder), "--csv"]
    assert main([*words, str(whole)]) == 1  # one file is refused
    paths = list(sources.files([shop]))
    answers = tables.write_csv(predictor.stream(paths, workers=2), predictor.classes, table)
    for _ in range(4):
        next(answers)
    # each answer is in the file as soon as it is given; the process may die now
    assert len(table.read_text().splitlines()) == 5
    answers.close()
    with table.open("ab") as stream:
        stream.write(b'half,"a li\nne')
    left = list(tables.still_to_do(paths, predictor.classes, table))
    assert left == paths[4:]
    original, asked = Predictor.stream, []

    def stream(self, images, **settings):
        asked.extend(images)
        return original(self, images, **settings)

    monkeypatch.setattr(Predictor, "stream", stream)
    assert main([*words, str(table), "--resume"]) == 1
    assert asked == left
    assert table.read_text() == whole.read_text()
    assert main([*words, str(table), "--resume"]) == 0
    assert len(asked) == len(left)
    assert table.read_text() == whole.read_text()


def test_a_table_of_something_else_is_not_resumed(model_folder, shop, tmp_path, capsys):
    table = tmp_path / "table.csv"
    table.write_text("a,b\n1,2")
    words = ["predict", str(shop), "--model", str(model_folder), "--resume"]
    assert main(words) == 2
    assert "name it with --csv" in capsys.readouterr().err
    assert main([*words, "--csv", str(table)]) == 2
    assert "no table of answers" in capsys.readouterr().err
    assert table.read_text() == "a,b\n1,2"
    assert main([*words, "--csv", str(tmp_path / "new.csv")]) == 1  # one file is refused


def test_the_commands_mistakes_are_sentences(model_folder, tmp_path, capsys):
    assert main(["predict", "x.jpg", "--model", str(tmp_path / "none")]) == 2
    assert "There is no model folder" in capsys.readouterr().err
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["predict", str(empty), "--model", str(model_folder)]) == 2
    assert "No picture was found" in capsys.readouterr().err
    where = os.fspath(tmp_path / "no" / "out.csv")
    code = main(["predict", "x.jpg", "--csv", where, "--model", str(model_folder)])
    assert code == 2
    assert "cannot be written" in capsys.readouterr().err
