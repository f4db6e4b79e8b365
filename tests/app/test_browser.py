"""The application as a person meets it: in Chromium, by mouse, keyboard and on a phone."""

import csv
import os
import re
import shutil
from base64 import b64encode
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect, sync_playwright

from batik_utils.app import server as app
from batik_utils.app import texts
from batik_utils.images import cloth as synthetic

CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)

pytestmark = pytest.mark.skipif(
    not CHROMIUM, reason="no Chromium on this machine: apt-get install chromium, or set CHROMIUM"
)
PATIENCE = 60_000  # ms, for machines that do something else too


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
def address(predictor):
    return app.serve(predictor, port=0, wait=False)


@pytest.fixture
def open_page(browser, address):
    """Open the page in a context of its own; fails at the end if it asked another machine."""
    outside, errors, contexts = [], [], []

    def go(**settings) -> Page:
        context = browser.new_context(**{"locale": "en-US", **settings})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda r: outside.append(r.url) if _foreign(r.url, address) else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        expect(page.locator("#answer section")).to_be_visible(timeout=PATIENCE)
        return page

    yield go
    for context in contexts:
        context.close()
    assert not outside
    assert not errors


def _foreign(url: str, address: str) -> bool:
    return not url.startswith((address, "data:", "blob:"))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    for motif in ("betawi", "tambal"):
        synthetic.draw(motif, 1, (200, 160)).save(folder / f"{motif}.png")
    synthetic.draw("tambal", 1, (200, 160)).save(folder / "tambal.tiff")
    (folder / "bad.jpg").write_bytes(b"<html>no picture</html>")
    return folder


def send(page: Page, path: Path) -> None:
    page.set_input_files("#picture input[type=file]", path)


def answer(page: Page, verdict: str):
    found = page.locator(f"#answer section.{verdict}")
    expect(found).to_be_visible(timeout=PATIENCE)
    return found


def test_upload_answer_heat_map_and_the_other_language(open_page, drawn):
    page = open_page()
    assert page.evaluate("document.documentElement.lang") == "en"
    expect(page.locator("#why")).to_be_disabled()
    send(page, drawn / "tambal.png")
    found = answer(page, "sure")
    expect(found.locator("h2")).to_have_text("Tambal")
    expect(found.locator(".bars li").first).to_contain_text(re.compile(r"Tambal\s*9\d %"))
    expect(found).to_contain_text("to patch or mend")
    page.click("#why")
    expect(page.locator("#heat img")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#heat-note")).to_contain_text("Tambal less likely")
    page.get_by_label("Bahasa Indonesia").check()
    expect(page.locator("h1")).to_have_text(texts.say("id", "title"), timeout=PATIENCE)
    expect(found).to_contain_text("menambal")
    expect(page.locator("#heat-note")).to_contain_text("menjadi kurang mungkin")
    expect(page.get_by_role("tab", name="Beberapa gambar")).to_be_visible()
    expect(page.locator("#picture")).to_contain_text("Gambar Anda")
    assert page.evaluate("document.documentElement.lang") == "id"


def test_what_is_no_picture_is_refused_and_the_next_one_answered(open_page, drawn):
    page = open_page()
    send(page, drawn / "bad.jpg")
    refused = answer(page, "refused")
    expect(refused).to_contain_text("not a picture in JPEG, PNG, WebP, GIF, BMP or TIFF")
    expect(page.locator("#why")).to_be_disabled()
    page.locator("#picture").get_by_role("button", name=re.compile("clear|remove", re.I)).click()
    answer(page, "waiting")
    send(page, drawn / "tambal.tiff")
    expect(answer(page, "sure").locator("h2")).to_have_text("Tambal")


def test_many_pictures_become_a_table_and_a_file(open_page, drawn, tmp_path):
    page = open_page()
    page.get_by_role("tab", name="Several pictures").click()
    page.click("#go")
    expect(page.get_by_text("Choose at least one picture.")).to_be_visible(timeout=PATIENCE)
    names = ["tambal.png", "bad.jpg", "betawi.png"]
    page.set_input_files("#files input[type=file]", [drawn / name for name in names])
    expect(page.locator("#files")).to_contain_text("betawi", timeout=PATIENCE)
    page.click("#go")
    rows = page.locator("#table tbody tr")
    expect(rows).to_have_count(3, timeout=PATIENCE)
    expect(rows.nth(0)).to_contain_text("Tambal")
    expect(rows.nth(1)).to_contain_text("refused")
    expect(page.locator("#summary")).to_contain_text("3 pictures: Betawi 1, Sidoluhur 0, Tambal 1")
    with page.expect_download() as waiting:
        page.click("#csv")
    waiting.value.save_as(tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    assert [row["motif"] for row in table] == ["tambal", "", "betawi"]
    assert [row["verdict"] for row in table] == ["sure", "refused", "sure"]
    assert [Path(row["file"]).name for row in table] == names


def test_a_camera(open_page):
    page = open_page(permissions=["camera"])
    page.get_by_role("button", name="Capture from camera").click()
    page.get_by_text("Click to Access Webcam").click()
    page.get_by_role("button", name="capture photo", exact=True).click()
    # the camera shows no batik; that there is an answer is what counts
    expect(page.locator("#answer .bars li")).to_have_count(3, timeout=PATIENCE)


# a file as the page's own scripts would hold it
_FILE = """async (text) => new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))],
  "cloth.png", {type: "image/png"})"""


def test_paste_and_drag(open_page, drawn):
    content = b64encode((drawn / "tambal.png").read_bytes()).decode()
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    page.evaluate(
        f"""async (text) => navigator.clipboard.write(
          [new ClipboardItem({{"image/png": await ({_FILE})(text)}})])""",
        content,
    )
    page.get_by_role("button", name="Paste from clipboard").click()
    expect(answer(page, "sure").locator("h2")).to_have_text("Tambal")
    page.locator("#picture").get_by_role("button", name=re.compile("clear|remove", re.I)).click()
    answer(page, "waiting")
    held = page.evaluate_handle(
        f"""async (text) => {{
          const held = new DataTransfer();
          held.items.add(await ({_FILE})(text));
          return held;
        }}""",
        content,
    )
    place = page.get_by_role("button", name=re.compile("Drop an image"))
    for event in ("dragenter", "dragover", "drop"):
        place.dispatch_event(event, {"dataTransfer": held})
    expect(answer(page, "sure").locator("h2")).to_have_text("Tambal")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_axe_finds(open_page, drawn, scheme):
    page = open_page(color_scheme=scheme)
    found = {}

    def look(place: str) -> None:
        for one in Axe().run(page).response["violations"]:
            # Gradio puts the button that adds files around its own input
            if one["id"] != "nested-interactive":
                found[place, one["id"]] = [node["html"][:200] for node in one["nodes"]]

    look("start")
    send(page, drawn / "tambal.png")
    answer(page, "sure")
    page.click("#why")
    expect(page.locator("#heat img")).to_be_visible(timeout=PATIENCE)
    look("answer")
    page.get_by_role("tab", name="Several pictures").click()
    page.set_input_files("#files input[type=file]", [drawn / "betawi.png", drawn / "bad.jpg"])
    expect(page.locator("#files")).to_contain_text("betawi", timeout=PATIENCE)
    expect(page.get_by_role("button", name="Add files")).to_be_visible()
    page.click("#go")
    expect(page.locator("#table tbody tr")).to_have_count(2, timeout=PATIENCE)
    look("table")
    page.get_by_role("tab", name="About").click()
    expect(page.get_by_text("What it cannot do.")).to_be_visible()
    look("about")
    assert not found


def test_a_phone_in_the_dark_that_speaks_indonesian(open_page):
    page = open_page(
        viewport={"width": 390, "height": 844}, locale="id-ID", color_scheme="dark", has_touch=True
    )
    expect(page.locator("h1")).to_have_text(texts.say("id", "title"), timeout=PATIENCE)
    page.locator("#examples button").first.tap()
    expect(page.locator("#answer .bars li").first).to_be_visible(timeout=PATIENCE)
    # the label survives, in the visitor's language
    expect(page.locator("#picture")).to_contain_text("Gambar Anda")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("#language").bounding_box()["width"] > 250
    dark, light = page.evaluate(
        "['#answer h2', 'body'].map((s, k) => getComputedStyle(document.querySelector(s))"
        "[k ? 'backgroundColor' : 'color'].match(/\\d+/g).slice(0, 3).reduce((a, b) => +a + +b, 0))"
    )
    assert dark - light > 400  # words far brighter than the ground


def test_keyboard_alone(open_page):
    page = open_page()
    page.keyboard.press("Tab")
    for _ in range(30):
        if page.evaluate("document.activeElement.closest('#examples') !== null"):
            break
        page.keyboard.press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"  # where the focus is can be seen
    page.keyboard.press("Enter")
    expect(page.locator("#answer .bars li").first).to_be_visible(timeout=PATIENCE)
    # what a screen reader is told: named controls, and an answer that announces itself
    for role, name in (("radio", "English"), ("tab", "One picture"), ("button", "Show what")):
        expect(page.get_by_role(role, name=re.compile(name))).to_have_count(1)
    assert page.locator("#answer [role=status]").count() == 1
    expect(page.get_by_role("button", name="Example 6")).to_be_visible()
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, input, select, textarea')].filter(e =>"
        " e.offsetParent && !e.ariaLabel && !e.title && !e.innerText.trim() && !e.labels?.length"
        " && !e.querySelector('img[alt]:not([alt=\"\"])') && e.type !== 'file')"
        ".map(e => e.outerHTML.slice(0, 120))"
    )
    assert unnamed == []
