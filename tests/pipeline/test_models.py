"""The model that a stage starts from: a plain directory or an adapter's, used or trained."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from small_models import PROBLEMS, network, tokenizer
from small_settings import tree

from rlmec.lm.loading import export_network
from rlmec.lm.lora import is_adapted, with_lora
from rlmec.pipeline.content import model_digest
from rlmec.pipeline.models import LanguageModel, check_places, check_start
from rlmec.settings.check import check
from rlmec.settings.schema import LoraSettings

IDS = torch.tensor([[5, 6, 7, 8, 9]])
LORA = LoraSettings(r=4, alpha=8.0)


@pytest.fixture
def places(tmp_path):
    """The directories of a base and of an adapter on it that changes its logits."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    export_network(network(seed=3), tokenizer(), base)
    made = with_lora(network(seed=3), r=4, alpha=8.0, seed=1, base=str(base))
    torch.manual_seed(2)
    for name, weight in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    export_network(made, tokenizer(), adapter)
    return base, adapter


def model_at(path, **changes):
    settings = check(tree(**{"model.lora": None}))
    model = replace(settings.model, path=str(path), **changes)
    return LanguageModel(str(path), replace(settings, model=model))


def learning(net):
    return {name for name, p in net.named_parameters() if p.requires_grad}


def test_a_plain_directory_is_trained_in_full_or_under_a_new_adapter(places):
    base, _ = places
    model = model_at(base)
    whole = model.trainable(None, seed=1)
    assert learning(whole) == {name for name, _ in whole.named_parameters()}
    adapted = model.trainable(LORA, seed=1)
    assert all(".lora_" in name for name in learning(adapted))
    assert adapted.peft_config["default"].base_model_name_or_path == str(base)
    assert torch.equal(adapted.eval()(IDS).logits, model.network()(IDS).logits)


def test_an_adapters_directory_goes_on_with_it_or_is_merged(places):
    base, adapter = places
    model = model_at(adapter)
    used = model.network()
    assert is_adapted(used)
    assert not learning(used)
    on = model.trainable(LORA, seed=99)
    assert torch.equal(on.eval()(IDS).logits, used(IDS).logits)  # old and new log-probs at step 0
    assert all(".lora_" in name for name in learning(on))
    assert on.peft_config["default"].base_model_name_or_path == str(base)
    whole = model.trainable(None, seed=1)
    assert not is_adapted(whole)
    assert learning(whole) == {name for name, _ in whole.named_parameters()}
    torch.testing.assert_close(whole.eval()(IDS).logits, used(IDS).logits, rtol=0, atol=1e-5)
    assert model.codec.digest == model_at(base).codec.digest
    assert model.codec.end_ids == model_at(base).codec.end_ids


@pytest.mark.parametrize("change", [{"r": 8}, {"alpha": 4.0}, {"target_modules": ["q_proj"]}])
def test_an_adapter_of_other_settings_is_refused(change, places):
    with pytest.raises(ValueError, match=r"is an adapter of r=4, alpha=8.*merged export"):
        model_at(places[1]).trainable(replace(LORA, **change), seed=1)


def test_frozen_weights_are_held_as_asked_and_trained_ones_in_float32(places):
    base, adapter = places
    half = model_at(base, dtype="bfloat16").trainable(LORA, seed=1)
    assert {p.dtype for p in half.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert {p.dtype for p in half.parameters() if p.requires_grad} == {torch.float32}
    for place in (base, adapter):
        whole = model_at(place, dtype="bfloat16").trainable(None, seed=1)
        assert {p.dtype for p in whole.parameters()} == {torch.float32}


def test_gradient_checkpointing_is_of_training(places):
    model = model_at(places[0], gradient_checkpointing=True)
    assert not model.network().is_activation_checkpointing
    for lora in (None, LORA):
        net = model.trainable(lora, seed=1)
        assert net.is_activation_checkpointing
        net.train()(IDS, use_cache=False).logits.logsumexp(-1).sum().backward()
        assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


def test_a_network_that_was_used_before_is_freed_when_another_is_loaded(places, monkeypatch):
    """A pass leaves its network in a cycle of objects: a stage with two held both at once."""
    monkeypatch.setattr("rlmec.pipeline.memory_use.LARGE", 0)
    model = model_at(places[0])
    used = model.network()
    used.hooks_to_itself = [used]
    kept = weakref.ref(used)
    gc.disable()
    try:
        del used
        assert kept() is not None
        model.network()
        assert kept() is None
    finally:
        gc.enable()


def test_an_adapters_content_is_also_that_of_the_model_below(places):
    base, adapter = places
    before = model_digest(str(adapter), None)
    assert model_digest(str(base), None) in before
    (adapter / "base_model.json").unlink()  # otherwise the other content is refused
    assert model_digest(str(adapter), None) == before
    export_network(network(seed=4), tokenizer(), base)
    assert model_digest(str(adapter), None) != before


# --- before anything is made ---


@pytest.mark.parametrize(
    ("changes", "until", "named"),
    [
        (lambda path: {"model.path": path}, [], "model.path"),
        (lambda path: {"grm.model": path}, ["grm"], "grm.model"),
        (lambda path: {"teacher": {"path": path, "revision": None}}, ["teach"], "teacher.path"),
    ],
)
def test_a_mistyped_model_is_found_before_a_stage_that_needs_it(changes, until, named, places):
    base, _ = places
    near = str(base.with_name("bass"))
    found = changes(near)
    teacher = found.pop("teacher", None)
    settings = check(tree(**found))
    settings = replace(settings, teacher=teacher or settings.teacher)
    with pytest.raises(FileNotFoundError, match=f"{named}: {near}: .*did you mean {base}"):
        check_places(settings, until)
    if until:
        check_places(settings, [])


def test_a_prompt_with_a_token_that_the_network_does_not_know_is_refused(places):
    base, _ = places
    made = tokenizer()
    own = type(made).from_pretrained(base)
    own.add_special_tokens({"pad_token": "[PAD]", "additional_special_tokens": ["<image>"]})
    own.save_pretrained(base)
    model = model_at(base)
    (said,) = check_start(model, PROBLEMS[0], "model.path")
    assert f"'[PAD]' (id {len(made)})" in said
    prompt = replace(model.settings.prompt, policy="<image>{question}")
    model = LanguageModel(str(base), replace(model.settings, prompt=prompt))
    with pytest.raises(ValueError, match=rf"'<image>' \(id {len(made) + 1}\)"):
        check_start(model, PROBLEMS[0], "model.path")
