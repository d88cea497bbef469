"""What a checkpoint holds, and what is refused."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from jsonargparse.typing import PositiveInt
from lightning.pytorch import LightningModule
from torch import nn

from detox_lightning.errors import InputError
from detox_lightning.models.source import ModelSource
from detox_lightning.runs.checkpoint_reading import BrokenCheckpoint
from detox_lightning.runs.provenance import to_plain
from detox_lightning.stages.checkpoint import load_stage, save_stage
from detox_lightning.stages.faults import Faults
from detox_lightning.stages.flag_changes import misfits


class Tied(LightningModule):
    """As much of a stage as has to do with checkpoints."""

    labels = None

    def __init__(self, width: int = 3, stage: str = "reward", base: str = "some/base"):
        super().__init__()
        self.stage_name, self.source = stage, ModelSource(base)
        self.faults = Faults(3)
        self.frozen = nn.Linear(width, width).requires_grad_(False)
        self.first = nn.Linear(width, width, bias=False)
        self.second = nn.Linear(width, width, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("noted", torch.zeros(2))


def saved(module: Any) -> dict[str, Any]:
    checkpoint = {"state_dict": module.state_dict(), "hyper_parameters": {"a": PositiveInt(3)}}
    save_stage(module, checkpoint, rollouts=3, scores=torch.ones(2))
    return checkpoint


def test_only_what_learns_is_kept_and_tied_weights_once() -> None:
    module = Tied()
    checkpoint = saved(module)
    assert list(checkpoint["state_dict"]) == ["first.weight"]
    other = Tied()
    load_stage(other, checkpoint)
    other.load_state_dict(checkpoint["state_dict"], strict=False)
    assert torch.equal(other.second.weight, module.first.weight)


def test_names_and_shapes_must_agree() -> None:
    with pytest.raises(InputError, match=r"first.weight: \(3, 3\) in the checkpoint, \(4, 4\) her"):
        load_stage(Tied(4), saved(Tied(3)))
    thawed = Tied()
    thawed.frozen.requires_grad_(True)
    with pytest.raises(InputError, match=r"frozen.weight: absent in the checkpoint, \(3, 3\) here"):
        load_stage(thawed, saved(Tied()))
    with pytest.raises(InputError, match=r"2 param.*frozen.weight: \(3, 3\) in .*, absent here"):
        load_stage(Tied(), saved(thawed))
    with pytest.raises(InputError, match="made with stage 'reward', base 'some/base'"):
        load_stage(Tied(4), saved(Tied(3)))


def test_stamp_is_read_back() -> None:
    module, other = Tied(), Tied()
    module.faults.count = 2
    facts = load_stage(other, saved(module))
    assert (facts["rollouts"], other.faults.count) == (3, 2)
    assert facts["scores"].tolist() == [1, 1]


def test_other_stages_formats_and_programs_are_refused() -> None:
    checkpoint = saved(Tied())
    with pytest.raises(InputError, match="of the reward stage, this is the ppo stage"):
        load_stage(Tied(stage="ppo"), checkpoint)
    checkpoint["detox_lightning"]["version"] = 99
    with pytest.raises(InputError, match="update the package"):
        load_stage(Tied(), checkpoint)
    with pytest.raises(InputError, match="not written by detox_lightning"):
        load_stage(Tied(), {"state_dict": {}})


def test_another_base_is_said() -> None:
    with pytest.warns(UserWarning, match="made on 'some/base'; its weights now go onto 'moved'"):
        load_stage(Tied(base="moved"), saved(Tied()))


@pytest.mark.parametrize(
    ("name", "figure", "wanted"),
    [
        ("rollouts", -3, "a whole number from 0 on"),
        ("rollouts", 2.5, "a whole number from 0 on"),
        ("faults", -1, "a whole number from 0 on"),
        ("kl_coef", -5.0, "a number from 0 on"),
        ("kl_coef", "0.2", "a number from 0 on"),
        ("variance", -0.1, "a number from 0 on"),
        ("mean", math.nan, "a number"),
    ],
)
def test_figures_are_numbers_of_their_kind(name: str, figure: object, wanted: str) -> None:
    checkpoint = saved(Tied())
    checkpoint["detox_lightning"] |= {name: figure, "moments": {"mean": -3.0}}
    if name in ("mean", "variance"):
        checkpoint["detox_lightning"]["moments"] = {name: figure}
    said = f"the checkpoint is broken: its {name} is {figure!r}, where {wanted} is expected; give"
    with pytest.raises(BrokenCheckpoint, match=f"^{re.escape(said)}"):
        load_stage(Tied(), checkpoint)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda x: x.int(), "torch.int32"),
        (lambda x: x.bool(), "torch.bool"),
        (lambda x: torch.complex(x, x), "torch.complex64"),
        (lambda x: x.to(torch.float8_e4m3fn), "torch.float8_e4m3fn"),
        (lambda x: x.to("meta"), "torch.float32 without numbers"),
        (lambda x: x.to_sparse(), "torch.float32, torch.sparse_coo"),
    ],
)
def test_weights_of_another_kind_are_refused(
    change: Callable[[torch.Tensor], torch.Tensor], kind: str
) -> None:
    """To load them would cut off what is behind the point."""
    checkpoint = saved(Tied())
    weights = checkpoint["state_dict"]
    weights["first.weight"] = change(weights["first.weight"].detach())
    said = f"the checkpoint is broken: its first.weight is of {kind}, where floating-point numbers"
    with pytest.raises(BrokenCheckpoint, match=f"^{re.escape(said)}"):
        load_stage(Tied(), checkpoint)


def test_weights_of_another_precision_are_taken_up_if_they_fit() -> None:
    checkpoint = saved(Tied())
    weights = checkpoint["state_dict"]
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        weights["first.weight"] = weights["first.weight"].detach().to(dtype)
        load_stage(Tied(), checkpoint)
    weights["first.weight"] = torch.full((3, 3), 1e300, dtype=torch.float64)
    with pytest.raises(BrokenCheckpoint, match="a tensor has weights that are NaN or infinite"):
        load_stage(Tied(), checkpoint)


def test_plain_values() -> None:
    @dataclass
    class Settings:
        r: Any
        names: Any = ("q", "v")

    value = to_plain({"lora": Settings(PositiveInt(4)), "make": lambda: 0, "x": None, "on": True})
    assert value == {"lora": {"r": 4, "names": ["q", "v"]}, "x": None, "on": True}
    assert type(value["lora"]["r"]) is int
    assert value["on"] is True
    assert to_plain(torch.float32) == "torch.float32"


def test_what_differs_is_named_by_its_flag() -> None:
    adapter: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["v", "q"]}
    adapter |= {"use_dora": False, "lora_dropout": 0.0}
    more = {"r": 8, "lora_alpha": 8, "target_modules": ["q", "k"], "use_dora": True}
    head = ["policy.value_head.linear.weight"]
    for here, saved, names, expected in (
        (adapter, {**adapter, "target_modules": ["q", "v"], "lora_dropout": 0.1}, (), []),
        (
            more,
            adapter,
            (head, head),
            [
                "model.lora.r is 8 here, 4 in the checkpoint",
                "model.lora.target_modules is [q, k] here, [v, q] in the checkpoint",
                "model.lora.options.use_dora is True here, False in the checkpoint",
            ],
        ),
        (None, adapter, (), ["model.lora is null here, and the checkpoint holds an adapter"]),
        (
            adapter,
            None,
            (),
            ["model.lora is given here, and the checkpoint holds a whole model (model.lora=null)"],
        ),
        (
            None,
            None,
            (head, []),
            ["model.advantage needs a value head here, and the checkpoint has none"],
        ),
        (
            None,
            None,
            ([], head),
            ["model.advantage needs no value head here, and the checkpoint has one"],
        ),
    ):
        found = misfits({"adapter": here}, {"adapter": saved}, *(names or ([], [])))
        assert list(found) == expected
    revision = misfits({"base_revision": None}, {"base_revision": "v1"}, [], [])
    assert list(revision) == ["the base's revision is null here, v1 in the checkpoint"]
    # an earlier version didn't say
    assert list(misfits({"base_revision": "v2"}, {}, [], [])) == []


def test_a_misfit_names_another_base_first() -> None:
    with pytest.raises(InputError) as caught:
        load_stage(Tied(4, base="other/base"), saved(Tied(3)))
    assert str(caught.value) == (
        "the checkpoint doesn't fit: the base is other/base here, some/base in the checkpoint. 1 "
        "parameter differs (first.weight: (3, 3) in the checkpoint, (4, 4) here). It was made with "
        "stage 'reward', base 'some/base': give the same flags, or leave out --ckpt_path."
    )
