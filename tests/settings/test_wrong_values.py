"""Wrong values that the configuration alone gives away: each ends the run before anything is made.

A row is what a user types, and the words that the one-line message must hold. EARLY values are
found when the tree is bound, before a library is imported; BUILT values when the cheap parts are
built, which needs PyTorch. Three of them run as a user runs them, with a limit of 15 seconds.
"""

import functools
import resource
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from rlmec.settings.binding import ConfigurationError
from rlmec.settings.check import check

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"

EARLY = [
    # numbers out of range
    ("seed=-1", "seed is -1: at least 0"),
    ("seed=4294967296", "seed is 4294967296: at least 0 and less than 4294967296"),
    ("rounds=0", "rounds is 0: at least 1"),
    ("warmup.steps=0", "warmup.steps is 0: at least 1"),
    ("warmup.epochs=0 warmup.steps=null", "warmup.epochs is 0: more than 0"),
    ("warmup.warmup_share=2", "warmup.warmup_share is 2: at least 0 and at most 1"),
    ("warmup.target_accuracy=60", "warmup.target_accuracy is 60: at least 0 and at most 1"),
    ("warmup.val_problems=-1", "warmup.val_problems is -1: at least 0", "a large number takes all"),
    ("warmup.task.max_steps=-1 +warmup.task={}", "warmup.task.max_steps is -1: at least 1"),
    ("sample.num_generations=0", "sample.num_generations is 0: at least 1"),
    ("sample.temperature=-1", "sample.temperature is -1: at least 0", "0 decodes greedily"),
    ("sample.temperature=.nan", "sample.temperature is nan: a finite number"),
    ("sample.top_p=0", "sample.top_p is 0: more than 0 and at most 1"),
    ("sample.top_p=1.5", "sample.top_p is 1.5: more than 0 and at most 1"),
    ("sample.part_size=0", "sample.part_size is 0: at least 1"),
    ("sample.max_problems=-1", "sample.max_problems is -1: at least 1", "null takes all"),
    ("sample.max_completion_length=0", "sample.max_completion_length is 0: at least 1"),
    ("sample.logprob_checks=-1", "sample.logprob_checks is -1: at least 0"),
    ("teach.share=1.5", "teach.share is 1.5: more than 0 and at most 1"),
    ("teach.share=0", "teach.share is 0: more than 0"),
    ("teach.max_edit_ratio=-0.1", "teach.max_edit_ratio is -0.1: at least 0"),
    ("teach.part_size=0", "teach.part_size is 0: at least 1"),
    ("grm.mixture.copy=-1", "grm.mixture.copy is -1: at least 0"),
    ("grm.rows_together=0", "grm.rows_together is 0: at least 1"),
    ("grm.val_share=1", "grm.val_share is 1: at least 0 and less than 1"),
    ("grm.later_steps=0", "grm.later_steps is 0: at least 1"),
    ("grm.label_weight=-1", "grm.label_weight is -1: at least 0"),
    ("grm.gradient_clip=-1", "grm.gradient_clip is -1: at least 0", "null clips nothing"),
    ("score.part_size=0", "score.part_size is 0: at least 1"),
    ("score.max_length=0", "score.max_length is 0: at least 1"),
    ("policy.tokens_per_step=0", "policy.tokens_per_step is 0: at least 1"),
    ("policy.val_every_steps=0", "policy.val_every_steps is 0: at least 1"),
    ("policy.edit_weights.kept=-1", "policy.edit_weights.kept is -1: at least 0"),
    ("policy.max_right_per_problem=-1", "policy.max_right_per_problem is -1: at least 0"),
    ("policy.ratio_tolerance=-1", "policy.ratio_tolerance is -1: at least 0"),
    ("policy.objective.epsilon=-0.1", "policy.objective.epsilon is -0.1: at least 0"),
    ("policy.objective.kl_coef=-1", "policy.objective.kl_coef is -1: at least 0"),
    ("policy.objective.policy_coef=.inf", "policy.objective.policy_coef is inf: a finite number"),
    ("policy/objective=dpo policy.objective.beta=0", "policy.objective.beta is 0: more than 0"),
    ("policy/reward=edit_labels policy.reward.penalty=-1", "policy.reward.penalty is -1"),
    ("evaluate.num_problems=-1", "evaluate.num_problems is -1: at least 1", "null takes all"),
    ("evaluate.num_samples=-1", "evaluate.num_samples is -1: at least 0"),
    ("evaluate.num_fewshot=-1", "evaluate.num_fewshot is -1: at least 0"),
    ("evaluate.top_p=0", "evaluate.top_p is 0: more than 0"),
    ("report.page_pairs=-1", "report.page_pairs is -1: at least 1"),
    ("+report.compare.mine.steps=0", "report.compare.mine.steps is 0: at least 1"),
    ("prune.keep_days=-1", "prune.keep_days is -1: at least 0"),
    ("callbacks.keep_checkpoints=-1", "callbacks.keep_checkpoints is -1", "large number keeps all"),
    ("callbacks.checkpoint_every_steps=0", "callbacks.checkpoint_every_steps is 0: at least 1"),
    ("trainer.devices=0", "trainer.devices is 0", "-1 for all"),
    ("trainer.devices=two", "trainer.devices is 'two'", "auto"),
    ("trainer.num_nodes=0", "trainer.num_nodes is 0: at least 1"),
    ("trainer.memory_gib=0", "trainer.memory_gib is 0: more than 0"),
    ("trainer.log_every_n_steps=0", "trainer.log_every_n_steps is 0: at least 1"),
    ("trainer.threads=0", "trainer.threads is 0: at least 1"),
    ("trainer.accumulate=0", "trainer.accumulate is 0: at least 1"),
    ("trainer.num_workers=-1", "trainer.num_workers is -1: at least 0"),
    ("model.vocabulary_size=100", "model.vocabulary_size is 100: at least 258"),
    ("model.digits_per_token=0", "model.digits_per_token is 0: at least 1"),
    ("model.lora={r: 0}", "lora.r is 0: at least 1"),
    ("model.lora={r: 4, dropout: 1}", "lora.dropout is 1: at least 0 and less than 1"),
    ("model.lora={r: 4, alpha: 0}", "lora.alpha is 0: more than 0"),
    ("engine=vllm engine.gpu_memory_utilization=1.5", "engine.gpu_memory_utilization is 1.5"),
    ("engine=vllm engine.tensor_parallel_size=0", "engine.tensor_parallel_size is 0: at least 1"),
    # the task and the teacher
    ("task.train=-1", "task.train is -1: at least 0"),
    ("task.reference_share=2", "task.reference_share is 2: at least 0 and at most 1"),
    ("task.operations=[add, power]", "task.operations[1]: expected one of add, subtract"),
    ("task=gsm8k task.dev_share=1", "task.dev_share is 1: at least 0 and less than 1"),
    ("task=math task.path=x task.time_limit=0", "task.time_limit is 0: more than 0"),
    ("evaluate.tasks={svamp: {test_share: -1}}", "evaluate.tasks.svamp.test_share is -1"),
    ("teacher=openai teacher.model=m teacher.num_proposals=0", "teacher.num_proposals is 0"),
    (
        "teacher=openai teacher.model=m teacher.max_cost=-1",
        "max_cost is -1",
        "null sets no",
    ),
    ("teacher=openai teacher.model=m teacher.timeout=0", "teacher.timeout is 0: more than 0"),
    ("teacher=openai teacher.model=m teacher.temperature=-1", "teacher.temperature is -1"),
    ("teacher=local teacher.path=m teacher.batch_size=0", "teacher.batch_size is 0: at least 1"),
    ("teacher=local teacher.path=m teacher.top_p=0", "teacher.top_p is 0: more than 0"),
    # closed lists
    ("stage=foo", "stage: expected one of warmup, sample", "'foo'"),
    ("stage=polcy", "stage: expected one of", "the nearest is 'policy'"),
    ("resume=foo", "resume: expected one of auto, required, never, weights"),
    ("policy.precision=bf16-true", "precision: expected one of", "use precision=bf16-mixed"),
    ("sample.precision=fp16", "sample.precision: expected one of", "16-mixed"),
    ("trainer.accelerator=gpus", "trainer.accelerator: expected one of auto, cpu, gpu", "'gpu'"),
    ("trainer.profiler=smple", "trainer.profiler: expected one of simple", "null"),
    ("model.dtype=half", "model.dtype: expected one of float32, bfloat16, float16"),
    ("model.quantization=fp4", "model.quantization: expected one of nf4, int8 or null"),
    ("model.attention=flash", "model.attention: expected one of sdpa, eager, flash_attention_2"),
    ("evaluate.split=valid", "evaluate.split: expected one of train, dev, test"),
    ("evaluate.modes=[strickt]", "evaluate.modes[0]: expected one of strict, flexible, authors"),
    ("evaluate.overlap=ignore", "evaluate.overlap: expected one of refuse, drop, allow"),
    (
        "export.what=policies",
        "export.what: expected one of policy, grm, pairs, completions",
    ),
    ("export.format=csv", "export.format: expected one of jsonl, parquet"),
    ("export.dtype=int8", "export.dtype: expected one of float32, bfloat16, float16 or null"),
    ("engine=vllm engine.dtype=half", "engine.dtype: expected one of float32"),
    ("task.references=short", "task.references: expected one of steps, terse"),
    # arguments of libraries
    ("policy.optimizer.lr=oops", "policy.optimizer.lr: expected float, found 'oops'"),
    ("grm.optimizer.betas=[0.9]", "grm.optimizer.betas: expected a list of 2"),
    ("policy.scheduler.num_cycles=many", "policy.scheduler.num_cycles: expected float"),
    ("policy.scheduler.gamma=1", "unknown key 'policy.scheduler.gamma'"),
    (
        "logger.csv={_target_: lightning.pytorch.loggers.CSVLogger}",
        "csv.save_dir is missing",
    ),
    # paths
    ("paths.artifacts=''", "paths.artifacts is ''", "not empty"),
    ("model=hf model.path=''", "model.path is ''", "not empty"),
    ("grm.model=''", "grm.model is ''"),
    ("ckpt_path=''", "ckpt_path is ''"),
    ("export.path=''", "export.path is ''"),
    ("evaluate.against=[a, '']", "evaluate.against[1] is ''"),
    ("task=dataset task.path={test: ''}", "task.path.test is ''"),
]

BUILT = [
    ("policy.optimizer.lr=-1", "policy.optimizer: ValueError: Invalid learning rate"),
    ("grm.optimizer.betas=[0.9, 2]", "grm.optimizer: ValueError: Invalid beta parameter"),
    ("warmup.optimizer.eps=-1", "warmup.optimizer: ValueError: Invalid epsilon"),
    ("warmup.optimizer.weight_decay=-1", "warmup.optimizer: ValueError: Invalid weight_decay"),
    ("policy.optimizer._target_=torch.optim.AdamX", "policy.optimizer._target_", "AdamX"),
    ("grm.scheduler={_target_: transformers.get_nothing}", "grm.scheduler._target_"),
    (
        "grm.scheduler={_target_: transformers.get_polynomial_decay_schedule_with_warmup, "
        "_partial_: true, lr_end: 1}",
        "grm.scheduler: ValueError",
        "lr_end",
    ),
    ("report.compare.mine={optimizer: {lr: -1}}", "report.compare.mine.optimizer: ValueError"),
    ("method=teacher_solutions teacher=continuation", "policy.rows: the teacher", "no whole sol"),
    ("report.compare.mine={precision: bf16-mixed}", "report.compare.mine.precision", "score"),
    ("policy.reward.right_low=1", "policy.reward: ValueError: the lower bound 1.0"),
    ("policy.precision=bf16-mixed score.precision=32-true", "policy.precision is bf16-mixed"),
    ("model.shape.hidden_size=30", "model.shape"),
    ("model.shape.hiden_size=32", "model.shape", "hiden_size"),
    ("model.shape.model_type=lama", "model.shape", "'lama'"),
    ("model.attention=flash_attention_2", "model.shape", "FlashAttention2"),
    ("callbacks.extra.a={_target_: lightning.pytorch.callbacks.Timer, duration: x}", "extra.a"),
    ("trainer=gpu trainer.devices=64", "trainer (accelerator=gpu", "warmup.precision=32-true"),
    ("trainer.accelerator=mps", "trainer (accelerator=mps"),
    ("sample.precision=16-mixed", "sample.precision=16-mixed", "not supported on CPU"),
    ("trainer.strategy=fsdp", "trainer.strategy", "fsdp is not supported"),
    ("trainer.strategy=ddpp", "trainer (", "ddpp"),
]
PROCESSES = ["stage=foo", "policy.optimizer.lr=oops", "trainer.strategy=fsdp"]


def words(line):
    """The overrides of a row: blanks part them, but not within brackets or quotes."""
    out, depth = [""], 0
    for char in line:
        depth += (char in "[{") - (char in "]}")
        if char == " " and not depth:
            out.append("")
        else:
            out[-1] += char
    return out


@functools.cache
def composed(*choices):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=["logger=none", *choices])


def settings_of(line):
    """The bound settings of a row. Groups are composed once, values are then put into the tree."""
    parted = [(key.lstrip("+"), value) for key, _, value in (w.partition("=") for w in words(line))]
    is_group = {key: (CONF / key).is_dir() and "{" not in value for key, value in parted}
    tree = composed(*(f"{key}={value}" for key, value in parted if is_group[key])).copy()
    for key, value in sorted(parted):
        if not is_group[key]:
            OmegaConf.update(tree, key, yaml.safe_load(value), force_add=True)
    # Looking for the file that sets a value takes time, so only names of tasks get the files.
    return check(tree, *([CONF] if "evaluate.tasks" in line else []))


def refusal(line, judge=settings_of):
    with pytest.raises(ConfigurationError) as caught:
        judge(line)
    message = str(caught.value)
    assert "\n" not in message
    return message


def built(line: str) -> None:
    """Binds and builds a row as a run of the whole chain does, with PyTorch."""
    from rlmec.pipeline.early_check import check_buildable, check_machine
    from rlmec.stages import flow

    settings = settings_of(line)
    check_buildable(settings, flow.STAGES)
    run: Any = SimpleNamespace(settings=settings, ranks=SimpleNamespace(world=1))
    check_machine(run, flow.STAGES)


def test_the_table_is_long():
    assert len({line for line, *_ in EARLY}) + len({line for line, *_ in BUILT}) >= 120


@pytest.mark.parametrize("row", EARLY, ids=lambda row: row[0])
def test_a_wrong_value_is_refused_when_the_tree_is_bound(row, monkeypatch):
    line, *expected = row
    monkeypatch.setattr("rlmec.settings.signatures._imported", None)  # no library is needed
    message = refusal(line)
    assert [word for word in expected if word not in message] == [], message


@pytest.mark.broad
@pytest.mark.parametrize("row", BUILT, ids=lambda row: row[0][:60])
def test_a_wrong_value_is_refused_when_cheap_parts_are_built(row):
    line, *expected = row
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        message = refusal(line, built)
    assert [word for word in expected if word not in message] == [], message


@pytest.mark.broad
def test_right_values_are_built():
    for line in ("experiment=smoke", "stage=report report.compare=null", "method=dpo_corrections"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            built(line)


@pytest.mark.slow
@pytest.mark.parametrize("line", PROCESSES)
def test_a_command_with_a_wrong_value_ends_within_seconds(line, tmp_path):
    def seconds():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    began = seconds()
    program = [sys.executable, ROOT / "train.py", *words(line), f"hydra.run.dir={tmp_path / 'run'}"]
    program += [f"paths.artifacts={tmp_path / 'store'}"]
    done = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert [p for p in (tmp_path / "store").glob("*/*") if not p.name.startswith(".")] == []
    # Processor time, because other tests may keep the machine busy.
    assert seconds() - began < 60
