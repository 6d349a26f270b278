"""GRPO with TRL, in which every token has a reward of its own, from a reward model of RLMEC.

In: a policy, a reward model with the same tokenizer (stage=export export.what=grm), and a file of
problems with a reference solution. The command is in examples/README.md; it needs the package trl.
"""

import sys

import torch
from datasets import load_dataset
from trl import GRPOConfig

import rlmec
from rlmec.answers.final_answer import judge_number
from rlmec.export.trl_grpo import TokenRewardGRPOTrainer


def is_right(completions, answer, **_):
    """TRL's form of a reward function: 1 for a right completion."""
    pairs = zip(completions, answer, strict=True)
    return [float(judge_number(text, str(gold)) == "right") for text, gold in pairs]


def main(policy, reward_model, file, folder="outputs/trl", steps=10):
    grm = rlmec.RewardModel.load(reward_model)
    problems = load_dataset("json", data_files=str(file), split="train")
    template = grm.prompts.templates.policy
    rows = problems.map(lambda row: {"prompt": template.replace("{question}", row["question"])})
    trainer = TokenRewardGRPOTrainer(
        str(policy),
        reward_funcs=is_right,
        reward_model=grm,
        train_dataset=rows,
        args=GRPOConfig(
            str(folder),
            max_steps=int(steps),
            learning_rate=1e-4,
            num_generations=4,
            per_device_train_batch_size=16,
            max_completion_length=64,
            bf16=torch.cuda.is_available(),
            use_cpu=not torch.cuda.is_available(),
            logging_steps=1,
            report_to="none",
            seed=1,
        ),
    )
    trainer.train()
    trainer.save_model()
    return trainer


if __name__ == "__main__":
    main(*sys.argv[1:])
