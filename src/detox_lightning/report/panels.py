"""Which curves of PPO belong side by side, on a page and in TensorBoard."""

from typing import NamedTuple


class Panel(NamedTuple):
    """Metrics that one picture shows.

    Attributes:
        rollout: What is logged of every rollout; None: nothing.
        fixed: What is logged of the fixed prompts of validation.
        beside: More of the latter, for which there is room where pictures are larger.
        wider: What to call it with these, where the title doesn't cover them.
    """

    rollout: str | None
    fixed: str
    beside: tuple[str, ...] = ()
    wider: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (*filter(None, (self.rollout, self.fixed)), *self.beside)


PANELS = {
    "Score": Panel("objective/scores_mean", "val/score"),
    "Toxicity": Panel(None, "val/toxicity", ("val/toxicity_probability",)),
    "KL to the reference, nats": Panel("objective/kl", "val/kl"),
    "ROUGE-L": Panel(
        None, "val/rougeL", ("val/rouge1", "val/rouge2", "val/rougeLsum"), wider="ROUGE"
    ),
    "Tokens per response": Panel("tokens/responses_len_mean", "val/length"),
    "Share that ended by itself": Panel("objective/eos_rate", "val/eos_rate"),
}
