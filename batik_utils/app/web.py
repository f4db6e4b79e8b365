"""The static page, which classifies in the browser alone: pictures never leave the machine.

A folder for any static web server: the page of the application, the model, and onnxruntime-web
(WebAssembly), which npm fetches at export. Both are compressed, because many servers do not.
"""

import gzip
import hashlib
import json
import math
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from batik_utils.app import page
from batik_utils.app.predict import Predictor
from batik_utils.errors import BatikError
from batik_utils.images import files

#: onnxruntime-web from npm (MIT licence): version, and SHA-256 of its package file.
RUNTIME = "1.30.0"
RUNTIME_SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
_RUNTIME_SCRIPTS = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs")
_RUNTIME_WASM = "ort-wasm-simd-threaded.wasm"


def build(
    folder: Path,
    model: Path | str | None = None,
    gallery: Path | str = "",
    package: Path | None = None,
) -> Path:
    """Write the page to a folder and return it; files of an earlier build are replaced.

    ``gallery`` is a folder of photographs; ``package`` is onnxruntime-web's npm package file, None
    has npm fetch it. BatikError: the model is not whole, or onnxruntime-web cannot be had.
    """
    predictor = Predictor.load(model)
    photographs = page.gallery(gallery, predictor.classes)
    inside, card = folder / "page", predictor.folder / page.CARD
    others = shutil.ignore_patterns("index.html", "server.js", "sw.js")
    shutil.copytree(page.FILES, inside, dirs_exist_ok=True, ignore=others)
    for name in ("drawn", "gallery"):
        shutil.rmtree(inside / name, ignore_errors=True)
        (inside / name).mkdir()
    with tempfile.TemporaryDirectory() as scratch:
        wasm = _unpack(package or fetch(Path(scratch)), inside)
    network = (predictor.folder / "model.onnx").read_bytes()
    large = [_pack(inside / "runtime.bin", wasm), _pack(inside / "model.bin", network)]
    version = f"batik-model-{hashlib.sha256(wasm + network).hexdigest()[:12]}"
    rules = {k: v for k, v in vars(predictor.rules).items() if k != "classes" and math.isfinite(v)}
    data = page.content(
        predictor,
        photographs,
        max_bytes=files.MAX_BYTES,
        atOnce=1,
        formats=", ".join(name for name in files.FORMATS if name != "TIFF"),  # as browsers do
        model={
            "cache": version,
            "size": predictor.size,
            "interpolation": predictor.interpolation,
            "files": large,
            "rules": rules,
        },
    )
    for address, picture in page.pictures(data, photographs).items():
        (folder / address).write_bytes(picture())
    if card.is_file():
        shutil.copyfile(card, folder / card.name)
    (folder / "index.html").write_text(page.render(data, "browser"), encoding="utf-8")
    _write_worker(folder, version)
    return folder


def _pack(path: Path, content: bytes) -> dict:
    # not named .gz: some servers would tell the browser to unpack it by itself
    packed = gzip.compress(content, 9, mtime=0)
    path.write_bytes(packed)
    return {"url": path.name, "bytes": len(packed)}


def _write_worker(folder: Path, model: str) -> None:
    """Write the service worker, with the list of what it keeps and a version of all of it.

    The page keeps the two large files itself, counted, in the cache ``model``.
    """
    own = [path for path in folder.rglob("*") if path.is_file()]
    names = sorted(path.relative_to(folder).as_posix() for path in own if path.suffix != ".bin")
    names = ["./", *(name for name in names if name != "sw.js")]
    digest = hashlib.sha256(b"".join((folder / name).read_bytes() for name in names[1:]))
    text = (page.FILES / "sw.js").read_text("utf-8")
    text = text.replace("{{page}}", f"batik-page-{digest.hexdigest()[:12]}")
    text = text.replace("{{model}}", model).replace("{{files}}", json.dumps(names))
    (folder / "sw.js").write_text(text, "utf-8")


def fetch(folder: Path) -> Path:
    """Have npm write onnxruntime-web's package file to a folder, and return it (BatikError)."""
    if not shutil.which("npm"):
        raise BatikError("npm is needed to fetch onnxruntime-web: install Node.js with npm.")
    command = ["npm", "pack", "--silent", f"onnxruntime-web@{RUNTIME}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    found = list(folder.glob("*.tgz"))
    if done.returncode or not found:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise BatikError(f"npm could not fetch onnxruntime-web {RUNTIME}: {last}")
    return found[0]


def _unpack(package: Path, folder: Path) -> bytes:
    """Write onnxruntime-web's scripts to a folder; return its WebAssembly."""
    if hashlib.sha256(package.read_bytes()).hexdigest() != RUNTIME_SHA256:
        raise BatikError(f"{package} is not the tested onnxruntime-web {RUNTIME}: fetch it again.")
    with tarfile.open(package) as archive:
        read = lambda name: archive.extractfile(f"package/dist/{name}").read()  # noqa: E731
        for name in _RUNTIME_SCRIPTS:
            (folder / name).write_bytes(read(name))
        return read(_RUNTIME_WASM)
