"""The benchmarks' command at very small shapes: every row runs, is right, and is written down."""

import json

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from benchmarks import authors, library
from benchmarks.__main__ import CONF
from benchmarks.bench import Bench
from benchmarks.measurement import Promise, Result, Timing, alternate, at_least, at_most
from benchmarks.memory import peak_bytes
from benchmarks.runner import Settings, run
from benchmarks.samples import load_samples, replaced, synthetic_samples
from benchmarks.table import cells, render
from benchmarks.work import ROWS
from rlmec.method.alignment import edit_script, edit_weights

SMALL = [
    *("vocabulary_size=8192", "shape.hidden_size=16", "shape.intermediate_size=32"),
    *("shape.num_hidden_layers=2", "shape.num_attention_heads=2", "shape.num_key_value_heads=2"),
    *("rows.train_wrong.pairs=5", "rows.train_right.pairs=5"),
    *("rows.head.vocabulary_size=20000", "rows.head.hidden_size=8", "rows.head.tokens=512"),
    *("rows.rewrite.edits=[2]", "rows.rewrite.tokens=16", "rows.rewrite.streams=2"),
    *("rows.score_wrong.attempts=2", "rows.score_samples.problems=2"),
    *("rows.alignment.tokens=60", "rows.alignment.edited_shares=[0.1]"),
    *("rows.plan.epochs=0.5", "rows.plan.sequences_per_step=64"),
    *("rows.sampling.prompts=2", "rows.sampling.num_generations=2", "rows.sampling.tokens=6"),
    *("rows.trainer.steps=8", "rows.scaling.pairs=1", "rows.scaling.data_pairs=2"),
    *("rows.scaling.times=[1,2]", "repeats=1"),
]


def settings(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        tree = compose("benchmark", [*overrides])
    return Settings(**OmegaConf.to_container(tree, resolve=True))


def test_every_row_runs_agrees_and_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("RLMEC_DATA", raising=False)
    chosen = settings(*SMALL, f"output={tmp_path}")
    assert run(chosen) == 0, capsys.readouterr().out
    shown = capsys.readouterr().out
    assert "synthetic" in shown
    (path,) = tmp_path.glob("cpu_13m-*.json")
    written = json.loads(path.read_text())
    assert (
        list(written["rows"])
        == list(ROWS)
        == list(dict.fromkeys(r["work"] for r in written["results"]))
    )
    for result in written["results"]:
        assert result["is_equal"], result
        assert result["baseline"] > 0 or result["work"] == "score_wrong"
    compared = {r["work"] for r in written["results"] if r["error"] is not None}
    assert compared >= {
        *("train_wrong", "train_right", "head", "rewrite", "score_wrong", "score_samples"),
        *("alignment", "sampling", "trainer"),
    }
    for name in ("torch", "transformers", "threads", "seed", "shape", "processor", "pairs"):
        assert written[name] is not None


@pytest.mark.parametrize("preset", ["cpu_13m", "cpu_124m", "gpu_135m", "gpu_1b", "gpu_8b"])
def test_every_preset_composes_and_knows_its_rows(preset):
    found = settings(f"preset={preset}")
    assert found.preset == preset
    assert set(found.names()) <= set(ROWS)
    assert len(found.names()) >= 7


def test_a_gpu_preset_without_a_gpu_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"device=cuda.*preset=cpu_13m"):
        run(settings("preset=gpu_1b"))


def test_an_unknown_row_is_named():
    with pytest.raises(ValueError, match=r"no row speed .*train_wrong"):
        settings("work=[speed]").names()
    with pytest.raises(ValueError, match="no row plan"):
        settings("preset=cpu_124m", "work=plan").names()


def test_runs_alternate():
    said = []
    timing = alternate(lambda: said.append("b"), lambda: said.append("o"), 3)
    assert "".join(said) == "bo" + "bobobo"
    assert len(timing.ratios) == 3


def test_a_ratio_is_baseline_over_ours_and_its_median_is_judged():
    assert Timing([2.0, 9.0], [1.0, 3.0]).ratios == [2.0, 3.0]
    result = Result("w", "", "s", 1, 1, [1.0, 8.0, 3.0], promises=(at_least(3, 3.0),))
    assert result.ratio == 3.0
    assert result.keeps_promises
    assert not at_most(1.2, 1.3).kept


def test_a_wrong_result_shows_and_nan_is_wrong():
    for error, good in [(1e-6, True), (1e-4, False), (float("nan"), False)]:
        result = Result("w", "", "s", 1, 1, [1.0], error=error, error_limit=1e-5)
        assert result.is_equal is good
        assert ("WRONG" in cells(result)[-1]) is not good
    missed = Result("w", "", "s", 1, 1, [1.0], promises=(Promise(">= 2", False),))
    assert ">= 2 MISSED" in render([missed])


def test_peak_memory_counts_what_is_held_at_once():
    def work():
        for _ in range(3):
            one = torch.zeros(250_000)  # 1 MB each, two at a time
            two = one + 1
            del one, two

    found = peak_bytes(work, torch.device("cpu"))
    assert 2_000_000 <= found < 2_100_000


def test_the_plain_table_is_right():
    # kitten -> sitting: s for k, i for e, g added: distance 3; the edited ones weigh 1
    source, target = list(map(ord, "kitten")), list(map(ord, "sitting"))
    distance, weights = authors.table_weights(source, target)
    assert distance == 3
    assert weights == [1.0, 0.5, 0.5, 0.5, 1.0, 0.5, 1.0]
    assert weights == edit_weights(edit_script(source, target)).tolist()


def test_synthetic_samples_are_drawn_from_the_seed():
    one, same, other = (synthetic_samples(40, seed) for seed in (1, 1, 2))
    assert one == same != other
    assert {s.is_right for s in one} == {True, False}
    wrong = next(s for s in one if not s.is_right)
    assert wrong.attempt[wrong.shared] != wrong.target[wrong.shared]
    assert all(len([t for t in one if t.problem == s.problem]) == 4 for s in one)


def test_real_samples_come_from_the_data(data, monkeypatch):
    monkeypatch.setenv("RLMEC_DATA", str(data))
    found = load_samples(1)
    assert found.source == "GSM8K model solutions"
    assert len(found.wrong) > 500
    assert len(found.right) > 500
    assert 40 < found.lengths()["prompt"] < 80


def test_data_that_is_not_there_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("RLMEC_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="RLMEC_DATA"):
        load_samples(1)


def test_a_greedy_text_that_differs_is_wrong_unless_it_is_as_good():
    shape = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 32}
    shape |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    bench = Bench("cpu", "32-true", shape, 8192, 1, 1)
    network = bench.network(**library.spread(shape))
    prompts = [[5, 6, 7], [8, 9]]
    said = library.generate(network, prompts, 6)
    assert len({*said[0]}) > 2  # the weights are spread: it does not say one token only
    assert library.greedy_error(network, prompts, said, said) == 0.0
    twin = next(token for token in range(2, 8192) if token not in said[0])
    ours = [[twin if i == 3 else token for i, token in enumerate(said[0])], said[1]]
    assert library.greedy_error(network, prompts, said, ours) == 0.5
    assert library.greedy_error(network, prompts, said, [said[0][:4], said[1]]) == 0.5
    head = network.get_output_embeddings().weight
    with torch.no_grad():
        head[twin] = head[said[0][3]]  # both are as good now
    assert library.greedy_error(network, prompts, said, ours) == 0.0
    assert library.greedy_error(network, prompts, said, ours, "bf16-mixed") == 0.5


def test_edits_change_the_token():
    import numpy as np

    draw = np.random.default_rng(0)
    ids = list(range(100, 200))
    changed = replaced(ids, [0, 50, 99], draw)
    assert [i for i in range(100) if ids[i] != changed[i]] == [0, 50, 99]
