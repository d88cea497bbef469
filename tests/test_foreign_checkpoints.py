"""Checkpoints of others neither run code nor choose where files go."""

from pathlib import Path

import pytest
import torch

from command import printed
from detox_lightning.resume import run_name


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_checkpoints_are_opened_as_plain_values_unless_asked(verb: str) -> None:
    """Lightning would open those from an address with all that they bring."""
    demo = ("--config", "configs/demo.yaml")
    assert printed(verb, *demo)["weights_only"] is True
    assert printed(verb, *demo, "--weights_only=false")["weights_only"] is False


@pytest.mark.parametrize(
    ("told", "name"),
    [("version_3", "version_3"), ("my run", "my run"), (None, None), (7, None)]
    + [(bad, None) for bad in ("../../x", "/etc/x", "..", "", "a\\b", "a\0b", "a/b")],
)
def test_the_run_s_name_stays_inside(tmp_path: Path, told: object, name: str | None) -> None:
    file = tmp_path / "last.ckpt"
    torch.save({"run": told}, file)
    assert run_name(file) == name
