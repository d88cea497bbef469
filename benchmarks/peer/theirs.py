"""The peer's side: the notebooks' loop around TRL's PPOTrainer, in its own environment."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from channel import Adapter, Channel, Effort, ScoredTokens
from peft import LoraConfig, TaskType, get_peft_model
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)
from trl import (
    AutoModelForSeq2SeqLMWithValueHead,
    PPOConfig,
    PPOTrainer,
    create_reference_model,
)

LEARNING_RATE = 1.41e-5


class Peer:
    """The peer's models, tokenizers and trainer."""

    def __init__(self, job: dict[str, Any]) -> None:
        """Opens models and tokenizers as the notebooks do.

        Args:
            job: See ``benchmarks/peer.py``.
        """
        self.job, folder = job, Path(job["folder"])
        self.device = job["device"]
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "policy")
        self.reader = PreTrainedTokenizerFast.from_pretrained(folder / "classifier")
        opened = AutoModelForSequenceClassification.from_pretrained(folder / "classifier")
        self.classifier = opened.to(self.device).eval()
        self.wanted = self.classifier.config.label2id["nothate"]
        self.trainer = self.make_trainer(folder / "policy")
        self.adapter = Adapter(self.trainer.model)
        self.scored = ScoredTokens(self.classifier)
        self.parameters = sum(p.numel() for p in self.trainer.model.parameters())

    def make_trainer(self, folder: Path) -> Any:
        """Makes a trainer with adapters, a value head and a second copy as reference."""
        lora = LoraConfig(
            task_type=TaskType.SEQ_2_SEQ_LM,
            r=16,
            lora_alpha=16,
            lora_dropout=0.05,
            target_modules=["q", "v"],
        )
        dtype = getattr(torch, self.job["dtype"])
        base = AutoModelForSeq2SeqLM.from_pretrained(folder, torch_dtype=dtype)
        model = AutoModelForSeq2SeqLMWithValueHead.from_pretrained(get_peft_model(base, lora))
        config = PPOConfig(
            learning_rate=LEARNING_RATE,
            batch_size=self.job["batch_size"],
            mini_batch_size=self.job["mini_batch_size"],
            ppo_epochs=self.job["ppo_epochs"],
        )
        reference = create_reference_model(model)
        return PPOTrainer(config, model, ref_model=reference, tokenizer=self.tokenizer)

    def generate(self, queries: list[torch.Tensor]) -> list[torch.Tensor]:
        """Samples responses, which begin with the start token, in one call or one per prompt."""
        count = self.job["new_tokens"]
        options = {
            "do_sample": True,
            "top_k": 0,
            "top_p": 1.0,
            "min_new_tokens": count,
            "max_new_tokens": count,
        }
        if self.job["generate"] == "batch":
            return self.trainer.generate(queries, **options)
        return [self.trainer.generate(query, **options).squeeze() for query in queries]

    def score(self, texts: list[str]) -> list[torch.Tensor]:
        """Returns each text's logit of ``nothate``."""
        inputs = self.reader(texts, padding=True, truncation=True, return_tensors="pt")
        inputs = {name: inputs[name].to(self.device) for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            logits = self.classifier(**inputs).logits
        return list(logits[:, self.wanted].float().cpu())

    def round(self, prompts: list[str]) -> dict[str, float]:
        """Does one PPO step, and returns its figures.

        Args:
            prompts: ``batch_size`` prompts.
        """
        effort = Effort(self.device)
        queries = [torch.tensor(self.tokenizer(text).input_ids).to(self.device) for text in prompts]
        start = effort.now()
        responses = self.generate(queries)
        rolled = effort.now()
        said = self.tokenizer.batch_decode(responses, skip_special_tokens=True)
        scores = self.score([text + reply for text, reply in zip(prompts, said, strict=True)])
        scored = effort.now()
        stats = self.trainer.step(queries, responses, scores)
        end = effort.now()
        return {
            **effort.spent(),
            "rollout": rolled - start,
            "score": scored - rolled,
            "update": end - scored,
            "total": end - start,
            "parameters": self.parameters,
            "response_tokens": sum(len(response) - 1 for response in responses),
            "policy_loss": float(stats["ppo/loss/policy"]),
            "value_loss": float(stats["ppo/loss/value"]),
            "kl": float(stats["objective/kl"]),
            "entropy": float(stats["objective/entropy"]),
            "prompt_tokens": sum(len(query) for query in queries),
            "scored_tokens": self.scored.taken(),
            "moved": self.adapter.moved(),
        }


def main() -> None:
    """Answers orders until there are none left."""
    channel = Channel()
    job = json.loads(sys.argv[1])
    torch.manual_seed(0)
    torch.set_num_threads(job["threads"])
    peer = Peer(job)
    channel.answer()
    while True:
        channel.answer(**peer.round(channel.wait()["prompts"]))


if __name__ == "__main__":
    main()
