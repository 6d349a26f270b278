"""The entropy of the policy's distributions: the formula, the head's parts, what a fit logs."""

import math

import pytest
import torch
from small_fits import Judge, credited_rows, data_of, dropping_network, fitted, validation_of
from small_models import network

from rlmec.data.collate import collate
from rlmec.evaluation.run_warnings import diagnose
from rlmec.lm import chunked_head
from rlmec.lm.chunked_head import entropy, evaluating
from rlmec.lm.logprobs import TokenScorer


def test_entropy_by_hand():
    """Even odds of two: log 2. Three to one: 0.75 log(4/3) + 0.25 log 4. What cannot be: 0."""
    logits = torch.tensor([[0.0, 0.0, -math.inf], [math.log(3), 0.0, -math.inf], [1000.0, 0, 0]])
    expected = [math.log(2), 0.75 * math.log(4 / 3) + 0.25 * math.log(4), 0.0]
    assert entropy(logits).tolist() == pytest.approx(expected, abs=1e-6)


def dense(net, batch):
    """The mean over scored tokens of -sum p log p from the network's own logits."""
    given = {name: batch[name] for name in ("input_ids", "position_ids")}
    with torch.no_grad(), evaluating(net):
        logprobs = net(**given).logits.double().log_softmax(-1).flatten(0, 1)[batch["sources"]]
    return -(logprobs.exp() * logprobs).sum(-1)


@pytest.mark.parametrize("kind", ["llama", "soft_capped"])
def test_entropies_are_those_of_the_network_s_own_logits(kind, monkeypatch):
    net = TokenScorer(network(kind, seed=3))
    batch = collate(credited_rows(net.network)[:3], 0, 1.0, 1.0)
    expected = dense(net.network, batch)
    assert net.entropies(batch).tolist() == pytest.approx(expected.tolist(), abs=1e-4)
    monkeypatch.setattr(
        chunked_head, "DENSE_LOGITS", 2 * net.network.config.vocab_size
    )  # two at a time
    assert net.entropies(batch).tolist() == pytest.approx(expected.tolist(), abs=1e-4)
    net.form = None
    assert net.entropies(batch).tolist() == pytest.approx(expected.tolist(), abs=1e-4)
    assert not net.entropies(batch).requires_grad


def test_a_fit_logs_the_mean_over_watched_rows_and_trains_as_without(tmp_path):
    rows = credited_rows(dropping_network())

    def trained(folder, watched):
        validation = validation_of(tmp_path / folder, judge=Judge(), keep_best=False)
        validation.watched = watched
        data = data_of(rows, steps=4)
        return fitted(tmp_path / folder, dropping_network(), data, validation=validation), data

    (module, history), data = trained("watched", 3)
    assert [line["step"] for line in history] == [0, 2, 4]
    chosen = data.rows[:: len(data.rows) // 3][:3]
    assert len({row.id for row in chosen}) == 3
    for net, line in ((dropping_network(), history[0]), (module.network, history[-1])):
        values = torch.cat([dense(net, collate([row], 0, 1.0, 1.0)) for row in chosen])
        assert line["val/entropy"] == pytest.approx(float(values.mean()), rel=1e-4)
    (bare, other), _ = trained("bare", 0)
    assert not any("val/entropy" in line for line in other)
    one, two = module.network.state_dict(), bare.network.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_an_entropy_that_falls_to_a_tenth_is_named():
    def found(*values):
        history = [{"step": float(i), "val/entropy": v} for i, v in enumerate(values)]
        return [w.name for w in diagnose("policy", {"history": history})]

    assert found(0.5, 0.2, 0.04) == ["entropy_collapse"]
    assert found(0.5, 0.04, 0.2) == [], "the last one counts"
    assert found(0.5, 0.05) == found(0.5) == []
