"""Every picture that people have opens the same way, and everything else is refused by name."""

import io
import os
import random
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from batik_utils.errors import BatikError
from batik_utils.images import files
from batik_utils.images.files import ImageError, inspect, open_image

RNG = np.random.default_rng(0)
NOISE = Image.fromarray(RNG.integers(0, 256, (24, 20, 3), dtype=np.uint8))
#: Four quarters in four colours: every turn and mirror of it looks different, even as a JPEG.
QUARTERS = Image.fromarray(
    np.kron(
        np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8),
        np.ones((16, 24, 1), np.uint8),
    )
)


def encode(picture: Image.Image, kind: str, **settings) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **settings)
    return stream.getvalue()


def with_orientation(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def difference(one: Image.Image, other: Image.Image) -> int:
    assert one.size == other.size
    return int(np.abs(np.asarray(one, int) - np.asarray(other, int)).max())


LOSSLESS = {
    "PNG": {},
    "WEBP": {"lossless": True},
    "BMP": {},
    "TIFF": {"compression": "tiff_lzw"},
}


@pytest.mark.parametrize("kind", [*LOSSLESS, "GIF", "JPEG"])
def test_the_content_counts_and_not_the_name(kind, tmp_path):
    path = tmp_path / "1.jpg"
    path.write_bytes(encode(QUARTERS, kind, **LOSSLESS.get(kind, {})))
    picture = open_image(path)
    assert picture.mode == "RGB"
    assert inspect(path) == (kind, 48, 32)
    middles = [picture.getpixel(at) for at in ((12, 8), (36, 8), (12, 24), (36, 24))]
    wanted = [QUARTERS.getpixel(at) for at in ((12, 8), (36, 8), (12, 24), (36, 24))]
    assert np.abs(np.subtract(middles, wanted)).max() <= (0 if kind in LOSSLESS else 3)
    if kind in LOSSLESS:
        assert difference(picture, QUARTERS) == 0


def test_path_text_and_bytes_are_the_same_source(tmp_path):
    path = tmp_path / "1.png"
    path.write_bytes(encode(NOISE, "PNG"))
    assert open_image(path) == open_image(str(path)) == open_image(path.read_bytes())


def test_transparency_is_laid_on_white():
    clear = Image.new("RGBA", (4, 2), (255, 0, 0, 0))
    clear.putpixel((0, 0), (10, 20, 30, 255))
    clear.putpixel((1, 0), (0, 0, 0, 128))
    for kind in ("PNG", "WEBP", "TIFF"):
        settings = {"lossless": True, "exact": True} if kind == "WEBP" else {}
        picture = open_image(encode(clear, kind, **settings))
        assert picture.getpixel((0, 0)) == (10, 20, 30)
        assert picture.getpixel((1, 0)) == (127, 127, 127)
        assert picture.getpixel((3, 1)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_palette_colour_is_white(kind):
    palette = Image.new("P", (4, 2), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((0, 0), 0)
    picture = open_image(encode(palette, kind, transparency=0))
    assert picture.getpixel((0, 0)) == (255, 255, 255)
    assert picture.getpixel((3, 1)) == (0, 0, 255)


def test_a_transparent_palette_stays_transparent_when_turned():
    palette = Image.new("P", (4, 2), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((0, 0), 0)
    picture = open_image(encode(palette, "PNG", transparency=0, exif=with_orientation(3)))
    assert picture.getpixel((3, 1)) == (255, 255, 255)
    assert picture.getpixel((0, 0)) == (0, 0, 255)


def test_one_transparent_colour_is_white():
    picture = Image.new("RGB", (2, 1), (9, 9, 9))
    picture.putpixel((0, 0), (255, 0, 0))
    opened = open_image(encode(picture, "PNG", transparency=(255, 0, 0)))
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (9, 9, 9)]


def test_grey_with_transparency():
    grey = Image.new("LA", (2, 1), (100, 255))
    grey.putpixel((1, 0), (100, 0))
    opened = open_image(encode(grey, "PNG"))
    assert [opened.getpixel((x, 0)) for x in (0, 1)] == [(100, 100, 100), (255, 255, 255)]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind):
    settings = {"quality": 100} if kind == "JPEG" else {}
    opened = open_image(encode(QUARTERS.convert("CMYK"), kind, **settings))
    assert opened.mode == "RGB"
    for at in ((12, 8), (36, 24)):
        assert np.abs(np.subtract(opened.getpixel(at), QUARTERS.getpixel(at))).max() <= 4


def test_greyscale_and_black_and_white():
    grey = NOISE.convert("L")
    assert difference(open_image(encode(grey, "PNG")), grey.convert("RGB")) == 0
    bits = NOISE.convert("1")
    assert difference(open_image(encode(bits, "PNG")), bits.convert("RGB")) == 0


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_clipped(kind):
    eight = np.arange(256, dtype=np.uint16).reshape(16, 16)
    opened = np.asarray(open_image(encode(Image.fromarray(eight * 257), kind)))
    assert np.array_equal(opened, np.stack([eight] * 3, axis=2))
    nearly_one = Image.fromarray(np.full((1, 1), 250, dtype=np.uint16))
    assert open_image(encode(nearly_one, kind)).getpixel((0, 0)) == (1, 1, 1)


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0])
def test_float_pictures_are_scaled_from_their_usual_ranges(top):
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    opened = np.asarray(open_image(encode(Image.fromarray(ramp * np.float32(top)), "TIFF")))
    assert np.array_equal(opened[..., 0], np.arange(256).reshape(16, 16))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_picture_is_turned_upright(kind, orientation):
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        # the camera was turned, so the stored picture is turned the other way
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = QUARTERS.transpose(undo[orientation]) if orientation > 1 else QUARTERS
    settings = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
    opened = open_image(
        encode(stored, kind, exif=with_orientation(orientation), **settings.get(kind, {}))
    )
    assert difference(opened, QUARTERS) <= (8 if kind == "JPEG" else 0)


def test_damaged_notes_do_not_spoil_a_whole_picture():
    """An EXIF block whose width is a text: rewriting it fails, reading the picture does not."""
    entries = [(0x0112, 3, 1, b"\0\6\0\0"), (0x0100, 2, 4, b"abc\0")]
    block = b"".join(struct.pack(">HHI", *entry[:3]) + entry[3] for entry in entries)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, len(entries)) + block + b"\0\0\0\0"
    assert open_image(encode(QUARTERS, "JPEG", exif=exif)).size == (32, 48)
    assert open_image(encode(QUARTERS, "JPEG", exif=b"Exif\0\0nonsense")).size == (48, 32)


def test_of_an_animation_the_first_frame_counts():
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "blue", "lime")]
    for kind in ("GIF", "WEBP"):
        settings = {"lossless": True} if kind == "WEBP" else {}
        content = encode(frames[0], kind, save_all=True, append_images=frames[1:], **settings)
        assert open_image(content).getpixel((3, 3)) == (255, 0, 0)


def test_a_phone_picture_of_two_frames_is_a_jpeg():
    content = encode(QUARTERS, "MPO", save_all=True, append_images=[ImageOps.mirror(QUARTERS)])
    assert inspect(content) == ("JPEG", 48, 32)
    assert np.abs(np.subtract(open_image(content).getpixel((12, 8)), (255, 0, 0))).max() <= 3


def test_a_reduced_decode_is_large_enough_and_nearly_the_same():
    large = QUARTERS.resize((960, 640))
    reduced = open_image(encode(large, "JPEG", quality=95), at_least=100)
    assert 100 <= min(reduced.size) < 640
    same = np.asarray(reduced.resize((48, 32)), int) - np.asarray(large.resize((48, 32)), int)
    assert np.abs(same).mean() < 3


HTML = b"\n<!DOCTYPE html><html><body>404</body></html>"
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>'
JPEG = encode(NOISE, "JPEG")
PNG = encode(NOISE, "PNG")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (HTML, "an HTML page"),
        (b"<html>", "an HTML page"),
        (SVG, "an SVG or XML text"),
        (b"%PDF-1.7 ...", "a PDF document"),
        (b"PK\x03\x04 something", "not a picture"),
        (encode(NOISE, "PPM"), "not a picture"),
        (encode(NOISE, "ICO", sizes=[(16, 16)]), "not a picture"),
        (JPEG[: len(JPEG) // 2], "damaged or truncated"),
        (JPEG[:30], "not a picture|damaged or truncated"),
        (PNG[: len(PNG) // 2], "damaged or truncated"),
        (PNG[:100] + bytes(50) + PNG[150:], "damaged or truncated"),
        (encode(NOISE, "WEBP")[:60], "not a picture|damaged or truncated"),
        (encode(NOISE, "BMP")[:500], "damaged or truncated"),
        (encode(NOISE, "GIF")[:-100], "damaged or truncated"),
    ],
)
def test_what_is_no_whole_picture_is_refused_with_the_reason(content, reason, tmp_path):
    path = tmp_path / "1.jpg"
    path.write_bytes(content)
    for door in (open_image, inspect):
        with pytest.raises(ImageError, match=reason):
            door(path)
        with pytest.raises(ImageError, match=reason):
            door(content)


def test_a_refusal_is_something_a_person_can_mend():
    assert issubclass(ImageError, BatikError)


def test_over_the_pixel_limit():
    assert open_image(PNG, max_pixels=20 * 24).size == (20, 24)
    with pytest.raises(ImageError, match="20 × 24 px, over the limit of 479"):
        open_image(PNG, max_pixels=479)
    with pytest.raises(ImageError, match="over the limit"):
        inspect(PNG, max_pixels=479)


@pytest.mark.parametrize("side", [12_000, 40_000])
def test_a_decompression_bomb_is_refused_undecoded_and_without_a_warning(side):
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = bytearray(PNG)
    bomb[16:29] = header
    bomb[29:33] = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match=r"pixels"):
            open_image(bytes(bomb))


def test_over_the_byte_limit(tmp_path):
    path = tmp_path / "1.png"
    path.write_bytes(PNG)
    assert open_image(path, max_bytes=len(PNG))
    for source in (path, PNG):
        with pytest.raises(ImageError, match="over the limit of"):
            open_image(source, max_bytes=len(PNG) - 1)


def test_a_folder_a_missing_and_a_locked_file(tmp_path):
    with pytest.raises(ImageError, match="cannot be read"):
        open_image(tmp_path)
    with pytest.raises(ImageError, match="No such file"):
        open_image(tmp_path / "none.jpg")
    locked = tmp_path / "locked.jpg"
    locked.write_bytes(JPEG)
    locked.chmod(0)
    if not os.access(locked, os.R_OK):
        with pytest.raises(ImageError, match="Permission denied"):
            open_image(locked)


def test_damaged_bytes_give_a_picture_or_a_refusal_and_nothing_else():
    exif = with_orientation(6)
    exif[0x010E] = "x" * 30
    seeds = [
        encode(NOISE, "JPEG", exif=exif),
        encode(NOISE, "JPEG", progressive=True, icc_profile=b"x" * 40),
        encode(NOISE, "PNG", exif=exif),
        encode(NOISE.convert("P"), "PNG", transparency=3),
        encode(NOISE, "GIF", save_all=True, append_images=[ImageOps.flip(NOISE)]),
        encode(NOISE, "WEBP", exif=exif),
        encode(NOISE, "BMP"),
        encode(NOISE, "TIFF"),
        encode(NOISE.convert("RGBA"), "TIFF"),
        encode(NOISE, "MPO", save_all=True, append_images=[NOISE]),
    ]
    chance = random.Random(7)
    opened = refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow grumbles about odd EXIF and TIFF entries
        for _ in range(600):
            content = bytearray(chance.choice(seeds))
            kind = chance.random()
            if kind < 0.2:
                del content[chance.randrange(len(content)) :]
            else:
                end = len(content) if kind < 0.5 else min(len(content), 200)
                for _ in range(chance.choice((1, 1, 2, 4, 8))):
                    content[chance.randrange(end)] = chance.choice((0, 127, 128, 255, 6, 11))
            try:
                assert open_image(bytes(content)).mode == "RGB"
                inspect(bytes(content))
                opened += 1
            except ImageError as error:
                assert str(error)
                refused += 1
    assert min(opened, refused) > 50  # neither way was left out


def test_threads_leave_the_warning_filters_as_they_were(monkeypatch):
    """Python's filters are shared by all threads; slow decoding makes their changes overlap."""
    real_open = Image.open
    turn = threading.Event()

    def slow_open(*arguments, **settings):
        turn.wait(0.005)
        return real_open(*arguments, **settings)

    monkeypatch.setattr(Image, "open", slow_open)
    before = list(warnings.filters)
    threads = [threading.Thread(target=open_image, args=(PNG,)) for _ in range(12)]
    for thread in threads:
        thread.start()
        turn.wait(0.002)
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_only_the_listed_formats_are_tried():
    assert set(files.FORMATS) == {"JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"}
