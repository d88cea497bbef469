"""What a test finds on sentences about groups of people."""

from typing import Any, cast

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info

from detox_lightning.data.identity_rows import IdentitySource, sample_per_group, sample_rows
from detox_lightning.errors import InputError
from detox_lightning.evaluation.evaluator import Evaluator
from detox_lightning.evaluation.identity import audit_judges, compare_answers
from detox_lightning.protocols import data_of
from detox_lightning.stages.stage_module import StageModule

TEMPLATES, GROUPS = "model.evaluation.identity_templates", "model.evaluation.identity_groups"


class IdentityTest:
    """Holds the sentences of a test, which are read before any model opens."""

    def __init__(self, evaluator: Evaluator, source: IdentitySource):
        """Reads the source, for the evaluator that answers and judges.

        Raises:
            InputError: If the file can't be used, or has more groups than are to be judged.
        """
        self.evaluator = evaluator
        self.sentences, self.left_out = source.read()
        rows, seed = evaluator.plan.identity_rows, evaluator.seed
        self.judged = sample_rows(self.sentences, rows, seed, "model.evaluation.identity_rows")

    @classmethod
    def of(cls, module: LightningModule) -> "IdentityTest | None":
        """Reads the file that the plan names; None if it names none, or there is no plan."""
        evaluator = getattr(module, "evaluator", None)
        if not isinstance(evaluator, Evaluator) or evaluator.plan.identity_templates is None:
            return None
        file, groups = evaluator.plan.identity_templates, evaluator.plan.identity_groups
        if not hasattr(data_of(module.trainer), "encode_texts"):
            raise InputError(
                f"{TEMPLATES}={file}: a data module makes prompts of the sentences, such as a "
                "DialogueDataModule: give one, or leave this out"
            )
        flags = {"flag": f"{TEMPLATES}, {{}}", "groups_flag": GROUPS}
        return cls(evaluator, IdentitySource(file, groups, **flags))

    def run(self, module: LightningModule, is_first: bool) -> dict[str, Any] | None:
        """Lets both models answer harmless sentences, and asks the judges.

        All processes answer the same sentences, as a sharded model needs them all.

        Args:
            module: The stage that makes prompts of sentences.
            is_first: Whether this process writes the report; the others return None.
        """
        plan, seed = self.evaluator.plan, self.evaluator.seed
        rows = [row for row, is_one in enumerate(self.sentences.harmless) if is_one]
        asked = sample_per_group(self.sentences.select(rows), plan.identity_prompts, seed)
        rank_zero_info(f"Groups of people: both models answer {len(asked.texts)} sentences")
        batch = cast(StageModule, module).prompts_of(asked.texts, None)
        with module.trainer.precision_plugin.forward_context():
            answers = compare_answers(self.evaluator, batch, asked, seed)
        if not is_first:
            return None
        audit = audit_judges(self.evaluator.judge.classifiers(), self.judged, seed)
        audit["about"] |= {"file": plan.identity_templates, "left_out": self.left_out}
        return {"audit": audit, "answers": answers}
