"""The running application, asked over loopback as programs and pages do."""

import io
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time

import httpx
import picture_zoo
import pytest
import standin
from gradio_client import Client, handle_file

from batik_utils.__main__ import main
from batik_utils.app import model_folder, page, server, space
from batik_utils.errors import PROJECT, BatikError
from batik_utils.images import cloth

# Runs a Space in its folder, asks for its page, and says what was loaded and switched off.
SPACE = f"""{standin.GUARD}
import os, runpy, urllib.request
sys.path.insert(0, ".")
from batik_utils.app import server
assert server.__file__.startswith(sys.argv[1]), server.__file__
serve = server.serve
def started(predictor, **settings):
    url = serve(predictor, **settings, wait=False).replace("0.0.0.0", "127.0.0.1")
    print("page", len(urllib.request.urlopen(url).read()) > 1000, flush=True)
server.serve = started
try:
    runpy.run_path("app.py")
except SystemExit:
    pass
print("torch", "torch" in sys.modules, "opted out", os.environ["ORT_DISABLE_TELEMETRY"],
      os.environ["GRADIO_ANALYTICS_ENABLED"], flush=True)
"""


@pytest.fixture(scope="module")
def address(predictor):
    return server.serve(predictor, port=0, wait=False).rstrip("/")


@pytest.fixture(scope="module")
def picture():
    stream = io.BytesIO()
    cloth.draw("betawi", 0, (200, 160)).save(stream, "PNG")
    return stream.getvalue()


def upload(address, name, content):
    """Upload a file as a page does, and return what the endpoints take."""
    files = {"files": (name, content, "image/png")}
    found = httpx.post(f"{address}/gradio_api/upload", files=files, timeout=30).raise_for_status()
    return {"path": found.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}


def ask(address, name, data):
    """Ask an endpoint; return the kind of the last event and its data."""
    url = f"{address}/gradio_api/call/{name}"
    event = httpx.post(url, json={"data": data}, timeout=30).raise_for_status().json()["event_id"]
    text = httpx.get(f"{url}/{event}", timeout=60).text
    kind, found = re.findall(r"event: (\w+)\ndata: (.*)", text)[-1]
    return kind, json.loads(found)


def test_a_program_can_ask_by_named_endpoint_and_parameter(address, tmp_path, picture):
    path = tmp_path / "cloth.png"
    path.write_bytes(picture)
    client = Client(address, verbose=False)
    found = client.predict(picture=handle_file(path), api_name="/classify")
    assert (found["motif"], found["verdict"]) == ("betawi", "sure")
    assert len(found["evidence"]) == len(found["evidence"][0]) == 8
    described = client.view_api(return_format="dict")["named_endpoints"]
    assert list(described) == ["/classify"]
    (parameter,) = described["/classify"]["parameters"]
    assert parameter["parameter_name"] == "picture"
    example = httpx.get(parameter["example_input"]["path"], timeout=30)
    assert example.content[:3] == b"\xff\xd8\xff"


@pytest.mark.parametrize("language", ["python", "curl"])
def test_the_examples_of_the_page_run(address, tmp_path, language):
    cloth.draw("betawi", 0, (200, 160)).save(tmp_path / "cloth.jpg")
    words = model_folder.read_json(page.HERE / "examples.json")[language]
    program = {"python": sys.executable, "curl": "bash"}[language]
    command = [program, "-c", words.replace("{address}", f"{address}/")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "betawi" in done.stdout, done.stdout + done.stderr


PATHS = ["/etc/passwd", "../../etc/passwd", str(PROJECT / "LICENSE"), "", "a\0b", 5, None]
NONSENSE = [["text", False], [None, "xx"], [[], 5], []]


@pytest.mark.parametrize("data", [*([{"path": path}, False] for path in PATHS), *NONSENSE])
def test_no_file_of_the_server_can_be_asked_for_nor_a_traceback(address, data):
    for endpoint in ("look", "classify"):
        kind, found = ask(address, endpoint, data if endpoint == "look" else data[:1])
        assert kind == "error"
        for inside in ("Traceback", "batik_utils", "pydantic", ".py"):
            assert inside not in json.dumps(found)


def test_a_sub_path_behind_a_proxy(predictor):
    """The proxy takes ``/batik`` away before it asks."""
    address = server.serve(predictor, port=0, root_path="batik/", wait=False).rstrip("/")
    assert '<base href="/batik/">' in httpx.get(f"{address}/", timeout=30).text
    for path in ("page/app.js", "page/drawn/tambal-20.jpg", page.CARD, "health"):
        assert httpx.get(f"{address}/{path}", timeout=30).status_code == 200, path
    for path in ("page/server.py", "page/drawn/x.jpg", "page/gallery/0.jpg"):
        assert httpx.get(f"{address}/{path}", timeout=30).status_code == 404, path
    # a picture that browsers cannot show comes back as one that they can
    tiff = upload(address, "a.tiff", picture_zoo.encode(picture_zoo.CLOTH, "TIFF"))
    kind, (found,) = ask(address, "look", [tiff, True])
    assert kind == "complete" and found["preview"].startswith("data:image/jpeg;base64,")


def test_mistakes_are_sentences(address, model_folder, tmp_path, capsys):
    port = address.rsplit(":", 1)[1]
    for words in (["--port", port], ["--gallery", str(tmp_path)]):
        assert main(["app", "--model", str(model_folder), *words]) == 2
        assert words[1] in capsys.readouterr().err


def test_nothing_of_a_picture_stays(predictor, picture, tmp_path, monkeypatch, capfd, caplog):
    caplog.set_level("DEBUG")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(server, "CHECK_EVERY", 0.1)
    address = server.serve(predictor, port=0, wait=False).rstrip("/")
    asked = upload(address, "private.png", picture)
    assert ask(address, "look", [asked, False])[0] == "complete"
    upload(address, "new.png", picture + b"1")
    for path in tmp_path.rglob("private*"):
        os.utime(path, (0, 0))
    while list(tmp_path.rglob("private*")):
        time.sleep(0.1)
    assert list(tmp_path.rglob("new.png"))
    assert "private" not in "".join(capfd.readouterr()) + caplog.text


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_a_stopped_or_killed_server_leaves_no_upload(
    model_folder, picture, tmp_path, how, monkeypatch
):
    """It starts with a proxy set and beside another user's folder ``gradio``, too."""
    (tmp_path / "gradio").touch()  # as root may write anywhere: a file where no folder can be made
    environment = {"http_proxy": "http://127.0.0.1:9", "all_proxy": "socks5://127.0.0.1:9"}
    process = subprocess.Popen(
        [sys.executable, "-m", "batik_utils", "app", "--port", "0", "--model", str(model_folder)],
        cwd=PROJECT,
        env={**os.environ, **environment, "TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        address = next(line for line in process.stderr if "answers at" in line).split()[-1]
        upload(address.rstrip("/"), "private.png", picture)
        assert list(tmp_path.rglob("private.png"))
    finally:
        getattr(process, how)()
        process.communicate(timeout=60)
    if how == "kill":  # the next start deletes what is left, but no folder that is in use
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        first, second = server.make_room(), server.make_room()
        assert first.is_dir() and second.is_dir()
    assert not list(tmp_path.rglob("private.png"))


def test_a_full_queue_is_a_polite_refusal(predictor, picture, monkeypatch):
    started, go_on = threading.Semaphore(0), threading.Event()

    def slow(*given, **settings):
        started.release()
        go_on.wait(60)
        return answer(*given, **settings)

    answer = predictor.answer
    monkeypatch.setattr(predictor, "answer", slow)
    monkeypatch.setattr(server, "QUEUE", 1)
    address = server.serve(predictor, port=0, wait=False).rstrip("/")
    payload = upload(address, "cloth.png", picture)
    url = f"{address}/gradio_api/call/classify"
    asked = []
    try:
        for number in range(server.CONCURRENCY + 3):
            asked.append(httpx.post(url, json={"data": [payload]}, timeout=30))
            if number < server.CONCURRENCY:
                assert started.acquire(timeout=60)  # it is computed, and waits no more
    finally:
        go_on.set()
    # as many as are computed and may wait are taken and answered, the others are told so at once
    taken = server.CONCURRENCY + 1
    assert [one.status_code for one in asked] == [200] * taken + [503] * 2
    for one in asked[:taken]:
        assert '"verdict"' in httpx.get(f"{url}/{one.json()['event_id']}", timeout=60).text


def test_a_space_runs_from_its_own_folder_and_asks_nobody(model_folder, tmp_path, capsys):
    folder, home = tmp_path / "space", tmp_path / "home"
    home.mkdir()
    words = ["export", "--format", "space", "--output", str(folder), "--model", str(model_folder)]
    for _ in range(2):  # an export may be repeated
        assert main(words) == 0
    assert "\nsdk: gradio\n" in (folder / "README.md").read_text(encoding="utf-8")
    assert sorted(path.name for path in (folder / "batik_utils").iterdir()) == sorted(space.PARTS)
    done = subprocess.run(
        [sys.executable, "-c", SPACE, str(folder)],
        cwd=folder,
        env={**os.environ, "GRADIO_SERVER_PORT": "0", "PYTHONPATH": "", "HOME": str(home)},
        capture_output=True,
        text=True,
    )
    said = "page True torch False opted out 1 False"
    assert done.stdout.split() == said.split(), done.stdout + done.stderr
    # onnxruntime would keep the id of its usage reports there
    assert not list(home.rglob("*onnxruntime*"))
    with pytest.raises(BatikError, match="holds something else"):
        space.export(tmp_path, model_folder)


def test_the_container_has_what_a_space_has_and_nothing_else_is_sent():
    text = (PROJECT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    copied = re.findall(r"^COPY (\S+)", text, re.M)
    ignore = (PROJECT / ".dockerignore").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^!(\S+)", ignore, re.M)) == sorted(copied)
    assert all((PROJECT / path).exists() for path in copied)
    parts = [path.removeprefix("batik_utils/") for path in copied if "batik_utils" in path]
    assert sorted(parts) == sorted(space.PARTS)
    packages = re.search(r"pip install --no-cache-dir (.*) -c", text)[1].split()
    assert sorted(packages) == sorted(["gradio", *space.PACKAGES])
    assert text.index("USER batik") < text.index("\nCMD")
