"""Open a picture by what it is, not by what it is called.

    >>> from batik_utils.images import files
    >>> picture = files.open_image("batik-betawi/4.jpg")  # a GIF that is named .jpg
    >>> picture.mode
    'RGB'

Introduced in notebook 01, section "Opening messy files".
"""

import io
import threading
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from batik_utils.errors import BatikError

#: What may be opened; anything else that Pillow could read is refused.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
#: Larger pictures are refused before they are decoded (width × height, px).
MAX_PIXELS = 50_000_000
#: Larger files are refused before they are opened (bytes).
MAX_BYTES = 50_000_000
#: A progressive JPEG of many scans is decoded once for each: pixels times scans over which it is
#: refused. An ordinary one has about ten scans; a made one can hold thousands and take hours.
MAX_SCANNED_PIXELS = 1_500_000_000

# what undoes each EXIF orientation
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Python's warning filters are shared by all threads: two that change them must take turns
_FILTERS = threading.Lock()


class ImageError(BatikError):
    """A file that cannot be used as a picture; the message is the reason.

    Attributes:
        kind: the reason in one word, for programs and translations: ``empty``, ``bytes``,
            ``pixels``, ``unreadable``, ``format``, ``damaged``, ``small`` or ``plain``.
    """

    def __init__(self, message: str, kind: str):
        super().__init__(message)
        self.kind = kind


def open_image(
    source: Path | str | bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    at_least: int | None = None,
) -> Image.Image:
    """Return a picture upright, on white, in RGB.

    The format is found from the content. Of an animation the first frame counts; transparency is
    laid on white; CMYK, greyscale, palette and 16-bit pictures are converted; the EXIF orientation
    is applied.

    Args:
        source: path of a file, or its bytes.
        max_pixels: width × height over which the picture is refused undecoded.
        max_bytes: file size over which the file is refused unopened.
        at_least: if given, a JPEG may be decoded at a reduced size (1/2, 1/4, 1/8) whose two sides
            are still at least this many px. Faster, nearly the same picture after resizing.

    Returns:
        PIL image, mode ``RGB``.

    Raises:
        ImageError: empty, too large, no picture, damaged, or of a format not in ``FORMATS``.
    """
    data = source if isinstance(source, bytes) else _read(Path(source), max_bytes)
    picture, _ = _decode(data, max_pixels, max_bytes, at_least)
    return picture


def inspect(source: Path | str | bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[str, int, int]:
    """Decode a picture once to prove that it is whole.

    Args:
        source: path of a file, or its bytes.
        max_pixels: as in `open_image`.

    Returns:
        Format as Pillow names it (``"PNG"``), width and height as stored (px).

    Raises:
        ImageError: as in `open_image`.
    """
    data = source if isinstance(source, bytes) else _read(Path(source), MAX_BYTES)
    # the reduced decode still reads every byte of a JPEG, so a truncated one is found
    _, facts = _decode(data, max_pixels, MAX_BYTES, at_least=64)
    return facts


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise ImageError(_too_large(size, max_bytes), "bytes")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}", "unreadable") from error
    except ValueError as error:  # a zero byte in the name
        raise ImageError(f"cannot be read: {error}", "unreadable") from error


def _decode(
    data: bytes, max_pixels: int, max_bytes: int, at_least: int | None
) -> tuple[Image.Image, tuple[str, int, int]]:
    if not data:
        raise ImageError("empty file", "empty")
    if len(data) > max_bytes:
        raise ImageError(_too_large(len(data), max_bytes), "bytes")
    try:
        with _FILTERS, warnings.catch_warnings():
            # our own pixel limit below speaks instead
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
        kind = "JPEG" if picture.format == "MPO" else str(picture.format)
        facts = (kind, *picture.size)
        if picture.width * picture.height > max_pixels:
            raise ImageError(
                f"{picture.width} × {picture.height} px, over the limit of {max_pixels:,} pixels",
                "pixels",
            )
        if kind == "JPEG":
            # inside the coded data a byte FF is followed by 00, so this finds start-of-scan markers
            scans = data.count(b"\xff\xda")
            if picture.width * picture.height * scans > MAX_SCANNED_PIXELS:
                raise ImageError(
                    f"{picture.width} × {picture.height} px in {scans} scans, too slow to decode",
                    "pixels",
                )
        if at_least and kind == "JPEG":
            picture.draft("RGB", (at_least, at_least))
        picture.load()
        return _to_rgb(_upright(picture)), facts
    except UnidentifiedImageError:
        raise ImageError(f"not a picture ({_looks_like(data)})", "format") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"too many pixels: {error}", "pixels") from error
    except ImageError:
        raise
    # Pillow's decoders meet damaged files with exceptions of any type; each means the same here
    except Exception as error:
        raise ImageError(f"damaged or truncated: {error}", "damaged") from error


def _too_large(size: int, limit: int) -> str:
    return f"file of {size:,} bytes, over the limit of {limit:,}"


def _looks_like(data: bytes) -> str:
    head = data[:512].lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if head.startswith((b"<?xml", b"<svg")):
        return "an SVG or XML text"
    if head.startswith(b"%pdf"):
        return "a PDF document"
    return f"none of {', '.join(FORMATS)}"


def _upright(picture: Image.Image) -> Image.Image:
    # ImageOps.exif_transpose also writes the EXIF anew, and fails where that is damaged
    try:
        turn = _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # noqa: BLE001  damaged EXIF of any kind: then there is no orientation to know
        return picture
    return picture if turn is None else picture.transpose(turn)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _eight_bit(picture)
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(ground, picture)
    return picture.convert("RGB")


def _eight_bit(picture: Image.Image) -> Image.Image:
    # 16-bit and float greyscale: Pillow would clip, we scale the stored range to 8 bit
    values = np.asarray(picture)
    highest = values.max()
    top = 65535.0 if picture.mode.startswith("I;16") or highest > 255 else 255.0
    if picture.mode == "F" and highest <= 1:
        top = 1.0
    small = np.empty(values.shape, np.uint8)
    # band by band: a large picture in 64-bit numbers would take 400 MB
    for start in range(0, len(values), 256):
        band = np.nan_to_num(values[start : start + 256].astype(np.float64))
        small[start : start + 256] = np.rint(np.clip(band / top, 0, 1) * 255)
    return Image.fromarray(small)
