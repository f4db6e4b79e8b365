"""Files that a visitor might send: whole, odd, damaged, hostile, or no picture at all."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from batik_utils.images import cloth as synthetic
from batik_utils.images import files

CLOTH = synthetic.draw("tambal", 0, (96, 64))


#: Files of other kinds: a part of the name that the refusal gives them, and how they begin.
OTHERS = {
    "HEIC photo": b"\0\0\0\x18ftypheic",
    "HEIC photo of a phone": b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic",
    "HEIC": b"\0\0\0\x18ftypheif",
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n",
    "JPEG XL": b"\xff\x0a",
    "Photoshop": b"8BPS\0\1",
    "raw photo": b"FUJIFILMCCD-RAW ",
    "raw photo of a camera": b"II*\0\x10\0\0\0CR\2\0",
    "raw": b"II*\0\x08\0\0\0\1\0\x12\xc6\1\0\4\0\0\0\1\4\0\0",  # DNG of a phone
    "video": b"\0\0\0\x18ftypmp42",
    "video;": b"\0\0\0\x14ftypqt  ",
    "iPhone": b"\x89PNG\r\n\x1a\n\0\0\0\4CgBI",
    "archive": b"PK\x03\x04",
    "archive; unpack": b"1.jpg" + bytes(252) + b"ustar",
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
    "HTML": b"\n\n <!DOCTYPE html><html><body>404</body></html>",
    "HTML page": b"<?xml version='1.0'?> <!DOCTYPE html>",
    "SVG": b'<?xml version="1.0"?><svg onload="alert(1)" xmlns="http://www.w3.org/2000/svg"/>',
    "PDF": b"%PDF-1.7\n1 0 obj\n",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n",  # which Ghostscript would run
    "Windows icon": b"\0\0\1\0",
    "PNM": b"P6 9 9 255 ",
    "shortcut": b"L\0\0\0\1\x14\2\0",
    "rare kind": b"DDS |",
    "text": b"this is no picture, ",
    "text; download": "403".encode("utf-16"),
    "not an image": b"\x7fELF",
}
SCANS = b"\xff\xda" * 20_000
#: Broken chunks of a PNG: content, and whether the checksum is wrong.
CHUNKS = {"pHYs": (bytes(9), True), "eXIf": (b"MM\0*", True), "gAMA": (bytes(2), False)}
CHUNKS |= {"iCCP": (b"a\0\0garbage", True), "tRNS": (b"", False), "acTL": (b"", False)}
CHUNKS["caBX"] = (bytes(9), True)
#: Broken segments of a JPEG.
NOTES = {
    "JFIF": (0xE0, b"JFIF\0"),
    "EXIF": (0xE1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"),
    "profile": (0xE2, b"ICC_PROFILE\0"),
    "list of images": (0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff"),
    "Photoshop note": (0xED, b"Photoshop 3.0\08BIM\4\4"),
    "Adobe note": (0xEE, b"Adobe\0"),
    "comment": (0xFE, b""),
}


def encode(picture: Image.Image, kind: str, **settings) -> bytes:
    stream = io.BytesIO()
    # copies: saving as JPEG leaves settings behind on a picture that a later TIFF stumbles over
    if "append_images" in settings:
        settings["append_images"] = [more.copy() for more in settings["append_images"]]
    picture.copy().save(stream, kind, **settings)
    return stream.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    check = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


def png(width: int, height: int, lines: bytes, *, depth: int = 8, colour: int = 2) -> bytes:
    """Write a PNG by hand, so that its header can lie about its content."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")]
    )


def with_chunk(name: bytes, content: bytes, wrong: bool = False) -> bytes:
    """Return the cloth as PNG with one more chunk, at wish with a wrong checksum."""
    whole, more = encode(CLOTH, "PNG"), chunk(name, content)
    return whole[:33] + (more[:-4] + b"abcd" if wrong else more) + whole[33:]


def with_note(kind: int, content: bytes) -> bytes:
    """Return the cloth as JPEG with one more segment."""
    whole, size = encode(CLOTH, "JPEG"), struct.pack(">H", len(content) + 2)
    return whole[:2] + bytes([0xFF, kind]) + size + content + whole[2:]


def scan_bomb(scans: int, side: int = 4000) -> bytes:
    """Write a progressive JPEG whose first scan comes again and again."""
    whole = encode(Image.new("L", (side, side), 90), "JPEG", progressive=True)
    head, scan, *_ = whole.split(b"\xff\xda")
    return head + (b"\xff\xda" + scan) * scans + b"\xff\xd9"


def _rgba() -> Image.Image:
    faded = CLOTH.convert("RGBA")
    faded.putalpha(Image.linear_gradient("L").resize(CLOTH.size))
    return faded


def with_orientation(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def good() -> dict[str, bytes]:
    """Return what must be classified, by name."""
    palette = CLOTH.convert("P", palette=Image.Palette.ADAPTIVE, colors=32)
    grey = np.asarray(CLOTH.convert("L"))
    rows = (np.asarray(CLOTH).astype(">u2") * 257).reshape(64, -1)
    wide = b"".join(b"\0" + row.tobytes() for row in rows)
    frames = [CLOTH, CLOTH.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    return {
        "JPEG": encode(CLOTH, "JPEG"),
        "progressive JPEG": encode(CLOTH, "JPEG", progressive=True),
        "CMYK JPEG": encode(CLOTH.convert("CMYK"), "JPEG"),
        "grey JPEG": encode(CLOTH.convert("L"), "JPEG"),
        "turned JPEG": encode(CLOTH, "JPEG", exif=with_orientation(6)),
        "JPEG with an impossible orientation": encode(CLOTH, "JPEG", exif=with_orientation(99)),
        "JPEG with text after its end": encode(CLOTH, "JPEG") + b"<script>alert(1)</script>",
        "JPEG without its last two bytes": encode(CLOTH, "JPEG")[:-2],
        "JPEG without its last byte": encode(CLOTH, "JPEG")[:-1],
        "progressive JPEG without its last two bytes": encode(CLOTH, "JPEG", progressive=True)[:-2],
        "JPEG followed by a phone's video": encode(CLOTH, "JPEG") + b"ftypmp42\xff\xda" * 500_000,
        "JPEG with a thumbnail of many scans": encode(CLOTH, "JPEG", exif=b"Exif\0\0" + SCANS),
        "MPO of a phone": encode(CLOTH, "MPO", save_all=True, append_images=frames[1:]),
        "PNG": encode(CLOTH, "PNG"),
        "PNG with transparency": encode(_rgba(), "PNG"),
        "PNG with a palette": encode(palette, "PNG"),
        "PNG with a transparent palette colour": encode(palette, "PNG", transparency=3),
        "PNG of 16 bit": encode(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"),
        "PNG of 16 bit RGB": png(96, 64, wide, depth=16),
        "PNG with long texts": with_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2_000_000))),
        **{
            f"PNG with a broken {name}": with_chunk(name.encode(), *n) for name, n in CHUNKS.items()
        },
        "PNG with a broken chunk at its end": encode(CLOTH, "PNG")[:-12] + b"\x7f\0\0\0tEXtxx",
        **{f"JPEG with a broken {name}": with_note(*note) for name, note in NOTES.items()},
        "PNG of 1 bit": encode(CLOTH.convert("1"), "PNG"),
        "PNG grey with transparency": encode(_rgba().convert("LA"), "PNG"),
        "animated PNG": encode(CLOTH, "PNG", save_all=True, append_images=frames[1:]),
        "WebP": encode(CLOTH, "WEBP"),
        "WebP with transparency": encode(_rgba(), "WEBP", lossless=True),
        "WebP cut off in its EXIF": encode(CLOTH, "WEBP", exif=b"Exif\0\0nonsense")[:-9],
        "WebP of a wrong length": b"RIFF\x10\0\0\0" + encode(CLOTH, "WEBP")[8:],
        "animated WebP": encode(CLOTH, "WEBP", save_all=True, append_images=frames[1:]),
        "GIF": encode(CLOTH, "GIF"),
        "animated GIF": encode(CLOTH, "GIF", save_all=True, append_images=frames[1:]),
        "GIF with transparency": encode(palette, "GIF", transparency=3),
        "BMP": encode(CLOTH, "BMP"),
        "BMP of 8 bit": encode(palette, "BMP"),
        "TIFF": encode(CLOTH, "TIFF"),
        "TIFF, LZW": encode(CLOTH, "TIFF", compression="tiff_lzw"),
        "TIFF, CMYK": encode(CLOTH.convert("CMYK"), "TIFF"),
        "TIFF of 16 bit": encode(Image.fromarray(grey.astype(np.uint16) * 257), "TIFF"),
        "TIFF of floats": encode(Image.fromarray(grey.astype(np.float32) / 255), "TIFF"),
        "TIFF of several pages": encode(CLOTH, "TIFF", save_all=True, append_images=frames[1:]),
        "TIFF, Lab": encode(Image.merge("LAB", CLOTH.split()), "TIFF"),
        **({"AVIF": encode(CLOTH, "AVIF")} if "AVIF" in files.FORMATS else {}),
        "a strip of 32 x 10,000": encode(CLOTH.resize((32, 10_000)), "PNG"),
    }


def bad() -> dict[str, tuple[bytes, str]]:
    """Return what must be refused, by name, with the kind of refusal."""
    jpeg, image = encode(CLOTH, "JPEG"), encode(CLOTH, "PNG")
    tiny, nothing = Image.new("RGB", (1, 1), "red"), np.full((64, 96), np.nan, np.float32)
    return {
        "an empty file": (b"", "empty"),
        "one byte": (b"\xff", "format"),
        "only zeros": (bytes(5000), "format"),
        "TGA": (encode(CLOTH, "TGA"), "format"),
        **{
            n: (start + bytes(99), "heic" if "HEIC" in n else "format")
            for n, start in OTHERS.items()
        },
        "half a JPEG": (jpeg[: len(jpeg) // 2], "damaged"),
        "a JPEG without its end": (jpeg[: len(jpeg) * 9 // 10], "damaged"),
        "a JPEG without its last three bytes": (jpeg[:-3], "damaged"),
        "a JPEG's first bytes": (jpeg[:3], "damaged"),
        "a GIF's first bytes": (b"GIF89a", "damaged"),
        "a TIFF's first bytes": (b"II*\0\x08\0\0\0", "damaged"),
        "a PNG with a wrong header": (image[:29] + bytes(4) + image[33:], "damaged"),
        "half a PNG": (image[: len(image) // 2], "damaged"),
        "a PNG with zeros inside": (image[:400] + bytes(60) + image[460:], "damaged"),
        "a PNG whose lines are missing": (png(96, 64, b"\0" * 50), "damaged"),
        "half a WebP": (encode(CLOTH, "WEBP")[:300], "damaged"),
        "half a GIF": (encode(CLOTH, "GIF")[:900], "damaged"),
        "half a BMP": (encode(CLOTH, "BMP")[:900], "damaged"),
        "half a TIFF": (encode(CLOTH, "TIFF")[:900], "damaged"),
        "1 x 1": (encode(tiny, "PNG"), "small"),
        "1 x 10,000": (encode(tiny.resize((1, 10_000)), "PNG"), "small"),
        "10,000 x 1": (encode(tiny.resize((10_000, 1)), "JPEG"), "small"),
        "31 x 500": (encode(tiny.resize((31, 500)), "PNG"), "small"),
        "one colour": (encode(Image.new("RGB", (64, 64), "white"), "PNG"), "plain"),
        "nothing to be seen": (encode(Image.new("RGBA", (64, 64)), "PNG"), "plain"),
        "TIFF of floats that are no numbers": (encode(Image.fromarray(nothing), "TIFF"), "plain"),
        "a bomb of 12,000 x 12,000": (png(12_000, 12_000, bytes(99)), "pixels"),
        "a bomb of 60,000 x 60,000": (png(60_000, 60_000, bytes(99)), "pixels"),
        "a PNG with a negative side": (png(2**31, 5, bytes(99)), "pixels"),
        "a JPEG of a thousand scans": (scan_bomb(1000), "pixels"),
        "a file of 51 MB": (jpeg + bytes(51_000_000), "bytes"),
    }
