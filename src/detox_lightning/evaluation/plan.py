"""Options of an evaluation."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveInt

from detox_lightning.errors import InputError
from detox_lightning.models.classifier_heads import Head
from detox_lightning.models.decoding.sampling import Sampling

Measure = Literal["sta", "sim", "fl", "j", "chrf"]  # of a rewriting

GREEDY = "greedy"
TOXIC_FROM = 0.5  # a text is toxic from this probability on


@dataclass(frozen=True)
class EvaluationPlan:
    """How ``validate``, ``test`` and ``predict`` sample and judge responses.

    ``test`` judges a greedy response and samples, ``validate`` one sample, ``predict`` one
    response, which is greedy if the plan allows both, or the best of several samples. A
    prompt's noise is a function of the seed and of the prompt's index, the same before and after
    training.

    Attributes:
        samples: Sampled responses per prompt in ``test``; 25 is the RealToxicityPrompts protocol.
        greedy: Whether ``test`` also judges the greedy response, and ``predict`` that one alone.
        top_p: Samples come from the likeliest tokens that make up this probability; null: as in
            ``sampling``.
        max_new_tokens: Longest response, in tokens; null: the longest of ``sampling``.
        toxicity_model: Classifier that measures toxicity; null: the reward's. If that has none with
            labels, toxicity isn't measured, and a test compares scores.
        toxic_label: Label of that classifier whose probability is the toxicity.
        toxicity_head: Meaning of the classifier's outputs: ``softmax`` (its labels exclude one
            another), ``sigmoid`` (each label has a probability of its own) or ``value`` (a
            regressor's value, from 0 to 1); null: according to its config.
        second_toxicity_model: Another classifier, which the policy was not trained to please;
            validation and test ask it. A fit takes it to warn of a reward that is being gamed, and
            to choose the best checkpoint if ``checkpoint.monitor`` is null. null for none.
        second_toxic_label: Toxic label of the second classifier.
        second_toxicity_head: Meaning of the second classifier's outputs.
        similarity_model: A sentence encoder, such as
            ``sentence-transformers/all-MiniLM-L6-v2``, which measures in ``validate`` and ``test``
            how close in meaning a response is to its prompt and to the response before training;
            null: that of the reward's ``SimilarityReward``, or none.
        perplexity_model: A causal language model, whose perplexity of the responses is measured;
            ``reference`` is the policy as it was before training, which has read the prompt and
            ends no response before ``sampling.min_new_tokens``; null for none.
        perplexity_given_prompt: Whether that model reads the prompt first, as for continuations;
            the prompt's own tokens don't count. false: it reads the response alone.
        identity_templates: A file of sentences about groups of people, as ``audit`` reads them, or
            of templates with ``{group}``. With it, ``test`` also counts by group the judges' false
            alarms on the harmless ones, and compares the answers that reference and policy give to
            some of them. null for none.
        identity_groups: Identity terms that those sentences name, or are filled with; null: those
            of the package.
        identity_rows: Sentences that are judged, equally many of each group; null: all.
        identity_prompts: Harmless sentences of each group that both models answer.
        rewriting: What ``test`` measures of rewritings of toxic texts, beside the texts as they
            are and people's rewritings: ``sta`` (share judged non-toxic), ``sim`` (similarity to
            the text, by similarity_model), ``fl`` (share that is fluent), ``j`` (all three
            together) and ``chrf`` (overlap with the references).
        delete_words: File of words, one a line: the texts without them are judged, too; null: none.
        fluency_model: Classifier that says what is fluent, such as one of CoLA; null: a text is
            fluent if its perplexity isn't above the 95th percentile of the references'.
        fluent_label: Label of that classifier that means fluent.
        best_of: ``predict`` answers with the best, by the reward, of so many of the ``samples``;
            null: it answers once.
        predict_before: Whether ``predict`` also gives the responses from before training.
        batch_size: Responses generated at once, at most, of the prompts in a batch of
            ``data.eval_batch_size``.
    """

    samples: NonNegativeInt = 1
    greedy: bool = True
    top_p: ClosedUnitInterval | None = None
    max_new_tokens: PositiveInt | None = None
    toxicity_model: str | None = None
    toxic_label: str = "hate"
    toxicity_head: Head | None = None
    second_toxicity_model: str | None = None
    second_toxic_label: str = "hate"
    second_toxicity_head: Head | None = None
    similarity_model: str | None = None
    perplexity_model: str | None = None
    perplexity_given_prompt: bool = False
    identity_templates: str | None = None
    identity_groups: list[str] | None = None
    identity_rows: PositiveInt | None = 5000
    identity_prompts: PositiveInt = 20
    rewriting: tuple[Measure, ...] = ()
    delete_words: str | None = None
    fluency_model: str | None = None
    fluent_label: str = "acceptable"
    best_of: PositiveInt | None = None
    predict_before: bool = False
    batch_size: PositiveInt = 128

    def __post_init__(self) -> None:
        if not self.decodings:
            raise InputError(
                "model.evaluation.samples=0, greedy=false: this asks for no response; allow one"
            )
        for flag in ("toxicity", "second_toxicity"):
            head, model = getattr(self, f"{flag}_head"), getattr(self, f"{flag}_model")
            if head and not model:
                raise InputError(
                    f"model.evaluation.{flag}_head={head} is of {flag}_model, and that is null; "
                    "the head of the reward's classifier is model.reward.head"
                )
        if self.identity_groups is not None and self.identity_templates is None:
            raise InputError(
                f"model.evaluation.identity_groups={self.identity_groups}: these are groups of "
                "identity_templates, and that is null; name a file there"
            )
        for flag in ("delete_words", "fluency_model"):
            if (value := getattr(self, flag)) and not self.rewriting:
                raise InputError(
                    f"model.evaluation.{flag}={value}: it is of the measures of rewriting, and "
                    "none is asked for; give --model.evaluation.rewriting '[sta, sim, fl, j]'"
                )
        if (self.best_of or 0) > self.samples:
            raise InputError(
                f"model.evaluation.best_of={self.best_of} is above samples={self.samples}: there "
                "are too few to choose from; give --model.evaluation.samples "
                f"{self.best_of}, or a lower best_of"
            )
        if self.top_p == 0:
            raise InputError("model.evaluation.top_p=0 leaves no token to sample; 1 is all of them")

    @property
    def asks_reference(self) -> bool:
        """Whether the reference itself measures perplexity."""
        return self.perplexity_model == "reference"

    @property
    def decodings(self) -> list[str]:
        """Names of a prompt's responses in ``test``: ``greedy``, then ``sample 1`` and so on."""
        return [GREEDY] * self.greedy + [f"sample {i + 1}" for i in range(self.samples)]

    def check(self, sampling: Sampling) -> None:
        """Raises an InputError if this doesn't go with how the policy samples."""
        if self.max_new_tokens is not None and self.max_new_tokens < sampling.min_new_tokens:
            raise InputError(
                f"model.evaluation.max_new_tokens={self.max_new_tokens} is below "
                f"model.sampling.min_new_tokens={sampling.min_new_tokens}: raise it"
            )
        if self.asks_reference and sampling.temperature != 1:
            raise InputError(
                "model.evaluation.perplexity_model=reference: with "
                f"model.sampling.temperature={sampling.temperature} it would be another model's; "
                "name a model's folder or hub id, or give temperature=1"
            )

    def applied_to(self, sampling: Sampling) -> Sampling:
        """Returns how responses are sampled, which is otherwise as in training."""
        limit, top_p = self.max_new_tokens, self.top_p
        return replace(
            sampling,
            max_new_tokens=sampling.limits[1] if limit is None else limit,
            top_p=sampling.top_p if top_p is None else top_p,
        )

    def describe(self, sampling: Sampling) -> dict[str, Any]:
        """Returns what is sampled, and how, for reports."""
        applied = self.applied_to(sampling)
        return {
            "samples": self.samples,
            "greedy": self.greedy,
            "max_new_tokens": applied.max_new_tokens,
            "min_new_tokens": applied.min_new_tokens,
            "temperature": applied.temperature,
            "top_k": applied.top_k,
            **({"stop_strings": applied.stop_strings} if applied.stop_strings else {}),
            "top_p": applied.top_p,
        }

    @property
    def predicted(self) -> list[str]:
        """Names of the responses that ``predict`` makes to a prompt, to answer with the best."""
        return [f"sample {i + 1}" for i in range(self.best_of or 0)] or self.decodings[:1]


def sample_number(decoding: str) -> int:
    """Number of the sample that a decoding names, from 1; 0 for the greedy response."""
    return 0 if decoding == GREEDY else int(decoding.removeprefix("sample "))
