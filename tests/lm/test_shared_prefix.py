"""Rows that share prefixes: the same log-probs, loss and gradients as separate ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from paper_objective import rlmec_clipped
from small_models import FIVE, network
from small_rows import loss_of, random_pair

from rlmec.data.collate import collate, step_normalizers
from rlmec.data.prefix_tree import flat_rows, merge, trim
from rlmec.data.row import Row
from rlmec.lm import logprobs
from rlmec.lm.loading import enable_gradient_checkpointing
from rlmec.lm.logprobs import TokenScorer, score_rows
from rlmec.lm.tree_attention import attention_arguments, visible
from rlmec.method.objectives import rlmec_authors

KINDS = [*FIVE, "soft_capped"]


def pairs(seed, edits=(0, 2, 1, 8)):
    """Rows of four pairs of unlike lengths, longer than the windows of the small networks."""
    draw = np.random.default_rng(seed)
    return [random_pair(draw, f"p{i}", edits=n, length=(9, 24)) for i, n in enumerate(edits)]


def near(net, rows, seed=0):
    """The rows with old log-probs near the network's own: elsewhere a clipped reward feels nothing
    of a changed log-prob."""
    draw = np.random.default_rng(seed)
    plain = TokenScorer(net.network)
    plain.sharing = False
    old = [np.array(values) for values in score_rows(plain, rows, 0)]
    moved = [values + draw.uniform(-0.2, 0.2, len(values)) for values in old]
    return [replace(row, old_logprobs=o) for row, o in zip(rows, moved, strict=True)]


def batches(net, made):
    """The same step as separate rows and as trimmed trees, in one padded batch each."""
    plain = near(net, [row for pair in made for row in pair])
    made = [plain[i : i + 2] for i in range(0, len(plain), 2)]
    packed = [trim(merge(pair[1].id, pair)) for pair in made]
    counts = step_normalizers(plain)
    assert step_normalizers(packed) == counts
    assert sum(len(r.input_ids) for r in packed) < 0.8 * sum(len(r.input_ids) for r in plain)
    return collate(plain, 0, *counts), collate(packed, 0, *counts)


def loss_and_gradients(net, batch, objective=rlmec_clipped):
    net.zero_grad(set_to_none=True)
    loss = loss_of(net, batch, objective)
    loss.backward()
    return float(loss.detach()), {
        n: p.grad for n, p in net.named_parameters() if p.grad is not None
    }


def assert_same(net, one, other, objective=rlmec_clipped):
    """Losses within 1e-5, gradients within 1e-5 of the largest one."""
    (loss, grads), (loss2, grads2) = (loss_and_gradients(net, b, objective) for b in (one, other))
    assert loss == pytest.approx(loss2, abs=1e-5)
    largest = max(float(g.abs().max()) for g in grads.values())
    assert largest > 1e-2
    assert grads.keys() == grads2.keys()
    for name, value in grads.items():
        assert float((value - grads2[name]).abs().max()) <= 1e-5 * largest, name


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_and_separate_rows_give_one_loss_and_one_gradient(kind, checkpointed):
    made = network(kind, seed=3)
    if checkpointed:
        enable_gradient_checkpointing(made)
    net = TokenScorer(made).train()
    assert_same(net, *batches(net, pairs(5)))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3_text"])
def test_with_eager_attention_too(kind):
    made = network(kind, seed=3)
    made.set_attn_implementation("eager")
    net = TokenScorer(made).train()
    assert made.config._attn_implementation == "eager"
    assert_same(net, *batches(net, pairs(6)), rlmec_authors)


def test_qwen_with_its_window_switched_on_and_off():
    for on in (True, False):
        made = network("qwen2", sliding_window=6, use_sliding_window=on, max_window_layers=1)
        net = TokenScorer(made).train()
        made_batches = batches(net, pairs(7))
        assert isinstance(attention_arguments(made, made_batches[1])["attention_mask"], dict) is on
        assert_same(net, *made_batches)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft 0.21
@pytest.mark.parametrize("checkpointed", [False, True])
def test_with_lora(checkpointed):
    peft = pytest.importorskip("peft")
    made = network("llama", seed=3)
    if checkpointed:
        enable_gradient_checkpointing(made)
        made.enable_input_require_grads()
    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    net = TokenScorer(peft.get_peft_model(made, config)).train()
    assert net.form is not None
    assert_same(net, *batches(net, pairs(8)))


def test_rows_of_a_whole_problem_and_rows_taken_apart_again():
    draw = np.random.default_rng(9)
    made = random_pair(draw, "a", edits=3, length=(9, 24))
    ids, n = made[0].input_ids, made[0].prompt_length
    more = random_pair(draw, "b", edits=2, length=(9, 24))
    more = [
        Row.flat(r.id, [*ids[:n], *r.input_ids[r.prompt_length :]], n, *credit(r)) for r in more
    ]
    net = TokenScorer(network("mistral", seed=3)).train()
    rows = near(net, [*made, *more])
    counts = step_normalizers(rows)
    tree = trim(merge("problem", rows))
    plain = collate(rows, 0, *counts)
    assert_same(net, plain, collate([tree], 0, *counts))
    assert_same(net, plain, collate(flat_rows(tree), 0, *counts))


def credit(row):
    return row.token_rewards, row.old_logprobs, row.weights


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_neighbours_do_not_matter_to_a_tree(kind):
    net = TokenScorer(network(kind, seed=1)).eval()
    trees = [merge(pair[1].id, pair) for pair in pairs(2)]
    together = net(collate(trees, 0, 1.0, 1.0)).split([len(t.targets) for t in trees])
    for tree, values in zip(trees, together, strict=True):
        alone = net(collate([tree], 0, 1.0, 1.0))
        torch.testing.assert_close(values, alone, rtol=0, atol=1e-5)


def test_a_batch_of_flat_rows_takes_the_plain_mask():
    batch = collate([row for pair in pairs(3) for row in pair], 0, 1.0, 1.0)
    arguments = attention_arguments(network(), batch)
    assert arguments.keys() == {"attention_mask"}
    assert arguments["attention_mask"].shape == batch["input_ids"].shape


def test_what_a_token_sees_by_hand():
    """Two ids, a branch of two and one of one, and padding, which sees itself alone."""
    rows = [Row.likelihood("a", [7, 8, 1, 2], 2), Row.likelihood("b", [7, 8, 3], 2)]
    longer = Row.likelihood("c", [9] * 6, 1)
    seen = visible(collate([merge("m", rows), longer], 0, 1.0, 1.0))
    assert seen[0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    assert torch.equal(seen[1], torch.ones(6, 6, dtype=torch.bool).tril())


# --- scoring ---


def samples(seed=4, count=5):
    """Rows of two problems, `count` samples each, as they follow one another."""
    draw = np.random.default_rng(seed)
    rows = []
    for p in range(2):
        head = draw.integers(2, 200, 30).tolist()
        first = draw.integers(2, 200, 12).tolist()
        for i in range(count):
            ids = head + first[: 3 * i] + draw.integers(2, 200, 5).tolist()
            rows.append(Row.likelihood(f"{p}/{i}", ids, len(head)))
    return rows


def counted(net, rows):
    """Scores, and the tokens that the network was run over for them."""
    seen = []
    handle = net.register_forward_pre_hook(
        lambda _, args: seen.append(int(args[0]["attention_mask"].sum()))
    )
    scores = score_rows(net, rows, 0)
    handle.remove()
    return scores, sum(seen)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_a_problem_share_their_prompt_in_scoring(kind):
    net, rows = TokenScorer(network(kind, seed=2)), samples()
    net.sharing = False
    plain, all_tokens = counted(net, rows)
    assert all_tokens == sum(len(row.input_ids) for row in rows)
    net.sharing = None
    shared, fewer = counted(net, rows)
    assert net.sharing
    assert fewer < 0.6 * all_tokens
    for one, other in zip(plain, shared, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_the_order_of_rows_changes_rounding_alone():
    net, rows = TokenScorer(network(seed=2)), samples()
    mixed = np.random.default_rng(0).permutation(len(rows)).tolist()
    scores, again = score_rows(net, rows, 0), score_rows(net, [rows[i] for i in mixed], 0)
    for at, i in enumerate(mixed):
        assert again[at] == pytest.approx(scores[i], abs=1e-5)


def test_neighbours_share_only_where_it_is_less_work():
    """One common token and 40 others: attention over both would cost more than it saves."""
    short, long = [[7, *range(10 * i, 10 * i + n)] for i, n in ((1, 9), (2, 9))], []
    long = [Row.likelihood(str(i), [7, *range(50 * i + 8, 50 * i + 48)], 2) for i in range(3)]
    rows = [Row.likelihood(str(i), ids, 1) for i, ids in enumerate(short)]
    # width 32: T (6 * 32 + T) is 2 * 2020 for two rows of 10, and 19 * 211 = 4009 for one of 19
    assert logprobs._groups_worth_sharing(rows, 32, 999) == [[0, 1]]
    # two rows of 41: 2 * 9553 = 19106; 81 * 273 = 22113
    assert logprobs._groups_worth_sharing(long, 32, 999) == [[0], [1], [2]]
    assert logprobs._groups_worth_sharing(long, 10**6, 999) == [[0, 1, 2]]
    assert logprobs._groups_worth_sharing(long, 10**6, 100) == [[0, 1], [2]]
