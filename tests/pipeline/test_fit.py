"""Generators of a fit: the same for the same seed and rank, others for another rank."""

import torch

from rlmec.pipeline.fit import seed_everything


def drawn(seed, rank):
    seed_everything(seed, rank)
    return torch.rand(4).tolist()


def test_dropout_is_the_seed_s_and_the_rank_s_own():
    found = {(seed, rank): drawn(seed, rank) for seed in (1, 2) for rank in (0, 1)}
    assert len({tuple(numbers) for numbers in found.values()}) == 4
    assert drawn(1, 1) == found[1, 1]
