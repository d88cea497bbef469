"""PPO by the interface of TRL 0.8, for programs that were written for its ``PPOTrainer``."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import set_seed

from detox_lightning.algorithm.advantages import GAE
from detox_lightning.algorithm.experience import RunningMoments, shape_scores, to_experience
from detox_lightning.algorithm.masks import response_lengths
from detox_lightning.compat import trl_batches as batches
from detox_lightning.compat.trl_config import LengthSampler, PPOConfig, sampling_of
from detox_lightning.compat.value_head_models import (
    AutoModelForCausalLMWithValueHead,
    AutoModelForSeq2SeqLMWithValueHead,
    ModelWithValueHead,
    create_reference_model,
)
from detox_lightning.errors import InputError, TrainingError
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.policy import Policy
from detox_lightning.models.reference import copy_adapter
from detox_lightning.models.special_tokens import complete_special_tokens
from detox_lightning.ppo.learner import Learner
from detox_lightning.ppo.micro_batches import MicroBatches
from detox_lightning.ppo.ranks import Ranks
from detox_lightning.rollout import measure

__all__ = [
    "AutoModelForCausalLMWithValueHead",
    "AutoModelForSeq2SeqLMWithValueHead",
    "LengthSampler",
    "PPOConfig",
    "PPOTrainer",
    "create_reference_model",
    "set_seed",
]
COLUMNS = {"input_ids", "attention_mask", "label", "query", "response"}  # TRL drops others


class PPOTrainer:
    """TRL 0.8's ``PPOTrainer``, in one process, made of this package's parts.

    Args:
        config: The options.
        model: The policy.
        ref_model: The reference; None: the policy as it is now.
        tokenizer: The policy's.
        dataset: The rows of ``dataloader``.
        optimizer: Of the policy's parameters; None: Adam.
        data_collator: Makes batches of rows.
        num_shared_layers: See :func:`create_reference_model`; without ``ref_model`` only.
        lr_scheduler: Stepped at the end of each :meth:`step`.
        exact: Give TRL's numbers, mistakes included: an encoder-decoder's first token is not
            learned, a policy with an adapter is compared with its bare base, only the first
            gradient is clipped, log-probabilities know no temperature and no minimum length.

    Raises:
        InputError: If something is not carried over, or nothing of the policy can learn.
    """

    def __init__(
        self,
        config: PPOConfig,
        model: ModelWithValueHead,
        ref_model: ModelWithValueHead | None = None,
        tokenizer: Any = None,
        dataset: Any = None,
        optimizer: Any = None,
        data_collator: Callable[[list[Any]], Any] | None = None,
        num_shared_layers: int | None = None,
        lr_scheduler: Any = None,
        exact: bool = False,
    ):
        _check(config, model, tokenizer, exact)
        set_seed(config.seed)
        if ref_model is None and num_shared_layers is not None:
            ref_model = create_reference_model(model, num_shared_layers)
        self.config, self.exact, self.tokenizer, self.dataset = config, exact, tokenizer, dataset
        self.model, self.ref_model, self.lr_scheduler = model, ref_model, lr_scheduler
        self.is_encoder_decoder, self.is_peft_model = model.is_encoder_decoder, model.is_peft_model
        self.policy = self._make_policy()
        self.current_device, state = self.policy.base.device, SimpleNamespace(deepspeed_plugin=None)
        here = {"device": self.current_device, "num_processes": 1, "is_main_process": True}
        self.accelerator = SimpleNamespace(state=state, **here)
        unused = {*getattr(dataset, "column_names", ())} - COLUMNS
        if unused and config.remove_unused_columns:
            dataset = dataset.remove_columns([*unused])
        self.dataloader = dataset and DataLoader(
            dataset, config.batch_size, shuffle=True, drop_last=True, collate_fn=data_collator
        )
        learning = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = optimizer or torch.optim.Adam(learning, lr=config.learning_rate)
        self.learner = self._make_learner()
        self.kl_coef, self.moments, self.current_step = config.kl.coef, RunningMoments(), 0
        self.texts: deque[tuple[list[int], ...]] = deque(maxlen=2 * config.batch_size)
        self.writer = None
        if config.log_with:
            from torch.utils.tensorboard import SummaryWriter

            folder = Path(config.project_kwargs["logging_dir"], config.tracker_project_name)
            self.writer = SummaryWriter(folder)

    def _make_policy(self) -> Policy:
        model, family = self.model.pretrained_model, self.model.family
        bare, frozen = self.exact and self.is_peft_model, None
        if self.ref_model is not None and not bare:
            frozen = self.ref_model.requires_grad_(False).pretrained_model
        policy = Policy(model, family, Sampling(), False, frozen)
        policy.value_head = self.model.v_head
        if self.is_peft_model and frozen is None and not bare:
            copy_adapter(model, family)
        complete_special_tokens(policy.base, self.tokenizer, policy.base.name_or_path)
        if getattr(policy.base, "hf_quantizer", None) is None:  # which can't move
            policy.to("cuda" if torch.cuda.is_available() else "cpu")
        return policy

    def _make_learner(self) -> Learner:
        options, sizes = self.config.update, MicroBatches(self.config.mini_batch_size)
        ranks, backward = Ranks(1, 0, lambda x: x, nullcontext), torch.Tensor.backward
        learner = Learner(self.policy, self.optimizer, options, ranks, backward, _give_up, sizes)
        if self.exact:  # the first clip uses up TRL's iterator over the parameters
            unclipped = options._replace(max_grad_norm=None)
            self.optimizer.register_step_post_hook(
                lambda *_: setattr(learner, "options", unclipped)
            )
        return learner

    def generate(
        self,
        query_tensor: Tensor | list[Tensor],
        length_sampler: Callable[[], int] | None = None,
        batch_size: int = 4,
        return_prompt: bool = True,
        generate_ref_response: bool = False,
        **options: Any,
    ) -> Any:
        """Responds to prompts; an encoder-decoder's responses begin with its start token.

        Args:
            query_tensor: A prompt ``[s]``, or a list of prompts.
            length_sampler: Draws ``max_new_tokens`` for each batch of prompts.
            batch_size: Prompts that are answered together.
            return_prompt: Whether a decoder-only model's responses begin with their prompts.
            generate_ref_response: Whether the reference responds, too.
            options: Of transformers' ``generate``; any token can be drawn without ``top_k``.

        Returns:
            Responses ``[t]`` in a list, or ``[1, t]`` to a single prompt; a pair of these if the
            reference responds, too.
        """
        is_list = isinstance(query_tensor, list)
        queries: Any = query_tensor if is_list else [query_tensor]
        found: list[list[Tensor]] = [[] for _ in range(1 + generate_ref_response)]
        for start in range(0, len(queries), batch_size):
            batch = queries[start : start + batch_size]
            if length_sampler is not None:
                options["max_new_tokens"] = length_sampler()
            before = 1 if self.is_encoder_decoder else max(map(len, batch))
            sampling = sampling_of(options, before, self.policy.eos_token_ids)
            if options.get("do_sample") and not self.exact:
                self.policy.sampling = sampling
            for is_reference, responses in enumerate(found):
                with self.policy.reference(bool(is_reference)):
                    responses += self._respond(batch, sampling, return_prompt)
        shaped = [responses if is_list else responses[0][None] for responses in found]
        return tuple(shaped) if generate_ref_response else shaped[0]

    def _respond(
        self, queries: list[Tensor], sampling: Sampling, return_prompt: bool
    ) -> list[Tensor]:
        policy, prompts = self.policy, batches.prompts_of(queries, self.policy)
        encoded = policy.encode_prompts(prompts.prompt_ids, prompts.prompt_mask)
        choose = sampling.choose(policy.eos_token_ids)
        ids = policy.generate(encoded, choose, sampling.limits[1]).ids
        lengths = response_lengths(ids, policy.eos_token_ids).tolist()
        rows = [row[:length] for row, length in zip(ids, lengths, strict=True)]
        first = [query.to(ids) for query in queries]
        self.texts.extend((x.tolist(), row.tolist()) for x, row in zip(first, rows, strict=True))
        if self.is_encoder_decoder:
            start = policy.base.generation_config.decoder_start_token_id
            first = [ids.new_tensor([start])] * len(rows)
        elif not return_prompt:
            return rows
        return [torch.cat(pair) for pair in zip(first, rows, strict=True)]

    def step(
        self, queries: list[Tensor], responses: list[Tensor], scores: list[Tensor]
    ) -> dict[str, float]:
        """Learns from ``batch_size`` prompts ``[s]``, their responses ``[t]`` and scores.

        Returns:
            Figures under TRL's names, and some more; but not TRL's arrays.

        Raises:
            InputError: If the lists don't fit.
            TrainingError: If a loss or a gradient is not finite.
        """
        config = self.config
        for name, given in (("queries", queries), ("responses", responses), ("scores", scores)):
            if not isinstance(given, list) or len(given) != config.batch_size:
                raise InputError(f"step({name}): give a list of batch_size={config.batch_size}")
        batches.check_rows([*queries, *responses])
        values = torch.tensor([float(x) for x in scores], device=self.current_device)
        policy, texts, exact = self.policy, [*self.texts], self.exact
        pairs = zip(responses, queries, strict=True)
        own = [batches.stripped(row, query, policy, texts, exact) for row, query in pairs]
        answers = batches.responses_of(own, policy, exact)
        prompts, kind = batches.prompts_of(queries, policy), config.kl.estimator
        rollout = measure(policy, prompts, answers, values, kind, config.mini_batch_size)
        moments, gae = replace(self.moments), GAE(config.gamma, config.lam)
        experience = to_experience(rollout, self.kl_coef, gae, config.shaping, moments)
        orders: list[Tensor] = []
        meter = self.learner.learn(experience, self._shuffles(orders), "step()")

        shaped = shape_scores(values, config.shaping, moments)
        rows = [rows for order in orders for rows in order.split(config.backward_batch_size)]
        stats = batches.stats_of(rollout, experience, meter, rows, self.kl_coef)
        stats |= {"ppo/mean_scores": float(shaped.mean()), "ppo/std_scores": float(shaped.std())}
        stats["ppo/learning_rate"] = self.optimizer.param_groups[0]["lr"]
        self.kl_coef = config.kl.next_coef(self.kl_coef, stats["objective/kl"], len(scores))
        self.moments = moments
        self.texts.clear()
        if self.lr_scheduler is not None:
            self.lr_scheduler.step()
        return stats

    def _shuffles(self, drawn: list[Tensor]) -> Iterator[Tensor]:
        """Draws an order of the responses for each epoch, and notes it."""
        for _ in range(self.config.ppo_epochs):
            drawn.append(torch.from_numpy(np.random.permutation(self.config.batch_size)))
            yield drawn[-1]

    def log_stats(self, stats: dict[str, float], batch: Any, rewards: Any, **_: Any) -> None:
        """Writes the figures of a step, and moments of its rewards, to TensorBoard."""
        self.current_step += 1
        if self.writer is not None:
            scores = torch.tensor([float(x) for x in rewards])
            moments: Any = {"env/reward_mean": scores.mean(), "env/reward_std": scores.std()}
            for name, figure in {**stats, **moments}.items():
                self.writer.add_scalar(name, float(figure), self.current_step)
            self.writer.flush()

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the policy and its tokenizer."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def _give_up(what: str, rows: Tensor) -> NoReturn:
    raise TrainingError(
        f"step(): {what}. Likely causes: a score that is not finite or far from 0 "
        "(use_score_scaling, score_clip), too high a learning_rate, no max_grad_norm"
    )


def _check(config: PPOConfig, model: Any, tokenizer: Any, exact: bool) -> None:
    """Refuses what is not carried over, before anything is done."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "PPOTrainer runs in one process: start it without torchrun, or train on several GPUs "
            "with `python -m detox_lightning fit` (docs/recipes/gpus.md)"
        )
    if not isinstance(model, ModelWithValueHead) or tokenizer is None:
        raise InputError(
            "PPOTrainer needs model=AutoModelFor…WithValueHead.from_pretrained(…), of "
            f"{__name__}, and tokenizer=…; the model is a {type(model).__name__}"
        )
    model.check_learning()
    if exact and (config.whiten_rewards or config.gradient_accumulation_steps > 1):
        raise InputError(
            "exact=True: TRL mixes padding into whiten_rewards, and averages averages with "
            "gradient_accumulation_steps; leave both out"
        )
