"""A backbone of two small layers with drawn weights instead of the pretrained ones."""

import numpy as np
import torch
from torch import nn

from batik_utils.classifier import features, refusal, selection
from batik_utils.classifier.export import FinalNetwork
from batik_utils.classifier.features import Branch
from batik_utils.images.resize import IMAGENET

SIZE = 64
BRANCHES = (Branch("mobilenet_v2", (0, 1)),)


def backbones(*_, **__):
    torch.manual_seed(0)
    stages = [
        nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU6())
        for a, b in ((3, 8), (8, 16))
    ]
    network = features.Features([features.Taps(stages, (0, 1), IMAGENET)], ["drawn"])
    for name, tensor in network.state_dict().items():
        if features.is_stored_half(name, tensor):
            tensor.copy_(tensor.half().float())
    return network


def samples_of(n_features=48, kinds=("batik", "songket", "textures", "photographs"), seed=0):
    """Three motifs of 20 pictures in groups of two, 25 counter-examples a kind, one copy each."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 1, (3 + len(kinds), n_features))
    labels = np.arange(60) % 3
    pictures = centres[labels] + rng.normal(0, 0.6, (60, n_features))
    copies = pictures + rng.normal(0, 0.2, pictures.shape)
    which = np.arange(25 * len(kinds)) % max(1, len(kinds))
    others = centres[3 + which] + rng.normal(0, 0.6, (len(which), n_features))
    groups = np.array([f"g{i // 6}-{i % 3}" for i in range(60)])
    kinds = np.array([kinds[i] for i in which], dtype=str)
    return selection.FeatureSet.of((pictures, copies), labels, groups, others, kinds)


def fitted_to(samples):
    """A refusal that is fitted to all of a set of features."""
    everything = np.arange(len(samples.labels)), np.arange(len(samples.kinds))
    fitted = refusal.fit(samples, *everything, 1.0, 2.0)
    return fitted.calibrated(fitted.answer(torch.from_numpy(samples.scaled[:60]))[1].numpy())


def network_of(samples):
    """The small network with heads fitted to 48 features."""
    raw = fitted_to(samples).of_raw(samples.scaler)
    return FinalNetwork(backbones(), BRANCHES, SIZE, raw.state_dict())


def noise(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8)
