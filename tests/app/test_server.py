"""The application's sentences and its API, asked over loopback as a program would."""

import io
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from types import SimpleNamespace

import httpx
import numpy as np
import picture_zoo
import pytest
from gradio_client import Client, handle_file
from PIL import Image

from batik_utils.__main__ import main
from batik_utils.app import occlusion, space, texts
from batik_utils.app import server as app
from batik_utils.app.predict import Prediction
from batik_utils.errors import PROJECT, BatikError
from batik_utils.images import cloth as synthetic
from batik_utils.images.motifs import MOTIFS

ROOT = PROJECT
SHARES = {"betawi": 0.05, "sidoluhur": 0.15, "tambal": 0.8}
SURE = Prediction("a.jpg", "tambal", "sure", SHARES, 1.0)
UNSURE = Prediction("b.jpg", "tambal", "unsure", {**SHARES, "tambal": 0.5}, 1.0, "Not sure.")
NONE = Prediction("c.jpg", None, "none", SHARES, -9.0, "None of these.")
REFUSED = Prediction("d.jpg", None, "refused", {}, float("nan"), "No.", "damaged")
ALL = (SURE, UNSURE, NONE, REFUSED)

# Starts a Space and tells of every address that is not this machine's.
WATCHED = """
import runpy, socket, sys, urllib.request

HERE = ("127.0.0.1", "0.0.0.0", "::1", "localhost", b"127.0.0.1", b"0.0.0.0", None)

def watch(name, host_of):
    real = getattr(*name)
    def watched(*given, **more):
        if host_of(*given) not in HERE:
            print("OUTSIDE", given, flush=True)
        return real(*given, **more)
    setattr(*name, watched)

watch((socket.socket, "connect"),
      lambda s, a: None if s.family == socket.AF_UNIX else a[0])
watch((socket, "getaddrinfo"), lambda host, *rest: host)
sys.path.insert(0, ".")
from batik_utils.app import server as app
assert app.__file__.startswith(sys.argv[1]), app.__file__
serve = app.serve
def started(predictor, **settings):
    url = serve(predictor, **settings, wait=False).replace("0.0.0.0", "127.0.0.1")
    print("page", len(urllib.request.urlopen(url).read()) > 1000, flush=True)
app.serve = started
runpy.run_path("app.py")
print("torch", "torch" in sys.modules, flush=True)
"""


@pytest.fixture(scope="session")
def server(predictor):
    """The running application."""
    return app.serve(predictor, port=0, wait=False).rstrip("/")


# ---- words


def test_both_languages_say_the_same_things():
    english, indonesian = (texts._SAY[code] for code in texts.LANGUAGES)
    assert english.keys() == indonesian.keys()
    for key, sentence in english.items():
        assert len(sentence) == len(indonesian[key]) or isinstance(sentence, str)
        if isinstance(sentence, str):
            filled = [sorted(re.findall(r"\{(\w+)\}", s)) for s in (sentence, indonesian[key])]
            assert filled[0] == filled[1], key
    for code in texts.LANGUAGES:
        assert sorted(texts.MOTIFS[code]) == sorted(MOTIFS)
        assert all(len(facts) == 4 for facts in texts.MOTIFS[code].values())
    with pytest.raises(BatikError, match="Unknown language 'fr'"):
        texts.say("fr", "title")


def test_every_kind_of_refusal_has_a_sentence_in_both_languages():
    kinds = {kind for _, kind in picture_zoo.bad().values()} | {"unreadable"}
    for code in texts.LANGUAGES:
        sentences = {texts.say(code, f"kind_{kind}") for kind in kinds}
        assert len(sentences) == len(kinds)


@pytest.mark.parametrize(
    ("share", "words"),
    [(1.0, "> 99 %"), (0.991, "> 99 %"), (0.876, "88 %"), (0.01, "1 %"), (0.0, "< 1 %")],
)
def test_no_share_is_certain(share, words):
    assert texts.percent(share) == words


@pytest.mark.parametrize("language", texts.LANGUAGES)
def test_each_verdict_is_shown_as_what_it_is(language):
    shown = [app.answer_html(answer, language) for answer in ALL]
    heads = [re.search("<h2>(.*?)</h2>", page)[1] for page in shown]
    assert heads[0] == "Tambal"
    assert len(set(heads)) == 4
    assert heads[2] == texts.say(language, "none")
    # origin and meaning belong to a named motif alone
    assert [("<dl>" in page) for page in shown] == [True, True, False, False]
    assert [page.count("<li>") for page in shown] == [3, 3, 3, 0]
    assert "80 %" in shown[0]
    assert texts.say(language, "unsure_note") in shown[1]
    assert all('role="status"' in page for page in shown)
    assert texts.say(language, "waiting") in app.answer_html(None, language)


@pytest.mark.parametrize("motif", MOTIFS)
def test_what_is_told_of_a_motif_has_sources(motif):
    assert len(texts.SOURCES[motif]) >= 2
    assert all(re.match(r"https?://[\w.]+/\S+$", address) for _, address in texts.SOURCES[motif])
    shown = app.answer_html(Prediction("a", motif, "sure", SHARES, 1.0), "id")
    links = re.findall(r'<a href="([^"]+)" target="_blank" rel="noopener noreferrer">', shown)
    assert [link.replace("&amp;", "&") for link in links] == [a for _, a in texts.SOURCES[motif]]
    assert "Sumber: " in shown


def test_a_file_name_cannot_put_anything_into_the_page():
    wicked = Prediction("<img src=x onerror=alert(1)>.jpg", "tambal", "sure", SHARES, 1.0)
    page = app.table_html([wicked], "en")
    assert "<img" not in page
    assert "&lt;img" in page


@pytest.mark.parametrize("language", texts.LANGUAGES)
def test_many_answers_become_a_table_and_a_sentence(language):
    page = app.table_html(ALL, language)
    assert page.count("<tr") == 5
    assert page.count("<td>") == 16
    words = app.summary(ALL, language, MOTIFS)
    assert "Tambal 2" in words
    assert words.startswith("4 ")


def test_the_api_answers_are_json():
    for answer in ALL:
        assert json.loads(json.dumps(app.as_json(answer), allow_nan=False))["verdict"]


# ---- what mattered


class OnePlace:
    """A model that looks at the upper left eighth alone: bright there means betawi."""

    classes = ("betawi", "other")

    def __init__(self, framing):
        self.framing = framing

    def run(self, pixels):
        bright = pixels[:, :8, :8].mean(axis=(1, 2, 3)) / 255
        return np.stack([bright, 1 - bright], axis=1), np.zeros(len(pixels))


def test_the_heat_map_finds_the_place_that_decides(predictor):
    model = OnePlace(predictor.framing)
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:8, :8] = 255
    heat = occlusion.heat_map(model, Image.fromarray(pixels), "betawi", grid=8)
    assert heat.shape == (8, 8)
    assert np.unravel_index(heat.argmax(), heat.shape) == (0, 0)
    assert heat[0, 0] > 0.9
    assert np.abs(heat[2:]).max() == 0
    shown = np.asarray(occlusion.overlay(Image.fromarray(pixels), heat, model.framing))
    warmth = shown[..., 0].astype(int) - shown[..., 2]
    assert warmth[20, 20] > 80
    assert np.abs(warmth[200:, 200:]).max() <= 1
    with pytest.raises(BatikError, match="knows betawi, other"):
        occlusion.heat_map(model, Image.fromarray(pixels), "kawung")


# ---- the running application


def test_health(server):
    with urllib.request.urlopen(f"{server}/health", timeout=20) as answer:
        assert json.load(answer)["status"] == "ok"


def test_a_program_can_ask(server, tmp_path):
    path = tmp_path / "cloth.png"
    synthetic.draw("betawi", 0, (200, 160)).save(path)
    client = Client(server, verbose=False)
    found = client.predict(handle_file(path), api_name="/classify")
    assert (found["motif"], found["verdict"]) == ("betawi", "sure")
    assert sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-3)
    path.write_bytes(b"<html>")
    found = client.predict(handle_file(path), api_name="/classify")
    assert (found["motif"], found["verdict"]) == (None, "refused")
    assert found["reason"] == "This file was refused: not a picture (an HTML page)."
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/classify"]


def _call(server, name, data):
    """Speak to an event as a page does, or as somebody who pretends to be one."""
    config = json.load(urllib.request.urlopen(f"{server}/config", timeout=20))
    number = next(d["id"] for d in config["dependencies"] if d["api_name"] == name)
    body = {"data": data, "fn_index": number, "session_hash": f"test{time.time_ns()}"}
    request = urllib.request.Request(
        f"{server}/gradio_api/queue/join",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=20).close()
    url = f"{server}/gradio_api/queue/data?session_hash={body['session_hash']}"
    with urllib.request.urlopen(url, timeout=30) as stream:
        for line in stream:
            event = json.loads(line.decode().removeprefix("data: ")) if line.strip() else {}
            if event.get("msg") == "process_completed":
                return event
    raise AssertionError("no answer")


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", str(ROOT / "LICENSE"), ""])
@pytest.mark.parametrize("event", ["look", "explain"])
def test_no_file_of_the_server_can_be_asked_for(server, event, path):
    upload = {"path": path, "meta": {"_type": "gradio.FileData"}}
    found = _call(server, event, [upload, "en"])
    words = json.dumps(found["output"])
    assert found["success"] is False or texts.say("en", "kind_unreadable") in words
    assert "bars" not in words


@pytest.mark.parametrize("data", [["text", "en"], [None, "xx"], [None, 5], [None, None]])
def test_nonsense_gets_no_traceback(server, data):
    event = _call(server, "look", data)
    assert event["success"] is False
    words = json.dumps(event["output"])
    for inside in ("Traceback", "batik_utils", "pydantic", ".py"):
        assert inside not in words


def test_a_taken_port_is_a_sentence(server, model_folder, capsys):
    port = server.rsplit(":", 1)[1]
    assert main(["app", "--model", str(model_folder), "--port", port]) == 2
    assert f"Port {port} on 127.0.0.1 cannot be used" in capsys.readouterr().err


def test_an_old_gradio_is_a_sentence(predictor, monkeypatch):
    import gradio

    monkeypatch.setattr(gradio, "__version__", "5.49.1")
    with pytest.raises(BatikError, match=r"Gradio 5.49.1 is too old: pip install --upgrade"):
        app.serve(predictor, port=0, wait=False)


def _upload(server, name, content):
    """Upload a file as a page does, and return what the events take."""
    files = {"files": (name, content, "image/png")}
    found = httpx.post(f"{server}/gradio_api/upload", files=files, timeout=30).raise_for_status()
    return {"path": found.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}


class GrowsMeanwhile(set):
    """A set that is changed by somebody else while it is walked through, so many times."""

    times = 1

    def __iter__(self):
        for one in super().__iter__():
            if self.times:
                self.times -= 1
                self.add(f"another-{self.times}")
            yield one


def test_an_upload_during_the_clearing_does_not_end_it(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(app, "DELETE_AFTER", -1)
    old = tmp_path / "old.png"
    old.write_bytes(b"old")
    left = GrowsMeanwhile([str(old)])
    page = SimpleNamespace(blocks={}, temp_file_sets=[left])
    app._sweep(page)
    assert not left.times and not old.exists() and not caplog.records
    # where it never works, the log says so, and the next minute tries again
    left.times = 10**6
    app._sweep(page, tries=3)
    assert "Old uploads stay for another 60 s: Set changed size" in caplog.text


def test_nothing_of_a_picture_stays(predictor, tmp_path, monkeypatch, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    room = tmp_path / "room"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(room))
    own = tmp_path / "own"  # other applications may be running
    own.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(own))
    monkeypatch.setattr(app, "CHECK_EVERY", 1)
    monkeypatch.setattr(app, "DELETE_AFTER", 4)
    server = app.serve(predictor, port=0, wait=False).rstrip("/")

    def kept():
        return {path for path in room.rglob("*") if path.is_file() and path.stat().st_size}

    examples = kept()
    assert len(examples) == len(app.EXAMPLES)
    stream = io.BytesIO()
    synthetic.draw("betawi", 0, (200, 160)).save(stream, "PNG")
    uploads = [
        _upload(server, f"very-private-{k}.png", content)
        # one is refused, and one is never asked about
        for k, content in enumerate([stream.getvalue() + bytes([k]) for k in range(4)] + [b"no"])
    ]
    assert _call(server, "look", [uploads[0], "en"])["success"]
    assert _call(server, "explain", [uploads[0], "en"])["success"]
    assert _call(server, "look_at_many", [uploads[1:3], "en"])["success"]
    assert _call(server, "classify", [uploads[3]])["success"]
    assert _call(server, "look", [uploads[4], "en"])["success"]
    # the pictures, the heat map and the table were there; all of them go
    assert {path.suffix for path in kept() - examples} == {".png", ".csv"}
    assert len(list(own.rglob("batik-motifs.csv"))) == 1
    end = time.monotonic() + 60
    while kept() - examples and time.monotonic() < end:
        time.sleep(0.5)
    assert kept() == examples
    # nor the table's first copy, which Gradio does not know of
    while list(own.rglob("batik-motifs.csv")) and time.monotonic() < end:
        time.sleep(0.5)
    assert not list(own.rglob("batik-motifs.csv"))
    said = "".join(capfd.readouterr()) + caplog.text
    assert "very-private" not in said


def test_nothing_stays_when_the_server_is_told_to_stop(model_folder, tmp_path):
    room = tmp_path / "room"
    command = [sys.executable, "-m", "batik_utils", "app", "--port", "0"]
    server = subprocess.Popen(
        [*command, "--model", str(model_folder)],
        cwd=ROOT,
        env={**os.environ, "GRADIO_TEMP_DIR": str(room), "TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = next(line for line in server.stderr if "answers at" in line)
        url = line.split()[-1].rstrip("/")
        content = picture_zoo.encode(picture_zoo.CLOTH, "PNG")
        assert _call(url, "look", [_upload(url, "private.png", content), "en"])["success"]
        assert list(room.rglob("private.png"))
    finally:
        server.terminate()
        server.wait(60)
    assert not list(room.rglob("private.png"))
    assert not list(tmp_path.glob("batik-app-*"))


def test_a_full_queue_is_a_polite_refusal(predictor, monkeypatch):
    busy, go_on = threading.Event(), threading.Event()

    class Slow:
        classes, folder, framing = predictor.classes, predictor.folder, predictor.framing

        def predict(self, images):
            busy.set()
            go_on.wait(60)
            return predictor.predict(images)

    monkeypatch.setattr(app, "QUEUE", 1)
    server = app.serve(Slow(), port=0, wait=False).rstrip("/")
    upload = _upload(server, "cloth.png", picture_zoo.encode(picture_zoo.CLOTH, "PNG"))
    url = f"{server}/gradio_api/call/classify"
    answers = []
    try:
        for _ in range(app.CONCURRENCY + 3):
            answers.append(httpx.post(url, json={"data": [upload]}, timeout=30))
            busy.wait(60)
            time.sleep(0.2)  # the queue hands on what it can
    finally:
        go_on.set()
    codes = [answer.status_code for answer in answers]
    # as many as are computed and may wait are taken, the others are told so at once
    assert codes == [200] * (app.CONCURRENCY + 1) + [503] * 2
    assert "Queue is full" in answers[-1].text
    assert "Traceback" not in answers[-1].text
    # and those that were taken are answered
    for answer in answers[: app.CONCURRENCY + 1]:
        with httpx.stream("GET", f"{url}/{answer.json()['event_id']}", timeout=60) as stream:
            assert '"verdict"' in "".join(stream.iter_text())
    # afterwards there is room again
    assert httpx.post(url, json={"data": [upload]}, timeout=30).status_code == 200


# ---- the Space


def test_a_space_runs_from_its_own_folder(model_folder, tmp_path, capsys):
    folder = tmp_path / "space"
    for _ in range(2):  # an export may be repeated
        assert main(["app", "--export-space", str(folder), "--model", str(model_folder)]) == 0
    assert capsys.readouterr().out.split() == [str(folder)] * 2
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert readme.startswith("---\ntitle: ")
    assert "\nsdk: gradio\n" in readme
    assert "\napp_file: app.py\n" in readme
    assert re.search(r"^onnxruntime==\d", (folder / "requirements.txt").read_text(), re.M)
    # a model that git would push as it is would be turned away
    assert (folder / ".gitattributes").read_text().count("*.onnx filter=lfs") == 1
    # it starts with what is in the folder, and asks no other machine for anything
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(folder)],
        cwd=folder,
        env={**os.environ, "GRADIO_SERVER_PORT": "0", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["page", "True", "torch", "False"], done.stdout + done.stderr


def test_a_space_overwrites_nothing_else(model_folder, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(BatikError, match="holds something else"):
        space.export(tmp_path, model_folder)
