"""``PPOTrainer(exact=True)``, given recorded responses and scores, gives TRL's numbers."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM

from conftest import word_tokenizer
from detox_lightning.compat.trl import (
    AutoModelForSeq2SeqLMWithValueHead,
    PPOConfig,
    PPOTrainer,
    create_reference_model,
)
from detox_lightning.models.value_head import restore
from golden.conftest import REPLAYED
from golden.deviations import EXACT, PER_TOKEN, Deviations
from golden.records import DATA, golden_set
from numerics import in_float64

SETS = [name for name in REPLAYED if name != "whiten"]  # it is refused
EPISODES = json.loads((DATA / "episodes.json").read_text())["steps"]


def recorded_model() -> Any:
    """The recorded policy with its value head, opened as a notebook opens it."""
    base = AutoModelForSeq2SeqLM.from_pretrained(DATA / "policy")
    tuned = PeftModel.from_pretrained(base, DATA / "adapter_init", is_trainable=True)
    model = AutoModelForSeq2SeqLMWithValueHead.from_pretrained(tuned, is_trainable=True)
    head = load_file(DATA / "adapter_init" / "v_head.safetensors")
    saved = {name.replace("summary.", "linear."): x for name, x in head.items()}
    assert restore(model.v_head, saved)
    return model


@pytest.mark.quick(4)
@pytest.mark.parametrize("name", SETS)
def test_numbers(name: str, deviations: Deviations, monkeypatch: pytest.MonkeyPatch) -> None:
    golden, model = golden_set(name), recorded_model()
    config = PPOConfig(**golden.config)
    orders = (np.array(x) for step in golden.steps for x in step["permutations"])
    monkeypatch.setattr(np.random, "permutation", lambda count: next(orders))
    # the reference that it is given is ignored, as TRL ignores it
    reference = create_reference_model(model)
    trainer = PPOTrainer(config, model, reference, word_tokenizer(), exact=True)
    named = {"pretrained_model.": "policy.model.", "v_head.": "policy.value_head."}
    with in_float64(model):
        for step, (recorded, episode) in enumerate(zip(golden.steps, EPISODES, strict=False)):
            assert trainer.kl_coef == pytest.approx(recorded["kl_coef_before"], abs=1e-9)
            tokens = ([torch.tensor(x) for x in episode[key]] for key in ("queries", "responses"))
            stats = trainer.step(*tokens, [torch.tensor(x) for x in episode["scores"]])
            theirs = recorded["trl_stats"]
            for key, figure in theirs.items():
                if key.startswith("tokens/"):  # TRL's lengths count the start token
                    continue
                tolerance = PER_TOKEN if key.startswith("objective/") else EXACT
                deviations.check(name, f"compat {key}", stats[key], figure, None, tolerance)
            if after := golden.parameters(step, "param_after"):
                parameters = {
                    new + key.removeprefix(old): parameter
                    for key, parameter in model.named_parameters()
                    for old, new in named.items()
                    if key.startswith(old)
                }
                deviations.check_parameters(name, "compat param_after", parameters, after)
            assert trainer.kl_coef == pytest.approx(recorded["kl_coef_after"], abs=EXACT)
