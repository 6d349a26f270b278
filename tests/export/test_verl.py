"""The reward manager in verl's own hands: found, built, called and turned into advantages.

pip install verl==0.9.1     # in an environment of its own
"""

import asyncio
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from packaging.version import Version
from small_models import TEMPLATES, network, tokenizer
from verl_batches import CODEC, FIELDS, ONE, PROMPT, RIGHT, WRONG, responses

from rlmec.export.library import RewardModel
from rlmec.export.model_folder import Origin, write_origin
from rlmec.lm.loading import export_network

FITS = find_spec("verl") is not None and Version(version("verl")) >= Version("0.8")

pytestmark = [
    pytest.mark.skipif(not FITS, reason="verl from 0.8 on is not installed"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]


def compute_score(data_source, solution_str, ground_truth, extra_info, **others):
    return float(solution_str.endswith(f" {ground_truth}."))


def batch():
    """The two responses as verl's rollout leaves them."""
    from verl import DataProto

    given, mask = responses()
    return DataProto.from_dict(
        {"prompts": mask[:, :PROMPT], "responses": given, "attention_mask": mask},
        {name: np.array([value] * 2, object) for name, value in FIELDS.items()},
    )


def test_verls_reward_loop_keeps_every_tokens_reward(tmp_path):
    from verl.experimental.reward_loop.reward_loop import RewardLoopWorker
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn
    from verl.trainer.ppo.reward import resolve_reward_manager_cls

    export_network(network(seed=4), tokenizer(), tmp_path / "grm")
    write_origin(tmp_path / "grm", Origin("grm", TEMPLATES, CODEC.digest, 20))
    judge = {"path": __file__, "name": "compute_score"}
    manager = {"source": "importlib", "name": "VerlRewardManager"}
    manager["module"] = {"path": "pkg://rlmec.export.token_rewards"}
    config = OmegaConf.create(
        {
            "actor_rollout_ref": {"model": {"tokenizer_path": str(tmp_path / "grm")}},
            "reward": {
                "custom_reward_function": judge,
                "reward_manager": manager,
                "reward_model": {"enable": False},
                "reward_kwargs": {"grm": str(tmp_path / "grm")},
            },
        }
    )

    async def scored():
        return await RewardLoopWorker(config).compute_score_batch(data)

    data = batch()
    found = asyncio.run(scored())
    assert [one["reward_extra_info"] for one in found] == [{"acc": 0.0}, {"acc": 1.0}]
    scores = [one["reward_score"] for one in found]
    table = resolve_reward_manager_cls(config).assemble_rm_scores(data, scores)
    asked = {"solution": ONE.solution, "answer": "4", "is_right": [False, True]}
    expected = RewardModel.load(tmp_path / "grm").score(ONE.question, [WRONG, RIGHT], **asked)
    for row, one in zip(table, expected, strict=True):
        assert row[: len(one.tokens)].tolist() == pytest.approx(one.token_rewards, abs=1e-6)
        assert not row[len(one.tokens) :].any()

    # Returns with gamma 0 are the rewards themselves: verl's estimator keeps the tokens apart.
    estimator = get_adv_estimator_fn("reinforce_plus_plus")
    mask = data.batch["attention_mask"][:, PROMPT:]
    advantages, returns = estimator(
        token_level_rewards=table, response_mask=mask, config=OmegaConf.create({"gamma": 0.0})
    )
    assert torch.equal(returns, table)
    places = mask.bool()
    alike = torch.corrcoef(torch.stack([advantages[places], table[places]]))[0, 1]
    assert alike == pytest.approx(1.0, abs=1e-5)
