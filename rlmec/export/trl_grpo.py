"""TRL's GRPOTrainer with a reward model's token rewards as advantages. Needs the package trl.

TRL computes one advantage per completion, [B]; its loss also takes one per token, [B, T], from a
subclass, and that is what is done here. Everything else is TRL's: sampling, the clipped loss, its
settings, its logs. Tried with trl 1.16.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from trl import GRPOTrainer  # pyright: ignore[reportMissingImports]

from rlmec.export.library import RewardModel
from rlmec.export.token_rewards import TokenRewards, padded
from rlmec.lm.tokenizers import tokenizer_digest
from rlmec.method.rewards import RewardRule, clipped_probability


class TokenRewardGRPOTrainer(GRPOTrainer):
    """GRPOTrainer whose advantages are the token rewards of a reward model.

    - `reward_model`: the reward model; its tokenizer must be the policy's.
    - `rule`: turns its probabilities into rewards.
    - `sequence_weight`: TRL's own advantage of a completion, times this, is added to each of its
      tokens (0: token rewards alone).

    The first of `reward_funcs` judges: a completion that it gives more than 0 is right, any other
    one is wrong. The data set has the columns that `TokenRewards` reads. Raises ValueError for
    another tokenizer, and for `use_liger_kernel`, which takes no advantages per token.
    """

    def __init__(
        self,
        *args: Any,
        reward_model: RewardModel,
        rule: RewardRule = clipped_probability,
        sequence_weight: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        tokenizer = getattr(self.processing_class, "tokenizer", self.processing_class)
        if tokenizer_digest(tokenizer) != reward_model.prompts.codec.digest:
            raise ValueError(
                "the tokenizer of the policy is not that of the reward model, so its token ids "
                "mean something else: give processing_class the tokenizer of the reward model's "
                "folder, or train a reward model for this policy"
            )
        if getattr(self.args, "use_liger_kernel", False):
            raise ValueError("use_liger_kernel takes no advantages per token: leave it off")
        reward_model.net.to(self.accelerator.device)
        self.token_rewards = TokenRewards(reward_model, rule)
        self.sequence_weight = sequence_weight
        self._found: list[list[float]] = []

    def _calculate_rewards(
        self,
        inputs: Sequence[dict[str, Any]],
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids_list: Sequence[Sequence[int]],
    ) -> torch.Tensor:
        """TRL's rewards [all B, F]; on the way the token rewards of this process's completions."""
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        first = self.accelerator.process_index * len(prompts)
        is_right = (rewards[first : first + len(prompts), 0] > 0).tolist()
        columns = {key: [row[key] for row in inputs] for key in inputs[0]}
        self._found = self.token_rewards(prompts, completion_ids_list, is_right, columns)
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        mode = "train" if self.model.training else "eval"
        made = super()._generate_and_score_completions(inputs)
        found = padded(self._found, made["completion_ids"].shape[1]).to(made["advantages"])  # [B,T]
        made["advantages"] = found + self.sequence_weight * made["advantages"][:, None]

        tokens = made["completion_mask"].bool()
        for name, share in (("positive", found > 0), ("negative", found < 0)):
            metric = f"token_rewards/{name}"
            self._metrics[mode][metric].append(share[tokens].float().mean().item())
        return made
