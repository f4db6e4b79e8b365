"""Build the page that classifies in the browser alone: pictures never leave the visitor's machine.

    python -m batik_utils web --output build/web
    python -m http.server --directory build/web

A folder for any static web server: the page, its one script, the model, and onnxruntime-web
(WebAssembly), which npm fetches when the page is built. The script resizes as Pillow does, so that
its answers agree with Python's. Introduced in notebook 05.
"""

import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from batik_utils.app import predict, texts
from batik_utils.errors import BatikError
from batik_utils.images import cloth as synthetic
from batik_utils.images import files

#: onnxruntime-web from npm (MIT licence): version, and SHA-256 of its package file.
RUNTIME = "1.30.0"
RUNTIME_SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
_RUNTIME_FILES = (
    "ort.wasm.min.js",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
)
_PAGE = Path(__file__).with_name("web_page")
#: Cloth drawn for visitors without a picture: motif and seed.
EXAMPLES = (("betawi", 2), ("sidoluhur", 4), ("tambal", 1))


def build(folder: Path, model: Path | str | None = None, package: Path | None = None) -> Path:
    """Write the page.

    Args:
        folder: where to; made if it is not there. Files of an earlier build are replaced.
        model: model folder; None takes `predict.default_folder`.
        package: onnxruntime-web's npm package file; None has npm fetch it.

    Returns:
        The folder.

    Raises:
        BatikError: the model is not whole, or onnxruntime-web cannot be had.
    """
    predictor = predict.Predictor.load(model)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        _unpack(package or _fetch(Path(scratch)), folder)
    for name in ("index.html", "page.js"):
        shutil.copyfile(_PAGE / name, folder / name)
    shutil.copyfile(predictor.folder / "model.onnx", folder / "model.onnx")
    examples = []
    for number, (motif, seed) in enumerate(EXAMPLES, 1):
        examples.append(f"example-{number}.png")
        synthetic.draw(motif, seed).save(folder / examples[-1])
    content = {
        "classes": predictor.classes,
        "threshold": predictor.threshold,
        "sureFrom": predict.SURE_FROM,
        "framing": predictor.framing.as_dict(),
        "limits": {
            "bytes": files.MAX_BYTES,
            "pixels": files.MAX_PIXELS,
            "side": predict.MIN_SIDE,
            "spread": predict.MIN_SPREAD,
        },
        "examples": examples,
        "texts": {
            code: {
                "name": name,
                "say": texts.all_said(code),
                "motifs": texts.MOTIFS[code],
                "sources": {motif: texts.sources_html(code, motif) for motif in texts.SOURCES},
            }
            for code, name in texts.LANGUAGES.items()
        },
    }
    (folder / "data.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return folder


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


def _unpack(package: Path, folder: Path) -> None:
    if hashlib.sha256(package.read_bytes()).hexdigest() != RUNTIME_SHA256:
        raise BatikError(f"{package} is not the tested onnxruntime-web {RUNTIME}: fetch it again.")
    with tarfile.open(package) as archive:
        for name in _RUNTIME_FILES:
            with archive.extractfile(f"package/dist/{name}") as source:
                (folder / name).write_bytes(source.read())
