"""The page in the browser alone: the same pixels and the same answers as Python, and no upload."""

import contextlib
import functools
import http.server
import io
import os
import shutil
import subprocess
import threading
from base64 import b64decode, b64encode
from pathlib import Path

import numpy as np
import picture_zoo
import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from batik_utils.app import predict, web
from batik_utils.app import server as app
from batik_utils.classifier import foreign
from batik_utils.errors import PROJECT, BatikError
from batik_utils.images import cloth as synthetic
from batik_utils.images.motifs import MOTIFS
from batik_utils.images.resize import FITS, Framing, frame

ROOT = PROJECT
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")

needs_browser = pytest.mark.skipif(
    not (CHROMIUM and shutil.which("npm")),
    reason="no Chromium or no npm on this machine: apt-get install chromium npm",
)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def package():
    """onnxruntime-web's package file, fetched once a checkout."""
    kept = ROOT / ".cache" / f"onnxruntime-web-{web.RUNTIME}.tgz"
    if not kept.is_file():
        kept.parent.mkdir(exist_ok=True)
        web._fetch(kept.parent)
    return kept


@contextlib.contextmanager
def served(folder: Path):
    """Yield the address of a folder on a plain static server."""
    handler = functools.partial(Quiet, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield found
        found.close()


@pytest.fixture(scope="module")
def page(browser, model_folder, package, tmp_path_factory):
    """The page with the stand-in."""
    folder = web.build(tmp_path_factory.mktemp("web") / "page", model_folder, package)
    with served(folder) as site, opened(browser, site) as page:
        yield page


@contextlib.contextmanager
def opened(browser, site: str):
    """Yield a page on a phone; fails at the end if it sent anything, or asked another machine."""
    context = browser.new_context(viewport={"width": 390, "height": 844}, locale="en-US")
    page = context.new_page()
    page.set_default_timeout(60_000)
    asked, errors = [], []
    page.on("request", lambda r: asked.append((r.method, r.url, r.post_data)))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(site)
    page.evaluate("batik.ready")
    yield page
    context.close()
    # nothing was sent, and nobody else was asked
    assert asked
    assert all(method == "GET" and sent is None for method, _, sent in asked)
    assert all(url.startswith((site, "data:", "blob:")) for _, url, _ in asked)
    assert not errors


def ask(page, content: bytes) -> dict:
    """Give the page a file's content and return its answer."""
    return page.evaluate(
        """async (text) => batik.classify(new Blob([Uint8Array.from(atob(text),
           (letter) => letter.charCodeAt(0))]))""",
        b64encode(content).decode(),
    )


@needs_browser
@pytest.mark.parametrize("interpolation", ["box", "bilinear", "bicubic"])
def test_the_script_resizes_as_pillow_does(page, interpolation):
    chance = np.random.default_rng(0)
    for width, height in ((97, 61), (64, 64), (23, 31), (300, 40), (1, 90)):
        pixels = chance.integers(0, 256, (height, width, 3), dtype=np.uint8)
        rgba = np.dstack([pixels, np.full((height, width), 255, np.uint8)])
        for fit in FITS:
            framing = Framing(48, fit, interpolation)
            # as text: a list of numbers takes seconds to cross over
            found = page.evaluate(
                """([text, width, height, framing]) => {
                     const data = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
                     const made = batik.frame({data, width, height}, framing);
                     return btoa(Array.from(made, (n) => String.fromCharCode(n)).join(""));
                   }""",
                [b64encode(rgba.tobytes()).decode(), width, height, framing.as_dict()],
            )
            found = np.frombuffer(b64decode(found), np.uint8).astype(int)
            wanted = frame(Image.fromarray(pixels), framing)
            assert np.abs(found - wanted.ravel()).max() <= 1, (width, height, fit)
            assert np.mean(found != wanted.ravel()) < 0.001, (width, height, fit)


@needs_browser
def test_its_answers_agree_with_pythons(page, predictor):
    files = {}
    for motif in MOTIFS:
        for seed in (0, 3, 11):
            drawn = synthetic.draw(motif, seed, (200, 160) if seed < 8 else (320, 260))
            for kind, settings in (("PNG", {}), ("JPEG", {"quality": 80}), ("WEBP", {})):
                stream = io.BytesIO()
                exif = Image.Exif()
                exif[0x0112] = 6  # turned by a quarter
                drawn.save(stream, kind, exif=exif if kind == "JPEG" else Image.Exif(), **settings)
                files[motif, seed, kind] = stream.getvalue()
    farthest = 0.0
    for (case, content), wanted in zip(
        files.items(), predictor.predict(files.values()), strict=True
    ):
        found = ask(page, content)
        gaps = [abs(found["probabilities"][name] - p) for name, p in wanted.probabilities.items()]
        farthest = max(farthest, *gaps)
        assert max(gaps) < 0.02, case
        assert (found["verdict"], found["motif"]) == (wanted.verdict, wanted.motif), case
    assert farthest < 0.02


@needs_browser
@pytest.mark.parametrize(
    "name",
    [
        "an empty file",
        "HTML",
        "SVG with a script",
        "PDF",
        "half a PNG",
        "1 x 1",
        "31 x 500",
        "one colour",
    ],
)
def test_it_refuses_what_python_refuses(page, name):
    content, kind = picture_zoo.bad()[name]
    found = ask(page, content)
    assert found["verdict"] == "refused"
    assert found["kind"] == kind


@needs_browser
@pytest.mark.parametrize("name", ["PNG", "PNG with transparency", "GIF", "BMP", "animated WebP"])
def test_it_opens_what_python_opens(page, predictor, name):
    content = picture_zoo.good()[name]
    found, wanted = ask(page, content), predictor.predict([content])[0]
    assert found["verdict"] == wanted.verdict
    for motif, p in wanted.probabilities.items():
        assert abs(found["probabilities"][motif] - p) < 0.02


@needs_browser
def test_a_person_on_a_phone(page, tmp_path):
    synthetic.draw("tambal", 1, (200, 160)).save(tmp_path / "cloth.png")
    page.set_input_files("#file", tmp_path / "cloth.png")
    expect(page.locator("#answer h2")).to_have_text("Tambal")
    page.select_option("#language", "id")
    expect(page.locator("#answer")).to_contain_text("menambal")
    assert page.evaluate("document.documentElement.lang") == "id"
    (tmp_path / "bad.jpg").write_bytes(b"<html>")
    page.set_input_files("#file", tmp_path / "bad.jpg")
    expect(page.locator("#answer h2")).to_have_text("Berkas ini tidak dapat dipakai")
    page.get_by_role("button", name="Contoh 3").click()
    expect(page.locator("#answer .bars li")).to_have_count(3)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.select_option("#language", "en")


@needs_browser
def test_the_deployed_model_answers_there_as_in_python(browser, package, tmp_path):
    predictor = predict.Predictor.load(threads=1)
    files = {}
    for motif, seed in app.EXAMPLES:
        for kind, settings in (("PNG", {}), ("JPEG", {"quality": 90})):
            stream = io.BytesIO()
            synthetic.draw(motif, seed).save(stream, kind, **settings)
            files[motif, seed, kind] = stream.getvalue()
    files["an animal"] = Path(foreign.photographs()[4]).read_bytes()
    files["small, transparent"] = picture_zoo.good()["PNG with transparency"]
    web.build(tmp_path, None, package)
    with served(tmp_path) as site, opened(browser, site) as page:
        for case, content in files.items():
            found, wanted = ask(page, content), predictor.predict([content])[0]
            for name, p in wanted.probabilities.items():
                assert abs(found["probabilities"][name] - p) < 0.02, case
            assert found["familiarity"] == pytest.approx(wanted.familiarity, abs=0.05), case
            assert (found["verdict"], found["motif"]) == (wanted.verdict, wanted.motif), case


def test_another_runtime_is_refused(model_folder, tmp_path):
    wrong = tmp_path / "onnxruntime-web.tgz"
    wrong.write_bytes(b"something else")
    with pytest.raises(BatikError, match="not the tested onnxruntime-web"):
        web.build(tmp_path / "page", model_folder, wrong)


def test_a_failed_fetch_is_a_sentence(model_folder, tmp_path, monkeypatch):
    def failed(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "npm error\nnpm error no network")

    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(subprocess, "run", failed)
    with pytest.raises(BatikError, match=r"could not fetch onnxruntime-web .*: npm error no net"):
        web.build(tmp_path / "page", model_folder)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(BatikError, match="npm is needed"):
        web.build(tmp_path / "page", model_folder)
