"""Which checkpoint ``--ckpt_path last`` is, and in which folder its run goes on."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from detox_lightning.cli.trainer import prepare
from detox_lightning.errors import InputError
from detox_lightning.runs import find_checkpoint, several_checkpoints
from detox_lightning.runs.checkpointing import BoundedCheckpoint
from detox_lightning.runs.run_lock import FolderLocks, is_locked
from toys import blank_checkpoint, make_trainer

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


def trainer_of(root: Path, dirpath: Path | str | None = None, **options: Any) -> Any:
    """A trainer whose first logger has these options."""
    logger = TensorBoardLogger(**{"save_dir": str(root), "name": "tiny", **options})
    return make_trainer(
        root,
        logger=[logger],
        callbacks=[BoundedCheckpoint(dirpath=dirpath)],
        enable_checkpointing=True,
    )


def chosen(verb: str, trainer: Any, name: str = "last") -> tuple[str | None, Any]:
    """The checkpoint of a command, and the version of its first logger."""
    file = find_checkpoint.choose_checkpoint(verb, trainer, name, trainer.loggers)
    return file, trainer.loggers[0]._version


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
    told = re.escape(f"damaged: {last}; {best} is used instead")
    with pytest.warns(UserWarning, match=told):
        assert find_checkpoint.newest_whole(tmp_path) == best
    best.unlink()
    with pytest.warns(UserWarning, match=r"damaged: .*last.ckpt; .*previous.ckpt is used"):
        assert find_checkpoint.newest_whole(tmp_path) == tmp_path / "previous.ckpt"
    (tmp_path / "previous.ckpt").write_bytes(b"")
    with pytest.raises(InputError, match=r"all checkpoints in .* are damaged"):
        find_checkpoint.newest_whole(tmp_path)


def test_what_is_half_written_is_no_checkpoint(tmp_path: Path) -> None:
    save(tmp_path / "last.ckpt", 3).rename(tmp_path / ".last.ckpt.partial")
    assert find_checkpoint.newest_whole(tmp_path) is None


def test_another_run_s_last_one_in_the_same_folder_is_left_alone(tmp_path: Path) -> None:
    save(tmp_path / "last.ckpt", 90)
    mine = save(tmp_path / "previous-v1.ckpt", 10)
    newest = save(tmp_path / "last-v1.ckpt", 20)
    newest.write_bytes(b"torn")
    with pytest.warns(UserWarning, match="damaged"):
        assert find_checkpoint.newest_whole(tmp_path) == mine


def test_a_fit_goes_on_in_the_newest_run_s_folder(tmp_path: Path) -> None:
    runs = tmp_path / "tiny"
    older = save(runs / "version_1" / "checkpoints" / "last.ckpt", 80)
    newest = save(runs / "version_0" / "checkpoints" / "last.ckpt", 90)
    assert chosen("fit", trainer_of(tmp_path)) == (str(newest), "version_0")
    for given in (1, "version_1"):
        assert chosen("fit", trainer_of(tmp_path, version=given)) == (str(older), given)
    assert chosen("test", trainer_of(tmp_path)) == (str(newest), None)


def test_a_file_begins_a_run_of_its_own(tmp_path: Path) -> None:
    file = str(save(tmp_path / "tiny" / "version_1" / "checkpoints" / "last.ckpt", 80))
    assert chosen("fit", trainer_of(tmp_path), file) == (file, None)


def test_where_nothing_is_saved_a_fit_begins_anew(tmp_path: Path) -> None:
    """Runs without a checkpoint are passed over if another run has one."""
    told = f"there is no run in {tmp_path}/tiny yet; a new one starts in its own folder"
    with pytest.warns(UserWarning, match=told):
        assert chosen("fit", trainer_of(tmp_path)) == (None, None)
    (tmp_path / "tiny" / "version_1" / "checkpoints").mkdir(parents=True)
    with pytest.warns(UserWarning, match="version_1/checkpoints; it starts from the beginning"):
        assert chosen("fit", trainer_of(tmp_path)) == (None, "version_1")
    old = save(tmp_path / "tiny" / "version_0" / "checkpoints" / "last.ckpt", 80)
    told = r"no checkpoint in .*version_1/checkpoints; the run in .*version_0/checkpoints resumes"
    with pytest.warns(UserWarning, match=told):
        assert chosen("fit", trainer_of(tmp_path)) == (str(old), "version_0")
    with pytest.warns(UserWarning, match="it starts from the beginning"):
        assert chosen("fit", trainer_of(tmp_path, version=1)) == (None, 1)
    assert chosen("test", trainer_of(tmp_path)) == (str(old), None)


def test_a_folder_of_checkpoints_tells_which_run_wrote_them(tmp_path: Path) -> None:
    file = save(tmp_path / "kept" / "last.ckpt", 3, run="version_4")
    trainer = trainer_of(tmp_path, tmp_path / "kept")
    assert chosen("fit", trainer) == (str(file), "version_4")


@pytest.mark.parametrize("job", [None, "17"])
def test_lightning_s_own_logger_is_found_too(
    tmp_path: Path, job: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one of SLURM's other jobs, whose number Lightning gives to its own logger."""
    if job is not None:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    file = save(tmp_path / "lightning_logs" / "version_2" / "checkpoints" / "last.ckpt", 3)
    trainer = make_trainer(tmp_path, logger=True)
    assert trainer.loggers[0]._version == (job and int(job))
    assert chosen("fit", trainer) == (str(file), "version_2")


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
        assert chosen("fit", trainer_of(tmp_path)) == (str(file), "version_0")
        with held(file.parent):
            told = f"all runs in {runs} are still active; a new one starts in its own folder"
            with pytest.warns(UserWarning, match=told):
                assert chosen("fit", trainer_of(tmp_path)) == (None, None)
            assert chosen("test", trainer_of(tmp_path)) == (str(file), None)
            with pytest.raises(InputError, match=r"version_0/checkpoints is still active"):
                chosen("fit", trainer_of(tmp_path, version=0))
    assert (file.parent / ".lock").is_file()  # of the process that was killed
    assert not is_locked(file.parent)
    assert chosen("fit", trainer_of(tmp_path, version=0)) == (str(file), 0)


def test_a_fit_leaves_the_newest_run_alone_if_it_is_active(tmp_path: Path) -> None:
    """Its configuration isn't taken, either."""
    save(tmp_path / "a" / "version_0" / "checkpoints" / "last.ckpt", 3)
    newest = save(tmp_path / "b" / "version_0" / "checkpoints" / "last.ckpt", 80).parent
    assert find_checkpoint.newest_run(tmp_path, "fit") == tmp_path / "b" / "version_0"
    with held(newest):
        assert find_checkpoint.newest_run(tmp_path, "fit") == tmp_path / "a" / "version_0"
        assert find_checkpoint.newest_run(tmp_path, "test") == tmp_path / "b" / "version_0"
        with held(tmp_path / "a" / "version_0" / "checkpoints"):
            assert find_checkpoint.newest_run(tmp_path, "fit") is None


def test_the_only_folder_is_not_shared(tmp_path: Path) -> None:
    save(tmp_path / "kept" / "last.ckpt", 3)
    with held(tmp_path / "kept"), pytest.raises(InputError, match="still active in another"):
        chosen("fit", trainer_of(tmp_path, tmp_path / "kept"))


def test_an_address_is_not_looked_through(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, "memory://bucket/run")
    told = "--ckpt_path last: memory://bucket/run is an address, .* give the file itself"
    for verb in ("fit", "test"):
        with pytest.raises(InputError, match=told):
            chosen(verb, trainer)
    file = "memory://bucket/run/last.ckpt"
    with pytest.raises(InputError, match=f"{file}: there is no such file"):
        chosen("fit", trainer, file)
    fsspec.filesystem("memory").pipe("/bucket/run/last.ckpt", b"Lightning opens it")
    assert chosen("fit", trainer, file) == (file, None)
    with pytest.raises(InputError, match=r"--ckpt_path nowhere://last.ckpt: this can't be open"):
        chosen("fit", trainer, "nowhere://last.ckpt")


def test_a_version_that_is_given_stays(tmp_path: Path) -> None:
    save(tmp_path / "tiny" / "version_3" / "checkpoints" / "last.ckpt", 3)
    trainer = trainer_of(tmp_path)
    trainer.loggers = [*trainer.loggers, CSVLogger(tmp_path, version="rows")]
    chosen("fit", trainer)
    assert [logger.version for logger in trainer.loggers] == ["version_3", "rows"]


@pytest.mark.parametrize("name", ["v?", "v[12]", "*", "**", "v[!1]"])
def test_a_version_is_a_name_and_no_pattern(name: str, tmp_path: Path) -> None:
    for other in ("v1", "v2"):
        save(tmp_path / "tiny" / other / "checkpoints" / "last.ckpt", 80)
    with pytest.warns(UserWarning, match="a new one starts"):
        assert chosen("fit", trainer_of(tmp_path, version=name)) == (None, name)
    told = re.escape(f"there is no last*.ckpt in {tmp_path}/tiny/{name}/checkpoints")
    with pytest.raises(InputError, match=told):
        chosen("test", trainer_of(tmp_path, version=name))
    own = save(tmp_path / "tiny" / name / "checkpoints" / "last.ckpt", 3)
    for verb in ("fit", "test"):
        assert chosen(verb, trainer_of(tmp_path, version=name)) == (str(own), name)


@pytest.mark.parametrize("name", ["n?", "[ab]", "*"])
def test_a_name_is_no_pattern(name: str, tmp_path: Path) -> None:
    save(tmp_path / "na" / "version_0" / "checkpoints" / "last.ckpt", 80)
    own = save(tmp_path / name / "version_0" / "checkpoints" / "last.ckpt", 3)
    assert chosen("test", trainer_of(tmp_path, name=name))[0] == str(own)


def test_all_means_the_last_checkpoint_and_the_others_of_its_run(tmp_path: Path) -> None:
    """One for each number of steps; not those that are damaged."""
    run = tmp_path / "run"
    files = {
        name: save(run / "checkpoints" / f"{name}.ckpt", steps)
        for name, steps in {"best": 20, "previous": 30, "first": 9, "torn": 35, "same": 40}.items()
    }
    last = save(run / "checkpoints" / "last.ckpt", 40)
    files["torn"].write_bytes(files["torn"].read_bytes()[:-50])
    for name, expected in (("all", "last"), (f"{run}/all", str(run))):
        assert several_checkpoints.names_of(name) == ([expected], True)
    assert several_checkpoints.names_of("last") == (["last"], False)
    others = several_checkpoints.other_checkpoints(last)
    assert others == [files["first"], files["best"], files["previous"]]
    (tmp_path / "all").mkdir()  # a folder of this name is that folder
    assert several_checkpoints.names_of(str(tmp_path / "all")) == ([str(tmp_path / "all")], False)


def test_only_a_test_takes_several_checkpoints(tmp_path: Path) -> None:
    one, two = (str(save(tmp_path / f"{name}.ckpt", 1)) for name in ("one", "two"))
    for value, last in (
        ("all", "last"),
        (f"{tmp_path}/all", str(tmp_path)),
        (f"[{one}, {two}]", two),
        ([one, two], two),
    ):
        with pytest.raises(InputError) as caught:
            prepare(trainer_of(tmp_path), "predict", None, {"ckpt_path": value}, [])
        expected = f"--ckpt_path {value}: only test takes several checkpoints; give {last}"
        assert str(caught.value) == expected


def test_a_list_is_about_its_last_checkpoint(tmp_path: Path) -> None:
    """The others come by their steps; a folder is that run's last one."""
    folder = tmp_path / "run, with a comma" / "checkpoints"
    a, b, last = (save(folder / f"{x}.ckpt", n) for x, n in {"a": 9, "b": 5, "last": 20}.items())
    listed = f'["{a}", "{b}", "{folder.parent}"]'
    for value, about, others in (
        (listed, last, [b, a]),
        ([last, a], a, [last]),
        (f'["{a}"]', a, []),
        (str(folder.parent / "all"), last, [b, a]),
    ):
        trainer, options = trainer_of(tmp_path), {"ckpt_path": value}
        prepare(trainer, "test", None, options, [])
        assert options == {"ckpt_path": str(about)}
        assert trainer.others == others


def test_a_list_holds_different_checkpoints_of_one_run(tmp_path: Path) -> None:
    files = {x: save(tmp_path / f"{x}.ckpt", n, run="v1") for x, n in {"a": 5, "b": 9}.items()}
    a, b = files.values()
    other_run = save(tmp_path / "other.ckpt", 7, run="v2")
    elsewhere = save(tmp_path / "else" / "a.ckpt", 5, run="v1")
    (same := tmp_path / "same.ckpt").symlink_to(b)
    lost = "is no file or folder; a list takes checkpoints and folders of runs"
    another = (
        f"it is of another run than {b}, the last one of the list; give checkpoints of one run"
    )
    twice = "it is the same as {} (optimizer step {}); leave one of them out"
    for value, flag, reason in (
        (f"[{a}, {tmp_path}/none.ckpt]", None, f"'{tmp_path}/none.ckpt' {lost}"),
        (f"[last, {b}]", None, f"'last' {lost}"),
        ("[]", None, f"'' {lost}"),
        ("[{a: b}]", None, f"'dict' {lost}"),
        (f"[{other_run}, {b}]", other_run, another),
        (f"[{elsewhere}, {b}]", elsewhere, another),
        (f"[{b}, {b}]", b, twice.format(b, 9)),
        (f"[{same}, {b}]", same, twice.format(b, 9)),
        (f"[{a}, {a}, {b}]", a, twice.format(a, 5)),
    ):
        with pytest.raises(InputError) as caught:
            prepare(trainer_of(tmp_path), "test", None, {"ckpt_path": value}, [])
        assert str(caught.value) == f"--ckpt_path {flag or value}: {reason}"
