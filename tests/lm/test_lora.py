"""Adapters: put on, trained in float32, written and read back alone, merged into plain weights."""

import json
import pickle

import numpy as np
import pytest
import torch
from small_models import FIVE, network, ragged_ids, tokenizer

from rlmec.data.collate import collate
from rlmec.data.prefix_tree import merge
from rlmec.data.row import Row
from rlmec.lm.chunked_head import DENSE_LOGITS, head_nll
from rlmec.lm.generation import Decoding, generate
from rlmec.lm.loading import (
    check_loadable,
    context_of,
    end_ids,
    export_network,
    load_network,
    tokenizer_of,
    vocabulary_rows,
)
from rlmec.lm.logprobs import TokenScorer, has_dropout, score_rows, sharing_obstacle
from rlmec.lm.lora import (
    AdapterPlace,
    adapter_at,
    is_adapted,
    load_adapter,
    look_for_bases_at,
    merged,
    same_lora,
    with_lora,
)
from rlmec.lm.tokenizers import tokenizer_digest

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])
LORA = {"r": 4, "alpha": 8.0, "dropout": 0.0, "target_modules": "all-linear", "rslora": False}


def adapted(kind="llama", *, base=None, **changes):
    """A network with an adapter whose second matrix is drawn, so that it changes the logits."""
    made = with_lora(network(kind, seed=3), **{**LORA, **changes}, seed=5, base=base)
    draw = torch.Generator().manual_seed(7)
    for name, weight in made.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.1, generator=draw)
    return made.eval()


def directories(folder, kind="llama", **changes):
    """The directory of a base and that of an adapter on it, and the network of both."""
    export_network(network(kind, seed=3), tokenizer(), folder / "base")
    made = adapted(kind, base=str(folder / "base"), **changes)
    export_network(made, tokenizer(), folder / "adapter")
    return folder / "base", folder / "adapter", made


# --- what an adapter is ---


@pytest.mark.parametrize("kind", FIVE)
def test_a_new_adapter_changes_nothing_and_is_all_that_learns(kind):
    plain, state = network(kind, seed=3), torch.get_rng_state()
    made = with_lora(network(kind, seed=3).to(torch.float32), **LORA, seed=5).eval()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(made(IDS).logits, plain(IDS).logits)
    learns = {name for name, p in made.named_parameters() if p.requires_grad}
    assert learns
    assert all(".lora_A." in name or ".lora_B." in name for name in learns)
    head = made.get_output_embeddings()
    assert type(head) is torch.nn.Linear  # no adapter on the head by default
    again, other = (with_lora(network(kind, seed=3), **LORA, seed=s) for s in (5, 6))
    first = {n: p for n, p in made.named_parameters() if ".lora_A." in n}
    assert all(torch.equal(dict(again.named_parameters())[n], p) for n, p in first.items())
    assert not any(torch.equal(dict(other.named_parameters())[n], p) for n, p in first.items())


@pytest.mark.parametrize("kind", FIVE)
def test_directories_of_base_and_adapter_and_the_merged_export(kind, tmp_path):
    """The adapter's directory holds the adapter alone and gives the same logits bit for bit; the
    merged one is plain Hugging Face within 1e-5; with the adapter off it is the base."""
    from transformers import AutoModelForCausalLM

    base, folder, made = directories(tmp_path, kind)
    assert {p.name for p in folder.iterdir()} == {
        *("adapter_config.json", "adapter_model.safetensors", "base_model.json"),
        *("tokenizer.json", "tokenizer_config.json"),
    }
    place = adapter_at(folder)
    assert place is not None
    assert (place.base, place.revision) == (str(base), None)
    assert adapter_at(base) is None
    wanted = made(IDS).logits
    back = load_network(folder)
    assert not back.training
    assert is_adapted(back)
    assert not any(p.requires_grad for p in back.parameters())
    assert torch.equal(back(IDS).logits, wanted)
    with back.disable_adapter():
        assert torch.equal(back(IDS).logits, network(kind, seed=3)(IDS).logits)
    assert (wanted - network(kind, seed=3)(IDS).logits).abs().max() > 0.1

    export_network(merged(load_network(folder)), tokenizer_of(folder), tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    assert not is_adapted(plain)
    torch.testing.assert_close(plain(IDS).logits, wanted, rtol=0, atol=1e-5)
    assert tokenizer_digest(tokenizer_of(tmp_path / "merged")) == tokenizer_digest(tokenizer())
    export_network(merged(load_network(base)), tokenizer_of(base), tmp_path / "same")
    assert torch.equal(load_network(tmp_path / "same")(IDS).logits, load_network(base)(IDS).logits)


@pytest.mark.parametrize("kind", FIVE)
def test_weights_below_in_half_precision_and_adapters_in_float32(kind, tmp_path):
    """Every adapter weight is float32, every other one as asked; merging in float32 is exact."""
    _, folder, _ = directories(tmp_path, kind)
    half = load_network(folder, dtype="bfloat16", trainable=True)
    kinds = {p.requires_grad: set() for p in half.parameters()}
    for p in half.parameters():
        kinds[p.requires_grad].add(p.dtype)
    assert kinds == {True: {torch.float32}, False: {torch.bfloat16}}
    half(IDS).logits.float().logsumexp(-1).sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in half.parameters() if p.requires_grad)
    fresh = with_lora(network(kind).to(torch.bfloat16), **LORA)
    assert {p.dtype for p in fresh.parameters() if p.requires_grad} == {torch.float32}


def test_the_same_adapter_has_the_same_bytes(tmp_path):
    for name in ("one", "other"):
        export_network(adapted(base="b"), tokenizer(), tmp_path / name)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    config = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(config["target_modules"])


def test_an_adapter_goes_on_with_its_own_settings(tmp_path):
    base, folder, made = directories(tmp_path)
    place = adapter_at(folder)
    assert place is not None
    trained = load_adapter(load_network(base), place, trainable=True)
    assert {n for n, p in trained.named_parameters() if p.requires_grad} == {
        n for n, p in made.named_parameters() if p.requires_grad
    }
    assert same_lora(trained, **LORA)
    changes = [{"r": 8}, {"alpha": 4.0}, {"dropout": 0.1}, {"target_modules": ["q_proj"]}]
    for change in [*changes, {"rslora": True}]:
        assert not same_lora(trained, **{**LORA, **change})
    assert same_lora(adapted(target_modules=["q_proj"]), **{**LORA, "target_modules": ["q_proj"]})


def test_end_tokens_and_tokenizer_of_an_adapter_are_those_of_the_model_below(tmp_path):
    base, folder, _ = directories(tmp_path)
    assert end_ids(str(folder), None) == end_ids(str(base), None) == (1,)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert tokenizer_digest(tokenizer_of(folder)) == tokenizer_digest(tokenizer())


# --- used by the project's own passes ---


def rows_with_a_common_start():
    trunk, one, other = ragged_ids([9, 6, 7], seed=4)
    return [Row.likelihood("one", trunk + one, 4), Row.likelihood("other", trunk + other, 4)]


@pytest.mark.parametrize("kind", FIVE)
def test_shared_prefixes_chosen_logprobs_and_decoding_hold(kind, tmp_path):
    """Under the adapter as without one: packed and separate rows, and the library's own greedy."""
    _, folder, _ = directories(tmp_path, kind)
    net = load_network(folder)
    scorer, rows = TokenScorer(net), rows_with_a_common_start()
    assert scorer.form is not None
    assert sharing_obstacle(scorer, training=True) is None
    with torch.no_grad():
        packed = scorer(collate([merge("both", rows, join=False)], 0, 1.0, 1.0))
        for row, values in zip(rows, score_rows(scorer, rows, 0), strict=True):
            ids = torch.tensor(row.input_ids)[None]
            dense = net(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
            np.testing.assert_allclose(values, dense[3:].numpy(), rtol=0, atol=1e-5)
    joined = [v for values in score_rows(scorer, rows, 0) for v in values]
    np.testing.assert_allclose(packed.numpy(), joined, rtol=0, atol=1e-5)

    prompts = ragged_ids([5, 3], seed=8)
    found = generate(net, prompts, Decoding(6), end_ids=(), pad_id=0)
    for prompt, completion in zip(prompts, found, strict=True):
        ids = list(prompt)
        with torch.no_grad():
            for _ in range(6):
                ids.append(int(net(torch.tensor([ids])).logits[0, -1].argmax()))
        assert completion.ids == ids[len(prompt) :]


def test_an_adapter_on_the_head_takes_the_general_way():
    """Chunked: torch's own operation would leave the adapter out."""
    made = adapted(target_modules=["q_proj", "lm_head"])
    net = TokenScorer(made)
    rows = rows_with_a_common_start()
    with torch.no_grad():
        for row, values in zip(rows, score_rows(net, rows, 0), strict=True):
            ids = torch.tensor(row.input_ids)[None]
            dense = made(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
            np.testing.assert_allclose(values, dense[3:].numpy(), rtol=0, atol=1e-5)
        head, count = made.get_output_embeddings(), DENSE_LOGITS // len(tokenizer()) + 100
        hidden = torch.randn(count, 32, generator=torch.Generator().manual_seed(0))
        targets = torch.arange(count) % len(tokenizer())
        wanted = -head(hidden).log_softmax(-1).gather(1, targets[:, None])[:, 0]
        torch.testing.assert_close(head_nll(head, hidden, targets), wanted, rtol=0, atol=1e-4)
        base = -made.get_base_model().lm_head.base_layer(hidden).log_softmax(-1)
        assert (base.gather(1, targets[:, None])[:, 0] - wanted).abs().max() > 0.01


def test_dropout_of_an_adapter_counts_as_dropout():
    assert has_dropout(adapted(dropout=0.1))
    assert not has_dropout(adapted())
    net = TokenScorer(adapted(dropout=0.1))
    assert sharing_obstacle(net, training=True) == "its dropout is active in training"
    assert sharing_obstacle(net, training=False) is None


# --- refusals ---


def test_an_adapter_on_a_shared_matrix_is_refused():
    tied = network(tie_word_embeddings=True)
    with pytest.raises(ValueError, match="lm_head, whose matrix head and embedding share"):
        with_lora(tied, **{**LORA, "target_modules": ["q_proj", "lm_head"]})
    assert with_lora(tied, **LORA)


def test_a_name_that_no_module_has_is_refused():
    with pytest.raises(ValueError, match="query"):
        with_lora(network(), **{**LORA, "target_modules": ["query"]})


def test_broken_adapter_directories_are_named(tmp_path):
    _, folder, _ = directories(tmp_path)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(FileNotFoundError, match="pickled weights are not loaded"):
        load_network(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": None})
    )
    with pytest.raises(ValueError, match="names no base_model_name_or_path"):
        load_network(folder)


# --- base models that were moved or changed ---


@pytest.fixture
def no_other_places(monkeypatch):
    monkeypatch.setattr("rlmec.lm.lora._OTHER_PLACES", {})


def test_a_base_that_is_gone_is_named(tmp_path, no_other_places):
    base, folder, _ = directories(tmp_path)
    base.rename(tmp_path / "elsewhere")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    for look in (load_network, tokenizer_of, context_of, vocabulary_rows, check_loadable):
        with pytest.raises(ValueError, match=f"{base}, which is not there: set model.path"):
            look(folder)


def test_a_base_with_other_content_is_refused(tmp_path, no_other_places):
    """At its place, and at the one of model.path."""
    base, folder, _ = directories(tmp_path)
    export_network(network(seed=4), tokenizer(), base)
    with pytest.raises(ValueError, match=f"{base}, which is there with other content"):
        load_network(folder)
    export_network(network(seed=5), tokenizer(), tmp_path / "third")
    look_for_bases_at(str(tmp_path / "third"))
    with pytest.raises(ValueError, match=f"{base}, .*{tmp_path / 'third'} is not it"):
        load_network(folder)


def test_a_moved_base_is_found_by_its_content(tmp_path, no_other_places):
    """And an adapter that goes on names the new place."""
    base, folder, made = directories(tmp_path)
    wanted = made(IDS).logits
    base.rename(tmp_path / "elsewhere")
    look_for_bases_at(str(tmp_path / "none"))
    look_for_bases_at(str(tmp_path / "elsewhere"))
    back = load_network(folder)
    assert torch.equal(back(IDS).logits, wanted)
    export_network(back, tokenizer(), tmp_path / "again")
    config = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "elsewhere")


def test_base_and_adapter_that_moved_together_find_each_other(tmp_path, no_other_places):
    _, folder, made = directories(tmp_path / "one")
    wanted = made(IDS).logits
    (tmp_path / "one").rename(tmp_path / "other")
    assert torch.equal(load_network(tmp_path / "other" / folder.name)(IDS).logits, wanted)


def test_a_base_from_the_hub_is_found_in_the_cache_and_at_another_place(
    tmp_path, no_other_places, monkeypatch
):
    """Offline, with the revision that was current when the adapter was made."""
    base, folder, made = directories(tmp_path)
    cached = {("owner/base", "c0ffee"): str(base / "config.json")}
    monkeypatch.setattr(
        "rlmec.lm.lora.try_to_load_from_cache",
        lambda name, file, revision: cached.get((name, revision)),
    )
    own = made.peft_config["default"]
    own.base_model_name_or_path, own.revision = "owner/base", "c0ffee"
    export_network(made, tokenizer(), folder)
    assert adapter_at(folder) == AdapterPlace(folder, "owner/base", "c0ffee")
    cached.clear()
    assert adapter_at(folder) == AdapterPlace(folder, "owner/base", "c0ffee")
    look_for_bases_at(str(base))
    assert adapter_at(folder) == AdapterPlace(folder, str(base), None)


def test_an_adapter_that_records_no_content_is_used_where_it_says(tmp_path, no_other_places):
    base, folder, made = directories(tmp_path)
    (folder / "base_model.json").unlink()
    assert torch.equal(load_network(folder)(IDS).logits, made(IDS).logits)
    base.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=f"{base}: no such folder"):
        load_network(folder)


def test_merging_uses_up_the_network_and_leaves_a_plain_one_alone():
    plain = network()
    assert merged(plain) is plain
    made = adapted()
    wanted = made(IDS).logits
    torch.testing.assert_close(merged(made)(IDS).logits, wanted, rtol=0, atol=1e-5)


def test_a_directory_with_pickled_weights_alone_is_refused(tmp_path):
    network().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(FileNotFoundError, match=r"no safetensors here \(found pytorch_model.bin"):
        load_network(tmp_path)
