"""The cache whose columns are positions: which networks take it, and how batches are cut."""

import numpy as np
import pytest
import torch
from small_models import FIVE, network, ragged_ids, tokenizer

from rlmec.lm.kv_cache import (
    Slots,
    batches,
    cache_argument,
    slots_obstacle,
    table_of,
)
from rlmec.lm.loading import new_network


def made(model_type, attention="eager", **shape):
    shape = {"model_type": model_type, "hidden_size": 32, "initializer_range": 0.2, **shape}
    return new_network(shape, tokenizer(), attention, 1).eval()


@pytest.mark.parametrize("kind", [*FIVE, "soft_capped", "qwen2", "phi3"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_with_and_without_windows_takes_it(kind, attention):
    net = network(kind)
    net.set_attn_implementation(attention)
    assert slots_obstacle(net) is None


def test_other_networks_are_named_with_the_reason():
    state_space = made("mamba", num_hidden_layers=2, state_size=4)
    assert "linear_attention" in str(slots_obstacle(state_space))
    assert slots_obstacle(made("bloom", n_layer=2, n_head=4)) is not None  # places, not positions


@pytest.mark.parametrize("kind", ["mistral", "gemma3_text"])
def test_the_trial_finds_a_window_that_is_not_the_networks(kind, monkeypatch):
    monkeypatch.setattr("rlmec.lm.kv_cache.window_of", lambda _: 3)
    assert "differ" in str(slots_obstacle(network(kind)))


def test_the_trial_finds_rows_that_were_not_moved(monkeypatch):
    monkeypatch.setattr(Slots, "keep", lambda self, going: None)
    assert "differ" in str(slots_obstacle(network("llama", seed=1)))


def test_a_network_without_attention_to_others_has_nothing_to_get_wrong():
    net = network("gpt2", tie_word_embeddings=False)
    with torch.no_grad():
        for block in net.transformer.h:
            block.attn.c_proj.weight.zero_()
    assert slots_obstacle(net) is None


def test_the_answer_is_asked_once_and_the_mode_put_back(monkeypatch):
    net = network("llama", seed=7).train()
    assert slots_obstacle(net) is None
    assert all(m.training for m in net.modules())
    monkeypatch.setattr("rlmec.lm.kv_cache._obstacle", lambda _: "asked again")
    assert slots_obstacle(net) is None


def test_a_table_repeats_the_last_token_of_a_short_row():
    ids, lengths = table_of([[5, 6, 7], [8]])
    assert ids.tolist() == [[5, 6, 7], [8, 8, 8]]
    assert lengths.tolist() == [3, 1]
    for wrong in ([], [[1], []]):
        with pytest.raises(ValueError, match="sequences to feed"):
            table_of(wrong)


def test_batches_keep_within_both_limits(monkeypatch):
    """llama here: 2 layers, 2 heads of 8, so 2 * 2 * 2 * 8 * 4 = 256 bytes a token."""
    net, lengths = network("llama"), [3, 9, 4, 9, 1]
    assert batches(net, lengths) == [[1, 3, 2, 0, 4]]
    for name, limit in (("TOKENS_AT_ONCE", 18), ("BYTES_AT_ONCE", 18 * 256)):
        with monkeypatch.context() as patch:
            patch.setattr(f"rlmec.lm.kv_cache.{name}", limit)
            assert batches(net, lengths) == [[1, 3], [2, 0, 4]]
            assert batches(net, lengths, 2) == [[1], [3], [2, 0], [4]]
            assert batches(net, [50]) == [[0]]  # one is always there


def test_rows_begun_in_pieces_give_the_states_asked_for(monkeypatch):
    net, rows = network("llama"), ragged_ids([9, 7, 7, 2], 1)
    where = np.array([0, 0, 1, 3]), np.array([8, 2, 0, 1])
    whole = Slots(net).begin(*table_of(rows), *where)
    monkeypatch.setattr("rlmec.lm.kv_cache.BEGUN_AT_ONCE", 10)
    pieces = Slots(net)
    assert torch.allclose(pieces.begin(*table_of(rows), *where), whole, atol=1e-5)
    for state, row, column in zip(whole, *where, strict=True):
        wanted = net(torch.tensor([rows[row][: column + 1]])).logits[0, -1]
        assert torch.allclose(pieces.logits(state), wanted, atol=1e-4)


def test_the_caches_argument_is_named_as_the_forward_pass_names_it():
    """transformers calls it past_key_values up to 5.23, and cache from 5.24 on."""

    class Old:
        def forward(self, input_ids, past_key_values=None): ...

    class New:
        def forward(self, input_ids, cache=None): ...

    assert [cache_argument(kind) for kind in (Old, New)] == ["past_key_values", "cache"]
