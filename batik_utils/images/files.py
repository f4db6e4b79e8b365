"""Find image files, and open them by what they are, not by what they are called."""

import io
import os
import re
import struct
import zlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path, PurePath

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from batik_utils.errors import BatikError

_AVIF = ("AVIF",) if find_spec("PIL._avif") else ()
#: What may be opened; anything else that Pillow could read is refused.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", *_AVIF)
#: Larger images (width × height, px) and files (bytes) are refused before they are opened.
MAX_PIXELS, MAX_BYTES = 50_000_000, 50_000_000
#: Pixels times scans over which a JPEG is refused: it is decoded once for each of its scans, about
#: ten of an ordinary one; a made one can hold thousands and take hours.
MAX_SCANNED_PIXELS = 1_500_000_000

# files and folders of operating systems, network drives and office programs
_SYSTEM = re.compile(
    r"\..*|~\$.*|\$recycle\.bin|recycler|recycled|system volume information|found\.\d{3}"
    r"|config\.msi|lost\+found|lost\.dir|__macosx|__pycache__|@(eadir|recycle|tmp|sharebin"
    r"|recently-snapshot|synoeastream)|#(recycle|snapshot)|(eh)?thumbs\.db|desktop\.ini|icon\r"
    r"|network trash folder|temporary items|thevolumesettingsfolder|_vti_cnf|_gsdata_",
    re.IGNORECASE,
)

_VIDEO, _FETCH = "video; save a picture of it as JPEG", "; download the image itself"
# how other files begin (regular expression, first 4,096 bytes), what they are, and what to do if it
# is not to save them as JPEG or PNG
_OTHERS = (
    (rb"....ftyp(hei[cmsxf]|hev[cmsx]|avc[is]|mi[af][f12]|msf1)", "HEIC photo of a phone"),
    (rb"....ftypavi[fs]", "AVIF image, which this version of Pillow does not read"),
    (rb"....ftypcrx|FUJIFILM|II[U*R][\0OS]|MM\0\*|FOVb", "raw photo of a camera"),
    (rb"....JXL |\xff\x0a|....ftypjxl", "JPEG XL image"),
    (rb"....jP  |\xff\x4f\xff\x51|....ftypjp2", "JPEG 2000 image"),
    (rb"....(ftyp|moov|mdat|wide)|RIFF....AVI |\x1aE\xdf\xa3|0&\xb2u|\0\0\x01[\xba\xb3]", _VIDEO),
    (rb"\x89PNG", "PNG that an iPhone's program was built with"),
    (rb"8BP[SB]", "Photoshop document"),
    (rb"gimp xcf", "GIMP document"),
    (rb"\0\0[\x01\x02]\0", "Windows icon"),
    (rb"P[1-7]\s", "PNM image"),
    (
        rb"v/1\x01|#\?RAD|DDS |qoif|BPG\xfb|II\xbc|icns|\xd7\xcd\xc6|.{128}DICM",
        "rare kind of image",
    ),
    (rb"%PDF", "PDF document"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript document"),
    (rb"(?i)\s*(<!--.*?)?(<\?xml[^>]*>\s*)?<(!doctype h|html|head|body)", "HTML page" + _FETCH),
    (rb"(?i)\s*(<\?xml|<svg)", "SVG or XML text"),
    (rb"PK[\x03\x05]|Rar!|7z\xbc|\x1f\x8b|BZh|\xfd7zX|\(\xb5/|.{257}ustar", "archive; unpack it"),
    (rb"version https://git-lfs", "Git LFS pointer; run 'git lfs pull'"),
    (rb"bplist00", "placeholder of a cloud drive" + _FETCH),
    (rb"L\0\0\0\x01\x14\x02\0", "shortcut of Windows; copy the file that it points to"),
    (rb"[\t\r\n -~]{20}|\xff\xfe|\xfe\xff", "text" + _FETCH),
)
_OTHERS = [(re.compile(start, re.DOTALL), text) for start, text in _OTHERS]
# how an image of our formats begins; a raw photo is a TIFF with an entry of its own
_OWN = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG(?!\r\n\x1a\n....CgBI)",
    "GIF": rb"GIF8",
    "WEBP": rb"RIFF....WEBP",
    "TIFF": rb"(II[*+]\0|MM\0[*+])(?!....CR|.*(\x12\xc6\x01\0\x04\0\0\0|\xc6\x12\0\x01\0\0\0\x04))",
    "BMP": rb"BM....\0\0\0\0",
    **dict.fromkeys(_AVIF, rb"....ftypavi[fs]"),
}
_OWN = {name: re.compile(start, re.DOTALL) for name, start in _OWN.items()}

# notes of a JPEG: those that colours and orientation depend on, if they are whole
_NOTES = dict.fromkeys([*range(0xE0, 0xF0), 0xFE], rb"(?!)")
_NOTES |= {0xE0: rb"JFIF\0.{9}", 0xE1: rb"Exif\0\0", 0xEE: rb"Adobe.{7}"}
# what undoes the EXIF orientations 2 to 8
_TURNS = "FLIP_LEFT_RIGHT ROTATE_180 FLIP_TOP_BOTTOM TRANSPOSE ROTATE_270 TRANSVERSE ROTATE_90"
_TURNS = {k: Image.Transpose[name] for k, name in enumerate(_TURNS.split(), 2)}
# Pillow's own limit would also warn, in all threads alike; `MAX_PIXELS` speaks instead
Image.MAX_IMAGE_PIXELS = None


class ImageError(BatikError):
    """A file that cannot be used as an image, and why (without the subject).

    ``kind``: empty, bytes, pixels, unreadable, format, heic, damaged; for a model small, plain too.
    """

    def __init__(self, message: str, kind: str = ""):  # pickling needs the default
        super().__init__(message)
        self.kind = kind


def is_hidden(name: str) -> bool:
    """Return whether one part of a path is hidden or belongs to a system, as ``$RECYCLE.BIN``."""
    return bool(_SYSTEM.fullmatch(name))


def is_visible(path: PurePath, folder: PurePath) -> bool:
    """Return whether no part of a path below a folder is hidden; the folder itself may be."""
    return not any(map(is_hidden, path.relative_to(folder).parts))


def walk(folder: Path, seen: set[Path] | None = None) -> Iterator[Path]:
    """Yield the visible files below a folder, sorted, and broken links, so that they are named.

    Links to folders are followed, each folder once, and those in ``seen`` (resolved) not at all.
    """
    seen = set() if seen is None else seen
    if (real := folder.resolve()) in seen:
        return
    seen.add(real)
    visible = (entry for entry in os.scandir(folder) if not is_hidden(entry.name))
    # links last: of a folder and a link to it the folder counts
    for entry in sorted(visible, key=lambda entry: (entry.is_symlink(), entry.name)):
        path = folder / entry.name
        if path.is_dir():
            yield from walk(path, seen)
        elif path.is_file() or entry.is_symlink():
            yield path


def open_image(source: Path | str | bytes, *, at_least: int | None = None) -> Image.Image:
    """Return an image from a path or from a file's bytes: upright, on white, in RGB, first frame.

    With ``at_least`` a JPEG may be decoded reduced, to sides of at least this many px: faster.
    """
    return _decode(source, at_least)[0]


def inspect(source: Path | str | bytes) -> tuple[str, int, int]:
    """Decode an image to prove that it is whole; return format, width and height as stored."""
    # the reduced decode still reads every byte of a JPEG, so a truncated one is found
    return _decode(source, at_least=64)[1]


def read_file(path: Path | str) -> bytes:
    """Return the content of a file; ImageError where it is too large or cannot be read."""
    path = Path(path)
    try:
        _check_bytes(path.stat().st_size)
        with path.open("rb") as stream:  # a device or pipe has no size, and may have no end
            return stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        missing = isinstance(error, FileNotFoundError) and path.is_symlink()
        reason = "a link to nothing" if missing else getattr(error, "strerror", "") or error
        raise ImageError(f"cannot be read: {reason}", "unreadable") from error


def _check_bytes(size: int) -> None:
    if size > MAX_BYTES:
        raise ImageError(f"file of {size:,} bytes, over the limit of {MAX_BYTES:,}", "bytes")


def _decode(
    source: Path | str | bytes, at_least: int | None
) -> tuple[Image.Image, tuple[str, int, int]]:
    data = source if isinstance(source, bytes) else read_file(source)
    if not data:
        raise ImageError("empty file", "empty")
    _check_bytes(len(data))
    try:
        own, scans, whole = _own(data), 1, True
        lean = {"PNG": _lean_png, "WEBP": _lean_webp}.get(own, bytes)(data)
        if own == "JPEG":
            lean, scans, whole = _lean_jpeg(data)
        image = Image.open(io.BytesIO(lean), formats=FORMATS)
        kind, (width, height) = image.format, image.size
        text = f"{width} × {height} px"
        if width * height > MAX_PIXELS:
            raise ImageError(f"{text}, over the limit of {MAX_PIXELS:,} pixels", "pixels")
        if width * height * scans > MAX_SCANNED_PIXELS:
            raise ImageError(f"{text} in {scans} scans, too slow", "pixels")
        return _to_rgb(_upright(_load(lean, at_least, whole))), (kind, width, height)
    except UnidentifiedImageError:
        raise _refusal(data) from None
    except ImageError:
        raise
    # Pillow's decoders meet damaged files with exceptions of any type; each means the same here
    except Exception as error:
        raise _refusal(data, f": {error}") from error


def _lean_png(data: bytes) -> bytes:
    """Leave out what a PNG's pixels do not need: texts, profiles, frames after the first.

    Pillow refuses a whole image for a wrong checksum or size in such a chunk.
    """
    kept, place, colours = [data[:8]], 8, 0
    while place + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, place)
        end = place + 12 + size
        needed = name[:1].isupper()
        if name in (b"tRNS", b"eXIf") and end <= len(data):
            checksum = int.from_bytes(data[end - 4 : end], "big")
            needed = zlib.crc32(data[place + 4 : end - 4]) == checksum
        if name == b"tRNS":  # by colour type: grey, RGB, palette
            needed &= {0: size == 2, 2: size == 6, 3: size <= colours}.get(data[25], False)
        if needed:
            kept.append(data[place:end])
        if name == b"IEND":
            break
        colours = size // 3 if name == b"PLTE" else colours
        place = end
    return b"".join(kept)


def _lean_webp(data: bytes) -> bytes:
    """Leave out what a WebP's pixels and orientation do not need, and mend its length."""
    kept, place = [b"WEBP"], 12
    while place + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, place)
        end = place + 8 + size + size % 2
        if name[:2] in (b"VP", b"AL", b"AN") or (name == b"EXIF" and end <= len(data)):
            kept.append(data[place:end])
        place = end
    content = b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(content)) + content


def _lean_jpeg(data: bytes) -> tuple[bytes, int, bool]:
    """Leave out a JPEG's notes, but those of its colours, and what follows its end.

    Thumbnails and a phone's video have markers of their own, and Pillow refuses a short note.
    Return the number of scans too, and whether there is an end.
    """
    # inside coded data a byte FF is followed by 00 or a restart marker
    marker = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
    kept, begin, place, scans = [], 0, 2, 0
    while found := marker.search(data, place):
        kind, place = found[1][0], found.end()
        if kind == 0xD9:
            return b"".join([*kept, data[begin:place]]), scans, True
        scans += kind == 0xDA
        if kind not in (0x01, 0xD8):  # these two have no content
            place += int.from_bytes(data[place : place + 2], "big")
        note = data[found.end() + 2 : place]
        if not scans and kind in _NOTES and not re.match(_NOTES[kind], note, re.DOTALL):
            kept.append(data[begin : found.start()])
            begin = place
    return b"".join([*kept, data[begin:]]), scans, False


def _load(data: bytes, at_least: int | None, whole: bool) -> Image.Image:
    def load(data: bytes) -> Image.Image:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if at_least:
            image.draft("RGB", (at_least, at_least))
        image.load()
        return image

    try:
        return load(data)
    except OSError:
        if whole:
            raise
        # Only the end marker may be missing: then whatever stands in its place changes no pixel.
        cut = data.rstrip(b"\xff")
        one, other = (load(cut + more + b"\xff\xd9") for more in (b"", b"\xa5\x3c" * 8))
        if one.tobytes() != other.tobytes():
            raise
        return one


def _own(data: bytes) -> str:
    """Return the name of the format that a file begins as; "" if it is none of ``FORMATS``."""
    return next((name for name, start in _OWN.items() if start.match(data[:4096])), "")


def _refusal(data: bytes, detail: str = "") -> ImageError:
    if name := _own(data):
        return ImageError(f"damaged or truncated {name}{detail}", "damaged")
    text = data[:4096].removeprefix(b"\xef\xbb\xbf")
    for start, name in _OTHERS:
        if start.match(text):
            remedy = "" if ";" in name else "; save it as JPEG or PNG"
            return ImageError(name + remedy, "heic" if "HEIC" in name else "format")
    if detail:
        return ImageError(f"damaged or truncated{detail}", "damaged")
    return ImageError(f"not an image (none of {', '.join(FORMATS)})", "format")


def _upright(image: Image.Image) -> Image.Image:
    # ImageOps.exif_transpose also rewrites the EXIF, and fails where that is damaged
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # noqa: BLE001  damaged EXIF of any kind: then there is no orientation to know
        turn = None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow would clip 16 bits and floats: the stored range is scaled to 8 bits
        values = np.nan_to_num(np.array(image, np.float32))
        top = 65535 if image.mode.startswith("I;16") or values.max() > 255 else 255
        if image.mode == "F" and values.max() <= 1:
            top = 1
        values *= 255 / top
        values = np.rint(values.clip(0, 255, out=values), out=values)
        image = Image.fromarray(values.astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        ground = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    return image.convert("RGB")
