"""The application as a Hugging Face Space: `PARTS` of the package, the model, and ``hub/``."""

import shutil
from importlib import metadata
from pathlib import Path

from batik_utils.app import model_folder
from batik_utils.errors import PROJECT, BatikError, expanded

#: What the application needs of the package; the Dockerfile copies the same.
PARTS = ("__init__.py", "__main__.py", "errors.py", "images", "app")
#: What it needs beside Gradio.
PACKAGES = ("onnxruntime", "numpy", "pillow", "tqdm", "filelock")
# the hub takes no other binary files, however small
_ATTRIBUTES = "".join(f"*.{kind} filter=lfs diff=lfs merge=lfs -text\n" for kind in ("onnx", "png"))


def export(folder: Path, model: Path | str | None = None) -> Path:
    """Write the Space and return its folder, which is empty, not there, or an earlier export."""
    source = expanded(model) if model else model_folder.default_folder()
    model_folder.verify(source)
    readme, hub = folder / "README.md", Path(__file__).parent / "hub"
    if folder.exists() and any(folder.iterdir()):
        if not readme.is_file() or "export --format space" not in readme.read_text("utf-8"):
            raise BatikError(f"{folder} holds something else: name an empty folder.")
        # .git stays: the folder may be a clone of the Space
        for name in ("batik_utils", "model"):
            shutil.rmtree(folder / name, ignore_errors=True)
    whole = PROJECT / "batik_utils"

    def others(place: str, names: list[str]) -> set[str]:
        return set(names) - set(PARTS) if Path(place) == whole else {"__pycache__"}

    shutil.copytree(whole, folder / "batik_utils", ignore=others)
    shutil.copytree(source, folder / "model")
    shutil.copyfile(hub / "app.py", folder / "app.py")
    text = (hub / "README.md").read_text("utf-8")
    readme.write_text(text.replace("{gradio}", metadata.version("gradio")), "utf-8")
    pins = "".join(f"{name}=={metadata.version(name)}\n" for name in PACKAGES)
    (folder / "requirements.txt").write_text(pins, "utf-8")
    (folder / ".gitattributes").write_text(_ATTRIBUTES, "utf-8")
    return folder
