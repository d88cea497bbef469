"""Checkpoints of something else, and files that are none."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from bad_input.cases import Case, Place, check
from bad_input.spoiling import put
from detox_lightning.modules import SupervisedModule
from toys import blank_checkpoint

SUPERVISED = ("--config={folder}/supervised.yaml", "--ckpt_path={folder}/x.ckpt")
GIVEN = ("--ckpt_path={folder}/x.ckpt",)
OTHER_STAGE = (
    "the checkpoint is of the {} stage, this is the {} stage. To begin from that stage's result, "
    "give its exported folder as the model, not as --ckpt_path."
)
NOT_OURS = "the checkpoint was not written by detox_lightning: nothing says what it is"
TORN = (
    "--ckpt_path {folder}/x.ckpt: this is not a checkpoint, or it is damaged; give a checkpoint, "
    "or last"
)
NOT_LIGHTNING = (
    "--ckpt_path {folder}/x.ckpt: this was not written by Lightning; give a file from a run's "
    "folder checkpoints/, or last"
)
LORA = (
    "lora {{'r': {}, 'alpha': 32, 'dropout': 0.05, 'target_modules': None, "
    "'modules_to_save': None, 'options': None}}"
)
QUERY = "model.base_model.model.encoder.block.0.layer.0.SelfAttention.q.lora_{}.default.weight"


def saved(place: Place, stamp: Any, state: dict[str, Any] | None = None) -> None:
    """Writes what Lightning would, with a stamp of ours."""
    made = blank_checkpoint(state_dict=state or {}, detox_lightning=stamp)
    torch.save(made, place.folder / "x.ckpt")


def stamped(**facts: Any) -> Callable[[Place], None]:
    return lambda place: saved(place, {"version": 1, "stage": "ppo", "base": place.policy, **facts})


def of_supervised(place: Place, rank: int, base: str | None = None) -> None:
    """A checkpoint of the supervised stage, with an adapter; perhaps of another base."""
    module = SupervisedModule(place.policy, lora={"r": rank})
    module.configure_model()
    made: dict[str, Any] = {"state_dict": module.state_dict(), "hyper_parameters": {}}
    module.on_save_checkpoint(made)
    state = made["state_dict"]
    if base is not None:
        state[QUERY.format("A")] = torch.zeros(4, 64)
    saved(place, made["detox_lightning"] | ({"base": base} if base else {}), state)


def torn(place: Place) -> None:
    stamped()(place)
    file = place.folder / "x.ckpt"
    file.write_bytes(file.read_bytes()[:-100])


def archive(place: Place) -> None:
    with zipfile.ZipFile(place.folder / "x.ckpt", "w") as file:
        file.writestr("a", "b")


CODE = (
    "--ckpt_path {folder}/%s: it holds more than tensors and plain values, and opening such a file "
    "can run code; give one that this package wrote"
)
OF_A_RUN = "runs/tiny/version_0/checkpoints"
SPOILT = (
    "--ckpt_path {folder}/x.ckpt: this checkpoint can't be used (%s); give one that a run of this "
    "package wrote, unchanged"
)


def payload(*names: str) -> Callable[[Place], None]:
    """Files of a run that hold an object; before them a torn one, if there are two."""

    def spoil(place: Place) -> None:
        folder = place.folder / OF_A_RUN
        folder.mkdir(parents=True)
        for name in names:
            made = blank_checkpoint(other=Path("x"))
            torch.save(made, folder / name)
        if len(names) == 2:
            (folder / names[0]).write_bytes((folder / names[0]).read_bytes()[:-100])

    return spoil


def without(name: str) -> Callable[[Place], None]:
    def spoil(place: Place) -> None:
        made = blank_checkpoint()
        del made[name]
        torch.save(made, place.folder / "x.ckpt")

    return spoil


def with_other(**parts: Any) -> Callable[[Place], object]:
    return lambda place: torch.save(blank_checkpoint(**parts), place.folder / "x.ckpt")


COUNTED = {"fit_loop": {"epoch_progress": {"total": {"ready": "../../x"}}}}
KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "weights": ({"state_dict": {"a": 1.0}}, "in its state_dict is a float"),
    "weights that are a list": ({"state_dict": []}, "its state_dict is a list"),
    "optimizers": ({"optimizer_states": ["x"]}, "in its optimizer_states is a str"),
    "a version": ({"pytorch-lightning_version": 2}, "its pytorch-lightning_version is a int"),
    "steps": ({"global_step": "../x"}, "its global_step is a str"),
    "callbacks": ({"callbacks": None}, "its callbacks is a NoneType"),
    "counts": ({"loops": COUNTED}, "its loops count with a str"),
}
CASES = [
    *[
        Case(f"no {name}", GIVEN, SPOILT % f"it has no {name}", without(name))
        for name in ("state_dict", "loops", "callbacks", "optimizer_states", "lr_schedulers")
    ],
    *[
        Case(f"other {name}", GIVEN, SPOILT % said, with_other(**parts))
        for name, (parts, said) in KINDS.items()
    ],
    *[
        Case(
            f"objects in the last one, {verb}",
            ("--ckpt_path=last",),
            CODE % f"{OF_A_RUN}/last.ckpt",
            payload("last.ckpt"),
            verb=verb,
        )
        for verb in ("fit", "validate", "test", "predict", "export")
    ],
    *[
        Case(
            f"objects before a torn one, {verb}",
            ("--ckpt_path=last",),
            CODE % f"{OF_A_RUN}/previous.ckpt",
            payload("last.ckpt", "previous.ckpt"),
            verb=verb,
        )
        for verb in ("fit", "test")
    ],
    Case(
        "PPO's for supervised",
        SUPERVISED,
        OTHER_STAGE.format("ppo", "supervised"),
        stamped(),
    ),
    Case(
        "supervised's for PPO",
        GIVEN,
        OTHER_STAGE.format("supervised", "ppo"),
        stamped(stage="supervised"),
    ),
    Case(
        "a newer format",
        GIVEN,
        "the checkpoint has format 2, this version of detox_lightning reads up to 1: update the "
        "package.",
        stamped(version=2),
    ),
    Case(
        "another base",
        SUPERVISED,
        "the checkpoint doesn't fit: the base is {policy} here, some/base in the checkpoint. "
        f"1 parameter differs ({QUERY.format('A')}: (4, 64) in the checkpoint, (4, 32) here). It "
        f"was made with stage 'supervised', base 'some/base', {LORA.format(4)}: give the same "
        "flags, or leave out --ckpt_path.",
        lambda place: of_supervised(place, 4, "some/base"),
    ),
    Case(
        "an adapter of another rank",
        SUPERVISED,
        "the checkpoint doesn't fit: model.lora.r is 4 here, 2 in the checkpoint. 24 parameters "
        f"differ ({QUERY.format('A')}: (2, 32) in the checkpoint, (4, 32) here; "
        f"{QUERY.format('B')}: (32, 2) in the checkpoint, (32, 4) here; "
        f"{QUERY.format('A').replace('.q.', '.v.')}: (2, 32) in the checkpoint, (4, 32) here). It "
        "was made with stage 'supervised', base '{policy}', " + LORA.format(2) + ": give the same "
        "flags, or leave out --ckpt_path.",
        lambda place: of_supervised(place, 2),
    ),
    Case("Lightning's own", GIVEN, NOT_OURS, lambda place: saved(place, None)),
    Case("a stamp that says nothing", GIVEN, NOT_OURS, lambda place: saved(place, {"version": 1})),
    Case("torn", GIVEN, TORN, torn),
    Case("empty", GIVEN, TORN, put("x.ckpt", b"")),
    Case("an archive of other things", GIVEN, TORN, archive),
    Case(
        "weights alone",
        GIVEN,
        NOT_LIGHTNING,
        lambda place: torch.save({"a": torch.zeros(1)}, place.folder / "x.ckpt"),
    ),
    Case(
        "a list",
        GIVEN,
        NOT_LIGHTNING,
        lambda place: torch.save([1], place.folder / "x.ckpt"),
        verb="export",
    ),
    Case(
        "objects",
        GIVEN,
        "--ckpt_path {folder}/x.ckpt: it holds more than tensors and plain values, and opening "
        "such a file can run code; give one that this package wrote",
        lambda place: torch.save({"a": Path("x")}, place.folder / "x.ckpt"),
    ),
    Case(
        "missing",
        GIVEN,
        "--ckpt_path {folder}/x.ckpt: there is no such file or folder; give a checkpoint, the "
        "folder of a run, or last",
    ),
    Case(
        "a last one of no run",
        ("--ckpt_path=last",),
        "--ckpt_path last: there is no */checkpoints/last*.ckpt in {folder}/runs/tiny; train "
        "first, with fit, or give a checkpoint or the folder of a run",
        verb="test",
    ),
]


@pytest.fixture
def both(place: Place) -> Place:
    config = yaml.safe_load(Path(place.recipe).read_text())
    options = {"model": place.policy, "lora": {"r": 4}, "optimizer": "torch.optim.Adam"}
    config["model"] = {"class_path": "SupervisedModule", "init_args": options}
    (place.folder / "supervised.yaml").write_text(yaml.safe_dump(config))
    return place


@pytest.mark.quick(6)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_checkpoints_that_can_t_be_gone_on_from(case: Case, both: Place) -> None:
    check(case, both)
