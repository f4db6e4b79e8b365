"""A longer fuzzing run than a test may take: ``PYTHONPATH=. python tests/fuzz_pictures.py``.

Mutates the files of `picture_zoo` and opens them as the app does; exit status 1 if a file did
anything else than being opened or refused, or took over ten seconds, or memory grew over 700 MB.
"""

import random
import resource
import signal
import sys
import traceback
import warnings
from collections import Counter

import picture_zoo
from tqdm import tqdm

from batik_utils.app.predict import MIN_SIDE
from batik_utils.images import files
from batik_utils.images.files import ImageError
from batik_utils.images.resize import to_pixels

FILES, SECONDS, MEGABYTES = 20_000, 10, 700


def mutate(chance: random.Random, seeds: list[bytes]) -> bytes:
    """Return one file: bytes changed, cut, doubled, moved, two files spliced."""
    content = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((1, 1, 2, 3, 6))):
        kind, size = chance.randrange(7), max(1, len(content))
        place = chance.randrange(min(size, chance.choice((64, 400, size))))
        if kind <= 2 and content:
            content[place] = chance.choice((0, 1, 127, 128, 254, 255, chance.randrange(256)))
        elif kind == 3:
            content[place : place + 4] = chance.randbytes(4)
        elif kind == 4:
            del content[place : place + chance.randrange(1, 40)]
        elif kind == 5:
            piece = content[place : place + chance.randrange(1, 400)]
            content[place:place] = piece * chance.randrange(1, 4)
        else:
            content[place:] = b"" if chance.random() < 0.5 else chance.choice(seeds)[place:]
    return bytes(content)


def outcome(content: bytes) -> str:
    """Return what a file came to; what must not happen is returned as a traceback."""
    signal.alarm(SECONDS)
    try:
        picture = files.open_image(content)
        if min(picture.size) >= MIN_SIDE:
            to_pixels(picture, 64)
        return "opened"
    except ImageError as error:
        return f"refused: {error.kind}"
    except BaseException:  # noqa: BLE001  what must not happen is what is looked for
        return traceback.format_exc()
    finally:
        signal.alarm(0)


def main() -> int:
    """Run and report; the seed may be given."""
    signal.signal(signal.SIGALRM, signal.default_int_handler)  # too slow: KeyboardInterrupt
    warnings.simplefilter("ignore")
    whole = [*picture_zoo.good().values(), *(content for content, _ in picture_zoo.bad().values())]
    seeds = [content for content in whole if 0 < len(content) < 60_000]
    chance = random.Random(*map(int, sys.argv[1:2]))
    found = Counter(outcome(mutate(chance, seeds)) for _ in tqdm(range(FILES), disable=None))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    for what, count in found.most_common():
        sys.stdout.write(f"{count} {what}\n")
    sys.stdout.write(f"peak memory {memory:.0f} MB\n")
    return int(memory > MEGABYTES or any(what.startswith("Traceback") for what in found))


if __name__ == "__main__":
    sys.exit(main())
