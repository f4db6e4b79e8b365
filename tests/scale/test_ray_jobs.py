"""Many pictures through Ray: the answers of `predict`, from folders, tables, addresses."""

import fsspec
import pytest

from batik_utils.__main__ import main
from batik_utils.app import sources
from batik_utils.errors import BatikError
from batik_utils.images import cloth as synthetic
from batik_utils.scale import ray_cluster as cluster
from batik_utils.scale import ray_jobs as bulk

ray = pytest.importorskip("ray", reason="needs the extra 'scale'")


@pytest.fixture(scope="module")
def two_workers():
    with cluster.connected("local", cpus=2):
        yield


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Forty pieces of cloth, a damaged file, a text that is passed over and a hidden file."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "more").mkdir()
    for k in range(40):
        motif = ("betawi", "sidoluhur", "tambal")[k % 3]
        where = folder / "more" if k % 3 else folder
        synthetic.draw(motif, k, (120, 100)).save(where / f"{k:02}-{motif}.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    (folder / "prices.txt").write_text("12")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


def test_addresses_give_the_same_and_what_cannot_be_read_is_an_answer(two_workers, predictor, shop):
    wanted = predictor.stream(sources.files([shop]), workers=1)
    listed = bulk.find([f"file://{shop}", "/nowhere/8.png"])
    assert len(listed) == 42
    found = list(bulk.stream([*listed, "odd://9.png"], predictor, ray="auto"))
    # a store sorts whole addresses, a folder's listing sorts by parts
    assert {answer.name: answer.probabilities for answer in found[:41]} == {
        f"file://{answer.name}": answer.probabilities for answer in wanted
    }
    assert [answer.kind for answer in found[41:]] == ["unreadable"] * 2


def test_an_object_store_is_listed_like_a_folder():
    store = fsspec.filesystem("memory")
    for name in ("b.png", "a.jpg", "deep/c.png", "deep/notes.txt", ".trash/d.png"):
        store.pipe(f"/museum/{name}", b"x")
    try:
        found = [name.rsplit("museum/")[1] for name in bulk.find(["memory://museum"])]
        assert found == ["a.jpg", "b.png", "deep/c.png"]
        assert len(bulk.find(["memory://museum/deep/notes.txt"])) == 1  # it was named itself
    finally:
        store.rm("/museum", recursive=True)


def test_what_cannot_be_listed_is_told():
    with pytest.raises(BatikError, match="Nothing is found at memory://nowhere"):
        bulk.find(["memory://nowhere"])
    with pytest.raises(BatikError, match=r"owl://nest cannot be listed"):
        bulk.find(["owl://nest"])


def test_the_command_writes_the_same_table_and_goes_on_with_a_part(
    two_workers, model_folder, shop, tmp_path, monkeypatch
):
    # workers were started in another folder
    monkeypatch.chdir(shop.parent)
    one, many = tmp_path / "one.csv", tmp_path / "many.csv"
    words = ["predict", shop.name, "--model", str(model_folder), "--csv"]
    assert main([*words, str(one)]) == 1  # one file was refused
    assert main([*words, str(many), "--ray", "auto"]) == 1
    whole = one.read_text()
    assert many.read_text() == whole and len(whole.splitlines()) == 42
    many.write_text("".join(whole.splitlines(keepends=True)[:20]))
    for _ in range(2):  # the second time nothing is left to do
        assert main([*words, str(many), "--ray", "auto", "--resume"]) == 0
        assert many.read_text() == whole
