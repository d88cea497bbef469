"""Decode steps: how long they take, and whether captured ones give the same tokens."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from detox_lightning.models.decoding.decoder import EncodedPrompts
from detox_lightning.models.decoding.draws import GumbelDraws
from detox_lightning.models.decoding.static_step import StaticSteps
from detox_lightning.models.policy import Policy
from gpu.bench import Bench, computing
from gpu.report import Row, Table
from gpu.shapes import Model

MACHINE = Table(
    "The machine",
    {
        "card": "card",
        "gib": "memory, GiB",
        "torch": "torch",
        "cuda": "CUDA",
        "transformers": "transformers",
        "copy": "copy, GB/s",
        "float32": "float32 product, TFLOP/s",
        "bfloat16": "bfloat16 product, TFLOP/s",
    },
)
LABELS = {"model": "model", "precision": "precision", "rows": "rows"}
STEP = Table(
    "Milliseconds of a decode step",
    {
        **LABELS,
        "stock": "`generate` of transformers, a token",
        "plain": "the step itself",
        "captured": "captured",
        "drawn": "captured, with drawing a token",
        "first": "capture, s",
        "read": "the weights read once",
        "times": "captured / read",
    },
)
EQUALITY = Table(
    "Captured steps against the model's own",
    {
        **LABELS,
        "tokens": "same tokens",
        "apart": "log-probabilities apart",
        "again": "twice the same, to the bit",
        "base": "base as before, to the bit",
    },
)


def machine(bench: Bench) -> Row:
    """Describes the device and its speed."""
    import transformers

    name, memory = "CPU", None
    if bench.device.type == "cuda":
        found = torch.cuda.get_device_properties(bench.device)
        name, memory = found.name, found.total_memory / 2**30
    return {
        "card": name,
        "gib": memory,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "transformers": transformers.__version__,
        "copy": bench.bandwidth / 1e9,
        "float32": bench.products(torch.float32) / 1e12,
        "bfloat16": bench.products(torch.bfloat16) / 1e12,
    }


def step(bench: Bench, model: Model, precision: str, rows: int) -> Row:
    """Measures decode steps, each as the time of a long response minus that of a short one.

    A step without drawing gets a fixed token, but includes what the loop keeps of each step.
    """
    policy, scale = bench.policy(model, precision), bench.scale
    ids, mask = bench.prompts(policy, rows)

    def milliseconds(work: Callable[[int], Any], longest: int) -> float:
        long, short = (bench.seconds(partial(work, n)) for n in (longest, scale.least))
        return 1e3 * (long - short) / (longest - scale.least)

    def stock(tokens: int) -> Any:
        return policy.model.generate(
            input_ids=ids,
            attention_mask=mask.long(),
            do_sample=True,
            top_k=0,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
        )

    def drawing(tokens: int) -> Any:
        return policy.generate(prompts, policy.sampling.choose(policy.eos_token_ids), tokens)

    with computing(bench.device, precision):
        prompts = policy.encode_prompts(ids, mask)
        row: dict[str, Any] = {"stock": milliseconds(stock, scale.few)}
        policy.static_steps = StaticSteps(capturing=False)
        work = partial(policy.generate, prompts, fixed)
        read = bytes_read(policy, prompts)
        row["plain"] = milliseconds(work, scale.few)
        policy.static_steps = StaticSteps(capturing=True)
        start = bench.now()
        work(scale.tokens)
        begun = bench.now() - start
        row["first"] = max(0.0, begun - bench.seconds(partial(work, scale.tokens)))
        row["captured"] = milliseconds(work, scale.tokens)
        row["drawn"] = milliseconds(drawing, scale.tokens)
    row["read"] = 1e3 * read / bench.bandwidth
    row["times"] = row["captured"] / row["read"]
    return {**row, "bytes": read}


def fixed(logits: Tensor, rows: Tensor, step: int) -> Tensor:
    """Picks the same token for all rows, without looking."""
    return torch.full_like(rows, 7)


def bytes_read(policy: Policy, prompts: EncodedPrompts) -> int:
    """Bytes of all weights that a decode step uses: those of the modules that it calls.

    Adapters, which are small, don't count: they are merged, or multiplied without their modules.

    Args:
        policy: The policy, whose steps are its own code.
        prompts: Prompts as it encoded them.
    """
    used: dict[int, int] = {}

    def note(module: nn.Module, *_: Any) -> None:
        if not isinstance(module, nn.Embedding):  # it reads a few rows only
            used.update((id(p), p.nbytes) for p in module.parameters(recurse=False))

    def choose(logits: Tensor, rows: Tensor, step: int) -> Tensor:
        if step == 0:  # what read the prompts doesn't count
            used.clear()
        return fixed(logits, rows, step)

    hooks = [module.register_forward_pre_hook(note) for module in policy.base.modules()]
    try:
        policy.generate(prompts, choose, 2)
    finally:
        for hook in hooks:
            hook.remove()
    return sum(used.values())


def equality(bench: Bench, model: Model, precision: str, rows: int) -> Row:
    """Compares responses by captured steps with those by the model's own growing cache."""
    policy = bench.policy(model, precision)
    ids, mask = bench.prompts(policy, rows)
    frozen = [p for p in policy.parameters() if not p.requires_grad]
    before = [p.detach().clone() for p in frozen]
    with computing(bench.device, precision):
        prompts = policy.encode_prompts(ids, mask)
        policy.static_steps = StaticSteps(capturing=False)
        plain = responses(policy, prompts, bench.scale.tokens)
        policy.static_steps = StaticSteps(capturing=True)
        played, again = (responses(policy, prompts, bench.scale.tokens) for _ in range(2))
    same = plain[0] == played[0]
    until = same.int().cumprod(dim=1).bool()  # afterwards the texts are different ones
    return {
        "tokens": float(same.float().mean()),
        "apart": float(((plain[1] - played[1]).abs() * until).max()),
        "again": all(map(torch.equal, played, again)),
        "base": all(map(torch.equal, before, frozen)),
    }


def responses(policy: Policy, prompts: EncodedPrompts, tokens: int) -> tuple[Tensor, Tensor]:
    """Generates ``[b, t]`` tokens and their log-probabilities, always with the same noise."""
    places = torch.arange(len(prompts.rows), device=prompts.rows.device)
    draws = GumbelDraws(0, places, torch.ones_like(places))
    ids, _ = policy.generate(prompts, policy.sampling.choose(policy.eos_token_ids, draws), tokens)
    return ids.clone(), torch.stack(draws.logprobs, dim=1)
