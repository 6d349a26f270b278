"""Log-probs of chosen tokens: those of the network's logits, whatever the padding."""

import pytest
import torch
from small_models import SHAPES, network, ragged_ids

from rlmec.data.collate import collate
from rlmec.data.row import Row
from rlmec.lm.chunked_head import PLAIN, HeadForm, head_form
from rlmec.lm.loading import enable_gradient_checkpointing
from rlmec.lm.logprobs import TokenScorer, score_rows, scoring_batches

KINDS = list(SHAPES)
LENGTHS = (17, 5, 11, 2)
PROMPTS = (3, 4, 9, 1)


def ragged_rows(seed=0):
    return [
        Row.likelihood(f"r{i}", ids, prompt)
        for i, (ids, prompt) in enumerate(zip(ragged_ids(LENGTHS, seed), PROMPTS, strict=True))
    ]


def forward(net, batch):
    return net(batch)


def without(batch, *places):
    """A batch that does not score what stands at these places [b, t]."""
    width = batch["input_ids"].shape[1]
    gone = torch.tensor([b * width + t - 1 for b, t in places])
    kept = ~torch.isin(batch["sources"], gone)
    return batch | {name: batch[name][kept] for name in ("sources", "targets")}


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_those_of_the_networks_logits(kind):
    net = TokenScorer(network(kind)).eval()
    assert net.form == (HeadForm(cap=2.0) if kind == "soft_capped" else PLAIN)
    batch = without(collate(ragged_rows(), 0, 1.0, 1.0), (0, 5))  # a gap
    got = forward(net, batch)
    logits = net.network(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    all_ = logits.log_softmax(-1)
    wanted = [
        all_[b, t - 1, batch["input_ids"][b, t]]
        for b, row in enumerate(ragged_rows())
        for t in range(row.prompt_length, len(row.input_ids))
        if (b, t) != (0, 5)
    ]
    assert len(wanted) == sum(LENGTHS) - sum(PROMPTS) - 1
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, torch.stack(wanted), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_neighbours_do_not_matter(kind):
    net = TokenScorer(network(kind, seed=1)).eval()
    rows = ragged_rows(1)
    together = forward(net, collate(rows, 0, 1.0, 1.0)).split([r.weights.size for r in rows])
    for row, values in zip(rows, together, strict=True):
        alone = forward(net, collate([row], 0, 1.0, 1.0))
        torch.testing.assert_close(values, alone, rtol=0, atol=1e-5)


def test_rows_are_scored_in_their_order_and_the_mode_is_put_back():
    net = TokenScorer(network("llama", dropout=True)).train()
    rows = ragged_rows(2)
    scores = score_rows(net, rows, 0)
    assert net.training
    assert net.network.training
    net.eval()
    for row, values in zip(rows, scores, strict=True):
        alone = forward(net, collate([row], 0, 1.0, 1.0))
        torch.testing.assert_close(torch.tensor(values), alone, rtol=0, atol=1e-5)


def test_many_rows_are_scored_in_batches_within_the_limit(monkeypatch):
    net, rows = TokenScorer(network("llama")), ragged_rows(2)
    whole = score_rows(net, rows, 0)
    monkeypatch.setattr("rlmec.lm.logprobs.TOKENS_PER_CPU_BATCH", 20)
    shapes = []
    net.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0]["input_ids"].shape)))
    cut = score_rows(net, rows, 0)
    assert shapes == [(1, 17), (1, 11), (2, 5)]  # 2 x 11 is more than 20 already, 2 x 5 is not
    for one, other in zip(whole, cut, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize(("on_cpu", "least"), [(True, 512), (False, 4096)])
def test_a_scoring_batch_is_filled_before_padding_matters(on_cpu, least):
    """Lengths from 2 to 400: a batch keeps like lengths together, but all except the last have
    enough tokens for the device."""
    lengths = list(range(2, 401))
    batches = scoring_batches(lengths, on_cpu)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    padded = [len(batch) * lengths[batch[0]] for batch in batches]
    assert min(padded[:-1]) >= least
    assert sum(padded) <= 1.15 * sum(lengths)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "soft_capped"])
def test_gradients_flow_from_chosen_tokens_alone(kind):
    """A causal network: what is behind the last chosen token, a row without one and padding feel
    nothing; what stands before it does."""
    net = TokenScorer(network(kind)).eval()
    batch = collate(ragged_rows(), 0, 1.0, 1.0)
    wanted = [(0, 4), (0, 6), (1, 4)]  # rows 2 and 3 have no chosen token
    everything = [(b, t) for b in range(4) for t in range(1, 17)]
    batch = without(batch, *(place for place in everything if place not in wanted))
    assert len(batch["targets"]) == 3
    felt = []
    embedding = net.network.get_input_embeddings()
    embedding.register_forward_hook(lambda *args: args[-1].retain_grad() or felt.append(args[-1]))
    net(batch).sum().backward()
    size = felt[0].grad.abs().sum(-1)  # [B, T]
    assert size[0, :6].min() > 0
    assert size[1, :4].min() > 0
    size[0, :6], size[1, :4] = 0, 0
    assert size.max() == 0


def test_no_chosen_token_gives_none_and_finite_gradients():
    net = TokenScorer(network("llama"))
    batch = collate([], 0, 1.0, 1.0)
    values = forward(net, batch)
    assert values.shape == (0,)
    values.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize(
    ("kind", "changes", "form"),
    [
        ("llama", {}, PLAIN),
        ("llama", {"tie_word_embeddings": True}, PLAIN),
        ("gemma3_text", {"final_logit_softcapping": 30.0}, HeadForm(cap=30.0)),
        ("cohere", {"logit_scale": 0.25}, HeadForm(0.25)),
        ("granite", {"logits_scaling": 4.0}, HeadForm(0.25)),
    ],
)
def test_what_follows_the_head_is_found_at_any_size_of_weights(kind, changes, form):
    """At such weights logits are about 1e-3; a soft cap at 30 changes them by less than 1e-12."""
    assert head_form(network(kind, initializer_range=1e-4, **changes)) == form


@pytest.mark.parametrize("what", ["logits", "states"])
def test_other_things_done_around_the_head_leave_it_to_the_network(what, monkeypatch):
    """Logits shifted after the head, or states doubled before it: no form of ours."""
    made = network("llama", seed=4)
    batch = collate(ragged_rows(), 0, 1.0, 1.0)
    before = TokenScorer(made)(batch)
    whole, width = type(made).forward, made.config.vocab_size

    def strange(self, *args, **kwargs):
        out = whole(self, *args, **kwargs)
        out.logits = out.logits + torch.linspace(0, 3, width)
        return out

    if what == "logits":
        monkeypatch.setattr(type(made), "forward", strange)
    else:
        made.lm_head.register_forward_pre_hook(lambda _, inputs: (2 * inputs[0],))
    net = TokenScorer(made)
    assert net.form is None
    logits = made(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    wanted = logits.log_softmax(-1).flatten(0, 1)[batch["sources"], batch["targets"]]
    torch.testing.assert_close(net(batch), wanted, rtol=0, atol=1e-5)
    assert (wanted - before).abs().max().item() > 0.1


def test_the_trial_leaves_no_trace():
    made = network("gpt2", dropout=True).train()
    state = torch.get_rng_state()
    TokenScorer(made)
    assert torch.equal(torch.get_rng_state(), state)
    assert made.training
    assert not made.get_output_embeddings()._forward_hooks
    logits = made.eval()(torch.tensor([[3, 4]])).logits
    assert logits.abs().max() < 100


@pytest.mark.parametrize(("longest", "mixed"), [(17, True), (257, True), (17, False)])
def test_short_rows_in_bfloat16_have_composed_attention(longest, mixed):
    """The fused kernel is called where rows are long or in float32, and the values agree."""
    net = TokenScorer(network("llama")).eval()
    rows = [Row.likelihood("r", ids, 3) for ids in ragged_ids((longest, 5), 0)]
    batch = collate(rows, 0, 1.0, 1.0)
    fused = "aten::_scaled_dot_product_flash_attention_for_cpu"
    with torch.profiler.profile() as seen, torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        found = forward(net, batch)
    called = any(event.name == fused for event in seen.events())
    assert called is (longest > 256 or not mixed)
    torch.testing.assert_close(found, forward(net, batch), rtol=0, atol=0.2)


def test_gradient_checkpointing_recomputes_with_the_same_attention():
    net = TokenScorer(network("llama")).train()
    enable_gradient_checkpointing(net.network)
    with torch.autocast("cpu", torch.bfloat16):
        found = forward(net, collate(ragged_rows(), 0, 1.0, 1.0))
    found.sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)
