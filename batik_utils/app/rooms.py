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

    The folder goes when the process ends; where that was prevented, a lock that nobody holds tells
    the next call that it may be deleted.
    """
    from filelock import FileLock, Timeout

    place = Path(tempfile.gettempdir())
    for old in place.glob(f"{_PREFIX}*"):
        lock = FileLock(old / "lock")
        # other users' folders cannot be locked, and those in use are
        with contextlib.suppress(OSError, NotImplementedError, Timeout):
            lock.acquire(timeout=0)
            lock.release()
            shutil.rmtree(old, ignore_errors=True)
    room = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    lock = FileLock(room / "lock")
    with contextlib.suppress(OSError, NotImplementedError):  # a drive without locks
        lock.acquire(timeout=0)

    def leave() -> None:
        with contextlib.suppress(OSError):
            lock.release()
        shutil.rmtree(room, ignore_errors=True)

    atexit.register(leave)
    return room


def sweep(room: Path, older_than_s: float) -> None:
    """Delete files below a folder that are older than some seconds, and folders left empty."""
    before = time.time() - older_than_s
    for path in sorted(room.rglob("*"), reverse=True):
        with contextlib.suppress(OSError):  # gone meanwhile, or not empty
            if path.stat().st_mtime > before or path.name == "lock":
                continue
            path.rmdir() if path.is_dir() else path.unlink()


def keep_swept(room: Path, every_s: float, older_than_s: float) -> None:
    """Sweep a folder again and again, in a thread, for as long as it is there."""
    sweep(room, older_than_s)
    if room.is_dir():
        timer = threading.Timer(every_s, keep_swept, (room, every_s, older_than_s))
        timer.daemon = True
        timer.start()
