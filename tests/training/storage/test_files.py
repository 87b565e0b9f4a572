"""Files are written whole or not at all, and damage is detected."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from payload import Payload

from training.storage import files


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "state.pt"
    files.save(path, {"weights": torch.arange(4000.0), "epoch": 3})
    return path


def test_what_is_saved_is_read(saved: Path) -> None:
    content = files.read(saved)
    assert content["epoch"] == 3
    assert torch.equal(content["weights"], torch.arange(4000.0))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(saved: Path, share: float) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match="is damaged or not a checkpoint"):
        files.read(saved)


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6, 0.8])
def test_a_changed_byte_among_the_weights_is_detected(saved: Path, share: float) -> None:
    content = bytearray(saved.read_bytes())
    content[int(share * len(content))] ^= 1
    saved.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged or not a checkpoint"):
        files.read(saved)


def test_a_file_that_would_execute_code_is_refused(tmp_path: Path) -> None:
    payload = Payload(tmp_path / "executed")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(payload))
    torch.save({"state": payload}, tmp_path / "archive.pt")
    for name in ("plain.pt", "archive.pt"):
        with pytest.raises(ValueError, match=r"is damaged or not a (weights-only )?checkpoint"):
            files.read(tmp_path / name)
    assert not (tmp_path / "executed").exists()


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("training.storage.files.os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        files.save(saved, {"epoch": 4})
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_the_content_is_on_disk_before_the_file_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        kind = "folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else f"{os.fstat(descriptor).st_size} bytes"
        events.append(f"fsync {kind}")
        fsync(descriptor)

    def noted_replace(source: Path, target: Path) -> None:
        events.append(f"rename to {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr("training.storage.files.os.fsync", noted_fsync)
    monkeypatch.setattr("training.storage.files.os.replace", noted_replace)
    files.write_text(tmp_path / "note.txt", "hello")
    assert events == ["fsync 5 bytes", "rename to note.txt", "fsync folder"]


def test_a_file_has_the_permissions_of_the_umask(saved: Path) -> None:
    (saved.parent / "plain").touch()
    assert saved.stat().st_mode == (saved.parent / "plain").stat().st_mode
