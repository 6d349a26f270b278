"""TRL's GRPOTrainer with token rewards, with the real package:

pip install trl==1.16.0     # in an environment of its own
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from small_models import PROBLEMS, TEMPLATES, chat_tokenizer, network, prompts, tokenizer

from rlmec.export.library import RewardModel
from rlmec.export.model_folder import Origin, write_origin
from rlmec.lm.loading import export_network

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("trl") is None, reason="trl is not installed"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A policy, a reward model with the same tokenizer, and a file of problems."""
    folder = tmp_path_factory.mktemp("trl")
    export_network(network(seed=1), tokenizer(), folder / "policy")
    export_network(network(seed=4), tokenizer(), folder / "grm")
    write_origin(folder / "grm", Origin("grm", TEMPLATES, prompts().codec.digest, 20))
    rows = [{"question": p.question, "answer": p.answer, "solution": p.solution} for p in PROBLEMS]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "examples")
    yield __import__("trl_grpo")
    sys.modules.pop("trl_grpo")


def test_ten_steps_train_on_the_reward_models_token_rewards(places, example, tmp_path, monkeypatch):
    """The advantages are the rewards of the ids that were sampled, and TRL's first loss is minus
    their mean over all tokens: old and new probabilities are still the same."""
    seen = []
    base = example.TokenRewardGRPOTrainer._generate_and_score_completions

    def noted(self, inputs):
        seen.append((inputs, base(self, inputs)))
        return seen[-1][1]

    monkeypatch.setattr(example.TokenRewardGRPOTrainer, "_generate_and_score_completions", noted)
    files = [places / name for name in ("policy", "grm", "problems.jsonl")]
    trainer = example.main(*files, tmp_path / "out")
    assert trainer.state.global_step == 10
    assert (tmp_path / "out" / "model.safetensors").is_file()

    grm = RewardModel.load(places / "grm", device="cpu")
    for inputs, made in seen[:2]:
        mask = made["completion_mask"].bool()
        ids = [row[keep].tolist() for row, keep in zip(made["completion_ids"], mask, strict=True)]
        columns = {key: [row[key] for row in inputs] for key in ("question", "solution", "answer")}
        texts = [grm.prompts.codec.text(one) for one in ids]
        right = [value > 0 for value in example.is_right(texts, columns["answer"])]
        found = grm.score_ids(columns.pop("question"), ids, **columns, is_right=right)
        for row, keep, one in zip(made["advantages"], mask, found, strict=True):
            assert row[keep].tolist() == pytest.approx(one.token_rewards, abs=1e-6)
            assert not row[~keep].any()

    first = seen[0][1]
    mean = first["advantages"][first["completion_mask"].bool()].mean()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(-float(mean), abs=2e-4)
    assert trainer.state.log_history[0]["token_rewards/negative"] > 0


def test_trls_advantage_is_added_to_each_token(places, example):
    trainer = object.__new__(example.TokenRewardGRPOTrainer)
    base = type(trainer).__mro__[1]
    made = {
        "completion_ids": torch.zeros(2, 3),
        "completion_mask": torch.tensor([[1, 1, 0], [1, 1, 1]]),
        "advantages": torch.tensor([1.0, -1.0]),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "_generate_and_score_completions", lambda self, inputs: dict(made))
        trainer.model = torch.nn.Linear(1, 1)
        trainer._metrics = {"train": {f"token_rewards/{n}": [] for n in ("positive", "negative")}}
        trainer._found = [[0.5, 0.0], [-0.1, -0.1, 0.0]]
        trainer.sequence_weight = 0.25
        found = trainer._generate_and_score_completions([])["advantages"]
    assert torch.allclose(found, torch.tensor([[0.75, 0.25, 0.25], [-0.35, -0.35, -0.25]]))
    assert trainer._metrics["train"] == {
        "token_rewards/positive": [pytest.approx(1 / 5)],
        "token_rewards/negative": [pytest.approx(2 / 5)],
    }


def test_another_tokenizer_is_refused(places, example, tmp_path):
    export_network(network(seed=1), chat_tokenizer(), tmp_path / "policy")
    files = [tmp_path / "policy", places / "grm", places / "problems.jsonl"]
    with pytest.raises(ValueError, match="not that of the reward model"):
        example.main(*files, tmp_path / "out")
