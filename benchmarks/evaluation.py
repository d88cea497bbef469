"""How long ``test`` takes, against generating and scoring alone.

    python benchmarks/evaluation.py [PROMPTS] [SAMPLES]

Lets reference and policy of the demo answer held-out dialogues, once with all that ``test`` does
and once with nothing but generating and scoring the same responses, in turns, on one CPU thread.
Prints seconds and their ratio.
"""

import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch.utils.data import DataLoader

from detox_lightning.batch import PromptBatch
from detox_lightning.data import DialogueDataModule
from detox_lightning.evaluation.comparison import merge
from detox_lightning.evaluation.evaluator import SIDES, Evaluator
from detox_lightning.evaluation.judge import Judge
from detox_lightning.evaluation.plan import EvaluationPlan
from detox_lightning.evaluation.statistics import summarize
from detox_lightning.models.loading import load_tokenizer
from detox_lightning.models.lora import LoRA
from detox_lightning.models.policy import load_policy
from detox_lightning.models.sampling import Sampling
from detox_lightning.rewards import ClassifierReward

ROUNDS = 3
KL_ROWS = 32  # at once, as PPOModule has it in the demo: four times its mini-batch


def evaluator(samples: int) -> Evaluator:
    """The demo's, with an adapter that has moved a little."""
    torch.manual_seed(0)
    policy = load_policy("demo:policy", LoRA(r=16), Sampling(max_new_tokens=48))
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += 0.01 * torch.randn(parameter.shape)
    plan = EvaluationPlan(samples=samples, greedy=not samples)
    judge = Judge(plan, ClassifierReward("demo:classifier"))
    judge.load()
    return Evaluator(plan, policy, load_tokenizer("demo:policy"), judge, 0, KL_ROWS)


def batches(prompts: int) -> list[PromptBatch]:
    """The demo's validation rows."""
    data = DialogueDataModule(
        "demo:dialogues",
        "demo:policy",
        reference_column="clean_summary",
        min_chars=None,
        max_chars=None,
        num_eval_samples=prompts,
    )
    return list(DataLoader(data.rows("train"), batch_size=100, collate_fn=data.collate))[
        : -(-prompts // 100)
    ]


def everything(judge: Evaluator, given: list[PromptBatch]) -> Any:
    """All of ``test``, its intervals included."""
    comparison = merge([judge.compare(batch) for batch in given], judge.plan.decodings)
    return summarize(comparison, seed=0)


def answers_alone(judge: Evaluator, given: list[PromptBatch]) -> None:
    """Generates and scores, before and after."""
    decodings = judge.plan.decodings
    for batch in given:
        repeated = batch.repeated(len(decodings))
        for side in SIDES:
            for rows in torch.arange(len(repeated.prompts)).split(judge.plan.batch_size):
                part = repeated.select(rows)
                answered = judge.answer(part, [decodings[i % len(decodings)] for i in rows], side)
                judge.judge.score(part, answered.responses.texts)


def seconds(work: Callable[..., Any], *args: Any) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    work(*args)
    return time.perf_counter() - start


def main() -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    prompts, samples = (int(word) for word in [*sys.argv[1:], "500", "1"][:2])
    judge, given = evaluator(samples), batches(prompts)
    rounds = [
        (seconds(answers_alone, judge, given), seconds(everything, judge, given))
        for _ in range(ROUNDS)
    ]
    alone, whole = (median(column) for column in zip(*rounds, strict=True))
    print(f"{prompts} prompts, {samples} samples: answers alone {alone:.1f} s, test {whole:.1f} s")
    print(f"ratio {median(all_ / part for part, all_ in rounds):.2f}")


if __name__ == "__main__":
    main()
