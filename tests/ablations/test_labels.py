"""The token discriminator by hand: where labels are read, what they are, and p(kept)."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import PROBLEMS, TEMPLATES, chat_tokenizer, network, prompts, tokenizer
from small_runs import run, settings_of, start_model

from rlmec.ablations.labels import (
    kept_logprobs,
    label_ids,
    labelled_rows,
    reading_row,
)
from rlmec.ablations.rewards import continuous_probability
from rlmec.data.grm_rows import grm_rows, rewriting_row
from rlmec.lm.logprobs import TokenScorer, score_rows
from rlmec.lm.tokenizers import codec
from rlmec.pipeline import models
from rlmec.prompts import Prompts
from rlmec.records import (
    Attempt,
    Correction,
    Score,
    by_id,
)
from rlmec.settings.binding import ConfigurationError, build
from rlmec.store.tables import read_table

FIXED = settings(derandomize=True, deadline=None, max_examples=40)
PROBLEM = PROBLEMS[3]
IDS = st.lists(st.integers(2, len(tokenizer()) - 1), min_size=1, max_size=9)


def chat_prompts():
    return Prompts(replace(TEMPLATES, chat=True, system=None), codec(chat_tokenizer()))


@FIXED
@given(IDS, st.booleans(), st.booleans(), st.booleans())
def test_every_token_is_judged_where_it_has_been_read(ids, ended, chat, solved):
    made = chat_prompts() if chat else prompts()
    problem = PROBLEM if solved else replace(PROBLEM, solution=None)
    attempt = [*ids, made.codec.end_id] if ended else ids
    row = reading_row(made, problem, attempt, "a")
    n = len(attempt)
    assert row.input_ids.tolist() == made.rewrite(problem, attempt)
    places = row.sources[:n]
    assert row.sources.tolist() == [*places, *places]
    assert [row.input_ids[i] for i in places[: len(ids)]] == ids
    assert np.diff(places).tolist() == [1] * (n - 1), "the end where the prompt goes on"
    kept, removed = label_ids(made.codec)
    assert row.targets.tolist() == [kept] * n + [removed] * n


def test_labels_by_hand():
    """Attempt 2 + 2 = 5 <end>, correction 2 + 2 = 4 <end>: one token is removed."""
    made, encode = prompts(), prompts().codec.completion
    digest = made.codec.digest
    wrong, fixed, right = "2 + 2 = 5", "2 + 2 = 4", "2 + 2 = 4."
    attempts = [
        Attempt(name, "p3", [5], encode(text), [], text, verdict, False, digest)
        for name, text, verdict in (("w", wrong, "wrong"), ("r", right, "right"))
    ]
    correction = Correction(
        "w", "p3", encode(fixed), fixed, "right", 0.1, "accepted", "oracle", digest
    )
    problems = by_id(PROBLEMS)
    found = grm_rows(made, problems, attempts, [correction], copy=1.0, locate=1.0, seed=1)
    rows = sorted(found, key=lambda item: item.place)
    labelled = list(labelled_rows(rows, made, problems, 0.5))
    assert [item.task for item in labelled] == ["rewrite", "copy", "locate"]
    assert [item.attempt.id for item in labelled] == ["w", "r", "w"]
    rewrite, copy, locate = (item.row for item in labelled)
    assert [r.id for r in (rewrite, copy, locate)] == ["w/rewrite", "r/copy", "w/locate"]
    kept, removed = label_ids(made.codec)
    expected = [
        kept if a == b else removed for a, b in zip(encode(wrong), encode(fixed), strict=True)
    ]
    assert expected.count(removed) == 1
    n = len(expected)
    assert rewrite.targets[:n].tolist() == expected
    assert rewrite.weights.tolist() == [0.5] * n + [1.0] * len(encode(fixed))
    plain = rows[0].row
    assert rewrite.input_ids.tolist() == plain.input_ids.tolist()
    assert rewrite.sources[n:].tolist() == plain.sources.tolist()
    assert rewrite.targets[n:].tolist() == plain.targets.tolist()
    assert (
        rewrite.sources[:n].tolist()
        == reading_row(made, PROBLEM, encode(wrong), "w").sources[:n].tolist()
    )
    assert set(copy.targets[: len(encode(right))].tolist()) == {kept}
    assert locate is rows[2].row


def test_the_probability_is_that_of_the_two_labels_alone():
    """Of two tokens: kept 0.3 and 0.1, removed 0.1 and 0.4; 0.3 / 0.4 and 0.1 / 0.5."""
    values = [math.log(p) for p in (0.3, 0.1, 0.1, 0.4)]
    found = kept_logprobs(values)
    assert np.exp(found) == pytest.approx([0.75, 0.2])
    rewards = continuous_probability(np.array(found), False, np.array([False, True]), scale=0.5)
    assert rewards == pytest.approx([0.25, -0.3])  # 0.5 (2 * 0.75 - 1), 0.5 (2 * 0.2 - 1)
    assert kept_logprobs([-800.0, 0.0]) == pytest.approx([-800.0]), "no 0 of an underflow"


def test_the_head_s_two_rows_are_a_linear_classifier_on_the_state_that_read_the_token():
    net, made = network(), prompts()
    attempt = made.codec.completion("3 + 5 = 9")
    row = reading_row(made, PROBLEM, attempt, "a")
    found = kept_logprobs(score_rows(TokenScorer(net), [row], 0)[0])
    with torch.no_grad():
        hidden = net.get_decoder()(input_ids=torch.tensor(row.input_ids)[None]).last_hidden_state[0]
    kept, removed = label_ids(made.codec)
    head = net.get_output_embeddings().weight.detach()
    logits = hidden[row.sources[: len(attempt)]] @ (head[kept] - head[removed])
    assert torch.tensor(found) == pytest.approx(torch.nn.functional.logsigmoid(logits), abs=1e-5)


def test_what_cannot_be_read_or_told_apart_is_refused():
    bare = Prompts(replace(TEMPLATES, rewrite="{question}\n{attempt}"), prompts().codec)
    with pytest.raises(ValueError, match=r"^a: .*prompt\.rewrite"):
        reading_row(bare, PROBLEM, prompts().codec.completion("3"), "a")
    assert len(reading_row(bare, PROBLEM, prompts().codec.encode("3"), "a").sources) == 2
    one = replace(prompts().codec, encode=lambda text: [7])
    with pytest.raises(ValueError, match="the same id 7"):
        label_ids(one)


METHOD = ("ablation=discriminator", "stage=policy")


def test_the_chain_scores_with_labels_and_rewrites_as_before(tmp_path):
    model = start_model(tmp_path / "start")
    done = run(tmp_path, model, *METHOD)
    config = settings_of(tmp_path, model, *METHOD)
    grm = models.LanguageModel(f"{done['grm']['artifact']}/model", config)
    attempts = read_table(Path(done["sample"]["artifact"]) / "attempts.parquet", Attempt)
    scores = read_table(Path(done["score"]["artifact"]) / "scores.parquet", Score)
    own = read_table(Path(done["score"]["artifact"]) / "corrections.parquet", Correction)
    problems = by_id(build(config.task).problems("train"))
    net = TokenScorer(grm.network())
    corrected = {c.attempt_id for c in own}
    assert 0 < len(corrected) < len(attempts), "some are drafts, others are not"
    for some in (attempts[0], next(a for a in attempts if a.id in corrected)):
        row = reading_row(grm.prompts, problems[some.problem_id], some.completion_ids, some.id)
        expected = kept_logprobs(score_rows(net, [row], grm.codec.pad_id)[0])
        found = next(s for s in scores if s.attempt_id == some.id).grm_logprobs
        assert found == pytest.approx(expected, abs=1e-4)
    assert [s.attempt_id for s in scores] == [a.id for a in attempts]


def test_labels_that_nobody_learns_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="the GRM learns no labels"):
        settings_of(tmp_path, tmp_path, "score.labels=true")
    with pytest.raises(ConfigurationError, match="at least 0 is needed"):
        settings_of(tmp_path, tmp_path, "grm.label_weight=-1")


def test_a_label_token_is_no_target_of_the_rewriting():
    """Labels are read inside the prompt, where nothing else is predicted: no place has both."""
    made, encode = prompts(), prompts().codec.completion
    row = rewriting_row(made, PROBLEM, encode("3 + 5 = 9"), encode("3 + 5 = 8"), "w/rewrite")
    labels = reading_row(made, PROBLEM, encode("3 + 5 = 9"), "w")
    assert not set(labels.sources.tolist()) & set(row.sources.tolist())
