"""Which checkpoint ``--ckpt_path last`` is, and in which folder its run goes on."""

import os
import re
import signal
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from detox_lightning.errors import InputError
from detox_lightning.runs import find_checkpoint
from detox_lightning.runs.run_lock import FolderLocks, is_locked
from toys import blank_checkpoint

TORN = {
    "cut short": lambda whole: whole[: len(whole) // 2],
    "empty": lambda whole: b"",
    "without its table": lambda whole: whole.replace(b"PK\x01\x02", b"PK\x00\x00"),
    "a byte is wrong": lambda whole: whole.replace(b"\x07" * 64, b"\x07" * 63 + b"\x08"),
}


def save(file: Path, steps: int, **more: Any) -> Path:
    """A checkpoint as old as it has steps."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tensor = torch.full((256,), 7, dtype=torch.uint8)
    checkpoint = {"global_step": steps, "state_dict": {"x": tensor}, **more}
    torch.save(blank_checkpoint(**checkpoint), file)
    os.utime(file, (steps, steps))
    return file


def config(root: Path, **logger: Any) -> dict[str, Any]:
    options = {"save_dir": str(root), "name": "tiny", "version": None, **logger}
    one = {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": options}
    trainer = {"logger": one, "default_root_dir": None}
    return {"trainer": trainer, "checkpoint": {"dirpath": None}, "ckpt_path": "last"}


def version(chosen: dict[str, Any]) -> Any:
    return chosen["trainer"]["logger"]["init_args"]["version"]


@pytest.mark.parametrize("damage", TORN)
def test_a_torn_checkpoint_gives_way_to_the_newest_before_it(tmp_path: Path, damage: str) -> None:
    last = save(tmp_path / "last.ckpt", 40)
    save(tmp_path / "previous.ckpt", 30)
    best = save(tmp_path / "epoch=2-step=35.ckpt", 35)
    os.utime(best, (1, 1))  # what counts is what it holds
    assert find_checkpoint.newest_whole(tmp_path) == last
    whole = last.read_bytes()
    last.write_bytes(TORN[damage](whole))
    assert last.read_bytes() != whole
    told = re.escape(f"{last} is torn; goes on from {best} instead")
    with pytest.warns(UserWarning, match=told):
        assert find_checkpoint.newest_whole(tmp_path) == best
    best.unlink()
    with pytest.warns(UserWarning, match=r"last.ckpt is torn; goes on from .*previous.ckpt"):
        assert find_checkpoint.newest_whole(tmp_path) == tmp_path / "previous.ckpt"
    (tmp_path / "previous.ckpt").write_bytes(b"")
    with pytest.raises(InputError, match=r"all checkpoints in .* are torn"):
        find_checkpoint.newest_whole(tmp_path)


def test_what_is_half_written_is_no_checkpoint(tmp_path: Path) -> None:
    save(tmp_path / "last.ckpt", 3).rename(tmp_path / ".last.ckpt.partial")
    assert find_checkpoint.newest_whole(tmp_path) is None


def test_another_run_s_last_one_in_the_same_folder_is_left_alone(tmp_path: Path) -> None:
    save(tmp_path / "last.ckpt", 90)
    mine = save(tmp_path / "previous-v1.ckpt", 10)
    newest = save(tmp_path / "last-v1.ckpt", 20)
    newest.write_bytes(b"torn")
    with pytest.warns(UserWarning, match="torn"):
        assert find_checkpoint.newest_whole(tmp_path) == mine


def test_a_fit_goes_on_in_the_newest_run_s_folder(tmp_path: Path) -> None:
    runs = tmp_path / "tiny"
    save(runs / "version_1" / "checkpoints" / "last.ckpt", 80)
    newest = save(runs / "version_0" / "checkpoints" / "last.ckpt", 90)
    chosen = config(tmp_path)
    find_checkpoint.choose_checkpoint("fit", chosen)
    assert (chosen["ckpt_path"], version(chosen)) == (str(newest), "version_0")
    for given in (1, "version_1"):
        chosen = config(tmp_path, version=given)
        find_checkpoint.choose_checkpoint("fit", chosen)
        assert chosen["ckpt_path"] == str(runs / "version_1" / "checkpoints" / "last.ckpt")
    tested = config(tmp_path)
    find_checkpoint.choose_checkpoint("test", tested)
    assert (tested["ckpt_path"], version(tested)) == (str(newest), None)


def test_a_file_begins_a_run_of_its_own(tmp_path: Path) -> None:
    file = save(tmp_path / "tiny" / "version_1" / "checkpoints" / "last.ckpt", 80)
    chosen = {**config(tmp_path), "ckpt_path": str(file)}
    find_checkpoint.choose_checkpoint("fit", chosen)
    assert (chosen["ckpt_path"], version(chosen)) == (str(file), None)
    assert zipfile.is_zipfile(file)


def test_where_nothing_is_saved_a_fit_begins_anew(tmp_path: Path) -> None:
    """A job that was killed before its first checkpoint doesn't go on with another run."""
    chosen = config(tmp_path)
    with pytest.warns(UserWarning, match=f"no run under {tmp_path}/tiny yet; this one begins anew"):
        find_checkpoint.choose_checkpoint("fit", chosen)
    assert (chosen["ckpt_path"], version(chosen)) == (None, None)
    old = save(tmp_path / "tiny" / "version_0" / "checkpoints" / "last.ckpt", 80)
    (tmp_path / "tiny" / "version_1" / "checkpoints").mkdir(parents=True)
    chosen = config(tmp_path)
    with pytest.warns(UserWarning, match="version_1/checkpoints yet; this one begins anew"):
        find_checkpoint.choose_checkpoint("fit", chosen)
    assert (chosen["ckpt_path"], version(chosen)) == (None, "version_1")
    tested = config(tmp_path)
    find_checkpoint.choose_checkpoint("test", tested)
    assert tested["ckpt_path"] == str(old)


def test_a_folder_of_checkpoints_tells_which_run_wrote_them(tmp_path: Path) -> None:
    file = save(tmp_path / "kept" / "last.ckpt", 3, run="version_4")
    chosen = config(tmp_path)
    chosen["checkpoint"]["dirpath"] = str(tmp_path / "kept")
    find_checkpoint.choose_checkpoint("fit", chosen)
    assert (chosen["ckpt_path"], version(chosen)) == (str(file), "version_4")


def test_lightning_s_own_logger_is_found_too(tmp_path: Path) -> None:
    file = save(tmp_path / "lightning_logs" / "version_2" / "checkpoints" / "last.ckpt", 3)
    chosen = config(tmp_path)
    chosen["trainer"] |= {"logger": True, "default_root_dir": str(tmp_path)}
    find_checkpoint.choose_checkpoint("fit", chosen)
    assert (chosen["ckpt_path"], version(chosen)) == (str(file), "version_2")
    assert chosen["trainer"]["logger"]["class_path"].endswith("TensorBoardLogger")
    assert chosen["trainer"]["logger"]["init_args"]["save_dir"] == str(tmp_path)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Another process holds a folder's lock; at the block's end it is killed."""
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(tell, b"y" if FolderLocks().acquire([folder]) is None else b"n")
            signal.pause()
        finally:
            os._exit(1)
    try:
        assert os.read(told, 1) == b"y"
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(told)
        os.close(tell)


def test_a_run_that_is_alive_is_left_alone(tmp_path: Path) -> None:
    """As in an array of jobs that begin together, or are started twice."""
    runs = tmp_path / "tiny"
    file = save(runs / "version_0" / "checkpoints" / "last.ckpt", 80)
    (runs / "version_1" / "checkpoints").mkdir(parents=True)
    with held(runs / "version_1" / "checkpoints"):
        folder = runs / "version_1" / "checkpoints"
        assert FolderLocks().acquire([folder]) == folder
        chosen = config(tmp_path)
        find_checkpoint.choose_checkpoint("fit", chosen)
        assert (chosen["ckpt_path"], version(chosen)) == (str(file), "version_0")
        with held(file.parent):
            chosen = config(tmp_path)
            with pytest.warns(
                UserWarning, match="still going on; this one begins anew, in a folder"
            ):
                find_checkpoint.choose_checkpoint("fit", chosen)
            assert (chosen["ckpt_path"], version(chosen)) == (None, None)
            tested = config(tmp_path)
            find_checkpoint.choose_checkpoint("test", tested)
            assert tested["ckpt_path"] == str(file)
            with pytest.raises(InputError, match=r"version_0/checkpoints is still going on"):
                find_checkpoint.choose_checkpoint("fit", config(tmp_path, version=0))
    assert (file.parent / ".lock").is_file()  # of the process that was killed
    assert not is_locked(file.parent)
    chosen = config(tmp_path, version=0)
    find_checkpoint.choose_checkpoint("fit", chosen)
    assert chosen["ckpt_path"] == str(file)


def test_the_only_folder_is_not_shared(tmp_path: Path) -> None:
    save(tmp_path / "kept" / "last.ckpt", 3)
    chosen = config(tmp_path)
    chosen["checkpoint"]["dirpath"] = str(tmp_path / "kept")
    with held(tmp_path / "kept"), pytest.raises(InputError, match="still going on in another"):
        find_checkpoint.choose_checkpoint("fit", chosen)


def test_an_address_is_not_looked_through(tmp_path: Path) -> None:
    chosen = config(tmp_path)
    chosen["checkpoint"]["dirpath"] = "s3://bucket/run"
    told = "--checkpoint.dirpath s3://bucket/run is an address, .* give the file itself"
    for verb in ("fit", "test"):
        with pytest.raises(InputError, match=told):
            find_checkpoint.choose_checkpoint(verb, chosen)
    chosen["ckpt_path"] = "memory://bucket/run/last.ckpt"
    with pytest.raises(InputError, match=r"memory://bucket/run/last.ckpt: there is no such file"):
        find_checkpoint.choose_checkpoint("fit", chosen)
    fsspec.filesystem("memory").pipe("/bucket/run/last.ckpt", b"Lightning opens it")
    find_checkpoint.choose_checkpoint("fit", chosen)
    assert chosen["ckpt_path"] == "memory://bucket/run/last.ckpt"
    chosen["ckpt_path"] = "nowhere://last.ckpt"
    with pytest.raises(InputError, match=r"--ckpt_path nowhere://last.ckpt: this can't be open"):
        find_checkpoint.choose_checkpoint("fit", chosen)


def test_a_version_that_is_given_stays(tmp_path: Path) -> None:
    save(tmp_path / "tiny" / "version_3" / "checkpoints" / "last.ckpt", 3)
    chosen = config(tmp_path)
    one = chosen["trainer"]["logger"]
    other = {"class_path": "CSVLogger", "init_args": {**one["init_args"], "version": "rows"}}
    chosen["trainer"]["logger"] = [one, other]
    find_checkpoint.choose_checkpoint("fit", chosen)
    assert [x["init_args"]["version"] for x in (one, other)] == ["version_3", "rows"]


@pytest.mark.parametrize("name", ["v?", "v[12]", "*", "**", "v[!1]"])
def test_a_version_is_a_name_and_no_pattern(name: str, tmp_path: Path) -> None:
    for other in ("v1", "v2"):
        save(tmp_path / "tiny" / other / "checkpoints" / "last.ckpt", 80)
    with pytest.warns(UserWarning, match="this one begins anew"):
        find_checkpoint.choose_checkpoint("fit", chosen := config(tmp_path, version=name))
    assert (chosen["ckpt_path"], version(chosen)) == (None, name)
    told = re.escape(f"there is no {name}/checkpoints/last*.ckpt under {tmp_path}/tiny")
    with pytest.raises(InputError, match=told):
        find_checkpoint.choose_checkpoint("test", config(tmp_path, version=name))
    own = save(tmp_path / "tiny" / name / "checkpoints" / "last.ckpt", 3)
    for verb in ("fit", "test"):
        find_checkpoint.choose_checkpoint(verb, chosen := config(tmp_path, version=name))
        assert (chosen["ckpt_path"], version(chosen)) == (str(own), name)


@pytest.mark.parametrize("name", ["n?", "[ab]", "*"])
def test_a_name_is_no_pattern(name: str, tmp_path: Path) -> None:
    save(tmp_path / "na" / "version_0" / "checkpoints" / "last.ckpt", 80)
    own = save(tmp_path / name / "version_0" / "checkpoints" / "last.ckpt", 3)
    find_checkpoint.choose_checkpoint("test", chosen := config(tmp_path, name=name))
    assert chosen["ckpt_path"] == str(own)
