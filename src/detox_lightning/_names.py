"""The names that programs import from ``detox_lightning`` itself; it imports this late."""
# ruff: noqa: F403, F405

from detox_lightning.algorithm.advantages import (
    GAE,
    GDPO,
    GRPO,
    RLOO,
    AdvantageEstimator,
    BestOfK,
    Quantile,
    Reinforce,
    TokenRLOO,
)
from detox_lightning.algorithm.constraint import Constraint
from detox_lightning.algorithm.experience import ScoreShaping
from detox_lightning.algorithm.group_losses import CISPOLoss, DrGRPOLoss, GRPOLoss, GSPOLoss
from detox_lightning.algorithm.kl import KLPenalty
from detox_lightning.algorithm.losses import PolicyLoss, PPOLoss
from detox_lightning.callbacks.averaging import AveragingCallback
from detox_lightning.callbacks.collapse import CollapseCallback
from detox_lightning.callbacks.export import ExportCallback
from detox_lightning.callbacks.predictions import PredictionsCallback
from detox_lightning.callbacks.report import ReportCallback
from detox_lightning.callbacks.samples import SamplesCallback
from detox_lightning.cli.trainer import Trainer
from detox_lightning.data import *
from detox_lightning.errors import InputError, TrainingError
from detox_lightning.evaluation.plan import EvaluationPlan
from detox_lightning.evaluation.toxicity import ToxicityMetric
from detox_lightning.models.decoding.sampling import Sampling
from detox_lightning.models.loading import Weights
from detox_lightning.models.lora import LoRA
from detox_lightning.modules import *
from detox_lightning.rewards import *
from detox_lightning.runs.checkpointing import BoundedCheckpoint
from detox_lightning.stages.optimization import Schedule

# fmt: off
__all__ = [
    "GAE", "GDPO", "GRPO", "RLOO", "AdvantageEstimator", "AveragingCallback", "BestOfK",
    "BoundedCheckpoint", "CISPOLoss", "ClassifierReward", "CollapseCallback", "Constraint",
    "ContinuationDataModule", "DialogueDataModule", "DrGRPOLoss", "EvaluationPlan",
    "ExportCallback", "FunctionReward", "GRPOLoss", "GSPOLoss", "InputError", "KLPenalty",
    "LabeledTextDataModule", "LengthReward", "LoRA", "PPOLoss", "PPOModule", "PolicyLoss",
    "PredictionsCallback", "PrefixReward", "Quantile", "Reinforce", "ReportCallback", "Reward",
    "RewardModule", "RougeReward", "SamplesCallback", "Sampling", "Schedule", "ScoreShaping",
    "ShardedStrategy", "SimilarityReward", "SupervisedModule", "TokenRLOO", "ToxicityMetric",
    "Trainer", "TrainingError", "WeightedReward", "Weights",
]
