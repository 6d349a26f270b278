"""The plan at the door: sizes from a configuration alone, the table, refusals, and memory that ran
out in spite of it."""

import re
from dataclasses import replace

import pytest
import torch
from small_fits import credited_rows, data_of, fitted, run_of
from small_models import FIVE, SHAPES, network, tokenizer
from small_settings import part, tree

from rlmec.lm.loading import export_network
from rlmec.lm.lora import with_lora
from rlmec.lm.memory_estimate import GIB, Weights, trained_weights
from rlmec.lm.model_sizes import model_shape, scratch_shape
from rlmec.pipeline import memory_plan
from rlmec.pipeline.memory_plan import (
    FIT_REMEDIES,
    PREDICT_REMEDIES,
    PromptLengths,
    device_memory,
    longest_rows,
    named_memory,
    plan_memory,
    planned_stages,
)
from rlmec.settings.binding import ConfigurationError
from rlmec.settings.check import check
from rlmec.settings.schema import LoraSettings, as_plain
from rlmec.stages.flow import STAGES

QWEN3_1_7B = {
    **{"model_type": "qwen3", "hidden_size": 2048, "intermediate_size": 6144},
    **{"num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8},
    **{"head_dim": 128, "tie_word_embeddings": True},
}


@pytest.mark.parametrize("kind", FIVE)
def test_sizes_are_those_of_the_network_itself(kind, tmp_path):
    made = network(kind)
    export_network(made, tokenizer(), tmp_path)
    found = model_shape(tmp_path)
    assert found.parameters == sum(p.numel() for p in made.parameters())
    assert found.layers == 2
    assert found.hidden == 32
    assert (found.attention_width, found.vocabulary) == (32, len(tokenizer()))
    assert found == scratch_shape({"model_type": kind, **SHAPES[kind]}, len(tokenizer()))
    for targets in ("all-linear", [sorted(found.widths)[0]]):
        adapted = with_lora(network(kind), r=3, alpha=6, target_modules=targets)
        learns = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
        assert trained_weights(found, Weights(r=3, target_modules=targets)) == learns


def test_sizes_of_a_large_model_need_no_memory():
    """Qwen3 1.7 B by hand: embeddings 151936 * 2048 = 311,164,928; a layer's attention
    2 * 2048 * 2048 + 2 * 2048 * 1024 = 12,582,912, its inner matrices 3 * 2048 * 6144 =
    37,748,736, its norms 2 * 2048 + 2 * 128 = 4,352; 28 layers and a last norm of 2048."""
    found = scratch_shape(QWEN3_1_7B, 151936)
    assert found.parameters == 311_164_928 + 28 * (12_582_912 + 37_748_736 + 4_352) + 2048
    assert sum(found.weights.values()) == 28 * (12_582_912 + 37_748_736)
    assert (found.attention_width, found.kv_width) == (2048, 1024)


def settings_of(tmp_path, **changes):
    export_network(network(), tokenizer(), tmp_path)
    changes = {"model.lora": None, "model.path": str(tmp_path), **changes}
    trainer = {"max_tokens_per_micro_batch": 16384, **changes.pop("trainer", {})}
    return check(tree(trainer=as_plain(part("trainer", **trainer)), **changes))


def test_the_table_has_a_line_a_stage(tmp_path, capsys):
    plan_memory(settings_of(tmp_path), 1, STAGES)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == ["sample", "grm", "score", "policy"]
    assert re.search(r"policy .* 4096 +3$", lines[4])  # tokens a step, steps
    assert "total with 1 GiB in reserve)" in lines[-1]


def test_on_a_cpu_the_process_itself_counts(tmp_path, monkeypatch):
    """Half a GiB before any weights, in each stage; a plan for another machine is one for a GPU."""
    monkeypatch.setattr(memory_plan, "process_bytes", lambda counter: GIB // 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    def process(**trainer):
        stages = planned_stages(settings_of(tmp_path, trainer=trainer), 1)
        (found,) = {stage.need.process for stage in stages}
        assert all(s.need.total >= found + s.need.weights for s in stages)
        return found

    assert process(accelerator="auto") == process(accelerator="cpu", memory_gib=8.0) == GIB / 2
    assert process(memory_gib=8.0, accelerator="auto") == 0
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert process(accelerator="auto") == 0


@pytest.mark.parametrize(("short", "long"), [("bf16", "bf16-mixed"), ("32", "32-true")])
def test_a_short_name_of_a_precision_is_planned_as_the_long_one(short, long, tmp_path):
    def needs(name):
        nodes = {f"{node}.precision": name for node in ("sample", "grm", "score", "policy")}
        stages = planned_stages(settings_of(tmp_path, **nodes), 1)
        # What the process itself holds differs from call to call.
        return [replace(stage.need, process=0.0) for stage in stages]

    assert needs(short) == needs(long)
    assert {need.copies > 0 for need in needs(short)} == {short == "bf16"}


def test_composed_attention_is_planned_where_it_is_used(tmp_path):
    """On a CPU under autocast, with PyTorch's attention: not in float32, eager, or on a GPU."""

    def activations(**changes):
        stages = planned_stages(settings_of(tmp_path, **changes), 1)
        return next(s.need.activations for s in stages if s.name == "policy")

    mixed, cpu = {"policy.precision": "bf16-mixed"}, {"trainer": {"accelerator": "cpu"}}
    eager = {"model.attention": "eager"}
    gpu = {"trainer": {"accelerator": "auto", "memory_gib": 8.0}}
    assert activations(**mixed, **cpu) > activations(**mixed, **gpu)
    assert activations(**mixed, **cpu, **eager) == activations(**mixed, **gpu)
    assert activations(**cpu) == activations(**gpu)


def test_a_step_is_planned_with_the_padding_that_a_pass_more_would_cost(tmp_path):
    """4,096 tokens a step: within the limit 4,096 + 1/8 of 16,384; at most the limit of 4,200."""

    def activations(limit):
        stages = planned_stages(settings_of(tmp_path, trainer=limit), 1)
        return next(s.need.activations for s in stages if s.name == "policy")

    wide = activations({"max_tokens_per_micro_batch": 16384})
    narrow = activations({"max_tokens_per_micro_batch": 4200})
    assert wide / narrow == pytest.approx((4096 + 2048) / 4200, rel=1e-3)


def test_only_stages_that_are_made_are_planned(tmp_path, capsys):
    plan_memory(settings_of(tmp_path), 1, ["sample", "teach"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:-1]] == ["sample"]


def test_a_run_that_cannot_fit_is_refused_with_advice(tmp_path):
    large = {"trainer": {"memory_gib": 24}, "model.shape": QWEN3_1_7B}
    settings = settings_of(tmp_path, **large, **{"model.path": None})
    settings = replace(settings, model=replace(settings.model, vocabulary_size=151936))
    with pytest.raises(ConfigurationError) as caught:
        plan_memory(settings, 1, STAGES)
    told = str(caught.value)
    assert re.match(r"warmup needs about \d\d\.\d GiB on a device of 24\.0 GiB; try model", told)
    lora = LoraSettings(r=16)
    half = replace(settings.model, dtype="bfloat16", lora=lora, path=str(tmp_path))
    plan_memory(replace(settings, model=half, grm=replace(settings.grm, lora=lora)), 1, STAGES)


def test_a_limit_that_is_not_known_refuses_nothing(tmp_path):
    settings = settings_of(tmp_path)
    assert device_memory(settings.trainer) is None
    assert device_memory(replace(settings.trainer, memory_gib=2.0)) == 2 * GIB


def test_cut_weights_and_optimizers_are_read_from_the_strategy(tmp_path):
    target = {"_target_": "rlmec.training.fsdp.FullyShardedStrategy"}
    cut = {"trainer": {"devices": 4, "strategy": target}}
    whole = {s.name: s.need for s in planned_stages(settings_of(tmp_path), 4)}
    found = {s.name: s.need for s in planned_stages(settings_of(tmp_path, **cut), 4)}
    assert found["policy"].optimizer == whole["policy"].optimizer / 4
    assert found["sample"].weights == whole["sample"].weights  # whole replicas


PROMPTS = PromptLengths(policy=50, rewrite=120, reference=40)


def test_rows_are_as_long_as_prompts_and_completions_make_them(tmp_path):
    """By hand, with completions of at most 10 tokens: 50 + 40; 50 + 10; a prompt with an attempt
    and its correction, 120 + 10 + 10, for training as for rewriting; an attempt and its correction
    behind one prompt, 50 + 10 + 10."""
    ten = {f"{node}.max_completion_length": 10 for node in ("sample", "score")}
    settings = settings_of(tmp_path, **ten)
    found = longest_rows(settings, PROMPTS)
    assert found == {"warmup": 90, "sample": 60, "grm": 140, "score": 140, "policy": 70}

    # max_length bounds them, and imported attempts may be of any length up to it.
    short = replace(settings, policy=replace(settings.policy, max_length=55))
    assert longest_rows(short, PROMPTS)["sample"] == 55
    imported = replace(settings, sample=replace(settings.sample, path="attempts.jsonl"))
    most = longest_rows(settings, None)
    # A warm-up on other problems has prompts that were not measured.
    other = replace(settings, warmup=replace(settings.warmup, task={"steps": [5]}))
    assert longest_rows(other, PROMPTS) == found | {"warmup": most["warmup"]}
    assert longest_rows(imported, PROMPTS) == most | {"warmup": 90}
    assert most["policy"] == settings.policy.max_length


def test_a_cache_is_planned_for_the_rows_that_there_can_be(tmp_path):
    """Keys and values in two layers of width 16 (two heads of four share them): 2 * 2 * 16 float32
    per token, 60 tokens per row."""
    ten = {f"{node}.max_completion_length": 10 for node in ("sample", "score")}
    settings = settings_of(tmp_path, **ten)
    rows = settings.sample.part_size * settings.sample.num_generations
    known = {s.name: s.need for s in planned_stages(settings, 1, prompts=PROMPTS)}
    assert known["sample"].cache == 2 * 2 * 16 * 60 * 4 * rows

    few = replace(settings, sample=replace(settings.sample, max_problems=3))
    fewer = {s.name: s.need for s in planned_stages(few, 1, prompts=PROMPTS)}
    assert fewer["sample"].cache == 2 * 2 * 16 * 60 * 4 * 3 * settings.sample.num_generations
    assert fewer["score"].cache == 2 * 2 * 16 * 140 * 4 * 3 * settings.sample.num_generations

    unknown = {s.name: s.need for s in planned_stages(settings, 1)}
    assert known["policy"].activations < unknown["policy"].activations  # a smaller mask


# --- in spite of it ---


def test_memory_that_runs_out_in_a_fit_names_the_settings(tmp_path):
    def objective(tokens):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB\nmore")

    data = data_of(credited_rows(network(), count=6), steps=1)
    with pytest.raises(ConfigurationError, match=r"policy \(fit\): out of memory \(CUDA") as caught:
        fitted(tmp_path, network(), data, run=run_of(), objective=objective)
    assert FIT_REMEDIES in str(caught.value)
    assert "trainer.max_tokens_per_micro_batch" in FIT_REMEDIES
    assert "\n" not in str(caught.value)


def test_only_memory_is_renamed():
    with (
        pytest.raises(ConfigurationError, match=r"sample\.part_size"),
        named_memory("sample", PREDICT_REMEDIES),
    ):
        raise torch.OutOfMemoryError
    with pytest.raises(RuntimeError, match="other"), named_memory("sample", PREDICT_REMEDIES):
        raise RuntimeError("other")
