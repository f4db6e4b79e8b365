"""The page that visitors see, put together: texts, drawn cloth, a museum's photographs, settings.

The application and the static page are the same files, in ``page/``, with one of two scripts that
get answers: ``server.js`` asks the server, ``browser.js`` a worker with the model. Everything that
is said stands in ``en.json`` and ``id.json``, with the same keys; ``sources.json`` has the sources
of what is said about motifs. A model of other motifs may bring its own: ``texts.json`` in its
folder, as in ``en.json`` below "motifs", e.g.
``{"en": {"parang": {"name": "Parang", "signs": "Diagonal rows of waves."}}}``.
"""

import html
import io
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from batik_utils.app import model_folder, predict
from batik_utils.app.predict import Predictor
from batik_utils.app.sources import files as below
from batik_utils.app.sources import printable
from batik_utils.errors import BatikError
from batik_utils.images import cloth, files
from batik_utils.images.motifs import MOTIFS

HERE = Path(__file__).parent
#: Scripts, styles and drawings, which the page asks for under ``page/``.
FILES = HERE / "page"
LANGUAGES = ("en", "id")
#: Seeds of the cloth that is drawn for each motif; the first two are offered as examples.
SEEDS = {"betawi": (2, 5, 0, 3), "sidoluhur": (4, 0, 1, 7), "tambal": (1, 6, 3, 5)}
#: Longer side of a photograph of the gallery (px).
GALLERY_SIDE = 1200
#: Pictures that the page takes at once; the command line takes any number.
MAX_FILES = 200


def texts(language: str) -> dict:
    """Return what is said in a language: name, numbers, sentences, refusals, motifs."""
    return json.loads((HERE / f"{language}.json").read_text(encoding="utf-8"))


def content(
    predictor: Predictor,
    *,
    max_bytes: int,
    at_once: int = 2,
    minutes: int = 0,
    gallery: Sequence[dict] = (),
    card: str = "",
    formats: Sequence[str] = files.FORMATS,
    **more: object,
) -> dict:
    """Return everything that the page's scripts are given.

    ``at_once`` is how many answers are asked for at the same time, ``minutes`` how long the server
    keeps a picture, ``card`` the address of the model card, ``gallery`` the entries of `gallery`.
    """
    languages = {code: texts(code) for code in LANGUAGES}
    own = predictor.folder / "texts.json"
    if own.is_file():
        for code, motifs in model_folder.read_json(own).items():
            if code in languages:
                languages[code]["motifs"] |= motifs
    sources = json.loads((HERE / "sources.json").read_text(encoding="utf-8"))
    return {
        "classes": predictor.classes,
        "tellsCloth": predictor.tells_cloth,
        "languages": languages,
        "sources": sources,
        "drawn": {
            motif: [f"page/drawn/{motif}-{seed}.jpg" for seed in SEEDS[motif]]
            for motif in predictor.classes
            if motif in SEEDS and motif in MOTIFS
        },
        "gallery": [{k: one[k] for k in ("motif", "caption", "src")} for one in gallery],
        "card": card,
        "formats": ", ".join(formats),
        "limits": {
            "files": MAX_FILES,
            "bytes": max_bytes,
            "atOnce": at_once,
            "minutes": minutes,
            "pixels": files.MAX_PIXELS,
            "side": predict.MIN_SIDE,
            "spread": predict.MIN_SPREAD,
        },
        **more,
    }


def render(data: dict, backend: str, *, base: str = "./") -> str:
    """Return ``index.html`` for ``backend`` "server" or "browser"; ``base`` ends with a slash."""
    given = {
        "title": html.escape(data["languages"]["en"]["say"]["title"]),
        "base": html.escape(base),
        "backend": backend,
        "manifest": '<link rel="manifest" href="manifest.webmanifest">' * (backend == "browser"),
        # inside a script element "</script>" would end it
        "data": json.dumps(data, ensure_ascii=False).replace("<", "\\u003c"),
    }
    page = (FILES / "index.html").read_text(encoding="utf-8")
    for name, value in given.items():
        page = page.replace("{{" + name + "}}", value)
    return page


def drawn(name: str) -> bytes:
    """Return the drawn cloth of an address as in `content`, e.g. ``tambal-1.jpg``."""
    known = {
        f"{motif}-{seed}.jpg": (motif, seed) for motif, seeds in SEEDS.items() for seed in seeds
    }
    if name not in known:
        raise BatikError(f"There is no drawn cloth {name}.")
    return _jpeg(cloth.draw(*known[name], (400, 400)), quality=80)


def gallery(folder: Path, classes: Sequence[str]) -> list[dict]:
    """List a museum's own photographs: captions are the names of the files.

    A file whose name or folder begins with a motif's name is shown on that motif's page, any other
    one below the list of motifs.

    Raises:
        BatikError: the folder is not there, or holds no picture.
    """
    folder = folder.expanduser()
    if not folder.is_dir():
        raise BatikError(f"There is no folder {folder}: name one of photographs with --gallery.")
    found = []
    for path in below([folder]):
        try:
            files.inspect(path)
        except files.ImageError:
            continue
        caption = printable(path.stem).replace("_", " ").strip()
        inside = path.relative_to(folder).parts[:-1]
        words = [name.lower().removeprefix("batik").lstrip(" -_") for name in (*inside, caption)]
        motif = next((m for m in classes if any(w.startswith(m) for w in words)), "")
        src = f"page/gallery/{len(found)}.jpg"
        found.append({"motif": motif, "caption": caption, "src": src, "path": path})
    if not found:
        raise BatikError(f"There is no picture in {folder}: name another folder with --gallery.")
    return found


def photograph(entry: dict) -> bytes:
    """Return a photograph of `gallery` as a JPEG that every browser shows."""
    image = files.open_image(entry["path"], at_least=GALLERY_SIDE)
    image.thumbnail((GALLERY_SIDE, GALLERY_SIDE))
    return _jpeg(image)


def preview(content: bytes) -> str:
    """Return a picture that browsers cannot show as the address of a small JPEG."""
    import base64

    image = files.open_image(content)
    image.thumbnail((800, 800))
    return f"data:image/jpeg;base64,{base64.b64encode(_jpeg(image)).decode()}"


def _jpeg(image: Image.Image, quality: int = 85) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()
