"""What a policy can begin from."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from conftest import word_tokenizer
from detox_lightning.errors import InputError
from detox_lightning.models import loading, lora
from detox_lightning.models.adapters import Base, adapter_base
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.loading import Weights
from detox_lightning.models.lora import LoRA
from detox_lightning.models.opening import open_by_name
from detox_lightning.models.policy import Policy, load_policy
from detox_lightning.models.saving import save_merged, save_model
from detox_lightning.models.source import VALUE_HEAD as HEAD
from detox_lightning.models.source import ModelSource
from detox_lightning.stages.reward import RewardModule
from detox_lightning.stages.supervised import SupervisedModule
from numerics import EXACT, FLOAT32, in_float64
from ppo_toys import equal, fit, make_module
from toys import PAIRS, collate_pairs, make_trainer, pairs_loader

BROKEN = "this is no checkpoint of detox_lightning, or a damaged one; give another one"
SHAPES = {
    "LoRA": LoRA(r=2),
    "DoRA": LoRA(r=2, options={"use_dora": True}),
    "rsLoRA": LoRA(r=4, options={"use_rslora": True}),
    "ranks": LoRA(r=2, options={"rank_pattern": {"v": 4}, "alpha_pattern": {"v": 8}}),
    "more": LoRA(r=2, target_modules=["q", "wi_0"], modules_to_save=["lm_head"]),
}


def logprobs(policy: Policy) -> torch.Tensor:
    batch = collate_pairs(PAIRS[:4])
    with torch.no_grad(), in_float64(policy):
        return policy(batch.prompt_ids, batch.prompt_mask, batch.target_ids).logprobs


def reference_logprobs(policy: Policy) -> torch.Tensor:
    with policy.reference():
        return logprobs(policy)


def supervised(folder: Path, model: str, lora: LoRA | None) -> tuple[SupervisedModule, str]:
    """A summarizer of one epoch, and its checkpoint."""
    torch.manual_seed(0)
    module = SupervisedModule(model, lora, optimizer=lambda params: torch.optim.SGD(params, lr=0.5))
    trainer = make_trainer(folder, max_epochs=1)
    trainer.fit(module, pairs_loader(4))
    trainer.save_checkpoint(folder / "it.ckpt")
    module.model.eval()
    return module, str(folder / "it.ckpt")


@pytest.mark.quick(2)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_supervised_checkpoint(tiny_t5: str, tmp_path: Path, shape: str) -> None:
    module, checkpoint = supervised(tmp_path, tiny_t5, SHAPES[shape])
    assert ModelSource.resolve(checkpoint) == ModelSource(tiny_t5, checkpoint=checkpoint)
    policy = load_policy(checkpoint, LoRA(r=16), Sampling())
    save_model(module.model, word_tokenizer(), tmp_path / "adapter")
    from_folder = load_policy(str(tmp_path / "adapter"), LoRA(), Sampling())
    trained = logprobs(policy)
    untrained = logprobs(load_policy(tiny_t5, LoRA(r=2), Sampling()))
    assert not torch.allclose(trained, untrained, atol=1e-3)
    torch.testing.assert_close(trained, logprobs(from_folder), atol=EXACT, rtol=0)
    # the reference is a frozen copy of it
    torch.testing.assert_close(reference_logprobs(policy), trained, atol=EXACT, rtol=0)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += 0.1
    torch.testing.assert_close(reference_logprobs(policy), trained, atol=EXACT, rtol=0)
    assert not torch.allclose(logprobs(policy), trained, atol=1e-3)
    assert not [n for n, p in policy.named_parameters() if p.requires_grad and "reference" in n]


def test_a_checkpoint_or_a_folder_of_ppo_itself(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The value head goes on, too, where there is one in either and it fits."""
    module = make_module(tiny_t5, tiny_classifier)
    trainer = fit(tmp_path, module, rollouts=1)
    assert "The value head goes on" not in caplog.text
    checkpoint, adapter = str(tmp_path / "ppo.ckpt"), str(tmp_path / "adapter")
    trainer.save_checkpoint(checkpoint)
    module.export(adapter)
    head = module.policy.value_head.linear.weight
    assert head.abs().max() > 1e-3
    for name in (checkpoint, adapter):
        again = load_policy(name, LoRA(), Sampling())
        torch.testing.assert_close(logprobs(again), logprobs(module.policy), atol=EXACT, rtol=0)
        assert torch.equal(again.value_head.linear.weight, head)
        assert load_policy(name, LoRA(), Sampling(), value_head=False).value_head is None
    save_file(
        {"linear.weight": torch.ones(1, 8), "linear.bias": torch.ones(1)}, f"{adapter}/{HEAD}"
    )
    assert not load_policy(adapter, LoRA(), Sampling()).value_head.linear.weight.any()
    fit(tmp_path, make_module(checkpoint, tiny_classifier), rollouts=1)
    assert f"The value head goes on from that of {checkpoint}" in caplog.text


def test_an_adapter_on_the_base_one_gives(tiny_t5: str, tmp_path: Path) -> None:
    module, _ = supervised(tmp_path, tiny_t5, LoRA(r=2))
    save_model(module.model, word_tokenizer(), tmp_path / "adapter")
    adapter = str(tmp_path / "adapter")
    v1 = Weights(revision="v1")
    source = ModelSource.resolve(tiny_t5, adapter)
    assert source == ModelSource(tiny_t5, adapter)
    torch.testing.assert_close(
        logprobs(load_policy(source, LoRA(), Sampling())),
        logprobs(load_policy(adapter, LoRA(), Sampling())),
    )
    assert ModelSource.resolve(adapter, weights=v1) == ModelSource(
        tiny_t5, adapter, adapter_revision="v1", weights=v1
    )
    assert ModelSource.resolve(tiny_t5, weights=v1) == ModelSource(
        tiny_t5, base_revision="v1", weights=v1
    )


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, Any]]:
    """What was opened by name, which, and of which revision; a folder has but one."""
    calls: list[tuple[str, str, Any]] = []

    def noting(what: str, name: str, loader: Any, **options: Any) -> Any:
        if "adapter_config" not in loader.__name__:  # which looks whether it is an adapter
            calls.append((what, name, options.get("revision")))
        return open_by_name(what, name, loader, **options)

    monkeypatch.setattr(loading, "open_by_name", noting)
    monkeypatch.setattr(lora, "open_by_name", noting)
    return calls


def test_a_bases_revision_goes_wherever_its_adapter_goes(
    tiny_t5: str, tmp_path: Path, opened: list[tuple[str, str, Any]]
) -> None:
    torch.manual_seed(0)
    module = SupervisedModule(tiny_t5, LoRA(r=2), weights=Weights(revision="v1"))
    trainer = make_trainer(tmp_path, max_epochs=1)
    trainer.fit(module, pairs_loader(8))
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    module.export(tmp_path / "adapter")
    checkpoint, adapter = str(tmp_path / "it.ckpt"), str(tmp_path / "adapter")
    kinds = ("config of", "tokenizer", "model")
    assert opened == [(kind, tiny_t5, "v1") for kind in kinds]
    assert adapter_base(adapter) == Base(tiny_t5, "v1")

    assert ModelSource.resolve(checkpoint) == ModelSource(
        tiny_t5, checkpoint=checkpoint, base_revision="v1"
    )
    assert (
        ModelSource.resolve(checkpoint, weights=Weights(revision="v2")).base_revision == "v2"
    )  # flags win
    weights = Weights(revision="mine")
    source = ModelSource.resolve(adapter, weights=weights)
    assert source == ModelSource(tiny_t5, adapter, None, "v1", "mine", weights)
    for begin, expected in (
        (ModelSource.resolve(checkpoint), []),
        (source, [("adapter", adapter, "mine")]),
    ):
        opened.clear()
        policy = load_policy(begin, LoRA(), Sampling())
        base = [("config of", tiny_t5, "v1"), ("model", tiny_t5, "v1")]
        assert opened == [*base, *expected]
        save_model(policy.model, word_tokenizer(), tmp_path / "next")
        assert adapter_base(str(tmp_path / "next")) == Base(tiny_t5, "v1")

    opened.clear()
    save_merged(tmp_path / "adapter", tmp_path / "merged", "AutoModelForSeq2SeqLM")
    assert opened[0] == ("model", tiny_t5, "v1")


def test_supervised_training_goes_on_from_an_adapter_and_its_bases_revision(
    tiny_t5: str, tmp_path: Path, opened: list[tuple[str, str, Any]]
) -> None:
    first, checkpoint = supervised(tmp_path, tiny_t5, LoRA(r=2))
    save_model(first.model, word_tokenizer(), tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace('"revision": null', '"revision": "v3"'))
    for name, revision in ((str(tmp_path / "adapter"), "v3"), (checkpoint, None)):
        opened.clear()
        module = SupervisedModule(name)
        module.configure_model()
        kinds = ("config of", "tokenizer", "model")
        assert opened[:3] == [(kind, tiny_t5, revision) for kind in kinds]
        for key, value in first.model.state_dict().items():
            assert torch.equal(module.model.state_dict()[key], value), key


def test_a_whole_model_is_trained_against_a_frozen_copy(
    tiny_t5: str, tiny_classifier: str, tmp_path: Path
) -> None:
    module = make_module(tiny_t5, tiny_classifier, lora=None, lr=1e-2)
    fit(tmp_path, module, rollouts=2)
    untrained = logprobs(load_policy(tiny_t5, LoRA(r=2), Sampling()))
    torch.testing.assert_close(reference_logprobs(module.policy), untrained, atol=EXACT, rtol=0)
    assert not torch.allclose(logprobs(module.policy), untrained, atol=1e-3)
    assert module.watched[0].metrics["objective/kl"] == pytest.approx(0, abs=8 * FLOAT32)
    assert module.watched[1].metrics["objective/kl"] != pytest.approx(0, abs=8 * FLOAT32)
    counts = module.policy.parameter_counts()
    assert counts["policy_trainable"] == counts["policy_total"]
    assert counts["reference_copy_bytes"] == 4 * counts["policy_total"]
    assert module.export_name == "model"
    module.export(tmp_path / "model")
    again = load_policy(str(tmp_path / "model"), LoRA(r=2), Sampling())
    torch.testing.assert_close(logprobs(again), logprobs(module.policy), atol=EXACT, rtol=0)


@pytest.fixture
def whole(tiny_t5: str, tmp_path: Path) -> str:
    """A checkpoint with all weights in it."""
    return supervised(tmp_path, tiny_t5, None)[1]


def test_refusals(tiny_t5: str, whole: str, tmp_path: Path) -> None:
    module, checkpoint = supervised(tmp_path, tiny_t5, LoRA(r=2))
    save_model(module.model, word_tokenizer(), tmp_path / "adapter")
    adapter, torn = str(tmp_path / "adapter"), str(tmp_path / "torn.ckpt")
    Path(torn).write_bytes(Path(checkpoint).read_bytes()[:5000])
    missing = str(tmp_path / "missing.ckpt")
    cases: list[tuple[tuple[Any, ...], str]] = [
        ((missing,), f"{missing}: there is no such checkpoint"),
        ((torn,), f"{torn}: {BROKEN}"),
        (
            (checkpoint, adapter),
            f"model.adapter={adapter}: the checkpoint {checkpoint} brings an adapter of its own; "
            "give one of the two",
        ),
        (
            (adapter, adapter),
            f"model.adapter={adapter}: model.policy={adapter} is an adapter itself; give its base "
            f"there ({tiny_t5})",
        ),
    ]
    for arguments, message in cases:
        with pytest.raises(InputError) as caught:
            ModelSource.resolve(*arguments)
        assert str(caught.value) == message


def test_a_whole_model_in_a_checkpoint_must_be_exported_first(whole: str) -> None:
    with pytest.raises(InputError) as caught:
        ModelSource.resolve(whole)
    assert str(caught.value) == (
        f"{whole}: it holds a whole model and no adapter. Make a folder of it with `python -m "
        f"detox_lightning export --config CONFIG --ckpt_path {whole}`, where CONFIG is its run's "
        "config.yaml, and give that"
    )


def test_quantized_bases_take_adapters(tiny_classifier: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    weights = Weights(quantization="8bit")
    module = make_module("demo:policy", tiny_classifier, weights=weights, lr=1e-4)
    fit(tmp_path, module, rollouts=1).save_checkpoint(tmp_path / "it.ckpt")
    kinds = {type(layer).__name__ for layer in module.policy.base.modules()}
    assert "Linear8bitLt" in kinds
    assert module.watched[0].metrics["ppo/policy/ratio"] == pytest.approx(1, abs=0.1)
    after = module.watched[0].after
    assert all(p.any() for name, p in after.items() if "lora_B" in name)
    plain = make_module("demo:policy", tiny_classifier)  # where bitsandbytes isn't at hand
    plain.configure_model()
    checkpoint = torch.load(tmp_path / "it.ckpt", weights_only=True)
    plain.on_load_checkpoint(checkpoint)
    plain.load_state_dict(checkpoint["state_dict"], strict=False)
    assert equal(plain.copies(), after)
    with pytest.raises(InputError, match="a quantized base can't be trained; give lora"):
        load_policy(ModelSource.resolve("demo:policy", weights=weights), None, Sampling())


def test_four_bits_need_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError) as caught:
        Weights(quantization="4bit")
    assert str(caught.value) == (
        "weights.quantization=4bit needs a CUDA GPU: on a CPU, bitsandbytes computes no gradients "
        "through such layers; give 8bit, or leave it null"
    )


@pytest.mark.parametrize("option", [{"bias": "all"}, {"init_lora_weights": "pissa"}])
def test_the_base_must_stay_as_it_is(tiny_t5: str, option: dict[str, Any]) -> None:
    """It is the reference."""
    with pytest.raises(InputError, match=r"lora.options.\w+=\w+: this changes the base"):
        load_policy(tiny_t5, LoRA(r=2, options=option), Sampling())


def test_whole_models_are_trained_in_float32(tiny_t5: str) -> None:
    with pytest.raises(InputError, match=r"weights.dtype=bfloat16: small steps are lost"):
        load_policy(ModelSource(tiny_t5, weights=Weights(dtype="bfloat16")), None, Sampling())
    with pytest.raises(InputError, match=r"weights.dtype=bfloat16: small steps are lost"):
        SupervisedModule(tiny_t5, weights=Weights(dtype="bfloat16")).configure_model()
    with pytest.raises(InputError, match=r"weights.dtype=bfloat16: small steps are lost"):
        RewardModule(tiny_t5, weights=Weights(dtype="bfloat16"))


def test_without_bitsandbytes_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError) as caught:
        Weights(quantization="4bit")
    assert str(caught.value) == (
        "weights.quantization=4bit needs bitsandbytes: pip install 'detox-lightning[quantized]', "
        "or leave it null"
    )


def test_a_checkpoint_that_lacks_a_part_of_its_adapter_is_refused(
    tiny_t5: str, tmp_path: Path
) -> None:
    """What is missing would be initialized again."""
    _, file = supervised(tmp_path, tiny_t5, LoRA(r=2))
    checkpoint = torch.load(file, weights_only=True)
    gone = next(name for name in checkpoint["state_dict"] if "lora_B" in name)
    del checkpoint["state_dict"][gone]
    torch.save(checkpoint, file)
    with pytest.raises(InputError) as raised:
        load_policy(file, LoRA(), Sampling())
    assert str(raised.value) == (
        f"{file}: its adapter doesn't fit the base {tiny_t5!r}: "
        f"{gone.removeprefix('model.')} is not in it"
    )


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("base", None, BROKEN),
        ("stage", 3, BROKEN),
        ("state_dict", None, BROKEN),
        (
            "adapter",
            {"r": "x"},
            "its adapter can't be put on the base '{base}': '<=' not supported ",
        ),
        (
            "adapter",
            {"nix": 3},
            "its adapter can't be put on the base '{base}': LoraConfig.__init__",
        ),
    ],
)
def test_a_garbled_checkpoint_is_named(
    part: str, value: object, said: str, tiny_t5: str, tmp_path: Path
) -> None:
    _, file = supervised(tmp_path, tiny_t5, LoRA(r=2))
    checkpoint = torch.load(file, weights_only=True)
    (checkpoint if part == "state_dict" else checkpoint["detox_lightning"])[part] = value
    torch.save(checkpoint, file)
    with pytest.raises(InputError) as raised:
        load_policy(file, LoRA(), Sampling())
    assert str(raised.value).startswith(f"{file}: {said.format(base=tiny_t5)}")
