"""A private temporary folder for uploads, which also goes when the process was killed."""

import atexit
import contextlib
import shutil
import tempfile
import threading
import time
from pathlib import Path

_PREFIX = "batik-app-"


def make() -> Path:
    """Return a new folder that only this user reads, and delete those of processes that are gone.

    It goes when the process ends; of one that was killed, a lock that nobody holds tells so.
    """
    from filelock import FileLock, Timeout

    place = Path(tempfile.gettempdir())
    for old in place.glob(f"{_PREFIX}*"):
        # other users' folders cannot be locked, and those in use are
        with contextlib.suppress(OSError, NotImplementedError, Timeout):
            with FileLock(old / "lock", timeout=0):
                pass
            shutil.rmtree(old, ignore_errors=True)
    room = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    lock = FileLock(room / "lock")
    with contextlib.suppress(OSError, NotImplementedError):  # a drive without locks
        lock.acquire(timeout=0)
    # the lock lives as long as this knows it
    atexit.register(lambda: (lock.release(), shutil.rmtree(room, ignore_errors=True)))
    return room


def sweep(room: Path, older_than_s: float, every_s: float = 0) -> None:
    """Delete what is older than some seconds below a folder; with ``every_s`` again and again."""
    before = time.time() - older_than_s
    for path in sorted(room.rglob("*"), reverse=True):
        with contextlib.suppress(OSError):  # gone meanwhile, or a folder that is not empty
            if path.stat().st_mtime <= before and path.name != "lock":
                path.rmdir() if path.is_dir() else path.unlink()
    if every_s and room.is_dir():
        timer = threading.Timer(every_s, sweep, (room, older_than_s, every_s))
        timer.daemon = True
        timer.start()
