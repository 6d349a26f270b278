"""One round of RLMEC in a loop of your own: two LightningModules, one DataModule, your Trainer.

The chain makes attempts and corrections (stage=teach); yours may come from anywhere else, as the
records of rlmec.records. The command is in examples/README.md.
"""

import sys
from functools import partial

import lightning
import torch
import transformers

import rlmec
from rlmec.data.datamodule import PlanSettings, SolutionPairDataModule
from rlmec.data.grm_rows import grm_rows, rewriting_row
from rlmec.data.policy_rows import pair_rows
from rlmec.data.row import Row
from rlmec.lm.logprobs import score_rows
from rlmec.method.objectives import rlmec_clipped, weighted_likelihood
from rlmec.method.rewards import clipped_probability
from rlmec.records import Attempt, Correction, Score
from rlmec.settings.binding import build
from rlmec.store.tables import read_table
from rlmec.training.policy_module import PolicyModule
from rlmec.training.reward_model_module import RewardModelModule


def fit(module_class, objective, model, data):
    """Train the network of a loaded model on the rows of a DataModule."""
    plan = data.plan_for(world_size=1, rank=0)
    codec = model.prompts.codec
    module = module_class(
        model.net.network,
        pad_id=codec.pad_id,
        end_ids=codec.end_ids,
        objective=objective,
        optimizer=partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.0),
        scheduler=transformers.get_cosine_schedule_with_warmup,
        steps=plan.steps,
    )
    trainer = lightning.Trainer(
        max_epochs=1,
        accumulate_grad_batches=plan.accumulate,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    model.net.eval()
    return module


def main(overrides, steps=10):
    run = rlmec.train([*overrides, "stage=teach"])
    attempts = read_table(run.stage("sample").path / "attempts.parquet", Attempt)
    corrections = read_table(run.stage("teach").path / "corrections.parquet", Correction)
    accepted = [c for c in corrections if c.accepted]
    tried = {a.problem_id for a in attempts}
    problems = [p for p in build(run.config["task"]).problems("train") if p.id in tried]

    start = run.stage("warmup").path / "model"
    plan = PlanSettings(tokens_per_step=1024, seed=1, steps=steps)
    grm, policy = rlmec.RewardModel.load(start), rlmec.RewardModel.load(start)
    prompts = policy.prompts

    # The reward model learns to rewrite wrong attempts, and to copy right ones.
    def rewriting(data):
        mixture = {"copy": 1.0, "locate": 0.0, "seed": 1}
        found = grm_rows(data.prompts, data.problems, attempts, accepted, **mixture)
        return [item.row for item in found]

    pairs = {"attempts": attempts, "corrections": accepted}
    data = SolutionPairDataModule(prompts, problems, rewriting, plan, **pairs)
    fit(RewardModelModule, weighted_likelihood, grm, data)

    # Every attempt is seen by the reward model, and by the policy as it is before its training.
    known = data.problems
    views = [
        rewriting_row(prompts, known[a.problem_id], a.completion_ids, a.completion_ids, a.id)
        for a in attempts
    ]
    own = [
        Row.likelihood(a.id, a.prompt_ids + a.completion_ids, len(a.prompt_ids)) for a in attempts
    ]
    with torch.no_grad():
        seen = score_rows(grm.net, views, prompts.codec.pad_id)
        old = score_rows(policy.net, own, prompts.codec.pad_id)
    scores = [Score(a.id, g, o, a.tokenizer) for a, g, o in zip(attempts, seen, old, strict=True)]

    # The pairs of both, with a reward per token, train the policy.
    pairs |= {"scores": scores, "reward": clipped_probability}
    data = SolutionPairDataModule(prompts, problems, pair_rows, plan, **pairs)
    module = fit(PolicyModule, rlmec_clipped, policy, data)
    print(f"{len(data.pairs)} pairs in {len(data.rows)} rows, {module.global_step} steps")
    return module


if __name__ == "__main__":
    main(sys.argv[1:])
