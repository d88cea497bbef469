"""Lightning's callbacks that would do something else here than they say, and are refused."""

from lightning.pytorch import callbacks

AVERAGING = "Give detox_lightning.callbacks.averaging.AveragingCallback"
# by class: the reason, and the remedy
REFUSED: dict[type, str] = {
    callbacks.BatchSizeFinder: "it would try sizes that the data never gets. Give data.batch_size, "
    "data.eval_batch_size and model.micro_batch_size; docs/memory.md says what fits",
    callbacks.LearningRateFinder: "it would train beside model.schedule. Try a few values of "
    "model.optimizer.lr, with a short trainer.limit_train_batches each",
    callbacks.StochasticWeightAveraging: "it would take model.schedule's place, and average the "
    f"frozen weights, too. {AVERAGING}",
    callbacks.WeightAveraging: "it would copy and average the frozen weights and whole numbers, "
    f"too, and can't go on from a checkpoint. {AVERAGING}",
    callbacks.GradientAccumulationScheduler: "model.schedule must know how many steps there are. "
    "Give trainer.accumulate_grad_batches; in PPO model.mini_batch_size and model.micro_batch_size",
    callbacks.ModelPruning: "it gives the weights other names, which no checkpoint or export here "
    "knows. Prune the model that is exported",
    callbacks.BaseFinetuning: "it freezes a part named backbone, which no model here has. What "
    "learns is said by model.lora (null: all)",
    callbacks.OnExceptionCheckpoint: "what it saves is from within a batch, and nothing could go "
    "on from it exactly. Give checkpoint.every_n_batches",
}
REFUSED_IN_PPO: dict[type, str] = {
    callbacks.SpikeDetection: "a rollout has no loss of its own. Rollouts that aren't finite are "
    "left out (model.max_faults), and collapse.* watches the others",
}
