"""Inference on new images: right answers, a checked model folder, batches, no torch."""

import itertools
import json
import math
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import picture_zoo
import pytest
import standin
from PIL import Image

from batik_utils.app.model_folder import default_folder
from batik_utils.app.predict import Predictor
from batik_utils.errors import PROJECT, BatikError
from batik_utils.images.resize import to_pixels


@pytest.fixture(scope="module")
def cloth():
    return [(motif, picture) for motif, seed, picture in standin.examples() if seed < 3]


@pytest.fixture
def copy(model_folder, tmp_path):
    return Path(shutil.copytree(model_folder, tmp_path / "copy"))


def test_known_cloth_is_named_and_noise_is_not(predictor, cloth):
    answers = predictor.predict([picture for _, picture in cloth])
    assert [answer.motif for answer in answers] == [motif for motif, _ in cloth]
    assert {(a.verdict, a.level, a.words) for a in answers} == {("sure", "motif", "sure")}
    blocks = np.kron(np.random.default_rng(0).integers(0, 2, (8, 8, 3)), np.ones((9, 9, 1)))
    noise = predictor.predict([Image.fromarray(np.uint8(255 * blocks))], details=True)[0]
    assert (noise.motif, noise.verdict, noise.level) == (None, "none", "no_cloth")
    assert noise.probabilities  # what it would have been stays visible
    assert noise.evidence is None


def test_the_evidence_of_the_named_motif_adds_up_to_its_logit(predictor, cloth):
    pixels = np.stack([to_pixels(p, standin.SIZE).transpose(1, 2, 0) for _, p in cloth])
    found = predictor.run(pixels, details=True)
    logits = np.log(found["probabilities"])
    wanted = logits - logits.mean(axis=1, keepdims=True)
    assert np.abs(found["evidence"].sum(axis=(2, 3)) - wanted).max() < 1e-3
    answer = predictor.predict([cloth[-1][1]], details=True)[0]
    column = predictor.classes.index(answer.motif)
    assert np.abs(answer.evidence - found["evidence"][-1, column]).max() < 1e-4
    assert predictor.predict([cloth[-1][1]])[0].evidence is None  # computed when asked for


# probabilities, familiarity and cloth (in thresholds) to motif, verdict, level and words
JUDGED = {
    "sure": ([0.8, 0.1, 0.1], 1, 1, ("betawi", "sure", "motif", "sure")),
    "probably": ([0.1, 0.3, 0.6], 1, 0, ("tambal", "unsure", "motif", "probably")),
    "either": ([0.1, 0.5, 0.4], 1, math.nan, ("sidoluhur", "unsure", "motif", "either")),
    "not familiar enough": ([1, 0, 0], 0.01, 1, ("betawi", "unsure", "motif", "probably")),
    "other cloth": ([0.9, 0.1, 0], -0.1, 1, (None, "none", "other_cloth", "")),
    "no cloth": ([0.9, 0.1, 0], -0.1, 0, (None, "none", "no_cloth", "")),
    "not a number": ([0.9, 0.1, 0], math.nan, math.nan, (None, "none", "no_cloth", "")),
}


@pytest.mark.parametrize("case", JUDGED)
def test_numbers_become_words(predictor, case):
    p, familiar, is_cloth, wanted = JUDGED[case]
    rules = predictor.rules
    cut = rules.familiarity_threshold
    familiarity = cut + familiar * (rules.sure_familiarity - cut)
    answer = predictor.judge("x", np.array(p), familiarity, rules.cloth_threshold - 1 + is_cloth)
    assert (answer.motif, answer.verdict, answer.level, answer.words) == wanted
    assert bool(answer.reason) == (answer.verdict != "sure")
    assert json.loads(json.dumps(answer.as_json(details=True)))["level"] == answer.level


def test_an_older_model_knows_neither_cloth_nor_evidence(tmp_path, cloth):
    old = Predictor.load(standin.write(tmp_path / "old", old=True))
    answer = old.predict([cloth[0][1]], details=True)[0]
    assert (answer.level, answer.words, answer.evidence) == ("motif", "sure", None)
    unsure = old.judge("x", np.array([0.69, 0.31, 0]), old.rules.familiarity_threshold)
    assert unsure.words == "either"
    assert old.judge("x", np.array([1, 0, 0]), -math.inf).level == "other_cloth"


def test_a_bad_file_does_not_disturb_the_others(predictor, cloth, tmp_path):
    path = tmp_path / "cloth.png"
    cloth[0][1].save(path)
    mixed = [path, b"no picture", path.read_bytes(), tmp_path / "missing.jpg", cloth[0][1]]
    answers = list(predictor.stream(mixed, workers=3))
    assert [answer.kind for answer in answers] == ["", "format", "", "unreadable", ""]
    assert [answer.name for answer in answers[::2]] == [str(path), "picture 3", "picture 5"]
    assert len({tuple(answer.probabilities.values()) for answer in answers[::2]}) == 1
    assert math.isnan(answers[3].familiarity)


def test_a_stream_reads_only_a_little_ahead(predictor, cloth):
    seen = itertools.count()
    endless = (cloth[0][1] for _ in iter(lambda: next(seen), -1))
    answers = predictor.stream(endless, workers=2)
    assert [next(answers).verdict for _ in range(6)] == ["sure"] * 6
    assert next(seen) <= 6 + 2 * 2 + 1
    answers.close()


def test_bad_files_are_refused_with_a_sentence(predictor):
    bad = picture_zoo.bad()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answers = predictor.predict(content for content, _ in bad.values())
    for (name, (_, kind)), answer in zip(bad.items(), answers, strict=True):
        assert (answer.verdict, answer.kind) == ("refused", kind), (name, answer.reason)
        assert (answer.motif, answer.probabilities, answer.level) == (None, {}, "")
        assert answer.reason.endswith(".") and len(answer.reason) < 300
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 250_000  # kB; a bomb of 12,000 x 12,000 decoded would be 432 MB


def test_line_ends_that_git_changed_are_named(copy):
    labels = copy / "labels.json"
    labels.write_text("{\n" + labels.read_text()[1:])
    standin.seal(copy)
    sums = copy / "SHA256SUMS"
    sums.write_bytes(sums.read_bytes().replace(b"\n", b"\r\n"))
    Predictor.load(copy)
    labels.write_bytes(labels.read_bytes().replace(b"\n", b"\r\n"))
    with pytest.raises(BatikError, match=r"core\.autocrlf"):
        Predictor.load(copy)


@pytest.mark.parametrize("name", ["model.onnx", "SHA256SUMS"])
def test_a_changed_or_missing_file_is_named(copy, name):
    if name != "SHA256SUMS":
        (copy / name).write_bytes((copy / name).read_bytes() + b" ")
        with pytest.raises(BatikError, match=f"{name} is not the published file"):
            Predictor.load(copy)
    (copy / name).unlink()
    with pytest.raises(BatikError, match=name):
        Predictor.load(copy)


LABELS = {"classes": ["a"] * 3, "familiarity_threshold": 0}
DAMAGE = [
    ("labels.json", LABELS | {"familiarity_threshold": "high"}, "does not say"),
    ("labels.json", LABELS | {"classes": ["a", "b"]}, "does not name 2 motifs"),
    ("model.onnx", "not a model", "no model that onnxruntime can open"),
    ("preprocessing.json", standin.SHAPE | {"fit": "stretch"}, "squash"),
    ("preprocessing.json", standin.SHAPE | {"size": 65}, "65 px"),
    ("preprocessing.json", {"fit": "squash", "colour": "RGB"}, "does not say"),
]


@pytest.mark.parametrize(("name", "content", "reason"), DAMAGE)
def test_a_folder_that_does_not_fit_together(copy, name, content, reason):
    (copy / name).write_text(json.dumps(content))
    standin.seal(copy)
    with pytest.raises(BatikError, match=reason):
        Predictor.load(copy)


def test_the_folder_can_be_set_also_below_home(model_folder, monkeypatch, tmp_path):
    assert default_folder() == PROJECT / "results" / "kaggle" / "model"
    monkeypatch.setenv("HOME", str(model_folder.parent))
    monkeypatch.setenv("BATIK_MODEL_DIR", f"~/{model_folder.name}")
    assert Predictor.load().folder == model_folder
    assert Predictor.load(f"~/{model_folder.name}").folder == model_folder
    with pytest.raises(BatikError, match="--model, or set BATIK_MODEL_DIR"):
        Predictor.load(tmp_path / "none")


def test_a_picture_needs_neither_torch_nor_a_report_to_anybody(model_folder, tmp_path):
    code = (
        f"{standin.GUARD}\n"
        "from batik_utils.__main__ import main\n"
        f"main(['predict', 'x.jpg', '--model', {str(model_folder)!r}])\n"
        "print('heavy:', sorted({'torch', 'pandas', 'matplotlib', 'gradio'} & set(sys.modules)))"
    )
    environment = {**os.environ, "HOME": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, env=environment, capture_output=True, text=True
    )
    assert done.stdout == "heavy: []\n", done.stdout + done.stderr
    assert "No such file" in done.stderr
    # onnxruntime would keep the id of its usage reports there
    assert not list(tmp_path.rglob("*onnxruntime*"))
