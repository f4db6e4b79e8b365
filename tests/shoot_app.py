"""Pictures of the application and its Indonesian sentences, in results/app (drawn cloth only).

PYTHONPATH=. python tests/shoot_app.py
"""

import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect, sync_playwright

from batik_utils.app import page as pages
from batik_utils.app import server
from batik_utils.app.predict import Predictor
from batik_utils.errors import PROJECT
from batik_utils.images import cloth

FOLDER = PROJECT / "results" / "app"
SHOTS = (  # name, width, height, scheme, locale, cloth
    ("phone", 390, 844, "light", "en-US", ("tambal", 20)),
    ("phone-dark", 390, 844, "dark", "id-ID", ("betawi", 33)),
    ("computer", 1280, 720, "light", "en-US", ("tambal", 20)),
)


def shoot(address: str, scratch: Path) -> None:
    """Write the pictures."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for name, width, height, scheme, locale, drawn in SHOTS:
            cloth.draw(*drawn, (640, 480)).save(scratch / "cloth.png")
            page = browser.new_page(
                viewport={"width": width, "height": height},
                color_scheme=scheme,
                locale=locale,
                is_mobile=width < 500,
            )
            page.goto(address)
            page.set_input_files("#from-files", scratch / "cloth.png")
            expect(page.locator("#switch")).to_be_visible()
            page.wait_for_load_state("networkidle")
            path = FOLDER / f"{name}.png"
            page.screenshot(path=path)
            Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)
            page.close()
        browser.close()


def write_texts() -> None:
    """Write every sentence in both languages, for a native speaker."""

    def lines(english: dict | list | str, indonesian: dict | list | str, path: str) -> list[str]:
        if isinstance(english, str):
            return [f"- `{path}`: {english}", f"  - {indonesian}"]
        keys = english if isinstance(english, dict) else range(len(english))
        return [
            one for k in keys for one in lines(english[k], indonesian[k], f"{path}.{k}".strip("."))
        ]

    head = "# Indonesian sentences of the application\n\nNot yet checked by a native speaker.\n\n"
    both = [pages.texts(code) for code in ("en", "id")]
    (FOLDER / "texts_id.md").write_text(head + "\n".join(lines(*both, "")) + "\n", "utf-8")


FOLDER.mkdir(parents=True, exist_ok=True)
write_texts()
with tempfile.TemporaryDirectory() as place:
    shoot(server.serve(Predictor.load(threads=1), port=0, wait=False), Path(place))
