"""A longer fuzzing run than a test may take: ``PYTHONPATH=. python tests/fuzz_pictures.py``.

Mutates the files of `picture_zoo` (bytes changed, cut, doubled, moved, two files spliced) and sends
them through the app's own door. Ends with figures; exit status 1 if a file did anything else than
being classified or refused, took over ``--slow`` seconds, or memory grew over ``--memory`` MB.
"""

import argparse
import random
import resource
import signal
import sys
import time
import traceback
import warnings

import picture_zoo
from tqdm import tqdm

from batik_utils.app.predict import MIN_SIDE
from batik_utils.images import files
from batik_utils.images.files import ImageError
from batik_utils.images.resize import to_pixels


def mutate(chance: random.Random, seeds: list[bytes]) -> bytes:
    """Return one file made from the seeds."""
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
        elif chance.random() < 0.5:
            del content[place:]
        else:
            content[place:] = chance.choice(seeds)[place:]
    return bytes(content)


def main() -> int:
    """Run, and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slow", type=int, default=10, help="seconds a file may take")
    parser.add_argument("--memory", type=int, default=700, help="MB the process may grow to")
    options = parser.parse_args()

    def too_slow(*_):
        raise TimeoutError(f"over {options.slow} s")

    signal.signal(signal.SIGALRM, too_slow)
    warnings.simplefilter("ignore")
    whole = [*picture_zoo.good().values(), *(content for content, _ in picture_zoo.bad().values())]
    seeds = [content for content in whole if 0 < len(content) < 60_000]
    chance = random.Random(options.seed)
    classified = refused = 0
    wrong, slowest, kinds = [], 0.0, {}
    for number in tqdm(range(options.files), unit="file", disable=None):
        content = mutate(chance, seeds)
        began = time.perf_counter()
        signal.alarm(options.slow)
        try:
            picture = files.open_image(content)
            if min(picture.size) >= MIN_SIDE:
                to_pixels(picture, 64)
            classified += 1
        except ImageError as error:
            refused += 1
            kinds[error.kind] = kinds.get(error.kind, 0) + 1
        except BaseException as error:  # noqa: BLE001  what must not happen is what is looked for
            wrong.append((number, type(error).__name__, traceback.format_exc().splitlines()[-3:]))
        finally:
            signal.alarm(0)
        slowest = max(slowest, time.perf_counter() - began)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    sys.stdout.write(
        f"{options.files} files of seed {options.seed}: {classified} opened, {refused} refused "
        f"{dict(sorted(kinds.items()))}, {len(wrong)} anything else; "
        f"slowest {slowest:.2f} s, peak memory {memory:.0f} MB\n"
    )
    for one in wrong[:10]:
        sys.stdout.write(f"{one}\n")
    return 1 if wrong or memory > options.memory else 0


if __name__ == "__main__":
    sys.exit(main())
