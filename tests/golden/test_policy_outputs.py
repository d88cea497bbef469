"""The policy and its reference say, word for word, what they said under TRL."""

import contextlib
from pathlib import Path

import pytest
from safetensors.torch import load_file

from detox_lightning.algorithm.masks import mask_from_lengths, response_lengths
from detox_lightning.models.decoding.sampling import greedy
from golden.records import DATA, episodes
from golden.replay import open_policy


@pytest.mark.parametrize("who", ["policy", "ref"])
def test_greedy_responses(who: str, tmp_path: Path) -> None:
    policy = open_policy(tmp_path)
    recorded = load_file(DATA / "forward.safetensors")[f"{who}.greedy_ids"][:, 1:]
    batch = episodes()[0][0]
    prompts = batch.prompt_ids[:4], batch.prompt_mask[:4]
    with policy.reference() if who == "ref" else contextlib.nullcontext():
        ours = policy.generate(policy.encode_prompts(*prompts), greedy, 20).ids
    mask = mask_from_lengths(response_lengths(recorded, policy.eos_token_ids), recorded.shape[1])
    assert ours.shape == recorded.shape
    assert (ours == recorded)[mask].all()
