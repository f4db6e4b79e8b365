"""What several test modules share: small trees of pictures, a toy network, the real pictures."""

import uuid
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import standin
import torch
from PIL import Image
from torch import nn

from batik_utils import data, experiments, models, recipes
from batik_utils.app import predict
from batik_utils.errors import PROJECT
from batik_utils.images import cache as array_cache
from batik_utils.images import motifs
from batik_utils.images.resize import Preprocessing
from batik_utils.recipes import Recipe

ROOT = PROJECT
REAL = ROOT.parent / "shared" / "data" / "indonesian-batik-motifs"
THREE = {"batik-betawi": 8, "batik-sidoluhur": 8, "batik-tambal": 8}

# toy networks are slower on several threads, and one gives the same digits everywhere
torch.set_num_threads(1)


def pytest_collection_modifyitems(items) -> None:
    """What needs Ray, Fabric or MLflow runs in `make test-all`."""
    for item in items:
        if item.path.parent.name == "scale":
            item.add_marker(pytest.mark.scale)


def pytest_terminal_summary(terminalreporter) -> None:
    """How long each part took."""
    seconds = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration"):
                file = Path(report.nodeid.split("::")[0])
                own = "notebook" in file.stem or "browser" in file.stem
                seconds[file.stem if own else file.parent.name] += report.duration
    parts = ", ".join(f"{part} {total:.0f} s" for part, total in seconds.most_common())
    terminalreporter.write_line(f"Time by part: {parts}")


@pytest.fixture(autouse=True)
def arrays(monkeypatch, tmp_path_factory) -> None:
    """No test finds what another one kept, nor leaves something behind."""
    place = tmp_path_factory.getbasetemp() / f"arrays-{uuid.uuid4().hex}"
    monkeypatch.setattr(array_cache, "folder", lambda: place)


@pytest.fixture(scope="session")
def real_root() -> Path:
    if not REAL.is_dir():
        pytest.skip(f"the real pictures are not beside the project ({REAL})")
    return REAL


@pytest.fixture(scope="session")
def real_dataset(real_root) -> data.Dataset:
    return data.load("folder", real_root)


@pytest.fixture
def without_batik_settings(monkeypatch, tmp_path):
    for name in ("DATA_DIR", "RESULTS_DIR", "WEIGHTS_DIR", "OFFLINE", "HUB_MIRROR"):
        monkeypatch.delenv(f"BATIK_{name}", raising=False)
    monkeypatch.setenv("BATIK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def draw(motif: str, number: int, side: int = 24) -> Image.Image:
    """Noise around the motif's own colour: a toy network can tell the motifs apart."""
    seed = zlib.crc32(motif.encode())
    colour = np.random.default_rng(seed).integers(0, 256, 3)
    noise = np.random.default_rng([seed, number]).normal(0, 25, (side, side + 6, 3))
    pixels = colour + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture
def picture_tree(tmp_path) -> Callable[..., Path]:
    """Write ``<root>/<folder>/1.jpg`` and so on; the picture depends on motif and number alone."""

    def write(folders: dict[str, int] = THREE, root: Path | None = None, side=24) -> Path:
        root = root or tmp_path / "pictures"
        for folder, count in folders.items():
            (root / folder).mkdir(parents=True)
            for number in range(1, count + 1):
                picture = draw(motifs.from_folder(folder), number, side)
                picture.save(root / folder / f"{number}.jpg")
        return root

    return write


@pytest.fixture
def small_dataset(picture_tree) -> data.Dataset:
    return data.load("folder", picture_tree())


def toy_backbone() -> tuple[nn.Module, int]:
    """A backbone in the shape of the real ones: convolution, batch norm, pooling; 16 features."""
    convolution = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
    return nn.Sequential(*convolution, nn.AdaptiveAvgPool2d(2), nn.Flatten()), 16


@pytest.fixture
def toy(monkeypatch) -> Recipe:
    """The recipe ``toy``, known to the package like any other, on 16 px pictures."""
    monkeypatch.setattr(models, "IMAGENET", Preprocessing(size=16))
    monkeypatch.setitem(models.ARCHITECTURES, "toy", models.transfer(toy_backbone))
    recipe = Recipe("toy", "ours", "toy", head="linear", epochs=2, batch_size=8, learning_rate=0.01)
    monkeypatch.setitem(recipes.RECIPES, "toy", recipe)
    return recipe


@pytest.fixture
def make(without_batik_settings, small_dataset, tmp_path) -> Callable[..., experiments.Setup]:
    """Return a function to set-ups of the same pictures in results folders of their own."""

    def setup(folder: str = "results", split: str = "stratified-0", **settings):
        where = {"results": tmp_path / folder, "device": "cpu"}
        return experiments.prepare(small_dataset, split, **where, **settings)

    return setup


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    """A model folder in the layout of the committed one, fitted to synthetic cloth."""
    return standin.write(tmp_path_factory.mktemp("standin") / "model")


@pytest.fixture(scope="session")
def predictor(model_folder) -> predict.Predictor:
    return predict.Predictor.load(model_folder, threads=1)


@pytest.fixture
def small(monkeypatch):
    """`classifier.build` and the reading of saved models with two small layers, at 64 px."""
    from small_network import SIZE, backbones

    from batik_utils.classifier import build, features

    monkeypatch.setattr(features, "build", backbones)
    monkeypatch.setattr(build, "SIZE", SIZE)
    monkeypatch.setattr(build, "COPIES", 1)
