"""The static page, which classifies in the browser alone: pictures never leave the machine.

A folder for any static web server: the page of the application, the model, and onnxruntime-web
(WebAssembly), which npm fetches at export. Both are compressed, because many servers do not.
"""

import gzip
import hashlib
import json
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
#: What browsers open; TIFF is not among it.
FORMATS = tuple(name for name in files.FORMATS if name != "TIFF")

_RUNTIME_SCRIPTS = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs")
_RUNTIME_WASM = "ort-wasm-simd-threaded.wasm"
# of the page in `page.FILES`, what the page alone does not have under the same name
_OTHERS = ("index.html", "server.js", "sw.js", "manifest.webmanifest")


def build(
    folder: Path,
    model: Path | str | None = None,
    package: Path | None = None,
    gallery: Path | str = "",
) -> Path:
    """Write the page to a folder and return it; files of an earlier build are replaced.

    ``package`` is onnxruntime-web's npm package file, None has npm fetch it; ``gallery`` a folder
    of photographs. BatikError: the model is not whole, or onnxruntime-web cannot be had.
    """
    predictor = Predictor.load(model)
    shape = {"size": predictor.size, "interpolation": predictor.interpolation}
    photographs = page.gallery(gallery, predictor.classes)
    inside = folder / "page"
    for name in ("drawn", "gallery"):
        shutil.rmtree(inside / name, ignore_errors=True)
        (inside / name).mkdir(parents=True)
    for path in page.FILES.iterdir():
        if path.name not in _OTHERS:
            shutil.copyfile(path, inside / path.name)
    shutil.copyfile(page.FILES / "manifest.webmanifest", folder / "manifest.webmanifest")
    with tempfile.TemporaryDirectory() as scratch:
        wasm = _unpack(package or _fetch(Path(scratch)), inside)
    network = (predictor.folder / "model.onnx").read_bytes()
    large = [_pack(inside / "runtime.bin", wasm), _pack(inside / "model.bin", network)]
    version = f"batik-{hashlib.sha256(wasm + network).hexdigest()[:12]}"
    rules = predictor.rules
    card = predictor.folder / "MODEL_CARD.md"
    data = page.content(
        predictor,
        max_bytes=files.MAX_BYTES,
        at_once=1,
        gallery=photographs,
        card=card.name if card.is_file() else "",
        formats=FORMATS,
        model={"cache": version, "shape": shape, "files": large},
        rules={
            "familiarity": rules.familiarity,
            "cloth": rules.cloth if predictor.tells_cloth else None,
            "sureFrom": rules.sure_from,
            "sureFamiliarity": max(rules.sure_familiarity, rules.familiarity),
            "probablyFrom": rules.probably_from,
        },
    )
    for addresses in data["drawn"].values():
        for address in addresses:
            (folder / address).write_bytes(page.drawn(Path(address).name))
    for entry in photographs:
        (folder / entry["src"]).write_bytes(page.photograph(entry))
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


def _write_worker(folder: Path, version: str) -> None:
    """Write the service worker, with the list of what it keeps and a version of all content."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "sw.js"]
    names = sorted(path.relative_to(folder).as_posix() for path in files)
    digest = hashlib.sha256(b"".join((folder / name).read_bytes() for name in names))
    index, name = folder / "index.html", f"{version}-{digest.hexdigest()[:8]}"
    # the page keeps the two large files itself, counted, under the same name
    index.write_text(index.read_text("utf-8").replace(version, name), "utf-8")
    text = (page.FILES / "sw.js").read_text("utf-8")
    text = text.replace("{{version}}", name).replace("{{files}}", json.dumps(["./", *names]))
    (folder / "sw.js").write_text(text, "utf-8")


def _fetch(folder: Path) -> Path:
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
        found = {}
        for name in (*_RUNTIME_SCRIPTS, _RUNTIME_WASM):
            with archive.extractfile(f"package/dist/{name}") as source:
                found[name] = source.read()
    for name in _RUNTIME_SCRIPTS:
        (folder / name).write_bytes(found[name])
    return found[_RUNTIME_WASM]
