"""Programs that were written for TRL 0.8 run with another import, and learn what they should."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from conftest import FEELINGS, NAMES, tiny_t5_model, word_tokenizer
from detox_lightning.compat.trl import (
    AutoModelForCausalLMWithValueHead,
    AutoModelForSeq2SeqLMWithValueHead,
    LengthSampler,
    PPOConfig,
    PPOTrainer,
    create_reference_model,
)
from detox_lightning.errors import InputError, TrainingError
from detox_lightning.models.decoding.sampling import Sampling
from numerics import FLOAT32
from pages import ROOT, blocks

EOS = 1
LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1}
SAMPLING = {"min_length": -1, "top_k": 0.0, "top_p": 1.0, "do_sample": True, "max_new_tokens": 6}
NOTEBOOK = [block.code for block in blocks(ROOT / "docs/notebooks.md") if block.title == "notebook"]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a random GPT-2 of 2 layers of 32, and a tokenizer without padding."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 200}
    GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=1)).save_pretrained(folder)
    tokenizer = word_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def begun(tiny_t5: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An adapter that was trained before: its model isn't its base."""
    torch.manual_seed(1)
    base = AutoModelForSeq2SeqLM.from_pretrained(tiny_t5)
    config = LoraConfig(
        **LORA, target_modules=["q", "v"], task_type="SEQ_2_SEQ_LM", init_lora_weights=False
    )
    folder = str(tmp_path_factory.mktemp("begun"))
    get_peft_model(base, config).save_pretrained(folder)
    return folder


def dialogues(*_: Any, **__: Any) -> datasets.Dataset:
    """Two dialogues for each feeling, in DialogSum's columns."""
    rows = [f"{name} : I am {feeling} ." for name in NAMES[:2] for feeling in FEELINGS]
    rows = [*rows, *rows[:4]]  # a fifth of them is for tests
    return datasets.Dataset.from_dict({"id": list(range(len(rows))), "dialogue": rows})


def parameters_of(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def has_moved(before: dict[str, torch.Tensor], model: Any) -> bool:
    """Whether each learning matrix but those behind a zero, and the value head, changed."""
    after = parameters_of(model)
    assert after.keys() == before.keys()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    return {name for name in after if "lora_A" not in name} <= moved


def notebook(places: dict[str, str], *left_out: str) -> dict[str, Any]:
    """Runs the page's notebook but for its evaluation, small, with the import changed.

    Args:
        places: The folders that stand for what is on the hub.
        left_out: Lines of one of the two notebooks.
    """
    small = {
        "from trl.core": "from detox_lightning.compat.trl",
        "from trl": "from detox_lightning.compat.trl",
        "200 < len": "1 < len",
        "LengthSampler(100, 400)": "LengthSampler(6, 9)",
        "batch_size=16": "batch_size=8",
        "step >= 10": "step >= 2",
        "print(": "kept.append(",
        **places,
        **dict.fromkeys(left_out, ""),
    }
    code = "\n".join(NOTEBOOK[:4] + NOTEBOOK[5:7])
    for theirs, ours in small.items():
        assert theirs in code, theirs
        code = code.replace(theirs, ours)
    names: dict[str, Any] = {"torch": torch, "kept": []}
    setting, loop = code.split("for step, batch in")
    exec(setting, names)
    names["before"] = parameters_of(names["policy"])
    exec("for step, batch in" + loop, names)
    return names


@pytest.mark.parametrize("kind", ["fresh", "begun"])
def test_the_notebooks(
    kind: str,
    tiny_t5: str,
    tiny_classifier: str,
    begun: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(datasets, "load_dataset", dialogues)
    hate = "facebook/roberta-hate-speech-dynabench-r4-target"
    places = {"google/flan-t5-base": tiny_t5, hate: tiny_classifier}
    fresh, other = (
        "tuned = get_peft_model(base, lora)\n",
        'tuned = PeftModel.from_pretrained(\n    base, "ADAPTER", is_trainable=True\n)\n',
    )
    if kind == "fresh":
        names = notebook(places, other)
    else:
        names = notebook({**places, "ADAPTER": begun}, fresh)
    trainer, policy = names["trainer"], names["policy"]
    kl, returns, advantages, *later = names["kept"]
    assert abs(kl) < FLOAT32  # the reference is the policy, not its base
    assert len(later) == 3
    assert np.isfinite([returns, advantages, *later]).all()
    assert has_moved(names["before"], policy)
    assert set(names["batch"]) == {"input_ids", "query"}
    assert not any(layer.training for layer in trainer.policy.modules())  # no dropout

    trainer.save_pretrained(tmp_path)
    saved = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(tiny_t5), tmp_path)
    ids = torch.tensor([[5, 6, 1]])
    ours = policy.pretrained_model(input_ids=ids, decoder_input_ids=ids).logits
    assert torch.allclose(saved(input_ids=ids, decoder_input_ids=ids).logits, ours, atol=FLOAT32)
    again = AutoModelForSeq2SeqLMWithValueHead.from_pretrained(tmp_path, is_trainable=True)
    assert torch.equal(again.v_head.linear.weight, policy.v_head.linear.weight)
    assert policy.v_head.linear.weight.any()
    assert AutoTokenizer.from_pretrained(tmp_path).vocab_size == 200


@pytest.mark.parametrize("lora", [None, LoraConfig(**LORA, task_type="CAUSAL_LM")])
def test_the_sentiment_script(lora: Any, gpt2: str, tmp_path: Path) -> None:
    """TRL's: queries of several lengths, the reference's responses, TensorBoard."""
    tokenizer = AutoTokenizer.from_pretrained(gpt2)
    tokenizer.pad_token = tokenizer.eos_token
    lengths = LengthSampler(2, 6)

    def tokenize(row: Any) -> Any:
        row["input_ids"] = tokenizer.encode(row["dialogue"])[: lengths()]
        row["query"] = tokenizer.decode(row["input_ids"])
        return row

    dataset = dialogues().map(tokenize)
    dataset.set_format(type="torch")
    config = PPOConfig(
        model_name=gpt2,
        learning_rate=1e-2,
        batch_size=8,
        mini_batch_size=2,
        gradient_accumulation_steps=2,
        ppo_epochs=2,
        max_grad_norm=0.5,
        log_with="tensorboard",
        project_kwargs={"logging_dir": str(tmp_path / "logs")},
    )
    model = AutoModelForCausalLMWithValueHead.from_pretrained(gpt2, peft_config=lora)
    ref_model = None if lora else AutoModelForCausalLMWithValueHead.from_pretrained(gpt2)
    trainer = PPOTrainer(
        config,
        model,
        ref_model,
        tokenizer,
        dataset=dataset,
        data_collator=lambda rows: {key: [row[key] for row in rows] for key in rows[0]},
    )
    assert trainer.accelerator.num_processes == 1
    assert trainer.accelerator.state.deepspeed_plugin is None
    before, kls, steps = parameters_of(model), [], []
    trainer.optimizer.register_step_pre_hook(lambda *_: steps.append(1))
    asked = {"generate_ref_response": True, "max_new_tokens": 6}
    untrained, same = trainer.generate(torch.tensor([5, 6]), **asked)
    assert torch.equal(untrained, same)
    for _, batch in enumerate(trainer.dataloader):
        queries = [query.to(trainer.accelerator.device) for query in batch["input_ids"]]
        options = {"return_prompt": False, "generate_ref_response": True, **SAMPLING}
        responses, others = trainer.generate(queries, **options)
        assert {row.dim() for row in responses + others} == {1}
        batch["response"] = tokenizer.batch_decode(responses)
        scores = [torch.tensor(float(len(text) % 5)) for text in batch["response"]]
        stats = trainer.step(queries, responses, scores)
        trainer.log_stats(stats, batch, scores, columns_to_log=["query", "response"])
        kls.append(stats["objective/kl"])
    assert abs(kls[0]) < FLOAT32 < abs(kls[1])
    assert len(steps) == 2 * 2 * 2  # of four responses each
    trained, same = trainer.generate(torch.tensor([5, 6]), **asked)
    assert torch.equal(untrained, same)
    if lora is None:  # an adapter moves too little in two steps
        assert not torch.equal(untrained, trained)
    assert has_moved(before, model)
    events = EventAccumulator(str(tmp_path / "logs" / "trl")).Reload()
    written = events.Scalars("objective/kl")
    assert [event.step for event in written] == [1, 2]
    assert [event.value for event in written] == pytest.approx(kls)
    rewarded = events.Scalars("env/reward_mean")[-1].value
    assert rewarded == pytest.approx(float(torch.stack(scores).mean()))
    trainer.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLMWithValueHead.from_pretrained(tmp_path / "saved")
    assert again.is_peft_model == (lora is not None)
    ids = torch.tensor([[5, 6, 7]])
    logits = [x.pretrained_model(input_ids=ids).logits for x in (again, model)]
    assert torch.allclose(*logits, atol=FLOAT32)
    assert torch.equal(again.v_head.linear.weight, model.v_head.linear.weight)


def test_a_base_without_a_name_can_be_saved(tmp_path: Path) -> None:
    adapter = LoraConfig(**LORA, target_modules=["q", "v"])
    model = AutoModelForSeq2SeqLMWithValueHead.from_pretrained(tiny_t5_model(), adapter)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny_t5_model(), tmp_path)
    assert again.peft_config["default"].r == 4


def toy_trainer(
    kind: Any, name: str, lora: bool = True, exact: bool = False, **options: Any
) -> PPOTrainer:
    adapter = LoraConfig(**LORA, init_lora_weights=False) if lora else None
    torch.manual_seed(0)
    model = kind.from_pretrained(name, peft_config=adapter)
    sizes = {"batch_size": 4, "mini_batch_size": 2, "learning_rate": 1e-2}
    config = PPOConfig(**{**sizes, **options})
    return PPOTrainer(config, model, tokenizer=word_tokenizer(), exact=exact)


QUERIES = [torch.tensor(row) for row in ([5, 6, EOS], [7, EOS], [8, 9, 10, EOS], [11, EOS])]
SCORES = [torch.tensor(x) for x in (1.0, -1.0, 0.5, 0.0)]


def heard(trainer: PPOTrainer, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The rollouts that a trainer measures."""
    from detox_lightning.compat import trl

    function, found = trl.measure, []
    monkeypatch.setattr(
        trl, "measure", lambda *x, **y: found.append(function(*x, **y)) or found[-1]
    )
    return found


def test_what_is_generated_is_transformers(tiny_t5: str, gpt2: str) -> None:
    """The likeliest tokens, one by one and in batches."""
    for kind, name in (
        (AutoModelForSeq2SeqLMWithValueHead, tiny_t5),
        (AutoModelForCausalLMWithValueHead, gpt2),
    ):
        trainer = toy_trainer(kind, name)
        for query in QUERIES:
            options = {"max_new_tokens": 8, "min_length": 7, "do_sample": False}
            ours = trainer.generate(query, **options)
            theirs = trainer.model.generate(
                input_ids=query[None], attention_mask=torch.ones_like(query)[None], **options
            )
            assert ours.tolist() == theirs.tolist()
        batched = trainer.generate(QUERIES, batch_size=2, **options | {"min_length": 0})
        single = [
            trainer.generate(query, **options | {"min_length": 0})[0].tolist() for query in QUERIES
        ]
        assert [row.tolist() for row in batched] == single


def test_min_length_counts_the_start_token_or_the_prompts(tiny_t5: str, gpt2: str) -> None:
    asked = {"max_new_tokens": 8, "min_length": 7, "do_sample": True}
    for kind, name, least in (
        (AutoModelForSeq2SeqLMWithValueHead, tiny_t5, 6),
        (AutoModelForCausalLMWithValueHead, gpt2, 3),  # the longest prompt has four tokens
    ):
        trainer = toy_trainer(kind, name)
        rows = trainer.generate(QUERIES, return_prompt=False, **asked)
        assert trainer.policy.sampling == Sampling(8, least)
        assert not any(EOS in row[:least] for row in rows)
        assert not trainer.model.train().training  # dropout would sample from another policy


def test_lengths_are_drawn_for_each_batch(tiny_t5: str) -> None:
    trainer = toy_trainer(AutoModelForSeq2SeqLMWithValueHead, tiny_t5)
    drawn = iter([3, 5])
    options = {"min_new_tokens": 9, "do_sample": True, "batch_size": 2}
    rows = trainer.generate(QUERIES, length_sampler=lambda: next(drawn), **options)
    assert [len(row) - 1 for row in rows] == [3, 3, 5, 5]
    np.random.seed(0)
    assert {LengthSampler(2, 5)() for _ in range(99)} == {2, 3, 4}


def test_start_tokens_prompts_and_what_follows_the_end_are_left_out(
    tiny_t5: str, gpt2: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = toy_trainer(AutoModelForSeq2SeqLMWithValueHead, tiny_t5)
    found = heard(trainer, monkeypatch)
    given = [[0, 5, 6, EOS], [5, 6, 7], [0, EOS, 0, 0], [0, 0, 8]]
    trainer.step(QUERIES, [torch.tensor(row) for row in given], SCORES)
    kept = zip(found[0].response_ids, found[0].response_mask, strict=True)
    learned = [ids[mask].tolist() for ids, mask in kept]
    assert learned == [[5, 6, EOS], [5, 6, 7], [EOS], [0, 8]]

    trainer = toy_trainer(AutoModelForCausalLMWithValueHead, gpt2)
    answers = trainer.generate(QUERIES, return_prompt=False, **SAMPLING)
    whole = [torch.cat(pair) for pair in zip(QUERIES, answers, strict=True)]
    trainer.step(QUERIES, [row[-8:] for row in whole], SCORES)  # as the detoxification script does
    kept = zip(found[1].response_ids, found[1].response_mask, strict=True)
    assert [ids[mask].tolist() for ids, mask in kept] == [row.tolist() for row in answers]


def test_log_probabilities_are_the_samplers(tiny_t5: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of temperature and minimum length; with ``exact``, of the bare model."""
    for exact in (False, True):
        trainer = toy_trainer(AutoModelForSeq2SeqLMWithValueHead, tiny_t5, exact=exact)
        found = heard(trainer, monkeypatch)
        options = {"max_new_tokens": 5, "min_length": 4, "temperature": 0.5, "do_sample": True}
        rows = trainer.generate(QUERIES, **options)
        trainer.generate(QUERIES, max_new_tokens=9)  # what isn't drawn isn't learned
        policy = trainer.model.pretrained_model
        with torch.no_grad():
            logits = policy(input_ids=QUERIES[0][None], decoder_input_ids=rows[0][None]).logits[0]
        trainer.step(QUERIES, rows, SCORES)
        if not exact:
            logits[:3, EOS] = -torch.inf
            logits /= 0.5
        expected = logits.log_softmax(-1)[:-1].gather(1, rows[0][1:, None])[:, 0]
        ours = found[0].old_logprobs[0]
        assert torch.allclose(ours[: len(expected)][exact:], expected[exact:], atol=10 * FLOAT32)
        assert bool(found[0].response_mask[0, 0]) is not exact


def test_the_reference_is_what_is_given_or_the_policy(tiny_t5: str, begun: str) -> None:
    kl = {}
    for name in ("given", "none", "exact", "base"):
        model = AutoModelForSeq2SeqLMWithValueHead.from_pretrained(begun)
        base = AutoModelForSeq2SeqLMWithValueHead.from_pretrained(tiny_t5)
        reference = {"none": None, "base": base}.get(name, create_reference_model(model))
        config = PPOConfig(batch_size=4, mini_batch_size=4, ppo_epochs=1)
        trainer = PPOTrainer(config, model, reference, word_tokenizer(), exact=name == "exact")
        rows = [torch.tensor([0, 5, 6, 7, EOS])] * 4
        kl[name] = trainer.step(QUERIES, rows, SCORES)["objective/kl"]
    assert kl["given"] == pytest.approx(0, abs=4 * FLOAT32)  # of 4 tokens
    assert kl["none"] == pytest.approx(0, abs=4 * FLOAT32)
    assert abs(kl["base"]) > 0.1
    # of tokens 2 to 4 only
    assert abs(kl["exact"]) > 0.1
    assert kl["exact"] != pytest.approx(kl["base"], abs=0.01)


def test_layers_can_be_shared(gpt2: str) -> None:
    model = AutoModelForCausalLMWithValueHead.from_pretrained(gpt2)
    reference = create_reference_model(model, num_shared_layers=1)
    shared = {id(p) for p in model.parameters()} & {id(p) for p in reference.parameters()}
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert {n for n, p in model.named_parameters() if id(p) in shared} == frozen
    assert all(".wte." in n or ".wpe." in n or ".h.0." in n for n in frozen)
    assert len(frozen) == 14
    assert not any(p.requires_grad for p in reference.parameters())
    config = PPOConfig(batch_size=4, mini_batch_size=4, learning_rate=1e-2)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-2)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    options = {"optimizer": optimizer, "lr_scheduler": schedule, "num_shared_layers": 1}
    trainer = PPOTrainer(config, model, tokenizer=word_tokenizer(), **options)
    rows = trainer.generate(QUERIES, return_prompt=False, **SAMPLING)
    rates = [trainer.step(QUERIES, rows, SCORES)["ppo/learning_rate"] for _ in range(2)]
    assert rates == [1e-2, 5e-3]
    assert {n for n, p in model.named_parameters() if p.grad is None} >= frozen


@pytest.mark.parametrize("exact", [False, True])
def test_gradients_are_clipped_at_every_step(exact: bool, tiny_t5: str) -> None:
    """With ``exact`` at the first alone, as by TRL."""
    options = {"max_grad_norm": 1e-3, "ppo_epochs": 2}
    trainer = toy_trainer(AutoModelForSeq2SeqLMWithValueHead, tiny_t5, exact=exact, **options)
    norms: list[float] = []

    def note(optimizer: Any, *_: Any) -> None:
        gradients = [p.grad.norm() for p in optimizer.param_groups[0]["params"]]
        norms.append(float(torch.stack(gradients).norm()))

    trainer.optimizer.register_step_pre_hook(note)
    trainer.step(QUERIES, [torch.tensor([0, 5, 6, 7, EOS])] * 4, SCORES)
    first, *later = norms
    assert len(norms) == 4
    assert first == pytest.approx(1e-3, rel=1e-3)
    assert all((norm > 1.1e-3) is exact for norm in later)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"log_with": "wandb"}, r"PPOConfig\(log_with='wandb'\): give one of \[None, 'tensorboard'\]"),
    ({"log_with": "tensorboard"}, "project_kwargs={'logging_dir': FOLDER}"),
    ({"kl_penalty": "k3"}, r"PPOConfig\(kl_penalty='k3'\): give one of \['kl', 'abs', 'mse'"),
    ({"batch_size": 6, "mini_batch_size": 4}, "batch_size=6 is not a multiple of mini_batch_size"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_options_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PPOConfig(**options)


def test_models_that_are_refused(
    tiny_t5: str, gpt2: str, begun: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PPOConfig(batch_size=4, mini_batch_size=2)
    plain = AutoModelForSeq2SeqLM.from_pretrained(tiny_t5)
    fixed = PeftModel.from_pretrained(plain, begun)
    tokenizer = word_tokenizer()

    def refuse(message: str, model: Any, config: PPOConfig = config, **options: Any) -> None:
        with pytest.raises(InputError, match=message):
            PPOTrainer(config, model, tokenizer=tokenizer, **options)

    refuse(r"needs model=AutoModelFor.*WithValueHead.*the model is a T5ForCond", plain)
    refuse("is_trainable=True", AutoModelForSeq2SeqLMWithValueHead.from_pretrained(fixed))
    half = AutoModelForCausalLM.from_pretrained(gpt2, dtype=torch.bfloat16)
    refuse("small steps are lost", AutoModelForCausalLMWithValueHead(half))
    model = AutoModelForSeq2SeqLMWithValueHead.from_pretrained(begun)
    sizes = {"batch_size": 4, "mini_batch_size": 2}
    for wrong in ({"whiten_rewards": True}, {"gradient_accumulation_steps": 2}):
        refuse("exact=True: TRL mixes padding", model, PPOConfig(**sizes, **wrong), exact=True)
    with pytest.raises(
        InputError,
        match="gpt2: give such a model to AutoModelForCausalLMWithValueHead",
    ):
        AutoModelForSeq2SeqLMWithValueHead.from_pretrained(half)
    for wrong in ({"load_in_8bit": True}, {"torch_dtype": torch.float16}):
        with pytest.raises(InputError, match=f"from_pretrained.{next(iter(wrong))}.*: known are"):
            AutoModelForSeq2SeqLMWithValueHead.from_pretrained(tiny_t5, **wrong)
    with pytest.raises(InputError, match="and tokenizer=…"):
        PPOTrainer(config, model)
    monkeypatch.setenv("WORLD_SIZE", "2")
    refuse("one process: start it without torchrun", model)


def test_calls_that_are_refused(tiny_t5: str) -> None:
    trainer = toy_trainer(AutoModelForSeq2SeqLMWithValueHead, tiny_t5)
    asked = {
        r"generate\(num_beams=4\) is not carried over: leave it out": {"num_beams": 4},
        r"generate\(eos_token_id=-1\) is not": {"eos_token_id": -1},
        "give max_new_tokens, or a length_sampler": {"max_new_tokens": None},
    }
    for message, options in asked.items():
        with pytest.raises(InputError, match=message):
            trainer.generate(QUERIES, **{**SAMPLING, **options})
    rows = trainer.generate(QUERIES, **SAMPLING, eos_token_id=EOS)
    given: dict[str, tuple[Any, ...]] = {
        r"step\(queries\): give a list of batch_size=4": (QUERIES[:3], rows, SCORES),
        r"step\(scores\): give a list": (QUERIES, rows, torch.ones(4)),
        r"rows of tokens, not of shape \[0\]": (QUERIES, [*rows[:3], rows[0][:0]], SCORES),
    }
    for message, lists in given.items():
        with pytest.raises(InputError, match=message):
            trainer.step(*lists)
    with pytest.raises(InputError, match=r"not of shape \[1, 3\]"):
        trainer.generate(QUERIES[0][None], **SAMPLING)
    nan = [*SCORES[:3], torch.tensor(torch.nan)]
    with pytest.raises(TrainingError, match=r"step\(\): the loss is nan.*score that is not finite"):
        trainer.step(QUERIES, rows, nan)
    exact = toy_trainer(AutoModelForSeq2SeqLMWithValueHead, tiny_t5, exact=True)
    with pytest.raises(InputError, match="a response lacks the start token"):
        exact.step(QUERIES, [torch.tensor([5, 6])] * 4, SCORES)
