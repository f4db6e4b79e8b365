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
from base64 import b64encode
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
LOCALE = {"en": "en-US", "id": "id-ID"}


@contextlib.contextmanager
def served(folder: Path):
    """Yield the address of a folder on a plain static server."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}/"
    found.shutdown()


@pytest.fixture(scope="module")
def browser():
    # a camera that shows a moving disc, and is allowed
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", *camera]
        )
        yield found
        found.close()


@pytest.fixture(scope="module")
def sites(predictor, model_folder, tmp_path_factory):
    """The same page twice: with a server, and alone."""
    folder, museum = tmp_path_factory.mktemp("web"), tmp_path_factory.mktemp("museum")
    cloth.draw("tambal", 9, (300, 240)).save(museum / "Tambal, Yogyakarta 1910.tiff")
    web.build(folder, model_folder, museum)
    with served(folder) as alone:
        app = server.serve(predictor, port=0, gallery=museum, wait=False)
        yield {"app": app, "alone": alone, "folder": folder}


@pytest.fixture
def visit(browser, sites):
    """Open a site in a context of its own; fails at the end if it asked another machine."""
    wrong, contexts = [], []

    def go(site="app", code="en", device=COMPUTER, scheme="light", script="", route=None) -> Page:
        context = browser.new_context(
            **device, locale=LOCALE[code], color_scheme=scheme, permissions=["camera"]
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        address = sites[site]

        def watch(request):
            sent = site == "alone" and (request.method != "GET" or request.post_data)
            if sent or not request.url.startswith((address, "data:", "blob:")):
                wrong.append(request.url)

        context.on("request", watch)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.add_init_script(script)
        if route:
            context.route(*route)
        page.goto(address)
        expect(page.locator("#take")).to_be_visible()
        return page

    yield go
    for context in contexts:
        context.close()
    assert not wrong


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    for motif, seed in (("betawi", 1), ("tambal", 1), ("sidoluhur", 2)):
        cloth.draw(motif, seed, (200, 160)).save(folder / f"{motif}.png")
    (folder / "IMG_1.HEIC").write_bytes(picture_zoo.bad()["HEIC"][0])
    (folder / "renamed.jpg").write_bytes(b"a letter, " * 50)
    return folder


def choose(page: Page, *paths: Path) -> None:
    with page.expect_file_chooser() as waiting:
        page.locator("#choose").click()
    waiting.value.set_files(list(paths))


def answered(page: Page, words: str, motif: str = "") -> None:
    expect(page.locator("#answer h1")).to_have_text(words.format(motif=motif))


def is_sound(page: Page) -> None:
    """Assert that nothing is wider than the window, and that axe finds nothing."""
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(page).response["violations"]
    assert {one["id"]: [node["html"][:200] for node in one["nodes"]] for one in found} == {}


def is_seen(page: Page, *selectors: str) -> None:
    """Assert that elements lie in the window, whole and without scrolling."""
    assert page.evaluate("scrollY") == 0
    for selector in selectors:
        expect(page.locator(selector).first).to_be_in_viewport(ratio=1)


LOOKS = [
    ("app", "en", PHONE, "light"),
    ("app", "id", PHONE, "dark"),
    ("app", "id", COMPUTER, "light"),
    ("alone", "en", PHONE, "dark"),
    ("alone", "id", COMPUTER, "dark"),
]


@pytest.mark.parametrize(("site", "code", "device", "scheme"), LOOKS)
def test_a_visit_from_the_first_screen_to_the_motif(visit, drawn, site, code, device, scheme):
    page, say = visit(site, code, device, scheme), SAY[code]
    assert page.evaluate("document.documentElement.lang") == code
    is_seen(page, "#take")
    is_sound(page)
    # the answer takes the buttons' place, all of it in the window
    choose(page, drawn / "tambal.png")
    expect(page.get_by_alt_text("tambal.png")).to_be_visible()
    answered(page, say["sure"], "Tambal")
    is_seen(page, "#answer h1", ".bars li", "#switch", "#evidence")
    expect(page.locator(".bars li").first).to_contain_text(re.compile(r"Tambal\s*9\d %"))
    is_sound(page)
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
        expect(page.locator("#answer")).to_contain_text(REFUSED[code][kind].split("{")[0])
        expect(page.locator(".figure img, .bars")).to_have_count(0)
    # several pictures
    choose(page, *(drawn / f"{name}.png" for name in ("betawi", "tambal", "sidoluhur")))
    expect(page.locator("#csv")).to_be_enabled()
    expect(page.locator("#list li")).to_have_count(3)
    is_sound(page)
    page.locator("#list button").first.click()
    answered(page, say["sure"], "Betawi")
    page.goto(f"{page.url.split('#')[0]}#motif-sidoluhur")
    for word in ("Sidomukti", "Sidomulyo"):
        expect(page.locator("article")).to_contain_text(word)
    is_sound(page)


def test_a_language_is_remembered(visit):
    page = visit()
    page.get_by_role("button", name="Indonesia").click()
    expect(page.locator("h1")).to_have_text(SAY["id"]["title"])
    page.reload()
    expect(page.locator("h1")).to_have_text(SAY["id"]["title"])
    assert page.evaluate("document.documentElement.lang") == "id"


# a picture in the clipboard, as the page's own scripts would hold it
PASTE = """(text) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const clipboardData = new DataTransfer();
  clipboardData.items.add(new File([bytes], "cloth.png", {type: "image/png"}));
  document.activeElement.dispatchEvent(new ClipboardEvent("paste", {clipboardData, bubbles: true}));
}"""


def drop(page: Page, *paths: Path) -> None:
    """Drop files or folders as a file manager does; the page must say that they may be dropped."""
    session = page.context.new_cdp_session(page)
    held = {"items": [], "files": list(map(str, paths)), "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        where = {"type": kind, "x": 150, "y": 300, "data": held}
        session.send("Input.dispatchDragEvent", where)
        if kind != "dragEnter":
            expect(page.locator("#drop")).to_be_visible(visible=kind == "dragOver")


@pytest.mark.parametrize("site", ["app", "alone"])
def test_paste_and_drop_anywhere(visit, drawn, site):
    page = visit(site)
    page.locator("footer a").first.focus()
    page.evaluate(PASTE, b64encode((drawn / "tambal.png").read_bytes()).decode())
    answered(page, SAY["en"]["sure"], "Tambal")
    drop(page, drawn / "betawi.png")
    answered(page, SAY["en"]["sure"], "Betawi")


@pytest.mark.parametrize("how", ["chosen", "dropped"])
def test_a_folder_becomes_a_table(visit, drawn, tmp_path, how):
    folder = Path(shutil.copytree(drawn, tmp_path / "shop"))
    for name in ("=1+1.png", "deep/er/1.jpg", ".hidden/2.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(drawn / "tambal.png", folder / name)
    (folder / "notes.txt").write_text("no picture, and not named")
    page = visit(device=PHONE)
    if how == "dropped":
        drop(page, folder)
    else:
        page.set_input_files("#from-folder", folder)
    expect(page.locator("#csv")).to_be_enabled()
    with page.expect_download() as waiting:
        page.click("#csv")
    with waiting.value.path().open(newline="", encoding="utf-8") as stream:
        table = {row["file"]: row for row in csv.DictReader(stream)}
    refused = dict.fromkeys(["IMG_1.HEIC", "renamed.jpg"], "")
    named = {f"{motif}.png": motif for motif in MOTIFS}
    named |= refused | {"=1+1.png": "tambal", "deep/er/1.jpg": "tambal"}
    assert {name: row["motif"] for name, row in table.items()} == {
        f"shop/{name}": motif for name, motif in named.items()
    }
    assert float(table["shop/tambal.png"]["p_tambal"]) > 0.9


CAMERA = """
const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
const release = new Promise((done) => { window.release = done; });
navigator.mediaDevices.getUserMedia = (what) => release.then(() => ask(what));
"""


def test_a_camera(visit):
    page = visit(script=CAMERA)
    page.click("#take")
    status = page.locator("#camera [role=status]")
    page.click("#shoot")  # before there is a picture
    expect(status).to_have_text(SAY["en"]["camera_wait"])
    page.evaluate("release()")
    expect(status).to_have_text(SAY["en"]["camera_ready"])
    page.click("#shoot")
    # the camera shows no batik; that there is an answer is what counts
    expect(page.locator("#answer h1")).to_be_visible()
    expect(page.get_by_alt_text("camera.jpg")).to_be_visible()


def test_a_phone_takes_its_own_camera(visit, drawn):
    page = visit(device=PHONE)
    with page.expect_file_chooser() as waiting:
        page.locator("#take").tap()
    assert waiting.value.element.get_attribute("capture") == "environment"
    waiting.value.set_files(drawn / "tambal.png")
    answered(page, SAY["en"]["sure"], "Tambal")


def test_keyboard_alone(visit):
    page = visit()
    focused = "document.activeElement.ariaLabel?.includes('Sidoluhur') || false"
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate(focused):
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
    assert photograph.evaluate("(img) => img.decode().then(() => img.naturalWidth)") > 0
    expect(page.get_by_text("Tambal, Yogyakarta 1910")).to_be_visible()


# ---- the page alone


def test_a_picture_chosen_while_the_model_loads_waits_and_is_answered(visit, drawn):
    held = []
    page = visit("alone", device=PHONE, route=("**/model.bin", lambda one: held.append(one)))
    expect(page.locator("#loading")).to_contain_text("%")
    choose(page, drawn / "tambal.png")
    expect(page.locator("#answer progress")).to_be_visible()
    page.get_by_role("button", name="Indonesia").click()  # everything else works meanwhile
    expect(page.locator("#waiting")).to_have_text(SAY["id"]["looking"])
    while not held:  # the worker may not have asked for it yet
        page.wait_for_timeout(100)
    held[0].continue_()
    answered(page, SAY["id"]["sure"], "Tambal")


def test_it_works_without_internet_after_the_first_visit(visit, drawn):
    page = visit("alone")
    expect(page.locator("#private")).to_contain_text(SAY["en"]["offline"])
    page.context.set_offline(True)
    page.reload()
    choose(page, drawn / "betawi.png")
    answered(page, SAY["en"]["sure"], "Betawi")
    page.goto(f"{page.url.split('#')[0]}#motif-tambal")
    picture = page.locator("article img").first
    assert picture.evaluate("(img) => img.decode().then(() => img.naturalWidth)") > 0


OPEN = """async (text) => backend.answer(new File([Uint8Array.from(atob(text),
  (letter) => letter.charCodeAt(0))], "file"))"""


def compare(page: Page, predictor: Predictor, contents: list[bytes], familiarity: float) -> None:
    """Assert that the page answers as Python does."""
    for content, wanted in zip(contents, predictor.predict(contents, details=True), strict=True):
        found = page.evaluate(OPEN, b64encode(content).decode())
        same = ("verdict", "motif", "level", "words")
        assert [found.get(k) or "" for k in same] == [getattr(wanted, k) or "" for k in same]
        for motif, p in wanted.probabilities.items():
            assert abs(found["probabilities"][motif] - p) < 0.02
        assert found["familiarity"] == pytest.approx(wanted.familiarity, abs=familiarity)
        if wanted.evidence is not None:
            assert np.abs(np.array(found["evidence"]) - wanted.evidence).max() < 0.1


def test_its_answers_agree_with_pythons(visit, predictor):
    good = picture_zoo.good()
    contents = [good[n] for n in ("PNG with transparency", "GIF", "BMP", "animated WebP")]
    for motif, seed in zip(MOTIFS, (0, 3, 11), strict=True):
        for kind in ("PNG", "JPEG", "WEBP"):
            stream, exif = io.BytesIO(), Image.Exif()
            exif[0x0112] = 6  # turned by a quarter
            turned = {"exif": exif} if kind == "JPEG" else {}
            cloth.draw(motif, seed, (200, 160)).save(stream, kind, **turned)
            contents.append(stream.getvalue())
    compare(visit("alone"), predictor, contents, 0.5)


def test_opened_as_a_file_it_says_what_to_do(browser, sites):
    page = browser.new_page()
    page.goto((sites["folder"] / "index.html").as_uri())
    expect(page.get_by_role("alert")).to_have_text(SAY["en"]["file_page"])
    page.close()


def test_the_deployed_model_answers_there_as_in_python(browser, tmp_path):
    predictor = Predictor.load(PROJECT / "results" / "kaggle" / "model", threads=1)
    contents = [pages.drawn(motif, pages.SEEDS[motif][0]) for motif in MOTIFS]
    web.build(tmp_path, predictor.folder)
    with served(tmp_path) as address:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        compare(page, predictor, contents, 0.05)
        page.close()
