"""What the page is given: texts in two languages, drawn cloth, a museum's photographs."""

import json
import re
import shutil

import picture_zoo
import pytest
import standin

from batik_utils.app import page
from batik_utils.app.predict import Predictor
from batik_utils.errors import BatikError
from batik_utils.images.motifs import MOTIFS

TEXTS = {code: page.texts(code) for code in page.LANGUAGES}


def leaves(value, path=""):
    """Yield path and text of every text in a tree."""
    if isinstance(value, str):
        yield path, value
        return
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield from leaves(inner, f"{path}/{key}")


def test_both_languages_say_the_same_things():
    english, indonesian = (dict(leaves(TEXTS[code])) for code in page.LANGUAGES)
    assert english.keys() == indonesian.keys()
    for path, words in english.items():
        asked = [sorted(re.findall(r"\{(\w+)\}", text)) for text in (words, indonesian[path])]
        assert asked[0] == asked[1], path


def test_no_text_is_left_over_and_every_refusal_has_one():
    script = "".join((page.FILES / f"{name}.js").read_text() for name in ("app", "server"))
    asked = set(re.findall(r'(?:"|say\.)([a-z]+(?:_[a-z]+)*)\b', script))
    asked |= {
        f"private_{short}{kind}" for short in ("", "short_") for kind in ("server", "browser")
    }
    grades = {"sure", "probably", "either", "other_cloth", "no_cloth", "none"}
    asked |= grades | {f"{grade}_note" for grade in grades}
    assert not TEXTS["en"]["say"].keys() - asked
    kinds = {"empty", "bytes", "pixels", "unreadable", "format", "heic", "damaged"}
    assert not (kinds | {"small", "plain"}) - TEXTS["en"]["refused"].keys()


def test_every_motif_has_texts_sources_and_drawn_cloth(predictor):
    data = page.content(predictor, max_bytes=1)
    made = page.pictures(data, [])
    assert len(made) == 4 * len(MOTIFS)
    assert next(iter(made.values()))()[:3] == b"\xff\xd8\xff"
    for motif in MOTIFS:
        assert len(data["sources"][motif]) >= 2
        for code in page.LANGUAGES:
            assert TEXTS[code]["motifs"][motif].keys() >= {"signs", "meaning", "origin", "alike"}


def test_nothing_ends_the_script_in_which_the_data_stand(predictor):
    data = page.content(predictor, max_bytes=1, title="</script><script>alert(1)</script>")
    text = page.render(data, "server", '/"><b>/')
    assert text.count("</script>") == 4
    assert '"><b>' not in text
    inside = re.search(r'id="data">(.*?)</script>', text, re.S)[1]
    assert json.loads(inside) == json.loads(json.dumps(data))


def test_a_model_of_other_motifs_brings_its_own_texts(model_folder, tmp_path):
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


def test_a_gallery_has_captions_and_motifs_from_file_names(tmp_path):
    picture = picture_zoo.encode(picture_zoo.CLOTH, "TIFF")
    for name in ("Tambal from Yogya.tif", "sidoluhur/Room_3 <b>.jpg", "The entrance.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(picture)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    found = page.gallery(tmp_path, MOTIFS)
    assert {(one["motif"], one["caption"]) for one in found} == {
        ("tambal", "Tambal from Yogya"),
        ("sidoluhur", "Room 3 <b>"),
        ("", "The entrance"),
    }
    shown = page.pictures({"drawn": {}}, found)
    assert shown[found[0]["src"]]()[:3] == b"\xff\xd8\xff"
    with pytest.raises(BatikError, match="no picture"):
        page.gallery(tmp_path / "none", MOTIFS)
