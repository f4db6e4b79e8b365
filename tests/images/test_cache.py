"""What is kept is whole, is made once, and is never mistaken for something else."""

import errno
import tempfile
from pathlib import Path

import numpy as np
import pytest

from batik_utils.images import cache as array_cache

ROWS = np.arange(24, dtype=np.float32).reshape(4, 3, 2)


def never():
    raise AssertionError("made again")
    yield


def test_a_second_call_reads_what_the_first_one_made():
    for rows in (ROWS.__iter__, never):
        found = array_cache.cached("some", ("a",), 4, rows)
        assert found.dtype == np.float32
        assert np.array_equal(found, ROWS)
        assert isinstance(found, np.memmap)
    names = sorted(path.suffix for path in array_cache.folder().iterdir())
    assert names == [".lock", ".npy"]


def test_everything_that_it_depends_on_names_it():
    given = [("some", "ab", "c"), ("some", "a", "bc"), ("some", "abc"), ("other", "ab", "c")]
    for kind, *parts in given:
        array_cache.cached(kind, parts, 4, ROWS.__iter__)
    assert len(list(array_cache.folder().glob("*.npy"))) == len(given)
    array_cache.cached("some", ("ab", b"c"), 4, never)


def test_an_interruption_leaves_nothing_behind():
    def half():
        yield from ROWS[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        array_cache.cached("some", (), 4, half)
    assert [path.suffix for path in array_cache.folder().iterdir()] == [".lock"]
    assert np.array_equal(array_cache.cached("some", (), 4, ROWS.__iter__), ROWS)


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"text", "cut"])
def test_a_damaged_file_is_made_again(damage, caplog):
    array_cache.cached("some", (), 4, ROWS.__iter__)
    (path,) = array_cache.folder().glob("*.npy")
    path.write_bytes(path.read_bytes()[:-5] if damage == "cut" else damage)
    assert np.array_equal(array_cache.cached("some", (), 4, ROWS.__iter__), ROWS)
    assert "is damaged" in caplog.text
    assert np.array_equal(array_cache.cached("some", (), 4, never), ROWS)


@pytest.mark.parametrize("trouble", ["not a folder", "full disk"])
def test_a_disk_that_refuses_is_no_obstacle(trouble, caplog, monkeypatch):
    def refuse(path, n, rows):
        next(iter(rows))
        raise OSError(errno.ENOSPC, "No space left on device")

    if trouble == "full disk":
        monkeypatch.setattr(array_cache, "_write", refuse)
    else:
        array_cache.folder().parent.mkdir(exist_ok=True)
        array_cache.folder().touch()
    assert np.array_equal(array_cache.cached("some", (), 4, ROWS.__iter__), ROWS)
    assert "goes to memory" in caplog.text
    assert "damaged" not in caplog.text


def test_the_cache_folder_follows_the_settings(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    for name in ("BATIK_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert array_cache.cache_folder() == Path("/home/someone/.cache/batik")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert array_cache.cache_folder() == Path("/x/batik")
    monkeypatch.setenv("BATIK_CACHE_DIR", "~/y")
    assert array_cache.cache_folder() == Path("/home/someone/y")


def test_a_user_without_a_home_has_a_cache_folder(monkeypatch):
    for name in ("BATIK_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # as for a number that no user has
    assert tempfile.gettempdir() in str(array_cache.cache_folder())
    monkeypatch.setenv("BATIK_CACHE_DIR", "~someone/x")
    assert array_cache.cache_folder() == Path("~someone/x")
