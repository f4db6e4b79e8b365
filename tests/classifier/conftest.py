"""The build with a backbone of two small layers."""

import pytest
from small_network import SIZE, backbones

from batik_utils.classifier import build, features


@pytest.fixture
def small(monkeypatch):
    """`build` and the reading of saved models with the small backbone, at 64 px."""
    monkeypatch.setattr(features, "build", backbones)
    monkeypatch.setattr(build, "SIZE", SIZE)
    monkeypatch.setattr(build, "COPIES", 1)
