"""The page that visitors see: the files in ``page/``, texts, drawn cloth, photographs, settings.

What is said stands in ``en.json`` and ``id.json``; a model of other motifs may bring its own as
``texts.json``, e.g. ``{"en": {"parang": {"name": "Parang", "signs": "Diagonal rows of waves."}}}``.
"""

import base64
import functools
import html
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from batik_utils.app import model_folder, predict, sources
from batik_utils.app.predict import Predictor
from batik_utils.errors import BatikError, expanded
from batik_utils.images import cloth, files

HERE = Path(__file__).parent
#: Scripts, styles and drawings, which the page asks for under ``page/``.
FILES = HERE / "page"
LANGUAGES = ("en", "id")
#: Seeds of the cloth that is drawn for each motif; the first two are offered as examples.
SEEDS = {"betawi": (33, 22, 13, 34), "sidoluhur": (38, 31, 34, 10), "tambal": (20, 24, 11, 16)}
#: Name of the model card, in a model's folder and on the page.
CARD = "MODEL_CARD.md"
#: Pictures that the page takes at once; the command line takes any number.
MAX_FILES = 200


def texts(language: str) -> dict:
    """Return what is said in a language: name, numbers, sentences, refusals, motifs."""
    return model_folder.read_json(HERE / f"{language}.json")


def content(
    predictor: Predictor, photographs: Sequence[dict] = (), *, max_bytes: int, **more: object
) -> dict:
    """Return everything that the page's scripts are given; ``photographs`` are of `gallery`."""
    languages = {code: texts(code) for code in LANGUAGES}
    if (own := predictor.folder / "texts.json").is_file():
        for code, motifs in model_folder.read_json(own).items():
            languages.get(code, {"motifs": {}})["motifs"] |= motifs
    drawn = {
        motif: [f"page/drawn/{motif}-{seed}.jpg" for seed in SEEDS[motif]]
        for motif in predictor.classes
        if motif in SEEDS
    }
    tests = predictor.folder / "metrics.json"
    metrics = model_folder.read_json(tests) if tests.is_file() else {}
    limits = {
        "files": MAX_FILES,
        "bytes": max_bytes,
        "pixels": files.MAX_PIXELS,
        "side": predict.MIN_SIDE,
        "spread": predict.MIN_SPREAD,
    }
    return {
        "classes": predictor.classes,
        "tellsCloth": predictor.tells_cloth,
        "tested": metrics.get("words", {}).get("folds", {}),
        "languages": languages,
        "sources": model_folder.read_json(HERE / "sources.json"),
        "drawn": drawn,
        "gallery": [{k: one[k] for k in ("motif", "caption", "src")} for one in photographs],
        "card": CARD if (predictor.folder / CARD).is_file() else "",
        "formats": ", ".join(files.FORMATS),
        "limits": limits,
        **more,
    }


def render(data: dict, backend: str, base: str = "./") -> str:
    """Return ``index.html`` for ``backend`` "server" or "browser"; ``base`` ends with a slash."""
    given = {
        "title": html.escape(data["languages"]["en"]["say"]["title"]),
        "base": html.escape(base),
        "backend": backend,
        # inside a script element "</script>" would end it
        "data": json.dumps(data, ensure_ascii=False).replace("<", "\\u003c"),
    }
    page = (FILES / "index.html").read_text(encoding="utf-8")
    for name, value in given.items():
        page = page.replace("{{" + name + "}}", value)
    return page


def gallery(folder: Path | str, classes: Sequence[str]) -> list[dict]:
    """List a museum's own photographs, if a folder is named: captions are the files' names.

    A file whose name or folder begins with a motif's name is shown on that motif's page, any other
    one below the list of motifs. BatikError: the folder is not there, or holds no picture.
    """
    if not str(folder):
        return []
    folder, found = expanded(folder), []
    for path in sources.files([folder]) if folder.is_dir() else ():
        try:
            files.inspect(path)
        except files.ImageError:
            continue
        caption = sources.printable(path.stem).replace("_", " ").strip()
        parts = (*path.relative_to(folder).parts[:-1], caption)
        words = [part.lower().removeprefix("batik").lstrip(" -_") for part in parts]
        motif = next((m for m in classes if any(word.startswith(m) for word in words)), "")
        src = f"page/gallery/{len(found)}.jpg"
        found.append({"motif": motif, "caption": caption, "src": src, "path": path})
    if not found:
        raise BatikError(f"There is no picture in {folder}: name a folder of them with --gallery.")
    return found


def pictures(data: dict, photographs: Sequence[dict]) -> dict[str, Callable[[], bytes]]:
    """Return what makes the JPEG of each address in `content`: drawn cloth, and photographs."""
    made = {
        address: functools.partial(drawn, motif, seed)
        for motif, addresses in data["drawn"].items()
        for address, seed in zip(addresses, SEEDS[motif], strict=True)
    }
    return made | {one["src"]: functools.partial(_shown, one["path"], 1200) for one in photographs}


def drawn(motif: str, seed: int) -> bytes:
    """Return an example of a motif as a JPEG."""
    return _jpeg(cloth.draw(motif, seed, (400, 400)))


def preview(content: bytes) -> str:
    """Return a picture that browsers cannot show as the address of a small JPEG."""
    return f"data:image/jpeg;base64,{base64.b64encode(_shown(content, 800)).decode()}"


def _shown(source: Path | bytes, side: int) -> bytes:
    return _jpeg(files.open_image(source, at_least=side), side)


def _jpeg(image: Image.Image, side: int = 400) -> bytes:
    image.thumbnail((side, side))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=82)
    return stream.getvalue()
