"""The static page, which classifies in the browser alone: pictures never leave the machine.

A folder for any static web server: the page of the application, the model, and onnxruntime-web
(WebAssembly), which npm fetches at export. Both are compressed, because many servers do not.
"""

import gzip
import hashlib
import io
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
_RUNTIME = "ort-wasm-simd-threaded"


def build(folder: Path, model: Path | str | None = None, gallery: Path | str = "") -> Path:
    """Write the page, with a folder of photographs, to a folder and return it."""
    predictor = Predictor.load(model)
    photographs = page.gallery(gallery, predictor.classes)
    inside, card = folder / "page", predictor.folder / page.CARD
    others = shutil.ignore_patterns("index.html", "server.js", "sw.js")
    shutil.copytree(page.FILES, inside, dirs_exist_ok=True, ignore=others)
    for name in ("drawn", "gallery"):
        shutil.rmtree(inside / name, ignore_errors=True)
        (inside / name).mkdir()
    wasm = _write_runtime(inside)
    network = (predictor.folder / "model.onnx").read_bytes()
    rules = {k: v for k, v in vars(predictor.rules).items() if k != "classes" and math.isfinite(v)}
    model_data = {
        "cache": f"batik-model-{hashlib.sha256(wasm + network).hexdigest()[:12]}",
        "files": [_pack(inside / "runtime.bin", wasm), _pack(inside / "model.bin", network)],
        "size": predictor.size,
        "interpolation": predictor.interpolation,
        "rules": rules,
    }
    data = page.content(
        predictor,
        photographs,
        max_bytes=files.MAX_BYTES,
        atOnce=1,
        formats=", ".join(name for name in files.FORMATS if name != "TIFF"),  # as browsers do
        model=model_data,
    )
    for address, picture in page.pictures(data, photographs).items():
        (folder / address).write_bytes(picture())
    if card.is_file():
        shutil.copyfile(card, folder / card.name)
    (folder / "index.html").write_text(page.render(data, "browser"), encoding="utf-8")
    _write_worker(folder, model_data["cache"])
    return folder


def _pack(path: Path, content: bytes) -> dict:
    # not named .gz: some servers would tell the browser to unpack it by itself
    packed = gzip.compress(content, 9, mtime=0)
    path.write_bytes(packed)
    return {"url": path.name, "bytes": len(packed)}


def _write_worker(folder: Path, model: str) -> None:
    """Write the service worker: list and version of all but the two large files in ``model``."""
    own = [path for path in folder.rglob("*") if path.is_file()]
    names = sorted(path.relative_to(folder).as_posix() for path in own if path.suffix != ".bin")
    names = ["./", *(name for name in names if name != "sw.js")]
    digest = hashlib.sha256(b"".join((folder / name).read_bytes() for name in names[1:]))
    text = (page.FILES / "sw.js").read_text("utf-8")
    text = text.replace("{{page}}", f"batik-page-{digest.hexdigest()[:12]}")
    text = text.replace("{{model}}", model).replace("{{files}}", json.dumps(names))
    (folder / "sw.js").write_text(text, "utf-8")


def _write_runtime(folder: Path) -> bytes:
    """Have npm fetch onnxruntime-web, write its scripts to a folder; return its WebAssembly."""
    if not shutil.which("npm"):
        raise BatikError("npm is needed to fetch onnxruntime-web: install Node.js with npm.")
    with tempfile.TemporaryDirectory() as scratch:
        # what an earlier call fetched is in npm's own cache
        command = ["npm", "pack", "--silent", "--prefer-offline", f"onnxruntime-web@{RUNTIME}"]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
        packages = list(Path(scratch).glob("*.tgz"))
        if done.returncode or not packages:
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            raise BatikError(f"npm could not fetch onnxruntime-web {RUNTIME}: {last}")
        content = packages[0].read_bytes()
    if hashlib.sha256(content).hexdigest() != RUNTIME_SHA256:
        raise BatikError(f"npm fetched another onnxruntime-web {RUNTIME} than was tested.")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        names = [f"{_RUNTIME}.mjs", "ort.wasm.min.js", f"{_RUNTIME}.wasm"]
        found = [archive.extractfile(f"package/dist/{name}").read() for name in names]
    for name, script in zip(names[:2], found[:2], strict=True):
        (folder / name).write_bytes(script)
    return found[2]
