"""The reward manager in verl's own hands: registered, built, called and turned into advantages.

pip install verl==0.6.1     # in an environment of its own

verl up to 0.6 calls a reward manager with a batch. From 0.7 on its usual path keeps one number per
response, and the manager's registry is another.
"""

from importlib.metadata import version
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from packaging.version import Version
from small_models import PROBLEMS, network, prompts, tokenizer

from rlmec.export.library import RewardModel
from rlmec.export.token_rewards import TokenRewards, VerlRewardManager

FITS = find_spec("verl") is not None and Version(version("verl")) < Version("0.7")

pytestmark = [
    pytest.mark.skipif(not FITS, reason="verl up to 0.6 is not installed"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]

CODEC = prompts().codec
TEXTS = ["1 + 3 = 5\nThe answer is 5.", "1 + 3 = 4\nThe answer is 4."]
ONE = PROBLEMS[1]
ESTIMATOR = "reinforce_plus_plus"


def compute_score(data_source, solution_str, ground_truth, extra_info):
    return float(solution_str.endswith(f" {ground_truth}."))


def batch():
    """Two responses as verl's rollout leaves them: prompts on the left, padding on both sides."""
    from verl import DataProto

    ids = [CODEC.completion(text) for text in TEXTS]
    width = max(map(len, ids)) + 2
    responses = torch.full((2, width), CODEC.pad_id)
    mask = torch.zeros(2, 3 + width, dtype=torch.long)
    for i, one in enumerate(ids):
        responses[i, : len(one)] = torch.tensor(one)
        mask[i, 1 : 3 + len(one)] = 1
    rows = [{"ground_truth": "4"}] * 2
    infos = [{"question": ONE.question, "solution": ONE.solution}] * 2
    tensors = {"prompts": mask[:, :3], "responses": responses, "attention_mask": mask}
    columns = {"reward_model": rows, "extra_info": infos, "data_source": ["s"] * 2}
    return DataProto.from_dict(tensors, {k: np.array(v, object) for k, v in columns.items()})


def test_verl_builds_the_manager_and_keeps_every_tokens_reward(tmp_path):
    from verl.trainer.ppo.ray_trainer import compute_advantage
    from verl.trainer.ppo.reward import compute_reward, load_reward_manager
    from verl.workers.reward_manager import register

    register("rlmec")(VerlRewardManager)
    judge = tmp_path / "judge.py"
    judge.write_text("from test_verl import compute_score\n")
    config = OmegaConf.create(
        {
            "reward_model": {"reward_manager": "rlmec"},
            "custom_reward_function": {"path": str(judge), "name": "compute_score"},
            "data": {"reward_fn_key": "data_source"},
        }
    )
    rewards = TokenRewards(RewardModel(network(seed=4), prompts(), 20))
    manager = load_reward_manager(config, tokenizer(), num_examine=0, rewards=rewards)

    data = batch()
    found, extra = compute_reward(data, manager)
    assert extra == {"acc": [0.0, 1.0]}
    asked = {"solution": ONE.solution, "is_right": [False, True]}
    expected = rewards.model.score(ONE.question, TEXTS, **asked)
    for row, one in zip(found, expected, strict=True):
        assert row[: len(one.tokens)].tolist() == pytest.approx(one.token_rewards, abs=1e-6)
        assert not row[len(one.tokens) :].any()

    # Returns with gamma 0 are the rewards themselves: verl's estimator keeps the tokens apart.
    data.batch["token_level_rewards"] = found
    algorithm = OmegaConf.create({"gamma": 0.0})
    data = compute_advantage(data, ESTIMATOR, config=algorithm)
    assert torch.equal(data.batch["returns"], found)
    mask = data.batch["response_mask"].bool()
    told = torch.corrcoef(torch.stack([data.batch["advantages"][mask], found[mask]]))[0, 1]
    assert told == pytest.approx(1.0, abs=1e-5)
