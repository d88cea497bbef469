"""Compares the time of ``test`` with that of generation and scoring alone.

    python benchmarks/evaluation.py [PROMPTS] [SAMPLES] [--model FOLDER]

Reference and policy answer held-out dialogues on one CPU thread in three ways: with everything
that ``test`` does (KL divergence, ROUGE, intervals, …); with generation and scoring of the same
responses only; and with the ``generate`` of transformers in the same batches, and scoring. Prints
medians of CPU seconds and of their ratios. FOLDER is an encoder-decoder model; the default is the
demo's.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch.utils.data import DataLoader

from detox_lightning.batches import PromptBatch
from detox_lightning.data import DialogueDataModule
from detox_lightning.evaluation.comparison import merge
from detox_lightning.evaluation.evaluator import SIDES, Evaluator
from detox_lightning.evaluation.plan import EvaluationPlan
from detox_lightning.evaluation.statistics import summarize
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.loading import load_tokenizer
from detox_lightning.models.lora import LoRA
from detox_lightning.models.policy import load_policy
from detox_lightning.rewards import ClassifierReward

RAW = argparse.RawDescriptionHelpFormatter
ROUNDS = 3
KL_ROWS = 32  # rows per pass, as PPOModule sets it in the demo: four times its mini-batch


def make_evaluator(name: str, samples: int) -> Evaluator:
    """Makes an evaluator whose adapter differs a little from a fresh one."""
    torch.manual_seed(0)
    policy = load_policy(name, LoRA(r=16), Sampling(max_new_tokens=48))
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += 0.01 * torch.randn(parameter.shape)
    plan = EvaluationPlan(samples=samples, greedy=not samples)
    evaluator = Evaluator(plan, ClassifierReward("demo:classifier"), policy.sampling, seed=0)
    evaluator.load(policy, load_tokenizer(name), KL_ROWS)
    return evaluator


def batches(name: str, prompts: int) -> list[PromptBatch]:
    """Returns batches of the demo's dialogues."""
    data = DialogueDataModule(
        "demo:dialogues",
        name,
        reference_column="clean_summary",
        min_chars=None,
        max_chars=None,
        num_eval_samples=prompts,
    )
    return list(DataLoader(data.rows("train"), batch_size=100, collate_fn=data._collator()))[
        : -(-prompts // 100)
    ]


def everything(judge: Evaluator, given: list[PromptBatch]) -> Any:
    """Does everything that ``test`` does, including intervals."""
    comparison = merge([judge.compare(batch) for batch in given])
    return summarize(comparison, seed=0)


def answers_alone(judge: Evaluator, given: list[PromptBatch]) -> None:
    """Only generates and scores, with reference and policy."""
    decodings = judge.plan.decodings
    for batch in given:
        repeated = batch.repeated(len(decodings))
        for side in SIDES:
            for rows in torch.arange(len(repeated.prompts)).split(judge.plan.batch_size):
                part = repeated.select(rows)
                answered = judge.respond(part, [decodings[i % len(decodings)] for i in rows], side)
                judge.judge.score(part, answered.responses.texts)


def transformers_alone(judge: Evaluator, given: list[PromptBatch]) -> None:
    """Does the same with transformers' ``generate`` and unmerged adapters."""
    policy, samples = judge.policy, judge.plan.samples or 1
    for batch in given:
        for side in SIDES:
            repeated = batch.repeated(samples)
            for rows in torch.arange(len(repeated.prompts)).split(judge.plan.batch_size):
                part = repeated.select(rows)
                with policy.reference_if(side == "before"), torch.no_grad():
                    said = policy.model.generate(
                        input_ids=part.prompt_ids,
                        attention_mask=part.prompt_mask,
                        max_new_tokens=policy.sampling.limits[1],
                        do_sample=judge.plan.samples > 0,
                        top_k=0,
                    )
                texts = judge.tokenizer.batch_decode(said, skip_special_tokens=True)
                judge.judge.score(part, texts)


def seconds(work: Callable[..., Any], *args: Any) -> float:
    """Returns the CPU seconds of a call; other programs don't count."""
    start = time.process_time()
    work(*args)
    return time.process_time() - start


def main() -> None:
    """Runs the benchmark and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=RAW)
    parser.add_argument("prompts", nargs="?", type=int, default=500)
    parser.add_argument("samples", nargs="?", type=int, default=1)
    parser.add_argument("--model", default="demo:policy")
    given = parser.parse_args()
    torch.set_num_threads(1)
    judge, rows = make_evaluator(given.model, given.samples), batches(given.model, given.prompts)
    ways = (everything, answers_alone, transformers_alone)
    rounds = [[seconds(way, judge, rows) for way in ways] for _ in range(ROUNDS)]
    print(f"{given.prompts} prompts, {given.samples} samples each, before and after")
    for place, way in enumerate(ways):
        took = median(times[place] for times in rounds)
        ratio = median(times[0] / times[place] for times in rounds)
        print(f"{way.__name__:20} {took:7.1f} s   test / this {ratio:.2f}")


if __name__ == "__main__":
    main()
