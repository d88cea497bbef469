"""Compares our rollout with transformers' own ``generate``, and with what the processor can do.

    python benchmarks/anchors.py [--shape tiny|small|base] [--rounds 5]

Makes the models and prompts of ``benchmarks/peer.py``. In each round, our sampling and ``generate``
with its growing and with its static cache answer the same prompts with responses of the same
length, all three with merged adapters. Then large matrices are multiplied, which says how long the
operations of a PPO step take at least. Prints medians of CPU seconds and of their ratios (higher is
better for us), as a table and as a line of JSON. Exits with 1 if a response has another length.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from growth.arithmetic import Flops, classifier, decoder, encoder, head
from peer.world import SHAPES, Shape, build
from torch.nn.functional import linear

from detox_lightning.batches import PromptBatch
from detox_lightning.models.decoding.merging import merged
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.loading import load_tokenizer
from detox_lightning.models.lora import LoRA
from detox_lightning.models.policy import Policy, load_policy
from detox_lightning.rollout import sample

RAW = argparse.RawDescriptionHelpFormatter
OURS = "ours"
CACHES = {"generate, growing cache": None, "generate, static cache": "static"}
WARM_UP = 1  # rounds that are left out
LARGE = 2048  # rows and columns of the matrices that show what the processor can do
PARTS = ("rollout", "score", "update")


def read_prompts(folder: Path, tokenizer: Any) -> PromptBatch:
    """Reads all prompts as one batch, without answers.

    Args:
        folder: Folder that :func:`build` has written.
        tokenizer: The policy's.
    """
    lines = (folder / "prompts.jsonl").read_text().splitlines()
    texts = [json.loads(line)["dialogue"] for line in lines]
    found = tokenizer(texts, padding=True, return_tensors="pt")
    ids, nothing = found.input_ids, torch.zeros(len(texts), 0, dtype=torch.long)
    return PromptBatch(
        prompt_ids=ids,
        prompt_mask=found.attention_mask.bool(),
        target_ids=nothing,
        target_mask=nothing.bool(),
        prompts=texts,
        references=[""] * len(texts),
        places=torch.arange(len(texts)),
    )


def rollouts(
    policy: Policy, tokenizer: Any, prompts: PromptBatch, tokens: int
) -> dict[str, Callable[[], int]]:
    """Returns the ways to answer the prompts; each returns the length of its responses.

    Args:
        policy: The policy.
        tokenizer: The policy's.
        prompts: ``b`` prompts.
        tokens: Tokens of each response.
    """

    def ours() -> int:
        return sample(policy, tokenizer, prompts, tokens, record=True).ids.shape[1]

    def theirs(cache: str | None) -> int:
        with torch.no_grad(), merged(policy.model):
            said = policy.base.generate(
                input_ids=prompts.prompt_ids,
                attention_mask=prompts.prompt_mask.long(),
                do_sample=True,
                top_k=0,
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                cache_implementation=cache,
            )
        return int(said.shape[1]) - 1  # without the start token

    return {OURS: ours} | {
        name: lambda cache=cache: theirs(cache) for name, cache in CACHES.items()
    }


def measure(ways: dict[str, Callable[[], int]], rounds: int, tokens: int) -> list[dict[str, float]]:
    """Takes all ways in turns, and returns each round's CPU seconds.

    Args:
        ways: See :func:`rollouts`.
        rounds: Number of rounds that count.
        tokens: Tokens of each response.

    Raises:
        SystemExit: If a response has another length.
    """
    measured = []
    for _ in range(WARM_UP + rounds):
        row = {}
        for name, work in ways.items():
            length, row[name] = timed(work)
            if length != tokens:
                raise SystemExit(f"{name}: responses of {length} tokens, {tokens} expected")
        measured.append(row)
    return measured[WARM_UP:]


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Returns the result of a call and its CPU seconds, in which other programs don't count."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def speed(size: int = LARGE, tries: int = 7) -> float:
    """Returns how many operations a large product of float32 matrices does per CPU second.

    The fastest of some tries counts: what the processor can do at most.
    """
    x, weight = torch.randn(2, size, size)
    return 2 * size**3 / min(timed(lambda: linear(x, weight))[1] for _ in range(tries))


def operations(lengths: list[int], response: int, epochs: int, shape: Shape) -> dict[str, int]:
    """Counts the operations that each part of a step needs, and all of them.

    The policy's log-probabilities are noted while sampling, so only the reference reads the
    responses before the update.

    Args:
        lengths: Tokens of each prompt.
        response: Tokens of each response.
        epochs: Passes over the rollout.
        shape: Sizes of the models.
    """
    counts = dict.fromkeys(PARTS, 0)
    for prompt in lengths:
        read, logits = encoder(prompt, shape.policy), head(response, shape)
        pairs = response * (response + 1) // 2
        sampled: Flops = read + decoder(prompt, response, pairs, shape.policy) + logits
        answered: Flops = read + decoder(prompt, response, response**2, shape.policy) + logits
        counts["rollout"] += sampled.frozen
        counts["score"] += classifier(prompt + response, shape.classifier).forward
        counts["update"] += answered.frozen + epochs * (answered.forward + answered.backward)
    return {**counts, "total": sum(counts.values())}


def show(shape: str, measured: list[dict[str, float]], counts: dict[str, int], rate: float) -> None:
    """Prints both tables, and all figures as a line of JSON.

    Args:
        shape: Name of the shape.
        measured: CPU seconds of the rollouts; see :func:`measure`.
        counts: Operations of the parts of a step; see :func:`operations`.
        rate: Operations per CPU second; see :func:`speed`.
    """
    medians = {way: median(row[way] for row in measured) for way in measured[0]}
    ratios = {way: median(row[way] / row[OURS] for row in measured) for way in medians}
    least = {part: count / rate for part, count in counts.items()}
    print(f"rollouts of {shape}, medians of {len(measured)} rounds on one thread:")
    for way, spent in medians.items():
        print(f"{way:24}{spent:8.3f} CPU s{ratios[way]:8.2f} × ours")
    print(f"large products: {rate / 1e9:.1f} GFLOP per CPU second. A step needs at least:")
    for part, count in counts.items():
        print(f"{part:24}{least[part]:8.3f} CPU s{count / 1e9:9.1f} GFLOP")
    print(json.dumps({"shape": shape, "rollout": medians, "ratio": ratios, "least": least}))


def read_options() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=RAW)
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--ppo_epochs", type=int, default=1, help="passes that are counted")
    parser.add_argument("--new_tokens", type=int, default=100, help="tokens of every response")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds")
    return parser.parse_args()


def main() -> None:
    """Measures on one thread, and prints."""
    options = read_options()
    shape, tokens = SHAPES[options.shape], options.new_tokens
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        build(Path(name), shape, options.batch_size)
        sampling = Sampling(max_new_tokens=tokens, min_new_tokens=tokens)
        policy = load_policy(f"{name}/policy", LoRA(r=16), sampling)
        tokenizer = load_tokenizer(f"{name}/policy")
        prompts = read_prompts(Path(name), tokenizer)
        measured = measure(rollouts(policy, tokenizer, prompts, tokens), options.rounds, tokens)
    lengths, rate = prompts.prompt_mask.sum(dim=1).tolist(), speed()
    counts = operations(lengths, tokens, options.ppo_epochs, shape)
    show(options.shape, measured, counts, rate)


if __name__ == "__main__":
    main()
