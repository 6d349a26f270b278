"""Every option of the configuration composes and is bound: models, trainers and experiments."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from rlmec.pipeline.fit import fit_strategy
from rlmec.pipeline.models import check_weights
from rlmec.settings.binding import ConfigurationError, build
from rlmec.settings.check import check
from rlmec.settings.schema import LoraSettings

CONF = Path(__file__).resolve().parents[2] / "conf"
OPTIONS = [
    f"{group}={path.stem}"
    for group in ("model", "trainer", "experiment", "prompt")
    for path in sorted((CONF / group).glob("*.yaml"))
]


def composed(*overrides):
    if "model=hf" in overrides:
        overrides = (*overrides, "model.path=DIR")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return check(compose("train", overrides=[*overrides, "logger=none"]), CONF)


def test_options_are_found():
    assert len(OPTIONS) > 12


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_composes(option, monkeypatch):
    monkeypatch.setenv("RLMEC_DATA", "data")
    assert composed(option).stage == "report"


@pytest.mark.parametrize("name", ["qwen3_1_7b", "llama_3_1_8b", "qwen3_8b"])
def test_a_preset_trains_an_adapter_on_half_precision_in_policy_and_grm(name):
    s = composed(f"model={name}", "model.lora.r=8")
    assert s.model.lora == s.grm.lora
    assert s.model.lora is not None
    assert s.model.lora.r == 8
    assert {"q_proj", "down_proj"} < set(s.model.lora.target_modules)
    assert s.model.dtype == "bfloat16"
    assert s.model.gradient_checkpointing
    check_weights(s)
    own = composed(f"model={name}", "grm.lora={r: 2, alpha: 1}")
    assert own.grm.lora == LoraSettings(2, 1.0)


def test_the_experiment_for_one_gpu_can_be_combined_with_another_model():
    s = composed("experiment=lora_24gb", "model=qwen3_8b")
    assert s.model.path == "Qwen/Qwen3-8B"
    assert (s.policy.precision, s.score.precision, s.grm.precision) == ("bf16-mixed",) * 3
    assert s.prompt.chat
    assert s.trainer.accelerator == "gpu"


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["model.dtype=bfloat16"], "model.dtype=bfloat16 is of frozen weights, but model.lora"),
        (["model.quantization=nf4"], "model.quantization=nf4 is of frozen weights, but model.lora"),
        (["model.dtype=bfloat16", "model.lora={r: 4}", "grm.lora=null"], "but grm.lora is null"),
    ],
)
def test_weights_that_learn_are_float32(overrides, named):
    with pytest.raises(ConfigurationError, match=named):
        check_weights(composed("model=hf", *overrides))
    check_weights(composed("model=hf", *overrides[:2], "model.lora={r: 4}"))


@pytest.mark.parametrize("node", ["warmup", "sample", "grm", "score", "policy", "evaluate"])
@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_precisions_that_round_what_learns_are_refused(node, precision):
    with pytest.raises(ConfigurationError, match=r"use precision=bf16-mixed") as caught:
        composed(f"{node}.precision={precision}")
    assert str(caught.value).split(".")[0].split(":")[0] in (node, "score")


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("model.lora={r: 0}", r"\w+\.lora\.r is 0"),
        ("model.lora={r: 4, dropout: 1.0}", r"lora\.dropout is 1\.0"),
        ("model.lora={rank: 4}", r"unknown key '\w+\.lora\.rank'"),
        ("model.quantization=fp4", r"model\.quantization: expected"),
        ("model.dtype=half", r"model\.dtype: expected"),
    ],
)
def test_wrong_adapters_and_weights_are_refused(value, named):
    with pytest.raises(ConfigurationError, match=named):
        composed(value)


def test_a_key_that_an_experiment_sets_for_another_choice_names_the_way_out():
    line = ("experiment=smollm2_qa", "teacher=reference")
    with pytest.raises(ConfigurationError, match=r"leave it out with '~teacher\.num_proposals'"):
        composed(*line)
    assert "num_proposals" not in composed(*line, "~teacher.num_proposals").teacher


def test_strategies_of_the_trainers():
    from types import SimpleNamespace

    def strategy(name, world=1):
        settings = composed(f"trainer={name}")
        return fit_strategy(SimpleNamespace(settings=settings, ranks=SimpleNamespace(world=world)))

    assert [strategy(name) for name in ("cpu", "gpu", "ddp")] == ["auto", "auto", "ddp"]
    assert strategy("gpu", 2) == "ddp"
    cut = strategy("fsdp2")
    assert type(cut).__name__ == "FullyShardedStrategy"
    node = composed("trainer=deepspeed").trainer.strategy
    assert node["_target_"] == "lightning.pytorch.strategies.DeepSpeedStrategy"
    assert node["stage"] == 2
    assert callable(build(node | {"_partial_": True}))


def test_debug_wins_over_an_experiment():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["experiment=smoke", "debug=fdr"])
        alone = compose("train", ["debug=fdr"])
    assert cfg.policy.steps == alone.policy.steps < 10
