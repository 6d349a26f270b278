"""Models that are not what they seem: weights, folders, names, and what is only warned of."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import FIVE, SHAPES, chat_tokenizer, network, ragged_ids, tokenizer

from rlmec.data.row import Row
from rlmec.lm.loading import (
    check_loadable,
    codec_of,
    export_network,
    load_network,
    new_network,
    tokenizer_of,
    vocabulary_rows,
)
from rlmec.lm.loading_checks import check_folder, check_keys, check_model, is_local, passing_on
from rlmec.lm.logprobs import TokenScorer, score_rows
from rlmec.lm.lora import with_lora

HEAD = "lm_head.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "model"
    export_network(network(), tokenizer(), folder)
    return folder


def with_weights(whole, folder, change, file="model.safetensors"):
    """A copy of a model whose weights are changed."""
    shutil.copytree(whole, folder)
    save_file(change(load_file(folder / file)), folder / file, metadata={"format": "pt"})
    return folder


def wider(weights):
    return weights | {HEAD: torch.zeros(len(weights[HEAD]) + 2, weights[HEAD].shape[1])}


BROKEN = {
    "compiled": (lambda w: {f"_orig_mod.{k}": v for k, v in w.items()}, "torch.compile"),
    "parallel": (lambda w: {f"module.{k}": v for k, v in w.items()}, "DistributedDataParallel"),
    "no head": (lambda w: {k: v for k, v in w.items() if k != HEAD}, HEAD),
    "reward": (
        lambda w: {("score.weight" if k == HEAD else k): v for k, v in w.items()},
        "reward model",
    ),
    "more": (lambda w: w | {"model.layers.2.mlp.up_proj.weight": torch.zeros(2)}, r"layers\.2\."),
    "fewer": (lambda w: {k: v for k, v in w.items() if ".1." not in k}, r"layers\.1\."),
    "shape": (wider, r"lm_head.weight \[296, 32\], not \[294, 32\]"),
}


# --- weights ---


@pytest.mark.parametrize("kind", BROKEN)
def test_weights_that_are_not_those_of_the_network_are_refused(kind, whole, tmp_path):
    """Also by `check_loadable`, which reads no weights."""
    change, named = BROKEN[kind]
    folder = with_weights(whole, tmp_path / "model", change)
    for look in (load_network, check_loadable):
        with pytest.raises(ValueError, match=named) as caught:
            look(folder)
        assert str(folder) in str(caught.value)


@pytest.mark.parametrize("kind", FIVE)
@pytest.mark.parametrize("tied", [True, False])
def test_every_whole_model_is_accepted(kind, tied, tmp_path):
    export_network(network(kind, tie_word_embeddings=tied), tokenizer(), tmp_path)
    check_model(tmp_path)
    check_loadable(tmp_path)
    assert all(p.device.type == "cpu" for p in load_network(tmp_path).parameters())


def test_a_tied_model_saved_for_classification_is_refused(tmp_path):
    """Its head would be the embedding, so that no weight is missing."""
    export_network(network(tie_word_embeddings=True), tokenizer(), tmp_path / "tied")
    made = with_weights(
        tmp_path / "tied", tmp_path / "m", lambda w: w | {"score.weight": torch.zeros(1, 32)}
    )
    with pytest.raises(ValueError, match=r"1 that belong to no layer \(score.weight\)"):
        load_network(made)


def test_what_code_computes_and_value_heads_may_be_left_out(whole, tmp_path):
    extra = {
        "v_head.summary.weight": torch.zeros(1, 32),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4),
    }
    check_loadable(with_weights(whole, tmp_path / "model", lambda w: w | extra))
    report = {"missing_keys": set(), "unexpected_keys": {"h.0.attn.masked_bias"}}
    check_keys("m", report | {"mismatched_keys": set()})


def test_weights_that_are_cut_off_are_named_with_their_size(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    for size in (5, 5000):
        file.write_bytes((whole / "model.safetensors").read_bytes()[:size])
        for look in (check_model, load_network):
            with pytest.raises(ValueError, match=rf"model\.safetensors has {size} bytes"):
                look(tmp_path / "m")


def test_a_missing_shard_is_named(tmp_path):
    network().save_pretrained(tmp_path, max_shard_size="20KB")
    tokenizer().save_pretrained(tmp_path)
    check_model(tmp_path)
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    for look in (check_model, load_network):
        with pytest.raises(FileNotFoundError, match=shard.name):
            look(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda w: {k.replace("self_attn", "attn"): v for k, v in w.items()}, "missing"),
        (lambda w: {k: v for k, v in w.items() if "layers.1." not in k}, "layers.1."),
        (lambda w: w | {"base_model.model.x.lora_A.weight": torch.zeros(4, 2)}, "no layer"),
        (lambda w: {k: torch.cat([v, v]) for k, v in w.items()}, "another shape"),
    ],
)
def test_an_adapter_that_does_not_fit_its_base_is_refused(change, named, whole, tmp_path):
    made = with_lora(network(), r=4, alpha=8.0, base=str(whole))
    export_network(made, tokenizer(), tmp_path / "adapter")
    check_model(tmp_path / "adapter")
    check_loadable(tmp_path / "adapter")
    file = "adapter_model.safetensors"
    broken = with_weights(tmp_path / "adapter", tmp_path / "broken", change, file)
    for look in (load_network, check_loadable):
        with pytest.raises(ValueError, match=named) as caught:
            look(broken)
        assert str(broken) in str(caught.value)


# --- what is only warned of ---


def test_a_warning_of_transformers_is_passed_on_while_it_is_quiet():
    import transformers

    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    logger = transformers.logging.get_logger("transformers.modeling_utils")

    def load(*texts, fails=False):
        with passing_on("here"):
            for text in texts:
                logger.warning(text)
            if fails:
                raise RuntimeError("see above")

    try:
        with pytest.warns(UserWarning, match="here: the tokens are wrong"):
            load("the tokens are wrong", "LOAD REPORT: the same as an error")
        assert transformers.logging.get_verbosity() == transformers.logging.ERROR
        with pytest.raises(RuntimeError) as caught:
            load("why it failed", fails=True)
        assert caught.value.__notes__ == ["why it failed"]
    finally:
        transformers.logging.set_verbosity(before)


def test_a_head_that_is_not_the_embedding_although_they_are_to_be_tied_is_told(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    with pytest.warns(UserWarning, match="we will NOT tie"):
        load_network(tmp_path / "m")


# --- places ---


def test_a_hub_name_is_told_from_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store").mkdir()
    paths = ["/a", "./a", "../a", "~/a", "a/b/c", "store", "store/model", ".hidden"]
    assert all(is_local(path) for path in paths)
    assert not any(is_local(name) for name in ("gpt2", "Qwen/Qwen3-1.7B", "a/b"))


def test_a_mistyped_path_is_no_such_folder_with_the_nearest_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store" / "policy" / "model").mkdir(parents=True)
    for wrong, near in [
        ("store/polcy/model", "store/policy"),
        ("./store/policy/modell", "store/policy/model"),
        (str(tmp_path / "stor" / "policy"), "store"),
    ]:
        with pytest.raises(FileNotFoundError, match=r"model\.path: .*no such folder") as caught:
            check_folder(wrong, "model.path")
        assert str(caught.value).endswith(f"did you mean {tmp_path / near}?")
    with pytest.raises(FileNotFoundError, match="/at/all: no such folder; / has no nothing"):
        check_folder("/nothing/at/all")
    check_folder("Qwen/Qwen3-1.7B")


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        ("config.json", "config.json"),
        ("model.safetensors", "safetensors"),
        ("tokenizer*", "tokenizer.json"),
    ],
)
def test_a_folder_that_lacks_a_part_of_a_model_names_it(gone, named, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "m")
    for file in (tmp_path / "m").glob(gone):
        file.unlink()
    with pytest.raises(FileNotFoundError, match=f"grm.model: {tmp_path / 'm'}: .*{named}"):
        check_model(tmp_path / "m", what="grm.model")


def test_a_name_that_is_neither_here_nor_on_the_hub_says_both(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "warmup").mkdir()
    with pytest.raises(FileNotFoundError, match=r"model.path: warmpu: .*no folder.*hub") as caught:
        check_model("warmpu", what="model.path")
    assert "did you mean" in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"owner/model: .*no folder.*hub"):
        check_model("owner/model")


def test_the_tokenizer_of_a_mistyped_folder_is_no_hub_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        tokenizer_of(f"{tmp_path}/none")


# --- ids without a row ---


def with_tokens(whole, folder, **added):
    """A copy of a model whose tokenizer has more tokens than the embedding has rows."""
    from transformers import AutoTokenizer

    shutil.copytree(whole, folder)
    made = AutoTokenizer.from_pretrained(whole)
    made.add_special_tokens(added.pop("special", {}))
    made.add_tokens(added.pop("plain", []))
    made.save_pretrained(folder)
    return folder, made


def test_an_ordinary_token_without_a_row_is_refused_with_its_text_and_id(whole, tmp_path):
    folder, made = with_tokens(whole, tmp_path / "m", plain=["newword"])
    number = made.convert_tokens_to_ids("newword")
    assert number == vocabulary_rows(folder)
    with pytest.raises(ValueError, match=rf"'newword' \(id {number}\)"):
        codec_of(folder)


def test_an_end_token_without_a_row_is_refused(whole, tmp_path):
    folder, made = with_tokens(whole, tmp_path / "m", special={"eos_token": "<stop>"})
    with pytest.raises(ValueError, match=rf"'<stop>' \(id {made.eos_token_id}\)"):
        codec_of(folder)


def test_padding_without_a_row_is_done_with_the_end_token(whole, tmp_path):
    """Masked, so that scores are the same bit for bit; other special tokens are never in a text."""
    special = {"pad_token": "[PAD]", "additional_special_tokens": ["<image>"]}
    folder, made = with_tokens(whole, tmp_path / "m", special=special)
    assert made.pad_token_id >= vocabulary_rows(folder)
    own, plain = codec_of(folder), codec_of(whole)
    assert (own.pad_id, plain.pad_id) == (made.eos_token_id, 0)
    rows = [Row.likelihood(str(n), ids, 2) for n, ids in enumerate(ragged_ids([9, 4], seed=1))]
    net = TokenScorer(load_network(folder))
    found, wanted = (score_rows(net, rows, c.pad_id) for c in (own, plain))
    assert found == wanted


def test_a_new_network_knows_every_id_of_a_tokenizer_with_gaps():
    made = chat_tokenizer()
    assert network_for(made).config.vocab_size == len(made)

    class Gapped:
        def __getattr__(self, name):
            return getattr(made, name)

        def __len__(self):
            return len(made)

        def get_vocab(self):
            return made.get_vocab() | {"last": len(made) + 5}

    assert network_for(Gapped()).config.vocab_size == len(made) + 6


def network_for(tokens):
    return new_network({**SHAPES["llama"], "model_type": "llama"}, tokens, "sdpa", 1)
