"""A reward model in other trainers: a reward for every token that a trainer has sampled.

In: a loaded reward model, and what trainers know about their samples: token ids, prompts, columns
of the data set, verdicts. Out: lists with one reward per token (SkyRL takes them as they are), a
reward function for TRL with one number per sample, and a reward manager for verl. None of these
trainers is imported here; the subclass of TRL's trainer is in `rlmec.export.trl_grpo`.
"""

from __future__ import annotations

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
    """A reward manager for verl: a reward for every token of a response.

    verl builds it with `tokenizer` and `num_examine`; `rewards` are its `reward_kwargs`. A row of
    the data set has `extra_info.question` and, as everywhere in verl, `reward_model.ground_truth`,
    which is the answer; `extra_info.solution` is shown to the reward model if it is there.
    `compute_score` is verl's own, and its values above 0 are right answers.
    """

    def __init__(
        self,
        tokenizer: Any,
        num_examine: int = 0,
        compute_score: Callable[..., Any] | None = None,
        reward_fn_key: str = "data_source",
        *,
        rewards: TokenRewards,
    ) -> None:
        if compute_score is None:
            raise ValueError("VerlRewardManager needs compute_score, which judges the answers")
        self.tokenizer = tokenizer
        self.compute_score = compute_score
        self.reward_fn_key = reward_fn_key
        self.rewards = rewards

    def __call__(self, data: Any, return_dict: bool = False) -> Any:
        """Rewards [B, T] along `data.batch["responses"]`, zero behind a response's end.

        `data` is a DataProto. With `return_dict` they are "reward_tensor" of a dict, next to
        "reward_extra_info", in which "acc" has the values of `compute_score`.
        """
        responses = data.batch["responses"]  # [B, T]
        width = responses.shape[1]
        lengths = data.batch["attention_mask"][:, -width:].sum(1).tolist()
        ids = [row[:n] for row, n in zip(responses.tolist(), lengths, strict=True)]

        fields = data.non_tensor_batch
        infos = list(fields["extra_info"])
        answers = [row["ground_truth"] for row in fields["reward_model"]]
        values = [
            self._judged(source, one, answer, info)
            for source, one, answer, info in zip(
                fields[self.reward_fn_key], ids, answers, infos, strict=True
            )
        ]

        columns = {"question": [info["question"] for info in infos], "answer": answers}
        if all("solution" in info for info in infos):
            columns["solution"] = [info["solution"] for info in infos]
        found = self.rewards([], ids, [value > 0 for value in values], columns)
        tensor = padded(found, width).to(responses.device)
        if not return_dict:
            return tensor
        return {"reward_tensor": tensor, "reward_extra_info": {"acc": values}}

    def _judged(self, source: Any, ids: list[int], answer: Any, info: Any) -> float:
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        found = self.compute_score(
            data_source=source, solution_str=text, ground_truth=answer, extra_info=info
        )
        return float(found["score"] if isinstance(found, dict) else found)
