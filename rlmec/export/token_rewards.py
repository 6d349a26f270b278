"""A reward model in other trainers: a reward for every token that a trainer has sampled.

In: a loaded reward model, and what trainers know about their samples: token ids, prompts, columns
of the data set, verdicts. Out: lists with one reward per token (SkyRL takes them as they are), a
reward function for TRL with one number per sample, and a reward manager for verl. None of these
trainers is imported here; the subclass of TRL's trainer is in `rlmec.export.trl_grpo`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rlmec.export.library import RewardModel
from rlmec.method.rewards import RewardRule, clipped_probability

Judge = Callable[..., Sequence[float | None]]
"""A reward function as TRL calls it, by whose values above 0 a completion is right."""


@dataclass(frozen=True)
class TokenRewards:
    """The rewards of a reward model by a rule, for a trainer's samples.

    Example:

        rewards = TokenRewards(rlmec.RewardModel.load("exports/grm"))
        rewards(["2 + 4?"], [[17, 4, 2]], [False], {"answer": ["6"]})  # [[0.0, -0.1, 0.0]]
    """

    model: RewardModel
    rule: RewardRule = clipped_probability

    def __call__(
        self,
        prompts: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        is_right: Sequence[bool],
        columns: Mapping[str, list[Any]],
    ) -> list[list[float]]:
        """One reward per token of each completion.

        `columns` has one value per completion, too: `solution`, `answer` or both (the reward
        model's prompt shows them), and `question` where a prompt is not the bare question. Without
        that column the question is the prompt, or its last turn of the user. Other columns are
        ignored. Raises ValueError if there is neither a solution nor an answer.
        """
        questions = columns.get("question") or [question_of(prompt) for prompt in prompts]
        answers = columns.get("answer")
        scored = self.model.score_ids(
            questions,
            completion_ids,
            solution=columns.get("solution"),
            answer=None if answers is None else [str(answer) for answer in answers],
            is_right=list(is_right),
            reward=self.rule,
        )
        return [one.token_rewards for one in scored]


def question_of(prompt: Any) -> str:
    """The text of a prompt, or of the user's last turn if it is a conversation.

    Raises ValueError if there is no such turn, or if it is more than text.
    """
    if isinstance(prompt, str):
        return prompt
    turns = [turn["content"] for turn in prompt if turn["role"] == "user"]
    if not turns or not isinstance(turns[-1], str):
        raise ValueError(f"a prompt without a question of the user as text: {prompt}")
    return turns[-1]


def mean_token_reward(rewards: TokenRewards, judge: Judge) -> Callable[..., list[float]]:
    """A reward function for TRL (`reward_funcs`): the mean of a completion's token rewards.

    `judge` is another such function, which is not trained on itself: it says which completions are
    right. The data set has the columns that `TokenRewards` reads.
    """

    def mean_of_token_rewards(
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> list[float]:
        given = {"prompts": prompts, "completions": completions, "completion_ids": completion_ids}
        is_right = [(value or 0) > 0 for value in judge(**given, **columns)]
        found = rewards(prompts, completion_ids, is_right, columns)
        return [float(np.mean(one)) for one in found]

    return mean_of_token_rewards


def padded(rewards: Sequence[Sequence[float]], length: int) -> torch.Tensor:
    """Rewards as one tensor [B, length], each followed by zeros.

    Raises ValueError if a completion is longer than that.
    """
    out = torch.zeros(len(rewards), length)
    for i, values in enumerate(rewards):
        if len(values) > length:
            raise ValueError(f"completion {i} has {len(values)} tokens, more than {length}")
        out[i, : len(values)] = torch.tensor(values)
    return out


class VerlRewardManager:
    """A reward manager for verl from 0.8 on: a reward for every token of a response.

    verl builds it in each worker of its reward loop. `config.reward.reward_kwargs.grm` is the
    folder of the reward model, which is loaded there. A row of the data set has
    `extra_info.question` and, as everywhere in verl, `reward_model.ground_truth`, which is the
    answer; `extra_info.solution` is shown to the reward model if it is there. `compute_score` is
    verl's own or the custom one, and its values above 0 are right answers.

    verl has two ways to put rewards into a batch. Where it computes them after the responses, it
    asks this class (`assemble_rm_scores`). Its agent loops take one number per response instead,
    and end with an error on a list.
    """

    def __init__(
        self,
        config: Any,
        tokenizer: Any,
        compute_score: Callable[..., Any] | None,
        reward_router_address: str | None = None,
        reward_model_tokenizer: Any = None,
    ) -> None:
        if compute_score is None:
            raise ValueError("VerlRewardManager needs compute_score, which judges the answers")
        folder = (config.reward.get("reward_kwargs") or {}).get("grm")
        if folder is None:
            raise ValueError("reward.reward_kwargs.grm names no folder of a reward model")
        self.tokenizer = tokenizer
        self.compute_score = compute_score
        self.rewards = TokenRewards(RewardModel.load(folder))

    async def run_single(self, data: Any) -> dict[str, Any]:
        """The rewards of the last response of `data`, a DataProto: a list with one per token.

        They are "reward_score" of a dict, next to "reward_extra_info", in which "acc" has the value
        of `compute_score`.
        """
        responses = data.batch["responses"]  # [B, T]
        length = int(data.batch["attention_mask"][-1, -responses.shape[1] :].sum())
        ids = responses[-1, :length].tolist()
        fields = {name: column[-1] for name, column in data.non_tensor_batch.items()}
        answer = fields["reward_model"]["ground_truth"]
        info = fields["extra_info"]

        found = self.compute_score(
            data_source=fields["data_source"],
            solution_str=self.tokenizer.decode(ids, skip_special_tokens=True),
            ground_truth=answer,
            extra_info=info,
        )
        if inspect.isawaitable(found):
            found = await found
        value = float(found["score"] if isinstance(found, Mapping) else found)

        columns = {"question": [info["question"]], "answer": [answer]}
        if "solution" in info:
            columns["solution"] = [info["solution"]]
        (rewards,) = self.rewards([], [ids], [value > 0], columns)
        return {"reward_score": rewards, "reward_extra_info": {"acc": value}}

    @classmethod
    def assemble_rm_scores(cls, data: Any, scores: Sequence[Sequence[float]]) -> torch.Tensor:
        """The rewards of all responses along `data.batch["responses"]`: [B, T], zero behind."""
        responses = data.batch["responses"]  # [B, T]
        return padded(scores, responses.shape[1]).to(responses.device)
