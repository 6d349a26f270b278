"""Which networks may share prefixes: asked of the network, and the fallback says why not."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_fits import data_of
from small_models import FIVE, network, tokenizer
from small_rows import credits, random_pair

from rlmec.data.prefix_tree import merge, trim
from rlmec.data.row import rows_digest
from rlmec.lm.loading import new_network
from rlmec.lm.logprobs import (
    TokenScorer,
    has_dropout,
    score_rows,
    sharing_obstacle,
)
from rlmec.lm.tree_attention import mask_obstacle, window_of
from rlmec.pipeline.fit import can_share_prefixes
from rlmec.runtime.ranks import Ranks


class Deaf(torch.nn.Module):
    """A decoder that drops the mask and positions of a row that branches."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, attention_mask=None, position_ids=None, **kwargs):
        return self.inner(**kwargs)


def deaf(kind="llama", **changes):
    made = network(kind, **changes)
    made.model = Deaf(made.model)
    return made


@pytest.mark.parametrize("spread", [0.2, 1e-3])
@pytest.mark.parametrize("kind", FIVE)
def test_networks_that_share(kind, spread):
    net = TokenScorer(network(kind, initializer_range=spread)).train()
    state = torch.get_rng_state()
    assert sharing_obstacle(net, training=True) is None
    assert net.shares_prefixes()
    assert net.training
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("spread", [0.2, 1e-3])
def test_a_network_that_ignores_the_mask_is_found_at_any_size_of_weights(spread):
    found = sharing_obstacle(TokenScorer(deaf(initializer_range=spread)), training=False)
    assert found is not None
    assert "log-probs of one pair differ by" in found


@pytest.mark.parametrize(
    "shape",
    [
        {"model_type": "mpt", "n_layers": 1, "d_model": 32, "n_heads": 2},
        {"model_type": "bloom", "hidden_size": 32, "n_layer": 1, "n_head": 2},
    ],
    ids=["mpt", "bloom"],
)
def test_positions_by_distance_in_the_row_are_found(shape):
    """ALiBi counts places, not positions."""
    made = new_network(shape, tokenizer(), "eager", 0).eval()
    assert sharing_obstacle(TokenScorer(made), training=False) is not None


def test_dropout_counts_in_training_alone():
    net = TokenScorer(network("gpt2", dropout=True))
    assert has_dropout(net)
    assert not has_dropout(TokenScorer(network("gpt2")))
    assert sharing_obstacle(net, training=True) == "its dropout is active in training"
    assert sharing_obstacle(net, training=False) is None


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"_attn_implementation": "flash_attention_2"}, "flash_attention_2 attention"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "layers of linear_attention"),
        ({"window_size": 256}, "a window of its own"),
        ({"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 3}, "which layers"),
        ({"sliding_window": 8, "use_sliding_window": False, "max_window_layers": 3}, None),
        ({"sliding_window": 8}, None),
    ],
)
def test_what_is_known_from_the_configuration(config, named):
    made = SimpleNamespace(**({"_attn_implementation": "sdpa"} | config))
    made.get_text_config = lambda: made
    found = mask_obstacle(SimpleNamespace(config=made))
    assert (found is None) if named is None else (found is not None and named in found)


def test_the_window_is_that_of_the_configuration():
    assert window_of(SimpleNamespace(sliding_window=8)) == 8
    assert window_of(SimpleNamespace(sliding_window=8, use_sliding_window=False)) is None
    assert window_of(SimpleNamespace()) is None


# --- the fallback ---


def trees(count=6):
    draw = np.random.default_rng(3)
    made = [random_pair(draw, f"p{i}", edits=3, length=(9, 20)) for i in range(count)]
    return [trim(merge(pair[1].id, pair)) for pair in made]


def asked(net, rows):
    """The data's rows after the stage has asked the network, and what it said."""
    said = []
    data = data_of(rows, steps=1)
    run = SimpleNamespace(ranks=Ranks(), say=said.append)
    data.plan_for(1, 0, share_prefixes=can_share_prefixes(run, "policy", net))
    return data.rows, said


def test_a_stage_keeps_trees_where_they_hold():
    rows = trees()
    kept, said = asked(network(), rows)
    assert rows_digest(kept) == rows_digest(rows)
    assert said == []


@pytest.mark.parametrize("made", [deaf(), network("gpt2", dropout=True)], ids=["deaf", "dropout"])
def test_a_stage_takes_trees_apart_where_they_do_not_hold_and_says_why(made):
    rows = trees()
    apart, (said,) = asked(made, rows)
    assert said.startswith("policy: every sequence is a row of its own, because ")
    assert len(apart) == 2 * len(rows)
    assert all(row.is_flat for row in apart)
    assert credits(apart) == credits(rows)


def test_scoring_falls_back_too():
    """A network that ignores masks reads right-padded flat rows as they are."""
    net = TokenScorer(deaf())
    draw = np.random.default_rng(5)
    rows = random_pair(draw, "p", edits=2, length=(20, 30))
    assert sharing_obstacle(net, training=False) is not None
    plain = TokenScorer(network())
    for one, other in zip(score_rows(net, rows, 0), score_rows(plain, rows, 0), strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert net.sharing is False
    assert plain.sharing is True
