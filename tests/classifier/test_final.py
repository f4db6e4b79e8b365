"""The final network, its export and its build, on a tiny backbone and made-up pictures."""

import json

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.special import softmax
from torch import nn

from batik_utils import baselines
from batik_utils.baselines import Head
from batik_utils.classifier import embedding, export, final, foreign, rejection, selection
from batik_utils.classifier.embedding import Branch
from batik_utils.errors import BatikError
from batik_utils.images.resize import IMAGENET

SIZE = 32


def tiny(seed=0):
    torch.manual_seed(seed)
    stages = [
        nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU6()),
        nn.Conv2d(4, 6, 3, 2, 1),
        nn.Conv2d(6, 5, 1),
    ]
    network = embedding.Embedding([embedding.Taps(stages, (0, 2), IMAGENET)], ("tiny",))
    for name, tensor in network.state_dict().items():
        if embedding.is_stored_half(name, tensor):
            tensor.copy_(tensor.half().float())
    return network


def noise(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8)


# --- embedding --------------------------------------------------------------------------------


def test_features_are_mean_and_deviation_of_each_tap():
    network, pixels = tiny(), torch.from_numpy(noise(2))
    maps = network.branches[0](pixels.permute(0, 3, 1, 2).float())
    assert [m.shape[1] for m in maps] == [4, 5] == network.widths()[0]
    parts = [p for m in maps for p in (m.mean((2, 3)), m.flatten(2).std(2, correction=0))]
    assert torch.allclose(network(pixels), torch.cat(parts, 1), atol=1e-5)


def test_pixels_are_normalised_inside():
    taps = embedding.Taps([nn.Identity()], (0,), IMAGENET)
    white = taps(torch.full((1, 3, 2, 2), 255.0))[0][0, :, 0, 0]
    expected = [(1 - m) / s for m, s in zip(IMAGENET.mean, IMAGENET.std, strict=True)]
    assert white.tolist() == pytest.approx(expected)


def test_the_network_stays_frozen():
    network = tiny().train()
    before = network(torch.from_numpy(noise(2)))
    assert torch.equal(network(torch.from_numpy(noise(2))), before)
    assert not any(p.requires_grad for p in network.parameters())


def test_a_smaller_networks_columns_are_found():
    branches = [Branch("a", (2, 5)), Branch("b", (1,))]
    widths = [[2, 3], [1]]
    found = embedding.columns(branches, widths, [Branch("a", (5,)), Branch("b", (1,))])
    assert found.tolist() == [4, 5, 6, 7, 8, 9, 10, 11]
    with pytest.raises(BatikError, match="no tap"):
        embedding.columns(branches, widths, [Branch("b", (3,))])


def test_wrong_taps_are_refused():
    with pytest.raises(BatikError, match="ascend"):
        embedding.Taps([nn.Identity()], (1,), IMAGENET)


def test_a_picture_is_squashed_as_pillow_does_it():
    picture = Image.fromarray(noise(1)[0]).resize((50, 20))
    found = embedding.pixels_of(picture, 16)
    assert np.array_equal(found, np.asarray(picture.resize((16, 16), Image.Resampling.BICUBIC)))


def test_features_of_do_not_depend_on_the_batch():
    found = [Image.fromarray(x) for x in noise(5)]
    one, four = (
        embedding.features_of(tiny(), found, size=SIZE, batch=b, progress=False) for b in (1, 4)
    )
    assert np.allclose(one, four, atol=1e-5)


# --- network and export -----------------------------------------------------------------------


@pytest.fixture
def fitted():
    network, labels = tiny(), np.arange(30) % 3
    with torch.inference_mode():
        x = network(torch.from_numpy(noise(30))).numpy() + labels[:, None]
        others = network(torch.from_numpy(noise(20, 1))).numpy() - 1
    scaler = baselines.Scaler.of(others)
    motifs = baselines.fit_linear(x, labels, Head("lda", 1.0), scaler)
    where = slice(None), slice(8, 18)  # all, and the second tap
    familiarity = rejection.combined(scaler(x), labels, scaler(others), (scaler(x + 0.1),), where)
    return (
        final.FinalNetwork(network, motifs, 2.5, familiarity, scaler),
        motifs,
        familiarity,
        scaler,
    )


def test_the_network_answers_as_its_parts_do(fitted):
    model, motifs, familiarity, scaler = fitted
    pixels = torch.from_numpy(noise(4, 2))
    with torch.inference_mode():
        probabilities, score = model(pixels)
        features = model.network(pixels).numpy()
    assert np.allclose(probabilities, softmax(motifs.logits(features) / 2.5, axis=-1), atol=1e-4)
    assert np.allclose(score, familiarity(scaler(features)), atol=1e-3)


def test_the_file_answers_as_the_network_for_any_number_of_pictures(fitted, tmp_path):
    model = fitted[0]
    path = export.to_onnx(
        model,
        tmp_path / "model.onnx",
        size=SIZE,
        outputs=("probabilities", "familiarity"),
        notes={"dataset": "none"},
    )
    assert export.check(path, model, noise(1)) < 1e-4
    assert export.check(path, model, noise(5)) < 1e-4
    session = export.open_session(path)
    assert [(i.name, i.type, i.shape[1:]) for i in session.get_inputs()] == [
        ("pixels", "tensor(uint8)", [SIZE, SIZE, 3])
    ]
    assert [o.name for o in session.get_outputs()] == ["probabilities", "familiarity"]
    assert session.get_modelmeta().custom_metadata_map == {"dataset": "none"}
    # another network's file is found out
    with pytest.raises(BatikError, match="differs from the torch network"):
        export.check(path, final.FinalNetwork(tiny(1), *_parts(fitted)), noise(2))
    # the same network gives the same file
    again = export.to_onnx(
        model,
        tmp_path / "again.onnx",
        size=SIZE,
        outputs=("probabilities", "familiarity"),
        notes={"dataset": "none"},
    )
    assert again.read_bytes() == path.read_bytes()


def test_onnxruntime_can_merge_all_batch_norm_of_the_file(fitted, tmp_path):
    path = export.to_onnx(fitted[0], tmp_path / "model.onnx", size=SIZE, outputs=("a", "b"))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "run.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    written, run = (
        [node.op_type for node in onnx.load(file).graph.node]
        for file in (path, tmp_path / "run.onnx")
    )
    assert "BatchNormalization" in written
    # one that stays, and what surrounds it, cost three times the time of the whole
    assert not {"BatchNormalization", "Clip", "Expand", "CastLike", "Shape"} & set(run)
    # and every number of the network can be read back by its name
    kept = {tensor.name.removesuffix("_half") for tensor in onnx.load(path).graph.initializer}
    own = {name for name in fitted[0].state_dict() if not name.endswith("num_batches_tracked")}
    assert own <= kept


def _parts(fitted):
    _, motifs, familiarity, scaler = fitted
    return motifs, 2.5, familiarity, scaler


def test_kernels_that_float16_would_change_are_refused(fitted, tmp_path):
    model = fitted[0]
    model.network.branches[0].pieces[0][0][0].weight.data += 1e-6
    with pytest.raises(BatikError, match="float16"):
        export.to_onnx(model, tmp_path / "m.onnx", size=SIZE, outputs=("a", "b"))


# --- material ---------------------------------------------------------------------------------


def test_near_twins_of_the_motifs_are_no_others():
    groups = pd.DataFrame(
        {
            "path": ["t/1", "p/1", "p/2", "k/1"],
            "motif": ["tambal", "parang", "parang", "kawung"],
            "group": ["t/1", "t/1", "p/2", "k/1"],
        }
    )
    assert final.other_pictures(groups, ["tambal"])["path"].tolist() == ["p/2", "k/1"]
    with pytest.raises(BatikError, match="other motifs"):
        final.other_pictures(groups[:3], ["tambal"])


def test_features_are_kept_by_content(tmp_path, monkeypatch):
    monkeypatch.setenv("BATIK_CACHE_DIR", str(tmp_path / "cache"))
    for i, pixels in enumerate(noise(3)):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    first = final.FeatureCache(tiny(), SIZE).features(paths, progress=False)
    cache = final.FeatureCache(tiny(), SIZE)
    cache.network = None  # would fail if asked
    assert np.array_equal(cache.features(paths[::-1], progress=False), first[::-1])
    assert final.FeatureCache(tiny(1), SIZE).path != cache.path
    assert final.FeatureCache(tiny(), 2 * SIZE).path != cache.path


@pytest.fixture
def material():
    """Others are told apart by their first feature; two near-twins under different motifs."""
    rng = np.random.default_rng(0)
    others = pd.DataFrame(
        {
            "path": [f"o/{i}" for i in range(60)],
            "motif": np.repeat([f"m{i}" for i in range(6)], 10),
            "group": [f"{i}" for i in range(60)],
        }
    )
    others.loc[59, "group"] = "0"
    return final.Material(
        paths=np.array([f"k/{i}" for i in range(30)]),
        labels=np.arange(30) % 3,
        groups=np.array([f"k{i}" for i in range(30)]),
        features=rng.normal(size=(30, 4)) + 3,
        copies=(rng.normal(size=(30, 4)),),
        others=others,
        other_features=np.c_[np.arange(60.0), rng.normal(size=(60, 3))],
        foreign={"far": rng.normal(size=(7, 4)) - 9},
        columns={"a": np.arange(4)},
        typical={"a": (slice(0, 4), slice(1, 3))},
    )


def spied(material, leave_out):
    """Return what was learned from and what was tested in each fold: numbers of others."""
    scaled = baselines.Scaler.of(material.other_features)(material.other_features)[:, 0]
    seen = []

    def numbers(x):
        return {int(np.abs(scaled - value).argmin()) for value in x[:, 0]}

    def spy(known, labels, other, copies):
        assert [len(c) for c in copies] == [len(known)] == [len(labels)]
        turn = []
        seen.append((numbers(other), turn))

        def score(x):
            turn.append(x)
            return x[:, 1]

        return score

    found = leave_out(material, np.arange(30) % 10, np.arange(4), {"spy": spy})
    # the second call of each fold is about others
    return found, [(learned, numbers(turn[1])) for learned, turn in seen]


def test_held_out_motifs_are_not_learned_from(material):
    found, folds = spied(material, final.leave_motifs_out)
    motifs = material.others["motif"].to_numpy()
    for learned, tested in folds:
        assert not {motifs[i] for i in tested} & {motifs[i] for i in learned}
        assert not ({0, 59} & tested and {0, 59} & learned)
    assert set().union(*(tested for _, tested in folds)) == set(range(60))
    assert found.table["other"].tolist() == ["other motifs"]
    assert np.isfinite(found.known["spy"]).all() and len(found.other["spy"]) == 60


def test_held_out_pictures_are_not_learned_from_but_their_motifs_are(material):
    found, folds = spied(material, final.leave_pictures_out)
    motifs = material.others["motif"].to_numpy()
    assert sorted(i for _, tested in folds for i in tested) == list(range(60))
    for learned, tested in folds:
        assert not tested & learned and not ({0, 59} & tested and {0, 59} & learned)
        assert {motifs[i] for i in learned} == set(motifs)
    assert found.table["other"].tolist() == ["known other motifs", "far"]


def test_distances_are_measured_in_the_first_backbone_and_its_last_place(material):
    branches = [Branch("a", (2, 5)), Branch("b", (1,))]
    widths = [[2, 3], [1]]
    assert final.near_places(branches, widths, branches) == (slice(0, 10), slice(4, 10))
    cut = [Branch("a", (5,)), Branch("b", (1,))]
    assert final.near_places(branches, widths, cut) == (slice(0, 6), slice(0, 6))
    assert final.near_places(branches, widths, branches[1:]) == (slice(0, 2), slice(0, 2))
    score = final.scores_of(material, "a")["combined"](
        material.features, material.labels, material.other_features, material.copies
    )
    assert [near.where for near in score.near] == list(material.typical["a"])
    assert [near.typical.means.shape for near in score.near] == [(3, 4), (3, 2)]


# --- foreign pictures -------------------------------------------------------------------------


def test_foreign_pictures_open_and_are_always_the_same():
    found = foreign.pictures()
    assert set(found) == {"photographs", "textures", "drawn cloth"}
    assert all(path.is_file() for path in found["photographs"])
    again = foreign.textures()
    assert len(again) > 5 and all(
        np.array_equal(a, b) for a, b in zip(found["textures"], again, strict=True)
    )


def test_candidates_are_all_buildable():
    sets = final.subsets()
    assert len(sets) == 5 and len(selection.candidates(list(sets), final.HEADS)) == 10
    for cut in sets.values():
        for branch in cut:
            whole = next(b for b in final.BRANCHES if b.recipe == branch.recipe)
            assert set(branch.taps) <= set(whole.taps)
    json.dumps({name: [list(b.taps) for b in cut] for name, cut in sets.items()})


def test_two_that_compute_at_once_keep_what_both_found(pictures_of_two, monkeypatch):
    """Each reads the file before the other one has written it."""
    paths, cache_folder = pictures_of_two
    monkeypatch.setenv("BATIK_CACHE_DIR", str(cache_folder))
    one, two = final.FeatureCache(tiny(), SIZE), final.FeatureCache(tiny(), SIZE)
    original, calls = two._read, []

    def read():
        found = original()
        if not calls:
            one.features(paths[:1], progress=False)
        calls.append(found)
        return found

    two._read = read
    two.features(paths[1:], progress=False)
    assert len(original()) == 2


@pytest.fixture
def pictures_of_two(tmp_path):
    paths = [tmp_path / "1.png", tmp_path / "2.png"]
    for k, path in enumerate(paths):
        Image.fromarray(noise(1, k)[0]).save(path)
    return paths, tmp_path / "cache"
