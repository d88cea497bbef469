"""The supervised stage, run by a real Trainer on eight pairs."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.plugins.precision import HalfPrecision
from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from architectures import save_random
from conftest import tiny_t5_model, word_tokenizer
from detox_lightning.errors import InputError
from detox_lightning.models.decoding.static_step import StaticSteps
from detox_lightning.models.loading import Weights
from detox_lightning.models.lora import LoRA
from detox_lightning.stages.optimization import Schedule
from detox_lightning.stages.run_checks import suggest_bfloat16
from detox_lightning.stages.supervised import SupervisedModule
from numerics import EXACT, FLOAT32, in_float64
from toys import PAIRS, collate_pairs, make_trainer, pairs_loader

SMALL = LoRA(r=4, alpha=8, dropout=0.1)


def adamw(lr: float) -> Any:
    return lambda params: torch.optim.AdamW(params, lr=lr)


def make_module(name: str, lora: LoRA | None = None, lr: float = 1e-2, **options: Any) -> Any:
    return SupervisedModule(name, lora, adamw(lr), max_new_tokens=8, **options)


def fit(folder: Path, module: SupervisedModule, epochs: int, ckpt_path: Any = None, **options: Any):
    """Two batches an epoch."""
    trainer = make_trainer(folder, max_epochs=epochs, **options)
    trainer.fit(module, pairs_loader(4), ckpt_path=ckpt_path, weights_only=True)
    return trainer


@pytest.fixture(scope="module")
def trained(tiny_t5: str, tmp_path_factory: pytest.TempPathFactory) -> SupervisedModule:
    """A model that has learned the eight pairs by heart."""
    seed_everything(1)
    module = make_module(tiny_t5)
    trainer = make_trainer(tmp_path_factory.mktemp("fit"), max_epochs=60)
    trainer.fit(module, pairs_loader(8))
    assert trainer.callback_metrics["train/loss"] < 0.3  # began at about 5.4; dropout is on
    return module


def test_learns_the_pairs_by_heart(trained: SupervisedModule, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    (metrics,) = trainer.validate(trained, pairs_loader(3), verbose=False)
    assert metrics["val/loss"] < 0.05
    for kind in ("rouge1", "rouge2", "rougeL", "rougeLsum"):
        assert metrics[f"val/{kind}"] == 1.0
    (metrics,) = trainer.test(trained, pairs_loader(3), verbose=False)
    assert metrics["test/rougeL"] == 1.0
    summaries = trainer.predict(trained, pairs_loader(8))[0]
    assert summaries == [target for _, target in PAIRS]


def test_validation_loss_is_the_mean_over_tokens(tiny_t5: str, tmp_path: Path) -> None:
    """Batches of other sizes and targets of other lengths give the same number."""
    pairs = [*PAIRS[:3], (PAIRS[3][0], "Dan is very sad and late . Ann is glad .")]
    batch = collate_pairs(pairs)
    model = tiny_t5_model()
    labels = torch.where(batch.target_mask, batch.target_ids, -100)
    expected = model(
        input_ids=batch.prompt_ids, attention_mask=batch.prompt_mask.long(), labels=labels
    ).loss.item()
    for batch_size in (1, 3, 4):
        loader = pairs_loader(batch_size, pairs)
        (metrics,) = make_trainer(tmp_path).validate(make_module(tiny_t5), loader, verbose=False)
        assert metrics["val/loss"] == pytest.approx(expected, abs=FLOAT32)


def test_a_real_token_with_the_pads_id_counts(tiny_t5: str) -> None:
    """The loss goes by the mask: T5's pad is also its decoder start."""
    module = make_module(tiny_t5)
    module.configure_model()
    module.eval()
    batch = collate_pairs(PAIRS[:2])
    batch.target_ids[:, 1] = 0
    with in_float64(module):
        logits = module.model(
            input_ids=batch.prompt_ids,
            attention_mask=batch.prompt_mask,
            decoder_input_ids=torch.nn.functional.pad(batch.target_ids, (1, -1)),
        ).logits
        loss = module._loss(batch)
    logprobs = logits.log_softmax(-1).gather(-1, batch.target_ids[..., None])[..., 0]
    assert float(loss) == pytest.approx(float(-logprobs[batch.target_mask].mean()), abs=EXACT)


def test_dropout_is_on_in_training_and_off_in_validation(tiny_t5: str, tmp_path: Path) -> None:
    modes = []

    class Watched(SupervisedModule):
        def _loss(self, *args: Any) -> Any:
            modes.append({part.training for part in self.model.modules()})
            return super()._loss(*args)

    module = Watched(tiny_t5, SMALL, max_new_tokens=2)
    trainer = make_trainer(tmp_path, max_epochs=2)
    trainer.fit(module, pairs_loader(8), pairs_loader(8))
    assert modes == [{True}, {False}, {True}, {False}]


def test_full_model_opens_with_transformers(trained: SupervisedModule, tmp_path: Path) -> None:
    assert trained.export_name == "model"
    trained.export(tmp_path)
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json"} <= {
        path.name for path in tmp_path.iterdir()
    }
    _same_as(trained, AutoModelForSeq2SeqLM.from_pretrained(tmp_path), tmp_path)


def test_adapter_opens_with_peft_and_is_trained_on(tiny_t5: str, tmp_path: Path) -> None:
    seed_everything(1)
    module = make_module(tiny_t5, SMALL)
    first = fit(tmp_path, module, 8).callback_metrics["train/loss"]
    assert first < 4.5  # began at about 5.4
    assert module.export_name == "adapter"
    folder = tmp_path / "adapter"
    module.export(folder)
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= {
        path.name for path in folder.iterdir()
    }
    base = AutoModelForSeq2SeqLM.from_pretrained(tiny_t5)
    _same_as(module, PeftModel.from_pretrained(base, folder), folder)

    further = make_module(str(folder))
    assert further.source.base == tiny_t5
    further.configure_model()
    _same_as(module, further.model.eval(), folder)
    assert fit(tmp_path, make_module(str(folder)), 8).callback_metrics["train/loss"] < first - 0.5


def _same_as(module: SupervisedModule, opened: Any, folder: Path) -> None:
    batch = collate_pairs(PAIRS)
    module.eval()
    opened.eval()
    inputs = {"input_ids": batch.prompt_ids, "attention_mask": batch.prompt_mask}
    with torch.no_grad(), in_float64(module, opened):
        ours = module.model(**inputs, decoder_input_ids=batch.target_ids).logits
        theirs = opened(**inputs, decoder_input_ids=batch.target_ids).logits
    torch.testing.assert_close(ours, theirs, atol=EXACT, rtol=0)
    ids = opened.generate(**inputs, max_new_tokens=8, do_sample=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.batch_decode(ids, skip_special_tokens=True) == module.summarize(batch)


@pytest.fixture(params=["T5", "BART", "Llama"])
def moved(request: pytest.FixtureRequest, tmp_path: Path) -> SupervisedModule:
    """A model whose adapter says something."""
    module = SupervisedModule(save_random(request.param, tmp_path), SMALL, max_new_tokens=12)
    module.configure_model()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape)
    return module.eval()


@pytest.mark.quick(3)
@pytest.mark.parametrize("rules", [{}, {"repetition_penalty": 9.0, "min_length": 5}])
def test_summaries_are_those_of_generate(
    moved: SupervisedModule, rules: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is asked only where the generation config has rules; BART's ends at the limit."""
    base, asked = moved.model.get_base_model(), []
    is_decoder_only = base.config.model_type == "llama"
    batch = collate_pairs(PAIRS, "left" if is_decoder_only else "right")
    for name, value in rules.items():
        setattr(base.generation_config, name, value)
    inputs = {"input_ids": batch.prompt_ids, "attention_mask": batch.prompt_mask.long()}
    generate = base.generate
    with in_float64(moved):
        ids = generate(**inputs, max_new_tokens=12, do_sample=False, num_beams=1)
        monkeypatch.setattr(base, "generate", lambda **x: asked.append(x) or generate(**x))
        said = moved.summarize(batch)
        moved._static_steps = StaticSteps(capturing=True)
        again = [moved.summarize(batch) for _ in range(2)]
    ids = ids[:, batch.prompt_ids.shape[1] if is_decoder_only else 1 :]
    assert said == moved.tokenizer.batch_decode(ids, skip_special_tokens=True)
    assert again == [said, said]
    assert len(set(said)) > 1
    assert bool(asked) == bool(rules or base.generation_config.forced_eos_token_id is not None)


def test_decode_steps_are_recorded_once_an_epoch_and_forgotten(
    tiny_t5: str, tmp_path: Path
) -> None:
    """The weights change in between, and the memory is needed."""
    recorded: list[list[int]] = []

    class Watched(SupervisedModule):
        def summarize(self, *args: Any) -> list[str]:
            steps = self._static_steps
            texts = super().summarize(*args)
            recorded.append([step.calls for step in steps.recorded.values()])
            return texts

    module = Watched(tiny_t5, SMALL, max_new_tokens=4)
    trainer = make_trainer(tmp_path, max_epochs=2)
    trainer.fit(module, pairs_loader(8), pairs_loader(4))
    trainer.predict(module, pairs_loader(4))
    assert recorded == [[3], [6]] * 3
    assert not module._static_steps.recorded


@pytest.mark.quick(1)
@pytest.mark.parametrize("lora", [None, SMALL])
def test_resumed_is_uninterrupted(tiny_t5: str, tmp_path: Path, lora: LoRA | None) -> None:
    """Dropout, warm-up, decay and all, to the bit."""
    schedule = Schedule("cosine", warmup_steps=3)

    def run(epochs: int, **options: Any) -> dict[str, Any]:
        seed_everything(3)
        module = make_module(tiny_t5, lora, schedule=schedule)
        fit(tmp_path, module, epochs, **options)
        return module.state_dict()

    keep = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}")
    whole = run(4, callbacks=[keep], enable_checkpointing=True)
    resumed = run(4, ckpt_path=tmp_path / "epoch=1.ckpt")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    other = run(3)
    assert not all(torch.equal(whole[name], other[name]) for name in whole)


def test_checkpoint_holds_what_learns_in_plain_values(tiny_t5: str, tmp_path: Path) -> None:
    module = make_module(tiny_t5, SMALL)
    trainer = fit(tmp_path, module, 1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert len(checkpoint["state_dict"]) == 2 * 2 * 6  # A and B, q and v, six attentions
    assert all("lora_" in name for name in checkpoint["state_dict"])
    assert checkpoint["detox_lightning"]["stage"] == "supervised"
    assert checkpoint["detox_lightning"]["lora"]["r"] == 4
    assert checkpoint["hyper_parameters"]["lora"]["alpha"] == 8

    again = SupervisedModule.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    ours, theirs = module.state_dict(), again.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (LoRA(r=8), "model.lora.r is 8 here, 4 in the checkpoint"),
        (
            LoRA(r=4, alpha=8, target_modules=["q"]),
            "model.lora.target_modules is [q] here, [q, v] in the checkpoint",
        ),
        (None, "model.lora is null here, and the checkpoint holds an adapter"),
    ],
)
def test_checkpoint_of_another_shape_is_refused(
    tiny_t5: str, tmp_path: Path, other: LoRA | None, said: str
) -> None:
    fit(tmp_path, make_module(tiny_t5, SMALL), 1).save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(InputError, match=f"doesn't fit: {re.escape(said)}"):
        fit(tmp_path, make_module(tiny_t5, other), 2, ckpt_path=tmp_path / "a.ckpt")


def test_flags_win_over_a_checkpoint(tiny_t5: str, tmp_path: Path) -> None:
    schedule = Schedule("linear")
    module = make_module(tiny_t5, SMALL, schedule=schedule)
    fit(tmp_path, module, 2).save_checkpoint(tmp_path / "a.ckpt")

    module = SupervisedModule(
        tiny_t5,
        SMALL,
        lambda params: torch.optim.AdamW(params, lr=0.5, betas=(0.8, 0.9), weight_decay=0.3),
        schedule,
    )
    rates = []

    class Watch(Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    ckpt_path = tmp_path / "a.ckpt"
    trainer = fit(tmp_path, module, 4, ckpt_path, callbacks=[Watch()])
    # Eight steps in all, of which four are done: the rest begins at half the new rate.
    assert rates == pytest.approx([0.25, 0.1875, 0.125, 0.0625])
    group = trainer.optimizers[0].param_groups[0]
    assert (group["betas"], group["weight_decay"]) == ((0.8, 0.9), 0.3)


def test_flags_parse(tiny_t5: str) -> None:
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(SupervisedModule, "model")
    flags = {"model": tiny_t5, "lora.r": 8, "optimizer.lr": 0.3, "schedule.warmup_steps": 0.1}
    config = parser.parse_args([f"--model.{name}={value}" for name, value in flags.items()])
    module = parser.instantiate_classes(config).model
    assert module.lora == LoRA(r=8)
    assert module.schedule == Schedule(warmup_steps=0.1)
    optimizer = module.make_optimizer([torch.nn.Parameter(torch.zeros(1))])
    assert optimizer.defaults["lr"] == 0.3
    assert module.model is None  # nothing loads before the run


def test_half_precision_is_refused_before_loading(tmp_path: Path) -> None:
    module = make_module("no/such-model")
    trainer = make_trainer(tmp_path, max_epochs=1, precision="16-true")
    with pytest.raises(InputError, match=r"trainer.precision=16-true.*bf16"):
        trainer.fit(module, pairs_loader())


@pytest.mark.parametrize("fused_on", ["cuda", "cpu"])
def test_bf16_trains(
    tiny_t5: str, tmp_path: Path, fused_on: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With clipping, too, which Lightning refuses to an optimizer that says it is fused."""
    monkeypatch.setattr("detox_lightning.stages.optimization.FUSED_ON", fused_on)
    module = make_module(tiny_t5, SMALL, weights=Weights(dtype="bfloat16"))
    trainer = fit(tmp_path, module, 1, precision="bf16-mixed", gradient_clip_val=1.0)
    assert trainer.optimizers[0].param_groups[0]["fused"] is (fused_on == "cpu" or None)
    assert trainer.callback_metrics["train/loss"].isfinite()
    assert {p.dtype for p in module.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize(
    ("device", "precision", "dtype", "lora", "is_told"),
    [
        ("cuda", "bf16-mixed", "float32", LoRA(r=4), True),
        ("cuda", "bf16-mixed", "bfloat16", LoRA(r=4), False),
        ("cuda", "bf16-mixed", "float32", None, False),  # there is no frozen base
        ("cuda", "32-true", "float32", LoRA(r=4), False),
        ("cpu", "bf16-mixed", "float32", LoRA(r=4), False),  # where float32 is quicker anyway
    ],
)
def test_where_a_bfloat16_base_would_do_it_is_suggested(
    device: str,
    precision: str,
    dtype: Any,
    lora: LoRA | None,
    is_told: bool,
    tiny_t5: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    module = SupervisedModule(tiny_t5, lora=lora, weights=Weights(dtype=dtype))
    strategy = SimpleNamespace(root_device=torch.device(device))
    module.trainer = SimpleNamespace(precision=precision, strategy=strategy)  # type: ignore[assignment]
    with caplog.at_level("INFO"):
        suggest_bfloat16(module)
    told = (
        "trainer.precision=bf16-mixed rounds the frozen float32 base at each use: add --config "
        "configs/overlays/bf16.yaml, which holds it in bfloat16 and half the memory"
    )
    assert caplog.messages == [told] * is_told


def test_a_plugin_s_precision_is_refused_too(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_epochs=1, plugins=[HalfPrecision("bf16-true")])
    with pytest.raises(InputError, match=r"trainer.precision=bf16-true: small steps are lost"):
        trainer.fit(make_module("no/such-model"), pairs_loader())


def test_label_smoothing_only_in_training(tiny_t5: str) -> None:
    module = make_module(tiny_t5, label_smoothing=0.5)
    module.configure_model()
    module.eval()
    batch = collate_pairs(PAIRS)
    assert module._loss(batch, 0.5) != module._loss(batch)
    module.validation_step(batch, 0)
    assert float(module.mean_loss.compute()) == pytest.approx(
        float(module._loss(batch)), abs=FLOAT32
    )


def test_tokenizer_comes_with_the_model(tiny_t5: str) -> None:
    module = make_module(tiny_t5)
    module.configure_model()
    first = module.model
    module.configure_model()
    assert module.model is first
    assert module.tokenizer.get_vocab() == word_tokenizer().get_vocab()
    assert module.tokenizer.padding_side == module.source.family.padding_side == "right"


def test_prompts_without_answers_teach_nothing(tiny_t5: str, tmp_path: Path) -> None:
    def collate(pairs: Any) -> Any:
        nothing = torch.empty(len(pairs), 0, dtype=torch.long)
        return collate_pairs(pairs)._replace(target_ids=nothing, target_mask=nothing.bool())

    loader = torch.utils.data.DataLoader(PAIRS, batch_size=4, collate_fn=collate)
    with pytest.raises(InputError, match=r"--data: these prompts have no answers to learn from"):
        make_trainer(tmp_path, max_epochs=1).fit(make_module(tiny_t5), loader)
