"""The page as people meet it, in Chromium: on a phone and a computer, in the application and alone.

States are waited for, never times, so that a busy machine changes nothing but the duration.
"""

import contextlib
import csv
import functools
import http.server
import io
import os
import re
import shutil
import threading
from base64 import b64decode, b64encode
from pathlib import Path

import numpy as np
import picture_zoo
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from batik_utils.app import page as pages
from batik_utils.app import server, web
from batik_utils.app.predict import Predictor
from batik_utils.errors import PROJECT
from batik_utils.images import cloth
from batik_utils.images.motifs import MOTIFS
from batik_utils.images.resize import to_pixels

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and shutil.which("npm")),
    reason="no Chromium or no npm on this machine: apt-get install chromium npm",
)
PATIENCE = 90_000  # ms
expect.set_options(timeout=PATIENCE)
SAY = {code: pages.texts(code)["say"] for code in pages.LANGUAGES}
REFUSED = {code: pages.texts(code)["refused"] for code in pages.LANGUAGES}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
COMPUTER = {"viewport": {"width": 1280, "height": 800}}
EN, ID = {"locale": "en-US"}, {"locale": "id-ID"}
LIGHT, DARK = {"color_scheme": "light"}, {"color_scheme": "dark"}


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=CHROMIUM,
            # a camera that shows a moving disc, and is allowed
            args=[
                *("--no-sandbox", "--disable-gpu"),
                *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
            ],
        )
        yield found
        found.close()


@pytest.fixture(scope="module")
def museum(tmp_path_factory):
    folder = tmp_path_factory.mktemp("museum")
    cloth.draw("tambal", 9, (300, 240)).save(folder / "Tambal, Yogyakarta 1910.tiff")
    return folder


@pytest.fixture(scope="module")
def package():
    """onnxruntime-web's package file, fetched once a checkout."""
    kept = PROJECT / ".cache" / f"onnxruntime-web-{web.RUNTIME}.tgz"
    if not kept.is_file():
        kept.parent.mkdir(exist_ok=True)
        web._fetch(kept.parent)
    return kept


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(folder: Path):
    """Yield the address of a folder on a plain static server."""
    handler = functools.partial(Quiet, directory=folder)
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}/"
    found.shutdown()


@pytest.fixture(scope="module")
def sites(predictor, model_folder, package, museum, tmp_path_factory):
    """The same page twice: with a server, and alone."""
    folder = tmp_path_factory.mktemp("web")
    web.build(folder, model_folder, package, museum)
    with served(folder) as alone:
        yield {
            "app": server.serve(predictor, port=0, gallery=museum, wait=False),
            "alone": alone,
            "folder": folder,
        }


@pytest.fixture
def visit(browser, sites):
    """Open a site in a context of its own; fails at the end if it asked another machine."""
    outside, sent, errors, contexts = [], [], [], []

    def go(site="app", *settings, script="", route=None) -> Page:
        context = browser.new_context(**{k: v for one in (EN, *settings) for k, v in one.items()})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        address = sites[site]

        def watch(request):
            if not request.url.startswith((address, "data:", "blob:")):
                outside.append(request.url)
            if site == "alone" and (request.method != "GET" or request.post_data):
                sent.append(request.url)

        context.on("request", watch)
        page.on("pageerror", lambda error: errors.append(str(error)))
        if script:
            page.add_init_script(script)
        if route:
            page.context.route(*route)
        page.goto(address)
        expect(page.locator("#take")).to_be_visible()
        return page

    yield go
    for context in contexts:
        context.close()
    assert not outside
    assert not sent
    assert not errors


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    for motif, seed in (("betawi", 1), ("tambal", 1), ("sidoluhur", 2)):
        cloth.draw(motif, seed, (200, 160)).save(folder / f"{motif}.png")
    cloth.draw("tambal", 1, (120, 400)).save(folder / "tall.jpg")
    (folder / "IMG_1.HEIC").write_bytes(picture_zoo.bad()["HEIC"][0])
    (folder / "renamed.jpg").write_bytes(b"a letter, " * 50)
    return folder


def choose(page: Page, *paths: Path) -> None:
    with page.expect_file_chooser() as waiting:
        page.locator("#choose").click()
    waiting.value.set_files(list(paths))


def answered(page: Page, words: str):
    found = page.locator("#answer h1")
    expect(found).to_have_text(words)
    return found


def fits(page: Page) -> None:
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def is_seen(page: Page, selector: str) -> None:
    """Assert that an element lies in the window without scrolling."""
    assert page.evaluate("scrollY") == 0
    expect(page.locator(selector).first).to_be_in_viewport(ratio=1)


def axe(page: Page) -> dict:
    found = Axe().run(page).response["violations"]
    return {one["id"]: [node["html"][:200] for node in one["nodes"]] for one in found}


LOOKS = [
    ("app", "en", PHONE, LIGHT),
    ("app", "id", PHONE, DARK),
    ("app", "id", COMPUTER, LIGHT),
    ("alone", "en", PHONE, DARK),
    ("alone", "id", COMPUTER, DARK),
]


@pytest.mark.parametrize(("site", "code", "device", "scheme"), LOOKS)
def test_a_visit_from_the_first_screen_to_the_motif(visit, drawn, site, code, device, scheme):
    page, say = visit(site, device, scheme, {"en": EN, "id": ID}[code]), SAY[code]
    assert page.evaluate("document.documentElement.lang") == code
    is_seen(page, "#take")
    assert axe(page) == {}
    # the answer takes the buttons' place, all of it in the window
    for name in ("tall.jpg", "tambal.png"):
        choose(page, drawn / name)
        expect(page.get_by_alt_text(name)).to_be_visible()
        if name == "tambal.png":
            answered(page, say["sure"].format(motif="Tambal"))
            for one in ("#answer h1", ".bars li", "#switch", "#evidence"):
                is_seen(page, one)
            expect(page.locator(".bars li").first).to_contain_text(re.compile(r"Tambal\s*9\d %"))
        fits(page)
    assert axe(page) == {}
    # the evidence is there at once; the switch takes it away and back
    switch = page.locator("#switch")
    for on in ("true", "false", "true"):
        expect(switch).to_have_attribute("aria-pressed", on)
        expect(page.locator("#evidence")).to_be_visible(visible=on == "true")
        switch.press("Enter")
    # what is refused is told in the visitor's language, without a broken picture
    for name, kind in (("IMG_1.HEIC", "heic"), ("renamed.jpg", "format")):
        choose(page, drawn / name)
        answered(page, say["refused"])
        start = REFUSED[code][kind].split("{")[0]
        expect(page.locator("#answer")).to_contain_text(start)
        expect(page.locator(".figure img")).to_have_count(0)
        expect(page.locator(".bars")).to_have_count(0)
    # several pictures
    choose(page, *(drawn / f"{name}.png" for name in ("betawi", "tambal", "sidoluhur")))
    expect(page.locator("#csv")).to_be_enabled()
    expect(page.locator("#list li")).to_have_count(3)
    fits(page)
    assert axe(page) == {}
    page.locator("#list button").first.click()
    answered(page, say["sure"].format(motif="Betawi"))
    page.goto(f"{page.url.split('#')[0]}#motif-sidoluhur")
    expect(page.locator("article h1")).to_have_text("Sidoluhur")
    for word in ("Sidomukti", "Sidomulyo"):
        expect(page.locator("article")).to_contain_text(word)
    fits(page)
    assert axe(page) == {}


def test_a_language_is_remembered(visit):
    page = visit()
    page.get_by_role("button", name="Indonesia").click()
    expect(page.locator("h1")).to_have_text(SAY["id"]["title"])
    page.reload()
    expect(page.locator("h1")).to_have_text(SAY["id"]["title"])
    assert page.evaluate("document.documentElement.lang") == "id"


# a file as the page's own scripts would hold it
HELD = """(text) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  window.held = new DataTransfer();
  held.items.add(new File([bytes], "cloth.png", {type: "image/png"}));
}"""


@pytest.mark.parametrize("site", ["app", "alone"])
def test_paste_and_drop_anywhere(visit, drawn, site):
    page, sure = visit(site), SAY["en"]["sure"]
    page.evaluate(HELD, b64encode((drawn / "tambal.png").read_bytes()).decode())
    page.locator("footer a").first.focus()
    page.evaluate(
        "document.activeElement.dispatchEvent("
        "new ClipboardEvent('paste', {clipboardData: held, bubbles: true}))"
    )
    answered(page, sure.format(motif="Tambal"))
    page.evaluate(HELD, b64encode((drawn / "betawi.png").read_bytes()).decode())
    for event in ("dragover", "drop"):
        page.evaluate(
            "(kind) => document.querySelector('footer').dispatchEvent("
            "new DragEvent(kind, {dataTransfer: held, bubbles: true}))",
            event,
        )
    answered(page, sure.format(motif="Betawi"))
    expect(page.locator("#drop")).to_be_hidden()


def test_a_folder_becomes_a_table(visit, drawn, tmp_path):
    folder = Path(shutil.copytree(drawn, tmp_path / "shop"))
    (folder / "notes.txt").write_text("no picture, and not named")
    cloth.draw("tambal", 1, (200, 160)).save(folder / "=1+1.png")
    page = visit("app", PHONE)
    page.set_input_files("#from-folder", folder)
    expect(page.locator("#csv")).to_be_enabled()
    expect(page.locator("#list li")).to_have_count(7)
    with page.expect_download() as waiting:
        page.click("#csv")
    waiting.value.save_as(tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as stream:
        table = {Path(row["file"]).name: row for row in csv.DictReader(stream)}
    assert {name: table[name]["motif"] for name in ("betawi.png", "=1+1.png", "IMG_1.HEIC")} == {
        "betawi.png": "betawi",
        "=1+1.png": "tambal",
        "IMG_1.HEIC": "",
    }
    assert float(table["tambal.png"]["p_tambal"]) > 0.9
    assert table["renamed.jpg"]["verdict"] == "refused"


CAMERA = """
const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
const release = new Promise((done) => { window.release = done; });
navigator.mediaDevices.getUserMedia = (what) => release.then(() => ask(what));
"""


def test_a_camera(visit):
    page = visit("app", {"permissions": ["camera"]}, script=CAMERA)
    page.click("#take")
    status = page.locator("#camera [role=status]")
    page.click("#shoot")  # before there is a picture
    expect(status).to_have_text(SAY["en"]["camera_wait"])
    page.evaluate("release()")
    expect(status).to_have_text(SAY["en"]["camera_ready"])
    page.click("#shoot")
    # the camera shows no batik; that there is an answer is what counts
    expect(page.locator("#answer h1")).to_be_visible()
    expect(page.locator("#camera")).to_be_hidden()
    expect(page.get_by_alt_text("camera.jpg")).to_be_visible()


def test_a_phone_takes_its_own_camera(visit, drawn):
    page = visit("app", PHONE)
    with page.expect_file_chooser() as waiting:
        page.locator("#take").tap()
    assert waiting.value.element.get_attribute("capture") == "environment"
    waiting.value.set_files(drawn / "tambal.png")
    answered(page, "Tambal, very likely")


def test_keyboard_alone(visit):
    page = visit()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.ariaLabel?.includes('Sidoluhur') || false"):
            break
    # where the focus is can be seen
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(page.locator("#answer h1")).to_be_visible()
    expect(page.locator("#live")).not_to_be_empty()


@pytest.mark.parametrize("site", ["app", "alone"])
def test_a_museums_photographs(visit, site):
    page = visit(site)
    page.get_by_role("link", name="Motifs").click()
    page.get_by_role("link", name=re.compile("^Tambal")).click()
    photograph = page.get_by_alt_text("Tambal, Yogyakarta 1910")
    photograph.scroll_into_view_if_needed()
    expect(photograph).to_be_visible()
    expect(page.get_by_text("Tambal, Yogyakarta 1910")).to_be_visible()
    width = "(img) => img.decode().then(() => img.naturalWidth)"
    assert photograph.evaluate(width) > 0


# ---- the page alone


def test_a_picture_chosen_while_the_model_loads_waits_and_is_answered(visit, drawn):
    held = []
    page = visit("alone", PHONE, route=("**/model.bin", lambda one: held.append(one)))
    expect(page.locator("#loading")).to_contain_text("%")
    is_seen(page, "#take")
    choose(page, drawn / "tambal.png")
    expect(page.locator("#waiting")).to_be_visible()
    expect(page.locator("#answer progress")).to_be_visible()
    page.get_by_role("button", name="Indonesia").click()  # everything else works meanwhile
    expect(page.locator("#waiting")).to_have_text(SAY["id"]["looking"])
    held[0].continue_()
    answered(page, SAY["id"]["sure"].format(motif="Tambal"))


def test_it_works_without_internet_after_the_first_visit(visit, drawn):
    page = visit("alone")
    expect(page.locator("#private")).to_contain_text(SAY["en"]["offline"])
    page.context.set_offline(True)
    page.reload()
    choose(page, drawn / "betawi.png")
    answered(page, "Betawi, very likely")
    page.goto(f"{page.url.split('#')[0]}#motif-tambal")
    picture = page.locator("article img").first
    assert picture.evaluate("(img) => img.decode().then(() => img.naturalWidth)") > 0


def test_opened_as_a_file_it_says_what_to_do(browser, sites):
    page = browser.new_page()
    page.goto((sites["folder"] / "index.html").as_uri())
    expect(page.get_by_role("alert")).to_have_text(SAY["en"]["file_page"])
    page.close()


@pytest.fixture(scope="module")
def alone(browser, sites):
    page = browser.new_page()
    page.goto(sites["alone"])
    yield page
    page.close()


def as_file(content: bytes) -> str:
    return b64encode(content).decode()


OPEN = """async (text) => backend.answer(new File([Uint8Array.from(atob(text),
  (letter) => letter.charCodeAt(0))], "file"))"""


def test_the_script_resizes_as_pillow_does(alone):
    chance = np.random.default_rng(0)
    for interpolation in ("bilinear", "bicubic"):
        for width, height in ((97, 61), (48, 64), (23, 31), (1, 90)):
            pixels = chance.integers(0, 256, (height, width, 3), dtype=np.uint8)
            rgba = np.dstack([pixels, np.full((height, width), 255, np.uint8)])
            found = alone.evaluate(
                """async ([text, width, height, method]) => {
                     const data = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
                     const made = await backend.call("resize", [{data, width, height}, 48, method]);
                     return btoa(Array.from(made, (n) => String.fromCharCode(n)).join(""));
                   }""",
                [as_file(rgba.tobytes()), width, height, interpolation],
            )
            found = np.frombuffer(b64decode(found), np.uint8).astype(int).reshape(48, 48, 3)
            wanted = to_pixels(Image.fromarray(pixels), 48, interpolation).transpose(1, 2, 0)
            assert np.abs(found - wanted).max() <= 1, (width, height)
            assert np.mean(found != wanted) < 0.001, (width, height)


def compare(page: Page, predictor: Predictor, contents: list[bytes], familiarity: float) -> None:
    """Assert that the page answers as Python does."""
    for content, wanted in zip(contents, predictor.predict(contents, details=True), strict=True):
        found = page.evaluate(OPEN, as_file(content))
        same = ("verdict", "motif", "level", "words")
        assert [found.get(k) or "" for k in same] == [getattr(wanted, k) or "" for k in same]
        for motif, p in wanted.probabilities.items():
            assert abs(found["probabilities"][motif] - p) < 0.02
        assert found["familiarity"] == pytest.approx(wanted.familiarity, abs=familiarity)
        if wanted.evidence is not None:
            assert np.abs(np.array(found["evidence"]) - wanted.evidence).max() < 0.1


def test_its_answers_agree_with_pythons(alone, predictor):
    contents = []
    for motif, seed in zip(MOTIFS, (0, 3, 11), strict=True):
        for kind, settings in (("PNG", {}), ("JPEG", {"quality": 80}), ("WEBP", {})):
            stream, exif = io.BytesIO(), Image.Exif()
            exif[0x0112] = 6  # turned by a quarter
            turned = {"exif": exif} if kind == "JPEG" else {}
            cloth.draw(motif, seed, (200, 160)).save(stream, kind, **turned, **settings)
            contents.append(stream.getvalue())
    good = picture_zoo.good()
    odd = ("PNG with transparency", "GIF", "BMP", "animated WebP")
    compare(alone, predictor, contents + [good[name] for name in odd], 0.5)


@pytest.mark.parametrize(
    "name",
    ["HTML", "SVG with a script", "PDF", "half a PNG", "1 x 1", "31 x 500", "one colour", "HEIC"],
)
def test_it_refuses_what_python_refuses(alone, predictor, name):
    content, _ = picture_zoo.bad()[name]
    found = alone.evaluate(OPEN, as_file(content))
    assert found["verdict"] == "refused"
    assert found["kind"] in REFUSED["en"]


def test_the_deployed_model_answers_there_as_in_python(browser, package, tmp_path):
    predictor = Predictor.load(PROJECT / "results" / "kaggle" / "model", threads=1)
    contents = [pages.drawn(f"{motif}-{pages.SEEDS[motif][0]}.jpg") for motif in MOTIFS]
    contents.append(picture_zoo.good()["PNG with transparency"])
    web.build(tmp_path, predictor.folder, package)
    with served(tmp_path) as address:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        compare(page, predictor, contents, 0.05)
        page.close()
