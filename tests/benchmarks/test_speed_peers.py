"""`python -m benchmarks peers`: the same work for all, in rotation, checked for equality."""

import json
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from benchmarks.__main__ import CONF
from benchmarks.peers import command, rotation
from benchmarks.peers.base import OURS, Peer, Work, chosen_peers, peers_of
from benchmarks.peers.operators import COLUMNS, OUTSIDE, as_table, kind_of
from benchmarks.peers.report import Table, as_json, as_markdown, cells, spread
from benchmarks.peers.rotation import RUN, Row, counted_columns, measure
from benchmarks.peers.subject import KINDS
from benchmarks.peers.training.plain_loop import PlainRow, cut

SMALL = [
    *("vocabulary_size=8192", "shape.hidden_size=16", "shape.intermediate_size=32"),
    *("shape.num_hidden_layers=1", "shape.num_attention_heads=2", "shape.num_key_value_heads=2"),
    *("training.pairs=2", "sampling.prompts=2", "sampling.num_generations=2", "sampling.tokens=4"),
    *("rewriting.texts=2", "rewriting.tokens=8", "rewriting.edits=[1]", "repeats=1"),
]
ABOUT = {
    **{"name": "tiny", "precision": "32-true", "seed": 1, "repeats": 2, "gpu": None, "cores": 2},
    **{"processor": "cpu", "threads": 1, "load": 0.1, "torch": "2", "transformers": "5"},
    "pairs": {"source": "made up"},
}


@pytest.fixture(autouse=True)
def no_garbage(monkeypatch):
    """Collecting it in a process of many tests takes longer than most tests here."""
    monkeypatch.setattr(rotation, "gc", SimpleNamespace(collect=int, enable=int, disable=int))


@dataclass
class StandInJob:
    """Work that only notes who ran; a result is its number of useful tokens."""

    said: list = field(default_factory=list)
    kind = "training"
    case = "stand-in"
    device = torch.device("cpu")
    network = SimpleNamespace(get_decoder=lambda: torch.nn.Identity())

    def timed(self, work):
        return work.run()

    def useful(self, peer, result):
        return result

    def reference(self, work):
        return work.run()

    def error(self, work, reference):
        return float(abs(work.run() - reference)), 0.5


def stand_in(name, result=10, **rest):
    def prepare(job):
        def run():
            job.said.append(name)
            return result

        return Work(run, close=lambda: job.said.append(f"{name} closed"))

    return Peer(name, f"what {name} computes", prepare, **rest)


# --- the peers there are ---


@pytest.mark.parametrize("kind", KINDS)
def test_every_peer_is_described_and_compared_with_one_that_exists(kind):
    found = peers_of(kind)
    names = [peer.name for peer in found]
    assert names[0] == OURS
    assert len(set(names)) == len(names) >= 5
    for peer in found:
        assert 10 < len(peer.about) < 100
        assert not peer.equals or peer.equals in names
        assert bool(peer.loss) == (kind == "training")
    for peer in found:  # a result is compared only with one of the same loss
        assert not peer.equals or peer.loss == found[names.index(peer.equals)].loss


def test_peers_are_chosen_by_parts_of_their_names_and_ours_stays():
    names = [peer.name for peer in chosen_peers("training", ["plain LOOP"])]
    assert names == [OURS, "plain loop", "plain loop, all logits"]
    assert chosen_peers("training", None) == peers_of("training")


# --- rotation ---


def test_peers_run_in_rotation_after_one_run_that_is_not_timed():
    job = StandInJob()
    rows = measure(job, [stand_in(OURS, equals="b"), stand_in("b"), stand_in("c")], repeats=2)
    ends = ["ours closed", "b closed", "c closed"]
    assert job.said == [*("b", OURS, "c"), *(OURS, "b", "c") * 2, *ends]
    assert all(len(row.cpu) == len(row.wall) == len(row.tokens) == 2 for row in rows)


def test_a_peer_that_is_not_installed_or_fails_costs_no_other_row():
    def fails(job):
        raise RuntimeError("no flash attention\nand more")

    peers = [
        stand_in(OURS),
        stand_in("far", needs=("no_such_package_x",)),
        Peer("broken", "what broken computes", fails, needs=("json",)),
        stand_in("last"),
    ]
    rows = measure(StandInJob(), peers, repeats=1)
    assert [row.state for row in rows] == [
        *(RUN, "not installed: no_such_package_x", "failed: RuntimeError: no flash attention", RUN),
    ]
    shown = as_markdown([Table("training", "stand-in", rows)], ABOUT)
    assert "not installed: no_such_package_x" in shown
    with pytest.raises(RuntimeError, match="no flash attention"):  # our own code must not fail
        measure(StandInJob(), [Peer("mine", "what mine computes", fails)], repeats=1)


def test_a_result_that_differs_is_wrong_and_ends_with_1(capsys):
    rows = measure(StandInJob(), [stand_in(OURS), stand_in("b", 11, equals=OURS)], repeats=1)
    table = Table("training", "stand-in", rows)
    assert [row.is_equal for row in rows] == [True, False]
    assert cells(rows[1], table)[-1] == "1e+00 WRONG"
    assert command._verdict([table]) == 1
    rows[1].error = float("nan")
    assert not rows[1].is_equal


def test_ratios_are_of_a_run_in_training_and_of_a_token_elsewhere():
    """Ours: 100 tokens in 2 s, then in 4 s; the peer: 50 tokens in 3 s, then in 4 s. A run takes
    1.5 and 1 times as long, a token 3 and 2 times."""
    ours = Row(stand_in(OURS), tokens=[100, 100], cpu=[2.0, 4.0], wall=[2.0, 5.0])
    peer = Row(stand_in("b"), tokens=[50, 50], cpu=[3.0, 4.0], wall=[3.0, 4.0], layers=1200)
    assert Table("training", "", [ours, peer]).ratios(peer) == pytest.approx([1.5, 1.0])
    table = Table("sampling", "", [ours, peer])
    assert table.ratios(peer) == pytest.approx([3.0, 2.0])
    assert ours.rates("wall") == [50.0, 20.0]
    assert spread([1.0, 4.0, 2.0], ".1f") == "2.0 (1.0 to 4.0)"
    head, _, _, line = as_markdown([table], ABOUT).splitlines()[4:8]
    assert "layers" in head
    assert "calls" not in head
    assert "| 1,200 | 15 (12 to 17) | 15 (12 to 17) | 2.50 (2.00 to 3.00) |" in line
    (_, second) = json.loads(as_json([table], ABOUT))["results"]
    assert second["ratios"] == pytest.approx([3.0, 2.0])


def test_columns_are_counted_in_copies_of_the_network_too():
    class Layers(torch.nn.Module):
        def forward(self, input_ids):
            return input_ids

    network = SimpleNamespace(get_decoder=lambda: Layers())
    with counted_columns(network) as columns:
        Layers()(torch.zeros(2, 3))
        Layers()(input_ids=torch.zeros(1, 5))
    Layers()(torch.zeros(1, 1))
    assert columns == [6, 5]


def test_an_operation_has_one_kind():
    """With 50 words; the product inside the head's own function has another size."""

    def event(name, shapes=(), caller=None):
        return SimpleNamespace(name=name, input_shapes=shapes, cpu_parent=caller)

    kinds = {
        "products": event("aten::mm", [[8, 16], [16, 32]]),
        "head": event("aten::mm", [[8, 16], [16, 50]]),
        "attention forward": event("aten::_scaled_dot_product_flash_attention_for_cpu"),
        "attention backward": event("aten::_scaled_dot_product_flash_attention_for_cpu_backward"),
        "copies": event("aten::copy_", [[8], []]),
        "optimizer": event("aten::_fused_adamw_", [[[50, 16], [3]]]),
        "other operations": event("aten::silu", [[8]]),
        OUTSIDE: event("autograd::engine::evaluate_function"),
    }
    assert {kind: kind_of(each, 50) for kind, each in kinds.items()} == {k: k for k in kinds}
    inside = event("aten::mm", [[8, 16], [16, 7]], event("_VocabularyPartsBackward"))
    assert kind_of(inside, 50) == "head"
    table = as_table({OURS: dict.fromkeys(COLUMNS, 2.0)}).splitlines()
    assert table[2] == "| products | 2 |"
    assert table[-1] == "| all | 16 |"


# --- the plain loop ---


def test_batches_hold_what_fits_and_little_padding():
    assert cut([4, 4, 4, 4], most=8, least=0, max_padding=1.0) == [[0, 1], [2, 3]]
    assert cut([9], most=8, least=0, max_padding=1.0) == [[0]]
    # 3 rows of 10 would hold 2 + 2 + 10 of 30 tokens
    assert cut([2, 2, 10], most=100, least=5, max_padding=0.1) == [[0, 1], [2]]
    assert cut([2, 2, 10], most=100, least=50, max_padding=0.1) == [[0, 1, 2]]


def test_a_plain_row_needs_the_tokens_before_its_last_one_with_credit():
    """Prompt of 3, completion of 4; the third completion token has credit: its source is id 4, so
    that ids 0 to 4 are needed."""
    none = np.zeros(4, dtype=np.float32)
    reward = np.array([0, 0, -1, 0], dtype=np.float32)
    assert PlainRow([5] * 7, 3, reward, none, none).last == 5
    assert PlainRow([5] * 7, 3, none, none, none).last == 0


# --- the command ---


def composed(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("peers", [*overrides])


@pytest.mark.parametrize("preset", ["cpu_13m", "cpu_124m", "gpu_135m", "gpu_1b"])
def test_presets_of_the_benchmark_are_presets_here(preset):
    assert composed(f"preset={preset}").shape.model_type


@pytest.mark.broad
def test_every_peer_that_is_here_agrees_and_is_written(tmp_path, monkeypatch, capsys):
    """Without continuous batching, whose start takes seconds."""
    monkeypatch.delenv("RLMEC_DATA", raising=False)
    peers = "peers=[ours,plain,pattern,generate,look-up]"
    words = [*SMALL, peers, f"output={tmp_path}"]
    assert command.main(words) == 0, capsys.readouterr().out
    (path,) = tmp_path.glob("peers-cpu_13m-32-true-*.json")
    found = json.loads(path.read_text())
    assert {row["kind"] for row in found["results"]} == set(KINDS)
    assert all(row["state"] == RUN and row["is_equal"] for row in found["results"])
    assert all(row["tokens"][0] > 0 and row["layers"] for row in found["results"])
    compared = {row["peer"] for row in found["results"] if row["error"] is not None}
    assert {"plain loop", "authors' pattern", "Transformers prompt look-up"} <= compared
    assert found["seed"] == 1
    assert found["processor"]
    assert "### rewriting: 1 of 8 tokens edited" in path.with_suffix(".md").read_text()


def test_wrong_settings_end_with_2(tmp_path, capsys):
    assert command.main([*SMALL, "work=[speed]", f"output={tmp_path}"]) == 2
    assert command.main([*SMALL, "path=pkg://no_such_x/a.gguf", f"output={tmp_path}"]) == 2
    shown = capsys.readouterr().err
    assert "no work speed" in shown
    assert "no_such_x" in shown


@pytest.mark.slow
@pytest.mark.skipif(find_spec("trl") is None, reason="trl is not installed")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_steps_of_trl_have_our_gradients(tmp_path, monkeypatch):
    monkeypatch.delenv("RLMEC_DATA", raising=False)
    words = [*SMALL, "work=training", "peers=[trl,ours]", f"output={tmp_path}"]
    assert command.main(words) == 0
    (path,) = tmp_path.glob("*.json")
    rows = [r for r in json.loads(path.read_text())["results"] if r["peer"].startswith("TRL")]
    assert len(rows) == 5
    assert all(row["error"] < 1e-5 for row in rows)
