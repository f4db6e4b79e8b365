"""The project's error, its atomic write and lock, optional packages, and the project's folder."""

import contextlib
import errno
import functools
import importlib
import logging
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

log = logging.getLogger(__name__)

#: Folder that holds the package, and in a checkout notebooks and results beside it.
PROJECT = Path(__file__).resolve().parents[1]

# network drives and containers that cannot flush a file to disk answer with one of these
_NO_FSYNC = {errno.EINVAL, errno.ENOSYS, errno.EIO, errno.ENOTSUP}


class BatikError(Exception):
    """A mistake that a person can mend; the message says what is wrong, where, and what to do."""


class NotWritten(BatikError):
    """A file or folder that the system refused to write, with its path and a remedy."""


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; what is written there takes its place as a whole.

    Parents are made. If the body fails, ``path`` stays as it was. NotWritten: the disk refuses.
    """
    given, path = path, Path(path).resolve()  # of a link, the file that it points to is replaced
    partial = path.with_name(f".partial-{uuid.uuid4().hex}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        # the name must not reach the disk before the content
        with partial.open("rb+") as stream:
            try:
                os.fsync(stream.fileno())
            except OSError as error:
                if error.errno not in _NO_FSYNC:
                    raise
        partial.replace(path)
    except OSError as error:
        # the body may have failed on a file of its own, or on a network
        if error.errno is None or (
            error.filename and not path.is_relative_to(Path(error.filename).parent)
        ):
            raise
        raise NotWritten(
            f"{given} cannot be written ({error.strerror or error}): free some space or allow "
            f"writing there, or choose another folder."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path | str, timeout_s: float = -1) -> Iterator[None]:
    """Hold the lock file ``path``, whose folder exists; on drives without locks warn, hold nothing.

    TimeoutError is raised where another process holds it longer than ``timeout_s`` (-1: for ever).
    """
    import filelock

    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout_s)
    except TimeoutError:
        raise
    except (OSError, NotImplementedError) as error:
        _no_locks(Path(path).parent, str(error))
    try:
        yield
    finally:
        lock.release()


@functools.cache
def _no_locks(folder: Path, why: str) -> None:
    log.warning(
        "Files in %s cannot be locked (%s): use it from one process at a time.", folder, why
    )


def expanded(path: str | Path) -> Path:
    """Return a path with ``~`` replaced by the home folder; without one, by a temporary one."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # a user without a home, as in a container, or a name that begins so
        home, *parts = Path(path).parts
        return temporary_folder().joinpath(*parts) if home == "~" else Path(path)


def temporary_folder() -> Path:
    """Return this user's folder for where the home cannot be written, or there is none."""
    return Path(tempfile.gettempdir()) / f"batik-{getattr(os, 'getuid', int)()}"


def switched_on(variable: str) -> bool:
    """Return whether an environment variable is set to anything but ``0``, ``false``, ``no``."""
    value = os.environ.get(variable, "").strip().lower()
    return value not in ("", "0", "false", "no", "off", "n", "f")


def need(module: str, purpose: str) -> ModuleType:
    """Import a module of the extra ``scale``; ``purpose`` begins the message if it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # a package that is there but lacks a part of its own is named by that part
        raise BatikError(
            f"{purpose} needs the package '{error.name}', which is not installed: run 'pip install "
            f"-r requirements-scale.txt -c constraints.txt' (the optional extra 'scale')."
        ) from error
