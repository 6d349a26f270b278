"""Bad input ends a command early, with one clear line, and leaves nothing that passes for whole.

Each case says what is wrong by naming the file, row or key, and for a misspelt key the nearest one.
"""

import json
import shutil
from dataclasses import dataclass

import pytest
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from walk import ROOT, finals, leaks, run

pytestmark = pytest.mark.slow
QUICK = 60.0
"""Seconds of processor time; 4 to 12 are used. The margin is for slow machines."""


def problems(folder, count=30, leave_out=None):
    rows = [{"question": f"What is {n} + 1?", "answer": n + 1} for n in range(count)]
    if leave_out is not None:
        del rows[leave_out - 1]["question"]
    path = folder / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def model(folder, words, with_tokenizer=True):
    """A model directory with a tokenizer of whole words."""
    vocabulary = {word: i for i, word in enumerate(["<end>", *words])}
    network = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            eos_token_id=0,
        )
    )
    network.save_pretrained(folder)
    if with_tokenizer:
        backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<end>"))
        PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>").save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Case:
    """Overrides of a bad command and what its error names. `smoke` has settings of its own task,
    so a file goes without it."""

    overrides: list[str]
    named: list[str]
    experiment: str | None = "smoke"


def own_file(path, *overrides):
    return ["task=dataset", f"task.path={path}", *overrides]


def missing_file(tmp):
    return Case(own_file(f"{tmp}/nowhere.jsonl"), [f"{tmp}/nowhere.jsonl"], None)


def row_without_a_field(tmp):
    path = problems(tmp, leave_out=7)
    return Case(own_file(path), [f"{path}, row 7", "question_field"], None)


def imported_row_without_a_field(tmp):
    solutions = tmp / "solutions.jsonl"
    solutions.write_text('{"question": "What is 1 + 1?", "text": "2"}\n')
    start = ["model=hf", f"model.path={model(tmp / 'model', ['What'])}"]
    named = [f"{solutions}, row 1", "'solution'", "question, text"]
    return Case(own_file(problems(tmp), f"sample.path={solutions}", *start), named, None)


def empty_dev_split(tmp):
    path = problems(tmp)
    named = ["'dev' is empty", str(path)]
    return Case(own_file(path, "task.dev_share=0"), named, None)


def empty_test_split(tmp):
    return Case(["task.test=0"], ["split 'test' is empty (test=0)"])


def unknown_task(tmp):
    return Case(["task=gsm9k"], ["task=gsm9k", "the nearest is 'gsm8k'"])


def no_steps(tmp):
    return Case(["policy.steps=0"], ["policy.steps is 0: at least 1 is needed"])


def misspelt_key(tmp):
    named = ["'policy.objective.epsilom'", "the nearest is 'policy.objective.epsilon'"]
    return Case(["policy.objective.epsilom=0.1"], named)


def misspelt_key_in_a_sweep(tmp):
    named = ["'polcy.steps'", "the nearest is 'policy.steps'"]
    return Case(["-m", "polcy.steps=1,2"], named)


def misspelt_key_in_an_experiment(tmp):
    file = tmp / "project" / "conf" / "experiment" / "mine.yaml"
    file.write_text("# @package _global_\npolicy:\n  tokens_per_stp: 512\n")
    named = ["'policy.tokens_per_stp'", "the nearest is 'policy.tokens_per_step'"]
    return Case([], [*named, "conf/experiment/mine.yaml, line 3"], "mine")


def misspelt_key_in_an_experiment_elsewhere(tmp):
    file = tmp / "elsewhere" / "experiment" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("# @package _global_\ngrm: {mixture: {coppy: 2}}\n")
    named = ["'grm.mixture.coppy'", "the nearest is 'grm.mixture.copy'"]
    named.append("elsewhere/experiment/mine.yaml, line 2")
    return Case([f"--config-dir={tmp}/elsewhere"], named, "mine")


def forbidden_target(tmp):
    return Case(["task._target_=os.system"], ["task._target_", "'os.system'", "not allowed"])


def model_without_a_tokenizer(tmp):
    folder = model(tmp / "model", ["What"], with_tokenizer=False)
    return Case(["model=hf", f"model.path={folder}"], [str(folder), "no tokenizer here"], None)


def grm_with_another_tokenizer(tmp):
    folder = model(tmp / "grm", ["What", "is"])
    return Case([f"grm.model={folder}"], ["grm.model", str(folder), "tokenizer"])


def grm_with_another_tokenizer_than_a_finished_policy(tmp):
    policy, grm = model(tmp / "policy", ["What"]), model(tmp / "grm", ["What", "is"])
    overrides = ["model=hf", f"model.path={policy}", f"grm.model={grm}"]
    return Case(overrides, ["grm.model", str(grm), "tokenizer"], None)


def unknown_stage(tmp):
    return Case(["stage=polcy"], ["stage", "'polcy'", "policy"])


CASES = [
    *(missing_file, row_without_a_field, imported_row_without_a_field),
    *(empty_dev_split, empty_test_split, unknown_task, no_steps),
    *(misspelt_key, misspelt_key_in_a_sweep, misspelt_key_in_an_experiment),
    *(misspelt_key_in_an_experiment_elsewhere, forbidden_target, unknown_stage),
    model_without_a_tokenizer,
    *(grm_with_another_tokenizer, grm_with_another_tokenizer_than_a_finished_policy),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_bad_input_is_refused_early_by_name(case, tmp_path):
    program = tmp_path / "project" / "train.py"
    shutil.copytree(ROOT / "conf", program.parent / "conf")
    shutil.copy(ROOT / "train.py", program)
    bad = case(tmp_path)
    done = run(tmp_path / "store", *bad.overrides, experiment=bad.experiment, program=program)
    assert done.code in (1, 2)
    error = next(line for line in done.output.splitlines() if line.startswith("error: "))
    for text in bad.named:
        assert text in error
    assert "Traceback" not in done.output
    assert done.cpu < QUICK
    assert finals(tmp_path / "store") == {}
    assert leaks(tmp_path / "store") == []


def test_a_failed_stage_is_not_taken_for_whole(tmp_path):
    """What a row broke is made once the row is mended; nothing of before stands in its way."""
    path = problems(tmp_path, leave_out=7)
    overrides = own_file(path, "task.solution_field=answer", "stage=warmup", "warmup.steps=2")
    overrides += ["model.shape.hidden_size=16", "warmup.val_problems=0"]
    assert run(tmp_path, *overrides, experiment=None).code == 1
    problems(tmp_path)
    assert run(tmp_path, *overrides, experiment=None).made() == ["warmup"]
    assert list(finals(tmp_path)) == ["warmup"]
