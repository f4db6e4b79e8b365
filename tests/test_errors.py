"""Atomic writes, locks, switches: what the system may do to them."""

import errno
import multiprocessing
import os
import subprocess
from unittest.mock import Mock

import pytest

from batik_utils import errors
from batik_utils.errors import BatikError, NotWritten, locked, replacing


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    with replacing(path) as partial:
        assert partial.suffix == ".txt"
        partial.write_text("one")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), replacing(path) as partial:
        partial.write_text("two")
        raise KeyboardInterrupt
    assert path.read_text() == "one"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]
    (tmp_path / "link").symlink_to(path)
    with replacing(tmp_path / "link") as partial:
        partial.write_text("two")
    assert (tmp_path / "link").is_symlink() and path.read_text() == "two"


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EIO])
def test_a_drive_that_cannot_flush_is_good_enough(code, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(code, os.strerror(code))))
    with replacing(tmp_path / "a.txt") as partial:
        partial.write_text("one")
    assert (tmp_path / "a.txt").read_text() == "one"


@pytest.mark.parametrize("name", ["file/below.txt", "folder", "full"])
def test_a_refusal_of_the_system_is_a_sentence_with_the_path(name, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder" / "b").mkdir(parents=True)
    if name == "full":
        full = OSError(errno.ENOSPC, "No space left on device")
        monkeypatch.setattr(os, "fsync", Mock(side_effect=full))
    path = tmp_path / name
    with pytest.raises(NotWritten, match=str(path)), replacing(path) as partial:
        partial.write_text("one")
    assert not list(tmp_path.glob(".partial*"))


def _write_often(path):
    for k in range(40):
        with replacing(path) as partial:
            partial.write_text(f"{k:04}" * 1000)
        assert len(path.read_text()) == 4000


def test_two_processes_write_the_same_file(tmp_path):
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_write_often, args=(tmp_path / "a.txt",)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
        assert process.exitcode == 0


def test_a_lock_keeps_others_out_and_is_given_back(tmp_path):
    for _ in range(2):
        first, second = locked(tmp_path / ".lock"), locked(tmp_path / ".lock", 0.05)
        with first, pytest.raises(TimeoutError), second:
            pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_drive_without_locks_is_no_obstacle(code, monkeypatch, tmp_path):
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=OSError(code, os.strerror(code))))
    with locked(tmp_path / ".lock", 5):
        pass


@pytest.mark.parametrize("value", ["", "0", "false", "No", " off ", "1", "true", "yes"])
def test_a_switch_can_be_off(monkeypatch, value):
    monkeypatch.setenv("BATIK_OFFLINE", value)
    assert errors.switched_on("BATIK_OFFLINE") == (value in ("1", "true", "yes"))


def test_a_missing_package_is_named_with_what_installs_it():
    with pytest.raises(BatikError, match=r"^Sailing needs the package 'no_such_boat'.*pip install"):
        errors.need("no_such_boat", "Sailing")


def test_git_on_windows_changes_no_bytes(tmp_path):
    """Line ends as committed, also where git is set to turn them into CRLF."""
    files = {
        ".gitattributes": (errors.PROJECT / ".gitattributes").read_bytes(),
        "run.sh": b"#!/bin/bash\n",
        "results/kaggle/manifest.csv": b"path\n1.jpg\n",
        "results/kaggle/model/SHA256SUMS": b"0  model.onnx\n",
        "results/kaggle/model/model.onnx": b"a\nb\r\nc",
    }
    for name, content in files.items():
        (tmp_path / "one" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "one" / name).write_bytes(content)
    who = ["-c", "user.name=x", "-c", "user.email=x@x"]
    for words in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=tmp_path / "one", check=True)
    clone = ["git", "-c", "core.autocrlf=true", "clone", "-q", "one", "two"]
    subprocess.run(clone, cwd=tmp_path, check=True)
    assert {name: (tmp_path / "two" / name).read_bytes() for name in files} == files
