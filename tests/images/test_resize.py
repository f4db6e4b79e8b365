"""What a network expects of a picture."""

import json

import numpy as np
import pytest
from PIL import Image

from batik_utils.errors import BatikError
from batik_utils.images.resize import IMAGENET, Preprocessing, to_pixels


def test_a_picture_is_squashed_whole():
    left_red = Image.new("RGB", (60, 20), "blue")
    left_red.paste("red", (0, 0, 30, 20))
    pixels = to_pixels(left_red, 8)
    assert (pixels.shape, pixels.dtype) == ((3, 8, 8), np.uint8)
    assert pixels.flags["C_CONTIGUOUS"]
    assert pixels[:, :, 0].T.tolist() == [[255, 0, 0]] * 8
    assert pixels[:, :, 7].T.tolist() == [[0, 0, 255]] * 8


def test_there_and_back_as_plain_values():
    settings = Preprocessing(260, (0.5,) * 3, (0.25,) * 3, "bicubic")
    for values in (settings.as_dict(), json.loads(json.dumps(settings.as_dict()))):
        assert Preprocessing.from_dict(values) == settings


@pytest.mark.parametrize(
    "change",
    [{"interpolation": "nearest"}, {"size": 0}, {"size": "large"}, {"mean": 3}, {"size": None}],
)
def test_wrong_values_are_refused(change):
    with pytest.raises(BatikError):
        Preprocessing.from_dict(IMAGENET.as_dict() | change)
