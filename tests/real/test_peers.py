"""Other libraries judge and compute as this project does: lm-evaluation-harness and TRL.

Neither is among this project's requirements, and each needs packages that do not go with them, so
these tests run only where the libraries are there:

    pip install lm-eval==0.4.13 trl==1.16.0     # in an environment of its own
"""

import copy
import json
import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import small_models
import torch
import yaml

from rlmec.data.baseline_rows import attempt_preferences
from rlmec.data.collate import collate
from rlmec.data.row import Row
from rlmec.evaluation.harness_task import write_harness_task
from rlmec.evaluation.lenient_reading import judge_flexible
from rlmec.lm.generation import Decoding, generate
from rlmec.lm.loading import codec_of
from rlmec.lm.logprobs import TokenScorer, score_rows
from rlmec.method.objectives import TokenBatch, dpo
from rlmec.prompts import Prompts
from rlmec.records import Attempt, Pair, Problem
from rlmec.tasks.base import judge_of
from rlmec.tasks.gsm8k import Gsm8kTask

pytestmark = pytest.mark.slow


def needs(package, distribution):
    """Skips before any fixture is made: the real model takes a while."""
    reason = f"{distribution} is not installed"
    return pytest.mark.skipif(find_spec(package) is None, reason=reason)


NEEDS_HARNESS = needs("lm_eval", "lm-eval")
NEEDS_TRL = needs("trl", "trl")
MARKED = (
    "2 + 2 = 4\n#### 4",
    "#### 4.",
    "So there are 4 left.",
    "4 or 5\n#### 1,004",
    "#### -4",
    "no number",
)


@pytest.fixture(scope="module")
def prompts(smollm2):
    policy = "{question}\nEnd with: #### and the number"
    templates = replace(small_models.TEMPLATES, policy=policy, chat=True)
    return Prompts(templates, codec_of(smollm2, None, turns=True))


# --- verdicts: lm-evaluation-harness' task gsm8k ---


@pytest.fixture(scope="module")
def harness():
    """`verdict(name, text, reference)` by a filter of the harness' own description of gsm8k."""
    from lm_eval import tasks
    from lm_eval.api.metrics import exact_match_fn
    from lm_eval.filters.extraction import RegexFilter

    described = yaml.safe_load((Path(tasks.__file__).parent / "gsm8k" / "gsm8k.yaml").read_text())
    metric = described["metric_list"][0]
    options = {k: metric[k] for k in ("ignore_case", "ignore_punctuation", "regexes_to_ignore")}
    filters = {}
    for each in described["filter_list"]:
        settings = {k: v for k, v in each["filter"][0].items() if k != "function"}
        filters[each["name"]] = RegexFilter(**settings)

    def verdict(name, text, reference):
        (found,) = filters[name].apply([[text]], [{}])
        made = exact_match_fn(references=[reference], predictions=[found[0]], **options)
        return bool(made["exact_match"])

    return verdict


def ours(texts, problems):
    """Whether each text is right by the strict and by the flexible reading."""
    task = Gsm8kTask()
    judge = judge_of(task, texts, problems)
    return [
        {
            "strict-match": judge(text, problem) == "right",
            "flexible-extract": judge_flexible(task, text, problem) == "right",
        }
        for text, problem in zip(texts, problems, strict=True)
    ]


def check_alike(harness, texts, problems):
    """Both filters; the strict one on marked texts, because ours reads other final lines, too."""
    for text, problem, found in zip(texts, problems, ours(texts, problems), strict=True):
        for name, verdict in found.items():
            if name == "strict-match" and "####" not in text:
                continue
            theirs = harness(name, text, f"#### {problem.answer}")
            assert verdict == theirs, f"{name} of {text[-80:]!r}, reference {problem.answer}"


@NEEDS_HARNESS
def test_verdicts_on_other_models_solutions_are_the_harness_own(harness):
    """The 2,640 solutions of four models, half of which are wrong."""
    if "RLMEC_DATA" not in os.environ:
        pytest.skip("RLMEC_DATA is not set")
    path = Path(os.environ["RLMEC_DATA"]) / "gsm8k" / "model_solutions_part.jsonl"
    texts, problems = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        record = json.loads(line)
        answer = record["ground_truth"].rsplit("A: ", 1)[1].strip().replace(",", "")
        for solution in (v["solution"] for v in record.values() if isinstance(v, dict)):
            texts.append(solution.replace("\nA: ", "\n#### "))
            problems.append(Problem(str(number), record["question"], answer))
    assert 0.2 < np.mean([v["strict-match"] for v in ours(texts, problems)]) < 0.8
    check_alike(harness, texts, problems)


@NEEDS_HARNESS
def test_verdicts_on_a_real_models_outputs_are_the_harness_own(harness, prompts, real_network):
    """Greedy outputs of SmolLM2, each against the number it ends in and another one."""
    codec = prompts.codec
    asked = [
        prompts.policy(Problem(str(n), f"Ann has {n} boxes of {n + 2} pens. How many pens?", "1"))
        for n in (3, 4, 7, 11)
    ]
    ends = {"end_ids": codec.end_ids, "pad_id": codec.pad_id}
    made = generate(real_network, asked, Decoding(60), **ends)
    texts = [*(codec.text(c.ids) for c in made), *MARKED]
    for answer in ("15", "24", "63", "4", "-4", "1004"):
        problems = [Problem(str(i), text, answer) for i, text in enumerate(texts)]
        check_alike(harness, texts, problems)


@NEEDS_HARNESS
@pytest.mark.parametrize("text", ["2 + 2 = 4. The answer is 4.", "2 + 2 = 4\n#### $4"])
def test_the_strict_reading_reads_more_forms_than_that_of_the_harness(harness, text):
    assert not harness("strict-match", text, "#### 4")
    assert ours([text], [Problem("a", "q", "4")])[0]["strict-match"]


@NEEDS_HARNESS
@pytest.mark.filterwarnings("ignore")
def test_the_harness_asks_and_judges_an_exported_task_as_we_do(
    prompts, smollm2, real_network, tmp_path
):
    """Greedy completions of SmolLM2 in the chat form, and the verdicts on them."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    problems = [Problem(str(n), f"Ann has {n} boxes of 2 pens. How many?", "6") for n in (3, 5)]
    node = {"_target_": "rlmec.tasks.gsm8k.Gsm8kTask"}
    write_harness_task(tmp_path, "rlmec_gsm8k", node, problems, prompts.templates, 40)
    found = simple_evaluate(
        model="hf",
        model_args=f"pretrained={smollm2},dtype=float32",
        tasks=["rlmec_gsm8k"],
        task_manager=TaskManager(include_path=str(tmp_path)),
        device="cpu",
        apply_chat_template=True,
    )
    samples = sorted(found["samples"]["rlmec_gsm8k"], key=lambda sample: sample["doc"]["id"])
    ends = {"end_ids": prompts.codec.end_ids, "pad_id": prompts.codec.pad_id}
    made = generate(real_network, list(map(prompts.policy, problems)), Decoding(40), **ends)
    texts = [prompts.codec.text(completion.ids) for completion in made]
    assert [sample["resps"][0][0] for sample in samples] == texts
    verdicts = [verdict["strict-match"] for verdict in ours(texts, problems)]
    assert [sample["accuracy"] == 1.0 for sample in samples] == verdicts


# --- the loss of DPO: TRL's ---


def pairs_of(prompts):
    """Two right attempts and three wrong ones, at two problems; two begin alike."""
    texts = [
        ("p", "3 boxes of 12 pens are 36 pens. The answer is 36", True),
        ("p", "3 boxes of 12 pens are 15 pens. The answer is 15", False),
        ("p", "12 / 3 = 4. The answer is 4", False),
        ("q", "60 km an hour, so 180 km. The answer is 180", True),
        ("q", "I do not know.", False),
    ]
    pairs = []
    for number, (problem, text, right) in enumerate(texts):
        prompt = prompts.policy(Problem(problem, f"Question {problem}: how many?", "1"))
        verdict = "right" if right else "wrong"
        ids = prompts.codec.completion(text)
        digest = prompts.codec.digest
        attempt = Attempt(str(number), problem, prompt, ids, [], text, verdict, False, digest)
        none = np.zeros(len(ids), dtype=np.float32)
        target = ids if right else []
        pairs.append(Pair(attempt, target, none.copy(), none, none[: len(target)]))
    return pairs


def likelihood(pair):
    attempt = pair.attempt
    ids = [*attempt.prompt_ids, *attempt.completion_ids]
    return Row.likelihood(attempt.id, ids, len(attempt.prompt_ids))


@NEEDS_TRL
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_the_loss_of_dpo_is_trls(prompts, real_network, real_tokenizer, tmp_path):
    import trl
    from datasets import Dataset
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    pad_id = prompts.codec.pad_id
    pairs = pairs_of(prompts)
    plain = [(p.attempt.prompt_ids, p.attempt.completion_ids) for p in pairs]
    examples = [
        {
            "prompt_ids": plain[loser][0],
            "chosen_ids": plain[winner][1],
            "rejected_ids": plain[loser][1],
        }
        for winner, loser in ((0, 1), (0, 2), (3, 4))
    ]

    # A policy that has moved away from its start.
    policy = copy.deepcopy(real_network)
    noise = torch.Generator().manual_seed(0)
    weight = policy.model.layers[20].mlp.down_proj.weight
    weight.data += 0.02 * torch.randn(weight.shape, generator=noise)

    start = TokenScorer(real_network)
    rows = [likelihood(p) for p in pairs]
    for pair, values in zip(pairs, score_rows(start, rows, pad_id), strict=True):
        pair.old_logprobs[:] = values
    made = list(attempt_preferences(SimpleNamespace(pairs=pairs)))
    batch = collate(made, pad_id, 1.0, 1.0)
    with torch.no_grad():
        logprobs = TokenScorer(policy).eval()(batch)
    names = ("old_logprobs", "token_rewards", "weights")
    mask = torch.ones_like(logprobs, dtype=torch.bool)
    tokens = TokenBatch(logprobs, *(batch[n] for n in names), mask, batch["row_ids"])
    found = float(dpo(tokens, beta=0.3).policy) / len(made)

    text = {"prompt": "a", "chosen": "b", "rejected": "c"}
    trainer = trl.DPOTrainer(
        model=policy,
        ref_model=copy.deepcopy(real_network),
        args=trl.DPOConfig(
            output_dir=str(tmp_path), beta=0.3, use_cpu=True, bf16=False, report_to="none"
        ),
        train_dataset=Dataset.from_list([text]),
        processing_class=real_tokenizer,
    )
    inputs = DataCollatorForPreference(pad_token_id=pad_id)(examples)
    policy.eval()
    with torch.no_grad():
        theirs = float(trainer._compute_loss(policy, inputs, return_outputs=False))
    assert found == pytest.approx(theirs, rel=1e-4)
    assert abs(found - np.log(2)) > 0.01  # the policy has moved
