"""Every architecture goes through rollout, update, save and load."""

from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from architectures import CONFIGS, DECODER_ONLY, save_random
from conftest import word_tokenizer
from detox_lightning.errors import InputError
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.lora import LoRA
from detox_lightning.models.policy import load_policy
from detox_lightning.models.saving import save_merged, save_model
from numerics import EXACT, FLOAT32, in_float64
from ppo_toys import fit, make_module
from toys import PAIRS, collate_pairs


@pytest.fixture(scope="module", params=[*CONFIGS, *DECODER_ONLY])
def any_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random model with its tokenizer."""
    return save_random(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module", params=CONFIGS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """One with an encoder."""
    return save_random(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.quick(4)
def test_log_probabilities_are_those_of_the_model_s_own_loss(folder: str) -> None:
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    policy = load_policy(folder, LoRA(r=2), Sampling())
    batch = collate_pairs(PAIRS[:3])
    labels = batch.target_ids.masked_fill(~batch.target_mask, -100)
    policy.value_head.linear.weight.data.fill_(1)
    rows = batch.prompt_ids, batch.prompt_mask, batch.target_ids
    with torch.no_grad(), in_float64(model, policy):
        output = policy(*rows)
        with_logits = policy.with_logits(*rows)[0]
        theirs = model(*rows[:2], labels=labels, output_hidden_states=True)
    ours = -output.logprobs[batch.target_mask].mean()
    torch.testing.assert_close(ours, theirs.loss, atol=EXACT, rtol=0)
    # none of them loses a bias or a scale where no logits are made
    assert policy.avoids_logits == ("T5Gemma" not in folder)  # whose logits are bent
    for lean, whole in zip(output, with_logits, strict=True):
        torch.testing.assert_close(lean, whole, atol=EXACT, rtol=EXACT)
    # the value head reads what the head of the language model reads
    hidden = theirs.decoder_hidden_states[-1].sum(dim=-1)
    torch.testing.assert_close(output.values, hidden, atol=EXACT, rtol=EXACT)


@pytest.mark.quick(5)
def test_it_learns_and_is_saved_and_opened(
    any_folder: str, tiny_classifier: str, tmp_path: Path
) -> None:
    module = make_module(any_folder, tiny_classifier)
    fit(tmp_path, module, rollouts=2)
    first, last = module.watched
    assert first.metrics["objective/kl"] == pytest.approx(0, abs=8 * FLOAT32)  # of 8 tokens
    responses = first.responses  # those of the first mini-batch, in its order
    rows, logprobs = first.orders[0][:4], first.forwards[0].logprobs
    mask, recorded = (x[rows, : logprobs.shape[1]] for x in (responses.mask, responses.stats[0]))
    torch.testing.assert_close(logprobs * mask, recorded * mask, atol=FLOAT32, rtol=0)
    assert logprobs.shape == first.responses.ids[:4].shape
    changed = {name for name in last.after if not torch.equal(last.after[name], first.before[name])}
    assert any("lora_B" in name for name in changed)
    assert "policy.value_head.linear.weight" in changed

    module.export(tmp_path / "adapter")
    again = load_policy(str(tmp_path / "adapter"), LoRA(), Sampling())
    batch = collate_pairs(PAIRS[:4], module.source.family.padding_side)
    rows = batch.prompt_ids, batch.prompt_mask, batch.target_ids
    same = partial(torch.testing.assert_close, atol=EXACT, rtol=EXACT)
    with torch.no_grad(), in_float64(again, module.policy):
        same(again(*rows).logprobs, module.policy(*rows).logprobs)
        with again.reference():  # an adapter's reference is the adapter as it was
            same(again(*rows).logprobs, module.policy(*rows).logprobs)
        with module.policy.reference():
            base = module.policy(*rows).logprobs
        assert not torch.allclose(base, again(*rows).logprobs, atol=1e-4)


@pytest.mark.quick(3)
def test_a_trained_head_survives_merging_or_is_refused(folder: str, tmp_path: Path) -> None:
    """Where a base ties its head to its embeddings, and the head was trained."""
    if "BERT2BERT" in folder:
        pytest.skip("its head is no module of its own")
    policy = load_policy(folder, LoRA(r=2, modules_to_save=["lm_head"]), Sampling())
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape)
    save_model(policy.model, word_tokenizer(), tmp_path / "adapter")
    to = tmp_path / "merged"
    if policy.base.config.model_type in ("bart", "pegasus", "marian"):
        with pytest.raises(InputError, match="ties its embeddings"):
            save_merged(tmp_path / "adapter", to, "AutoModelForSeq2SeqLM")
        return
    save_merged(tmp_path / "adapter", to, "AutoModelForSeq2SeqLM")
    merged = AutoModelForSeq2SeqLM.from_pretrained(to).eval()
    batch = collate_pairs(PAIRS[:3])
    rows = {"input_ids": batch.prompt_ids, "attention_mask": batch.prompt_mask}
    with torch.no_grad():
        ours = policy.base(**rows, decoder_input_ids=batch.target_ids).logits
        theirs = merged(**rows, decoder_input_ids=batch.target_ids).logits
    torch.testing.assert_close(theirs, ours, atol=FLOAT32, rtol=0)
