"""The head part by part: log-probs and gradients of the dense one, without its memory."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from small_models import network
from torch import nn

from rlmec.lm import chunked_head as parts
from rlmec.lm.chunked_head import (
    PLAIN,
    HeadForm,
    evaluating,
    head_nll,
    head_output,
)

COUNT, WIDTH, VOCABULARY = 300, 16, 40
FORMS = [PLAIN, HeadForm(0.25), HeadForm(cap=2.0), HeadForm(3.0, 1.5)]


@pytest.fixture
def in_parts(monkeypatch):
    """Whatever the size: parts of 7 of the 40 tokens (the last one ragged), of 9 of 300 rows."""
    monkeypatch.setattr(parts, "DENSE_LOGITS", 0)
    monkeypatch.setattr(parts, "PARTS", 6)
    monkeypatch.setattr(parts, "LEAST_PART", 0)


def drawn(bias=False, count=COUNT, seed=0):
    """Head, hidden states, targets and the weight of each log-prob in a loss."""
    draw = torch.Generator().manual_seed(seed)
    head = nn.Linear(WIDTH, VOCABULARY, bias=bias)
    with torch.no_grad():
        for p in head.parameters():
            p.copy_(torch.randn(p.shape, generator=draw) / 3)
    hidden = torch.randn(count, WIDTH, generator=draw).requires_grad_()
    targets = torch.randint(0, VOCABULARY, (count,), generator=draw)
    return head, hidden, targets, torch.randn(count, generator=draw)


def nll(logits, targets, form=PLAIN):
    """The formula itself: float32 softmax of the logits that the form makes of the output."""
    logits = logits.float() * form.scale
    if form.cap is not None:
        logits = form.cap * torch.tanh(logits / form.cap)
    return logits.logsumexp(-1) - logits.gather(-1, targets[:, None])[:, 0]


def gradients(way, head, hidden, targets, coefficients):
    """Values, then the gradients of the hidden states and of every trained weight."""
    hidden.grad = None
    head.zero_grad()
    values = way(head, hidden, targets)
    (values * coefficients).sum().backward()
    trained = [p.grad.clone() for p in head.parameters() if p.requires_grad]
    return [values.detach(), hidden.grad, *trained]


def dense(form=PLAIN):
    return lambda head, hidden, targets: nll(head(hidden), targets, form)


def ours(form=PLAIN):
    return lambda head, hidden, targets: head_nll(head, hidden, targets, form)


def furthest(got, wanted):
    """Largest difference, relative to the largest value of its tensor where that is over 1."""
    assert len(got) == len(wanted)
    assert all(one.dtype == other.dtype for one, other in zip(got, wanted, strict=True))
    return max(
        float((a - b).abs().max()) / max(1.0, float(b.abs().max()))
        for a, b in zip(got, wanted, strict=True)
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bias", [False, True])
def test_parts_give_the_dense_values_and_gradients(bias, form, in_parts):
    made = drawn(bias)
    got = gradients(ours(form), *made)
    assert furthest(got, gradients(dense(form), *made)) <= 1e-6
    assert got[0].dtype == torch.float32


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 45), st.integers(0, 2**20))
def test_however_the_vocabulary_is_cut(count, cut, seed):
    made = drawn(True, count, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "DENSE_LOGITS", 0)
        patch.setattr(parts, "PARTS", cut)
        patch.setattr(parts, "LEAST_PART", 0)
        got = gradients(ours(), *made)
    assert furthest(got, gradients(dense(), *made)) <= 2e-6


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("limit", [COUNT * VOCABULARY, COUNT * VOCABULARY - 1])
def test_logits_up_to_a_limit_are_kept_and_change_no_bit(limit, mixed, in_parts, monkeypatch):
    """Each of the 6 parts is a product of the forward pass, and one more if it is not kept."""
    made = drawn(True)
    products = []
    computed = parts._output
    monkeypatch.setattr(parts, "_output", lambda *a: products.append(1) or computed(*a))

    def run():
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            return gradients(ours(FORMS[3]), *made)

    monkeypatch.setattr(parts, "KEPT_LOGITS", 0)
    wanted = run()
    assert len(products) == 12
    products.clear()
    monkeypatch.setattr(parts, "KEPT_LOGITS", limit)
    got = run()
    assert len(products) == (6 if limit == COUNT * VOCABULARY else 12)
    assert all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))


def test_few_logits_are_computed_plainly(monkeypatch):
    made = drawn()
    monkeypatch.setattr(parts, "_VocabularyParts", None)
    assert furthest(gradients(ours(), *made), gradients(dense(), *made)) <= 1e-6
    monkeypatch.setattr(parts, "DENSE_LOGITS", COUNT * VOCABULARY - 1)
    with pytest.raises(AttributeError):
        head_nll(*made[:3])


@pytest.mark.parametrize("form", [PLAIN, HeadForm(cap=2.0)])
@pytest.mark.parametrize("cut", [True, False])
def test_under_autocast_they_are_nearer_to_float32_than_the_dense_ones(form, cut, monkeypatch):
    """Products in bfloat16 (8 bits) round large outputs most: those of likely tokens. The outputs
    that matter are computed in float32, gradients have one rounding of each product."""
    if cut:
        for name, value in {"DENSE_LOGITS": 0, "PARTS": 4, "LEAST_PART": 0}.items():
            monkeypatch.setattr(parts, name, value)
    made = drawn(True)

    def mixed(way):
        def run(*arguments):
            with torch.autocast("cpu", torch.bfloat16):
                return way(*arguments)

        return gradients(run, *made)

    got, wanted = mixed(ours(form)), mixed(dense(form))
    exact = gradients(dense(form), *made)
    assert got[0].dtype == torch.float32
    assert furthest(got, wanted) <= 2**-6
    for one, other, true in zip(got, wanted, exact, strict=True):
        assert float((one - true).norm()) <= 1.5 * float((other - true).norm())


def test_in_bfloat16_a_large_output_is_not_rounded(in_parts):
    """Two tokens of output 20.05 and 18, the others near 0. log p of the first is -log(1 + e^-2.05)
    = -0.121; bfloat16 has 20.0 and 20.125 next to 20.05, which would move log p by 0.006."""
    head = nn.Linear(1, VOCABULARY, bias=False)
    with torch.no_grad():
        head.weight.zero_()
        head.weight[0], head.weight[1] = 20.05, 18.0
    hidden = torch.ones(2, 1)
    with torch.autocast("cpu", torch.bfloat16):
        values = head_nll(head, hidden, torch.tensor([0, 1]))
    assert values.tolist() == pytest.approx([0.1211, 2.1711], abs=2e-4)


def test_a_sure_token_keeps_its_small_gradient_in_bfloat16(in_parts):
    """p = 0.999 is 1 in bfloat16, and p - 1 would be 0: it is taken before the rounding."""
    head = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[7.0], [0.0]]))  # p of the first: 1 / (1 + e^-7) = 0.99909
    hidden = torch.ones(1, 1, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        value = head_nll(head, hidden, torch.tensor([0]))
    value.sum().backward()
    assert head.weight.grad[0].item() == pytest.approx(-0.000911, rel=2**-7)


def test_a_frozen_head_has_no_gradient(in_parts):
    made = drawn(True)
    made[0].requires_grad_(False)
    assert furthest(gradients(ours(), *made), gradients(dense(), *made)) <= 1e-6
    assert all(p.grad is None for p in made[0].parameters())


def test_a_network_in_bfloat16_gets_gradients_of_its_type(in_parts):
    head, hidden, targets, coefficients = drawn()
    head, hidden = head.bfloat16(), hidden.detach().bfloat16().requires_grad_()
    got = gradients(ours(), head, hidden, targets, coefficients)
    wanted = gradients(dense(), head, hidden, targets, coefficients)
    assert got[0].dtype == torch.float32
    assert got[1].dtype == got[2].dtype == torch.bfloat16
    assert furthest(got, wanted) <= 2**-6


PEFT_ASKS = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def adapted(dropout=0.0):
    """A network whose head has an adapter that does something, and that head. The adapter, and what
    a test draws after it, do not depend on the tests that ran before."""
    torch.manual_seed(5)
    made = network("llama", seed=5)
    config = LoraConfig(r=4, target_modules=["lm_head"], lora_dropout=dropout)
    made = get_peft_model(made, config)
    for name, p in made.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(p, std=0.3)
    return made.get_base_model(), made.get_base_model().get_output_embeddings()


@PEFT_ASKS
def test_a_head_with_an_adapter_is_called_as_it_is(in_parts):
    _, head = adapted()
    hidden = torch.randn(COUNT, 32, requires_grad=True)
    targets = torch.randint(0, head.weight.shape[0], (COUNT,))
    made = (head, hidden, targets, torch.randn(COUNT))
    got, wanted = gradients(ours(), *made), gradients(dense(), *made)
    assert len(got) == 4  # both matrices of the adapter, not the frozen head
    assert furthest(got, wanted) <= 2e-6
    plain = nll(head.base_layer(hidden), targets).detach()
    assert float((got[0] - plain).abs().max()) > 0.1


@PEFT_ASKS
def test_an_adapters_dropout_is_the_same_in_both_passes(in_parts):
    """Gradients by parts are those of the values that were said: checked by finite differences
    along one direction, at the generator's same state."""
    _, head = adapted(dropout=0.5)
    head.double().train()
    torch.manual_seed(0)
    hidden = torch.randn(40, 32, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, head.weight.shape[0], (40,))
    direction = torch.randn_like(hidden)

    def loss(states):
        torch.manual_seed(3)
        return head_nll(head, states, targets).double().sum()

    loss(hidden).backward()
    step = 1e-3
    slope = (loss(hidden + step * direction) - loss(hidden - step * direction)) / (2 * step)
    assert float((hidden.grad * direction).sum()) == pytest.approx(float(slope.detach()), rel=5e-3)


def test_without_gradients_nothing_is_kept(in_parts):
    head, hidden, targets, _ = drawn()
    with torch.no_grad():
        values = head_nll(head, hidden, targets)
    assert not values.requires_grad
    wanted = nll(head(hidden), targets).detach()
    assert float((values - wanted).abs().max()) <= 2e-6


@pytest.mark.parametrize("rows", [1, 6, 32, 33])
def test_blocks_of_the_vocabulary_are_the_heads_output(rows, monkeypatch):
    head = nn.Linear(24, 530, bias=False)
    states = torch.randn(rows, 24)
    monkeypatch.setattr(parts, "LARGE_HEAD", 24 * 530)
    called = []
    head.register_forward_hook(lambda *_: called.append(1))
    with torch.no_grad():
        got = head_output(head, states)
        assert called == ([1] if rows > 32 else [])
        torch.testing.assert_close(got, head(states), rtol=0, atol=1e-6)


def test_the_mode_is_put_back_after_an_error():
    module = nn.Sequential(nn.Dropout()).train()
    seen = []

    def failing():
        with evaluating(module):
            seen.append(module[0].training)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert seen == [False]
    assert module[0].training


def test_on_a_gpu_parts_are_larger():
    """Of 100 states and 2^20 tokens: 2^20 / 32 tokens are a part of over 2^20 logits on a CPU, and
    2^23 // 100 tokens are one on another device."""
    for device, size in (("cpu", 32768), ("meta", 83886)):
        bounds = list(parts._parts(torch.empty(100, 2, device=device), 2**20))
        assert bounds[0] == (0, size)
        assert len(bounds) == -(-(2**20) // size)
        assert bounds[-1][1] == 2**20
