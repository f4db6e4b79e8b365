"""What a network expects of a picture."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from batik_utils.errors import BatikError
from batik_utils.images.resize import IMAGENET, to_pixels


def test_a_picture_is_squashed_whole():
    left_red = Image.new("RGB", (60, 20), "blue")
    left_red.paste("red", (0, 0, 30, 20))
    pixels = to_pixels(left_red, 8)
    assert (pixels.shape, pixels.dtype) == ((3, 8, 8), np.uint8)
    assert pixels.flags["C_CONTIGUOUS"]
    assert pixels[:, :, 0].T.tolist() == [[255, 0, 0]] * 8
    assert pixels[:, :, 7].T.tolist() == [[0, 0, 255]] * 8


@pytest.mark.parametrize("change", [{"interpolation": "nearest"}, {"size": 0}])
def test_wrong_values_are_refused(change):
    with pytest.raises(BatikError):
        replace(IMAGENET, **change)
