"""Masks hide what they say, and a planted shortcut is found, measured and put into words."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from batik_utils import models, recipes, splits
from batik_utils import training as engine
from batik_utils.__main__ import main
from batik_utils.errors import PROJECT, BatikError
from batik_utils.evaluation import explain, masking, shortcuts

ROOT = PROJECT
CLASSES = ("betawi", "sidoluhur", "tambal")
HIDING = {
    "band masked": ("band",),
    "watermarks masked": ("band", "seal"),
    "centre only": ("border",),
    "border only": ("centre",),
}


@pytest.fixture
def pixels():
    return torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (3, 3, 64, 64), dtype=np.uint8)
    )


# --- masking ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", masking.KINDS)
def test_a_masked_picture_has_the_same_shape_and_the_original_stays(kind, pixels):
    before = pixels.clone()
    found = masking.masked(pixels, kind)
    assert found.shape == pixels.shape and found.dtype == torch.uint8
    assert torch.equal(pixels, before)
    assert torch.equal(found, pixels) == (kind == "whole")
    found.zero_()
    assert torch.equal(pixels, before)


@pytest.mark.parametrize(("kind", "parts"), HIDING.items())
def test_what_is_hidden_leaves_no_trace_and_the_rest_is_untouched(kind, parts, pixels):
    hidden = sum(masking.regions(64)[part] for part in parts) > 0
    other = pixels.clone()
    other[..., torch.from_numpy(hidden)] = 255 - other[..., torch.from_numpy(hidden)]
    assert not torch.equal(pixels, other)
    assert torch.equal(masking.masked(pixels, kind), masking.masked(other, kind))
    found, seen = masking.masked(pixels, kind).numpy(), pixels.numpy()
    assert np.array_equal(found[..., ~hidden], seen[..., ~hidden])
    wanted = seen[..., ~hidden].mean(2).round()
    assert abs(found[..., hidden] - wanted[..., None]).max() <= 1


def test_centre_and_border_share_the_picture_equally():
    parts = masking.regions(224)
    assert not (parts["centre"] & parts["border"]).any()
    assert (parts["centre"] | parts["border"]).all()
    assert parts["centre"].mean() == pytest.approx(0.5, abs=0.01)
    # the real watermark lies between 46.5 and 53 % of the height
    rows = np.flatnonzero(parts["band"].all(1)) / 224
    assert rows.min() < 0.465 and rows.max() > 0.53


def test_grey_is_the_luma_of_television(pixels):
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    assert masking.masked(red, "colour removed").unique().tolist() == [76]  # ITU-R BT.601
    grey = masking.masked(pixels, "colour removed")
    assert torch.equal(grey[:, 0], grey[:, 2])


def test_blur_takes_texture_and_leaves_colour():
    fine = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    fine[:, 0, ::2, ::2] = fine[:, 0, 1::2, 1::2] = 200
    blurred = masking.masked(fine, "blurred").float()
    assert blurred[:, 0].std() < 5 and abs(blurred[:, 0].mean() - 100) < 2
    assert not blurred[:, 1:].any()


def test_tiles_change_places_and_nothing_else(pixels):
    def tiles(picture):
        cut = picture.unfold(1, 16, 16).unfold(2, 16, 16).permute(1, 2, 0, 3, 4)
        return [tile.numpy().tobytes() for tile in cut.reshape(16, 3, 16, 16)]

    found = masking.masked(pixels, "shuffled tiles", seed=1)
    orders = []
    for before, after in zip(pixels, found, strict=True):
        assert sorted(tiles(before)) == sorted(tiles(after))
        orders.append([tiles(before).index(tile) for tile in tiles(after)])
    assert orders[0] != orders[1] != orders[2]
    assert torch.equal(found, masking.masked(pixels, "shuffled tiles", seed=1))
    assert not torch.equal(found, masking.masked(pixels, "shuffled tiles", seed=2))


def test_a_watermark_is_a_dark_strip_with_light_words_in_the_band():
    light = torch.full((1, 3, 224, 224), 200, dtype=torch.uint8)
    found = masking.masked(light, "watermark added")
    changed = (found != 200).any(1)[0].numpy()
    assert not changed[~masking.regions(224)["band"]].any()
    strip = found[0, 0][torch.from_numpy(changed)]
    assert changed[112].all() and strip.min() < 90 and strip.max() > 130


def test_unknown_kinds_and_odd_sides_are_refused(pixels):
    with pytest.raises(BatikError, match="Unknown kind of masking 'painted'"):
        masking.masked(pixels, "painted")
    with pytest.raises(BatikError, match="cannot be cut into 4"):
        masking.masked(pixels[..., :63, :63], "shuffled tiles")


# --- accuracy on masked pictures --------------------------------------------------------------


def folds_of(n=60, folds=5, repeats=3, groups=None):
    """Folds at random, stratified by motif; groups of one picture unless told."""
    table = pd.DataFrame(
        {
            "path": [f"p{i}.jpg" for i in range(n)],
            "motif": [CLASSES[i % 3] for i in range(n)],
            "group": groups or [f"g{i}" for i in range(n)],
            "dataset": "d",
        }
    )
    for repeat in range(repeats):
        order = np.random.default_rng(repeat).permutation(n // 3)
        table[f"repeat_{repeat}"] = [order[i // 3] % folds for i in range(n)]
    return table, np.arange(n) % 3


def one_hot(labels):
    return np.eye(3)[labels] * 10.0


def test_a_planted_shortcut_shows_in_both_ways_of_training():
    folds, labels = folds_of()
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, (60, 3))
    features = {
        # the band tells everything, the picture without it nothing, the centre all again
        "whole": np.hstack([one_hot(labels), noise]),
        "band masked": np.hstack([np.zeros((60, 3)), noise]),
        "centre only": np.hstack([np.zeros((60, 3)), one_hot(labels) / 10]),
        "watermark added": np.hstack([one_hot(np.full(60, 2)), noise]),
    }
    table = shortcuts.summarise(
        shortcuts.answers(features, labels, folds, CLASSES, progress=False), folds, CLASSES
    ).set_index(["kind", "trained_on"])
    accuracy = table["accuracy"]
    assert accuracy["whole", "whole"] == 1
    assert accuracy["band masked", "whole"] < 0.6
    assert accuracy["band masked", "band masked"] < 0.6
    assert accuracy["centre only", "whole"] < 0.6
    # what is left would be enough, only this model has not learned it
    assert accuracy["centre only", "centre only"] == 1
    assert ("watermark added", "watermark added") not in accuracy.index
    assert accuracy["watermark added", "whole"] == pytest.approx(1 / 3)
    assert (table["lower"] <= accuracy).all() and (accuracy <= table["upper"]).all()
    assert table.loc[("band masked", "whole"), "change_upper"] < 0
    assert table.loc[("centre only", "centre only"), ["change", "change_lower"]].tolist() == [0, 0]
    words = shortcuts.describe(table.reset_index().assign(recipe="toy"))
    assert "`toy`: **100.0%** on whole pictures" in words
    assert "trained on such pictures 100.0%, +0.0 (+0.0 to +0.0), which may be chance" in words
    assert "- **watermark added**" in words and "- **blurred**" not in words


def test_no_probe_is_tested_on_what_it_learned():
    # each picture has a feature of its own: knowing it by heart is all that there is to learn
    folds, labels = folds_of()
    pictures = shortcuts.answers({"whole": np.eye(60)}, labels, folds, CLASSES, progress=False)
    assert pictures["right"].mean() < 0.6
    said = pictures[[f"said_{motif}" for motif in CLASSES]]
    assert said.sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
    own = said.to_numpy()[np.arange(60), labels]
    assert pictures["right"].to_numpy() == pytest.approx(own)


def test_incomplete_answers_are_refused():
    folds, labels = folds_of()
    pictures = shortcuts.answers({"whole": one_hot(labels)}, labels, folds, CLASSES, progress=False)
    with pytest.raises(BatikError, match="an answer for every picture"):
        shortcuts.summarise(pictures.iloc[1:], folds, CLASSES)


def watermarked_world(learnable):
    """Half of tambal bears a watermark (feature 0); the motif itself is weak (features 1 to 3)."""
    folds, labels = folds_of(120)
    rng = np.random.default_rng(1)
    marked = (labels == 2) & (np.arange(120) % 2 == 0)
    motif = np.eye(3)[labels] + rng.normal(0, 0.8, (120, 3))
    added = np.ones(120)
    strip = marked.astype(float) if learnable else rng.permutation(marked).astype(float)
    features = {
        "whole": np.hstack([5 * strip[:, None], motif]),
        "watermark added": np.hstack([5 * added[:, None], motif]),
    }
    paths = folds["path"][marked].tolist()
    pictures = shortcuts.answers(
        features, labels, folds, CLASSES, watermarked=paths, progress=False
    )
    return shortcuts.watermark_effect(pictures, paths).assign(recipe="toy")


def test_a_learned_watermark_is_told_from_one_that_was_not():
    table = watermarked_world(learnable=True).set_index("trained_on")
    assert table.index.tolist() == [shortcuts.CONTROL, "whole", shortcuts.UNMARKED]
    assert table.loc["whole", "change"] > 0.3 and table.loc["whole", "lower"] > 0
    assert table.loc[shortcuts.CONTROL, "lower"] > 0
    # without the marked pictures the feature is constant, and nothing can be learned from it
    assert table.loc[shortcuts.UNMARKED, "change"] == pytest.approx(0, abs=1e-9)
    control = table.loc[shortcuts.CONTROL]
    assert control["less"] == 0
    assert table.loc[shortcuts.UNMARKED, "less"] == pytest.approx(control["change"])
    assert table.loc["whole", ["motif", "pictures", "marked"]].tolist() == ["tambal", 80, 20]
    words = shortcuts.describe_watermark(table.reset_index())
    assert "It has learned that a watermark means tambal" in words
    words = shortcuts.describe_watermark(watermarked_world(learnable=False))
    assert "no proof that the watermark was learned" in words


def test_without_a_list_of_watermarks_nothing_is_claimed():
    folds, labels = folds_of()
    pictures = shortcuts.answers({"whole": one_hot(labels)}, labels, folds, CLASSES, progress=False)
    table = shortcuts.watermark_effect(pictures, [])
    assert table.empty
    assert "was not tested" in shortcuts.describe_watermark(table)


def test_the_control_leaves_out_as_many_of_each_motif_and_none_that_is_marked():
    labels = np.arange(30) % 3
    marked = np.zeros(30, bool)
    marked[[2, 5, 8, 1]] = True
    found = shortcuts._as_many(marked, labels, seed=0)
    assert np.bincount(labels[found], minlength=3).tolist() == [0, 1, 3]
    assert not (found & marked).any()
    assert (found != shortcuts._as_many(marked, labels, seed=1)).any()


# --- probes -----------------------------------------------------------------------------------


def test_a_probe_becomes_a_network_that_says_the_same(toy):
    torch.manual_seed(0)
    model = models.build_untrained(replace(toy, frozen="backbone"), 3)
    preprocessing = models.preprocessing_of(toy)
    pixels = torch.randint(0, 256, (30, 3, 16, 16), dtype=torch.uint8)
    labels = np.arange(30) % 3
    features = engine.features(model, preprocessing, pixels).numpy()
    fitted = shortcuts.probe(features, labels)
    whole = shortcuts.as_classifier(model, fitted)
    found = engine.predict(whole, preprocessing, pixels)
    assert found == pytest.approx(fitted.predict_proba(features), abs=1e-5)
    assert not np.allclose(found, engine.predict(model, preprocessing, pixels), atol=0.01)


# --- the command ------------------------------------------------------------------------------


def test_the_command_writes_its_tables_and_says_what_it_found(
    picture_tree, small_dataset, toy, monkeypatch, tmp_path, capsys
):
    monkeypatch.setitem(recipes.RECIPES, "toy", replace(toy, frozen="backbone"))
    paths = small_dataset.manifest["path"]
    groups = pd.DataFrame({"path": paths, "group": paths})
    results = tmp_path / "results" / small_dataset.name
    splits.save(
        splits.make_folds(small_dataset, groups, repeats=2, folds=4), results / "cv" / "folds.csv"
    )
    (results / "watermarks_by_eye.csv").write_text(
        "path,watermark\nbatik-tambal/1.jpg,strip\nbatik-tambal/2.jpg,strip\n"
    )
    words = ["explain", "--data", "folder", "--root", str(small_dataset.root), "--recipes", "toy"]
    words += ["--results", str(tmp_path / "results"), "--device", "cpu"]
    assert main(words) == 0
    said = capsys.readouterr().out
    for part in ("on whole pictures", "a watermark printed on", "Grad-CAM", "cannot show"):
        assert part in said
    tables = {path.stem: pd.read_csv(path) for path in (results / "cv").glob("*.csv")}
    assert set(tables) == {
        "folds",
        "shortcuts",
        "shortcuts_pictures",
        "watermark",
        "heat",
        "randomisation",
    }
    table = tables["shortcuts"]
    assert list(table.columns) == list(shortcuts.COLUMNS)
    # the toy pictures are told by their colours alone
    row = table[(table["kind"] == "whole") & (table["trained_on"] == "whole")].iloc[0]
    assert row["accuracy"] > 0.9 and row["repeats"] == 2 and row["pictures"] == 24
    assert sorted(tables["heat"]["path"]) == sorted(paths)
    assert tables["heat"]["watermark"].sum() == 2
    assert list(tables["randomisation"]["explanation"].unique()) == [
        "Grad-CAM",
        "edges of the picture",
    ]
    before = {path.name: path.read_bytes() for path in (results / "cv").glob("*.csv")}
    assert main(words) == 0
    assert {path.name: path.read_bytes() for path in (results / "cv").glob("*.csv")} == before


def test_wrong_settings_are_refused_before_any_picture_is_opened(small_dataset, tmp_path, capsys):
    assert main(["explain", "--recipes", "scratch1"]) == 2
    assert "trains its backbone" in capsys.readouterr().err
    assert main(["explain", "--recipes", " , "]) == 2
    assert "No recipe was named" in capsys.readouterr().err
    other = small_dataset.manifest.assign(group="g", repeat_0=0).iloc[::-1]
    with pytest.raises(BatikError, match="another order"):
        shortcuts.run(small_dataset, other, tmp_path, ["efficientnet_lite0"])


def test_a_list_of_watermarks_must_name_pictures(small_dataset, tmp_path):
    path = tmp_path / "watermarks.csv"
    assert shortcuts.read_watermarks(path, small_dataset) == []
    path.write_text("path,watermark\nbatik-tambal/3.jpg,strip\n")
    assert shortcuts.read_watermarks(path, small_dataset) == ["batik-tambal/3.jpg"]
    path.write_text("path,watermark\nbatik-tambal/99.jpg,strip\n")
    with pytest.raises(BatikError, match=r"lists batik-tambal/99\.jpg"):
        shortcuts.read_watermarks(path, small_dataset)
    path.write_text("something\nelse\n")
    with pytest.raises(BatikError, match="is damaged"):
        shortcuts.read_watermarks(path, small_dataset)


# --- the committed results --------------------------------------------------------------------


def test_the_committed_table_follows_from_its_pictures():
    folder = ROOT / "results" / "kaggle" / "cv"
    table = pd.read_csv(folder / "shortcuts.csv")
    pictures = pd.read_csv(folder / "shortcuts_pictures.csv")
    folds = pd.read_csv(folder / "folds.csv")
    for recipe, rows in pictures.groupby("recipe", sort=False):
        wanted = shortcuts.summarise(rows, folds, CLASSES)
        found = table[table["recipe"] == recipe].reset_index(drop=True)
        pd.testing.assert_frame_equal(found[wanted.columns], wanted, atol=1e-5)
    assert set(table["kind"]) == set(masking.KINDS)
    assert explain.areas().to_dict() == pytest.approx(
        {"band": 0.1, "seal": 0.048, "centre": 0.5, "border": 0.5}, abs=0.01
    )
