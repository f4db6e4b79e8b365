"""What the page is given: texts in two languages, drawn cloth, a museum's photographs."""

import json
import re

import picture_zoo
import pytest

from batik_utils.app import page
from batik_utils.app.predict import Predictor
from batik_utils.errors import BatikError
from batik_utils.images.motifs import MOTIFS

TEXTS = {code: page.texts(code) for code in page.LANGUAGES}
SOURCES = json.loads((page.HERE / "sources.json").read_text(encoding="utf-8"))


def leaves(value, path=""):
    """Yield path and text of every text in a tree."""
    if isinstance(value, str):
        yield path, value
    else:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from leaves(inner, f"{path}/{key}")


def test_both_languages_say_the_same_things():
    english, indonesian = (dict(leaves(TEXTS[code])) for code in page.LANGUAGES)
    assert english.keys() == indonesian.keys()
    for path, words in english.items():
        asked = [sorted(re.findall(r"\{(\w+)\}", text)) for text in (words, indonesian[path])]
        assert asked[0] == asked[1], path


def test_every_text_that_the_scripts_ask_for_is_there_and_no_other():
    script = "".join((page.FILES / f"{name}.js").read_text() for name in ("app", "server"))
    asked = set(re.findall(r'(?:"|say\.)([a-z]+(?:_[a-z]+)*)\b', script))
    asked |= {"private_server", "private_browser", "private_short_server", "private_short_browser"}
    grades = {"sure", "probably", "either", "other_cloth", "no_cloth", "none"}
    asked |= grades | {f"{grade}_note" for grade in grades}
    unused = TEXTS["en"]["say"].keys() - asked
    assert not unused


@pytest.mark.parametrize("code", page.LANGUAGES)
def test_every_kind_of_refusal_has_a_sentence(code):
    kinds = {kind for _, kind in picture_zoo.bad().values()} | {"unreadable"}
    assert not kinds - TEXTS[code]["refused"].keys()


@pytest.mark.parametrize("motif", MOTIFS)
def test_what_is_said_of_a_motif_has_sources(motif):
    assert len(SOURCES[motif]) >= 2
    assert all(re.match(r"https?://[\w.]+/\S+$", address) for _, address in SOURCES[motif])
    for code in page.LANGUAGES:
        assert TEXTS[code]["motifs"][motif].keys() >= {"signs", "meaning", "origin", "alike"}


def test_nothing_ends_the_script_in_which_the_data_stand(predictor):
    data = page.content(predictor, max_bytes=1, card="</script><script>alert(1)</script>")
    text = page.render(data, "server", '/"><b>/')
    assert text.count("</script>") == 4
    assert '"><b>' not in text
    inside = re.search(r'id="data">(.*?)</script>', text, re.S)[1]
    assert json.loads(inside) == json.loads(json.dumps(data))


def test_a_model_of_other_motifs_brings_its_own_texts(model_folder, tmp_path):
    import shutil

    import standin

    folder = shutil.copytree(model_folder, tmp_path / "model")
    labels = json.loads((folder / "labels.json").read_text())
    labels["classes"] = ["tambal", "parang", "kawung"]
    (folder / "labels.json").write_text(json.dumps(labels))
    own = {"en": {"parang": {"name": "Parang", "signs": "Diagonal rows."}}, "xx": {}}
    (folder / "texts.json").write_text(json.dumps(own))
    standin.seal(folder)
    data = page.content(Predictor.load(folder), max_bytes=1)
    assert data["languages"]["en"]["motifs"]["parang"]["signs"] == "Diagonal rows."
    assert set(data["drawn"]) == {"tambal"}


@pytest.mark.parametrize("motif", MOTIFS)
def test_cloth_is_drawn_for_each_motif(predictor, motif):
    for address in page.content(predictor, max_bytes=1)["drawn"][motif]:
        assert page.drawn(address.rsplit("/", 1)[1])[:3] == b"\xff\xd8\xff"
    with pytest.raises(BatikError, match=r"no-such\.jpg"):
        page.drawn("no-such.jpg")


@pytest.fixture
def museum(tmp_path):
    picture = picture_zoo.encode(picture_zoo.CLOTH, "TIFF")
    names = ("Tambal from Yogya.tif", "sidoluhur/Room_3 <b>.jpg", "The entrance.png")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(picture)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    return tmp_path


def test_a_gallery_has_captions_and_motifs_from_file_names(museum):
    found = page.gallery(museum, MOTIFS)
    assert {(one["motif"], one["caption"]) for one in found} == {
        ("tambal", "Tambal from Yogya"),
        ("sidoluhur", "Room 3 <b>"),
        ("", "The entrance"),
    }
    assert page.photograph(found[0])[:3] == b"\xff\xd8\xff"


def test_a_gallery_without_pictures_is_a_sentence(tmp_path):
    with pytest.raises(BatikError, match="no picture"):
        page.gallery(tmp_path, MOTIFS)
    with pytest.raises(BatikError, match="no picture"):
        page.gallery(tmp_path / "none", MOTIFS)
    assert page.gallery("", MOTIFS) == []
