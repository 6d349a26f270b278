"""Networks from scratch, from a plain directory and back; what is refused."""

import json

import pytest
import torch
from small_models import FIVE, chat_tokenizer, network, tokenizer

from rlmec.lm.loading import (
    context_length,
    enable_gradient_checkpointing,
    end_ids,
    export_network,
    load_network,
    new_network,
)
from rlmec.lm.tokenizers import load_tokenizer, tokenizer_digest

SHAPE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SHAPE |= {"num_key_value_heads": 2, "intermediate_size": 16}
IDS = torch.tensor([[5, 6, 7, 8]])


# --- from scratch ---


def test_a_seed_gives_the_weights_and_leaves_the_generator_alone():
    before = torch.get_rng_state()
    one, again, other = (new_network(SHAPE, tokenizer(), "sdpa", s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one(IDS).logits, again(IDS).logits)
    assert not torch.equal(one(IDS).logits, other(IDS).logits)


def test_a_new_network_fits_its_tokenizer():
    made = new_network(SHAPE, tokenizer(), "eager", 1)
    assert made.config.model_type == "llama"
    assert made.config._attn_implementation == "eager"
    assert made.config.eos_token_id == tokenizer().eos_token_id == 1
    assert made.config.pad_token_id == tokenizer().pad_token_id == 0
    assert made(IDS).logits.shape[-1] == len(tokenizer())
    assert {p.dtype for p in made.parameters()} == {torch.float32}


def test_an_unknown_key_of_a_shape_is_named():
    with pytest.raises(ValueError, match=r"model\.shape: hiden_size unknown to llama"):
        new_network({"hiden_size": 16}, tokenizer(), "sdpa", 1)


def test_an_unknown_architecture_is_named():
    with pytest.raises(ValueError, match=r"model\.shape\.model_type: 'lama' is not an architect"):
        new_network({"model_type": "lama"}, tokenizer(), "sdpa", 1)


# --- end tokens ---


def test_an_exported_network_names_its_end_token(tmp_path):
    export_network(network(), tokenizer(), tmp_path)
    assert end_ids(str(tmp_path), None) == (tokenizer().eos_token_id,)


@pytest.mark.parametrize(
    ("generation", "config", "wanted"),
    [
        ({"eos_token_id": [7, 9]}, {"eos_token_id": 1}, (7, 9)),
        ({"eos_token_id": 7}, {"eos_token_id": [1, 2]}, (7,)),
        ({"do_sample": True}, {"eos_token_id": [1, 2]}, (1, 2)),
        (None, {"eos_token_id": None}, ()),
        (None, None, ()),
    ],
)
def test_end_tokens_are_those_of_generation_before_those_of_the_network(
    generation, config, wanted, tmp_path
):
    for name, values in (("generation_config.json", generation), ("config.json", config)):
        if values is not None:
            (tmp_path / name).write_text(json.dumps(values))
    assert end_ids(str(tmp_path), None) == wanted


# --- there and back ---


@pytest.mark.parametrize("kind", FIVE)
def test_an_export_is_plain_hugging_face_with_equal_logits(kind, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    net, tok = network(kind), chat_tokenizer()
    export_network(net, tok, tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    mine = load_network(tmp_path)
    assert not mine.training
    for loaded in (plain, mine):
        assert torch.equal(loaded.eval()(IDS).logits, net(IDS).logits)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == tok.chat_template
    assert tokenizer_digest(load_tokenizer(tmp_path)) == tokenizer_digest(tok)


def test_an_export_does_not_tell_how_its_tokenizer_was_loaded(tmp_path):
    """Else the same work gives other bytes offline (HF_HUB_OFFLINE) than online."""
    from transformers import AutoTokenizer

    tokenizer().save_pretrained(tmp_path / "start")
    written = set()
    for offline in (True, False):
        tok = AutoTokenizer.from_pretrained(tmp_path / "start", local_files_only=offline)
        export_network(network(), tok, tmp_path / str(offline))
        written.add((tmp_path / str(offline) / "tokenizer_config.json").read_text())
    assert len(written) == 1


def test_weights_in_half_precision_are_loaded_in_float32(tmp_path):
    network().to(torch.bfloat16).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert {p.dtype for p in load_network(tmp_path).parameters()} == {torch.float32}


def test_gradient_checkpointing_changes_no_gradient(tmp_path):
    network(dropout=True).save_pretrained(tmp_path)
    found = []
    for wanted, passes in ((False, 1), (True, 2)):
        net, seen = load_network(tmp_path).train(), []
        if wanted:
            enable_gradient_checkpointing(net)
        layer = net.get_decoder().layers[0].mlp
        layer.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        torch.manual_seed(0)
        net(IDS, use_cache=False).logits.logsumexp(-1).sum().backward()
        assert len(seen) == passes  # computed once more on the way back
        found.append([p.grad for p in net.parameters()])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


# --- refusals ---


def test_a_directory_without_a_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}: no model here"):
        load_network(tmp_path)
    with pytest.raises(FileNotFoundError, match="none: no such folder"):
        load_network(tmp_path / "none")


def test_pickled_weights_are_not_loaded(tmp_path):
    net = network()
    net.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(net.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_network(tmp_path)


def test_the_context_length_is_the_configurations():
    assert context_length(network(max_position_embeddings=64)) == 64
    assert context_length(network("gpt2")) == 256
