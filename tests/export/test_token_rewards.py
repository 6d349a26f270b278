"""Token rewards for other trainers: one reward per sampled token, in the trainers' own forms."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from small_models import network, prompts, tokenizer
from verl_batches import CODEC, FIELDS, ONE, RIGHT, WRONG, ids_of, responses

from rlmec.export.library import RewardModel
from rlmec.export.token_rewards import (
    TokenRewards,
    VerlRewardManager,
    mean_token_reward,
    padded,
    question_of,
)

KNOWN = {"question": [ONE.question] * 2, "solution": [ONE.solution] * 2, "answer": [4, 4]}


@pytest.fixture(scope="module")
def rewards():
    return TokenRewards(RewardModel(network(seed=4), prompts(), 20))


def wanted(rewards):
    """The rewards of the two texts, by the way that takes texts."""
    score = rewards.model.score
    found = score(ONE.question, [WRONG, RIGHT], solution=ONE.solution, is_right=[False, True])
    return [one.token_rewards for one in found]


def test_ids_have_the_rewards_of_their_text(rewards):
    found = rewards(["not the question"] * 2, ids_of(WRONG, RIGHT), [False, True], KNOWN)
    for one, own in zip(found, wanted(rewards), strict=True):
        assert one == pytest.approx(own, abs=1e-6)
    assert [len(one) for one in found] == [len(ids) for ids in ids_of(WRONG, RIGHT)]


def test_a_completion_that_was_cut_off_has_no_end_token(rewards):
    (ids,) = ids_of(WRONG)
    whole, cut = rewards.model.score_ids(ONE.question, [ids, ids[:4]], solution=ONE.solution)
    assert cut.token_ids == ids[:4]
    assert len(cut.logprobs) == 4
    assert cut.text == CODEC.decode(ids[:4])
    assert whole.spans[:4] == cut.spans
    with pytest.raises(ValueError, match="attempt 1: no token ids"):
        rewards.model.score_ids(ONE.question, [ids, []], solution=ONE.solution)


def test_the_question_is_a_column_the_prompt_or_the_users_last_turn():
    assert question_of("2 + 2?") == "2 + 2?"
    turns = [("system", "s"), ("user", "one"), ("assistant", "a"), ("user", "two")]
    assert question_of([{"role": r, "content": c} for r, c in turns]) == "two"
    for bad in ([{"role": "system", "content": "s"}], [{"role": "user", "content": [{}]}]):
        with pytest.raises(ValueError, match="without a question"):
            question_of(bad)


def test_trls_reward_function_is_the_mean_of_a_judged_completion(rewards):
    def judge(prompts, completions, completion_ids, answer, **others):
        return [None, 1.0]

    found = mean_token_reward(rewards, judge)(
        prompts=["p", "p"],
        completions=[WRONG, RIGHT],
        completion_ids=ids_of(WRONG, RIGHT),
        **KNOWN,
        trainer_state=None,
    )
    assert found == pytest.approx([np.mean(one) for one in wanted(rewards)], abs=1e-6)


def test_padding_is_zero():
    assert (
        padded([[0.5], [-0.1, 0.25]], 3).tolist()
        == torch.tensor([[0.5, 0, 0], [-0.1, 0.25, 0]]).tolist()
    )
    with pytest.raises(ValueError, match="completion 1 has 2 tokens, more than 1"):
        padded([[0.5], [-0.1, 0.25]], 1)


def judged(data_source, solution_str, ground_truth, extra_info):
    return {"score": float(solution_str.endswith(f" {ground_truth}."))}


async def judged_later(**given):
    return judged(**given)["score"]


@pytest.mark.parametrize("judge", [judged, judged_later])
def test_verls_manager_puts_rewards_along_the_responses(rewards, judge, monkeypatch):
    """The fields of a DataProto as verl fills them: prompts on the left, padding on both sides."""
    given, mask = responses()
    batches = [
        SimpleNamespace(
            batch={"responses": given[i : i + 1], "attention_mask": mask[i : i + 1]},
            non_tensor_batch={name: [value] for name, value in FIELDS.items()},
        )
        for i in range(2)
    ]

    monkeypatch.setattr(RewardModel, "load", lambda folder: {"GRM": rewards.model}[folder])
    config = OmegaConf.create({"reward": {"reward_kwargs": {"grm": "GRM"}}})
    manager = VerlRewardManager(config, tokenizer(), judge, reward_router_address=None)
    found = [asyncio.run(manager.run_single(data)) for data in batches]
    assert [one["reward_extra_info"] for one in found] == [{"acc": 0.0}, {"acc": 1.0}]
    whole = SimpleNamespace(batch={"responses": given})
    table = VerlRewardManager.assemble_rm_scores(whole, [one["reward_score"] for one in found])
    assert torch.allclose(table, padded(wanted(rewards), given.shape[1]), atol=1e-6)


def test_verls_manager_needs_a_judge_and_a_reward_model():
    with pytest.raises(ValueError, match="compute_score"):
        VerlRewardManager(OmegaConf.create({"reward": {}}), tokenizer(), None)
    with pytest.raises(ValueError, match="names no folder of a reward model"):
        VerlRewardManager(OmegaConf.create({"reward": {}}), tokenizer(), judged)
