"""What is cheap to build is built once before anything costly, so that a wrong value ends the run.

In: the bound settings. Out: nothing, or a ConfigurationError that names the key. `check_buildable`
looks at what the configuration alone decides: optimizers and schedulers on a weight of four
numbers, the reward rule and the objective on four tokens, callbacks, the shape of a new model.
`check_machine` looks at what this machine decides: the Trainers with their devices, precisions and
strategy.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import nn

from rlmec.data.baseline_rows import teacher_solution_rows
from rlmec.lm.compiled import compiler_obstacle
from rlmec.lm.loading import new_network
from rlmec.method.objectives import ObjectiveSums, TokenBatch
from rlmec.method.rewards import accepted_arguments
from rlmec.pipeline.chain import Run
from rlmec.pipeline.fit import check_strategy, fit_strategy, trainer_arguments
from rlmec.settings.binding import ConfigurationError, build, offers
from rlmec.settings.check import rebind
from rlmec.settings.schema import FitSettings, PolicySettings, RunSettings
from rlmec.training.module import CompletionModule

TOKENS = 4
"""Tokens of the attempt on which the reward rule and the objective are tried."""


@contextlib.contextmanager
def _named(key: str) -> Iterator[None]:
    """Turns any error into one line that begins with the key of the node that is built."""
    try:
        yield
    except ConfigurationError:
        raise
    except Exception as error:  # code of libraries and of the user, which may raise anything
        line = str(error).strip().splitlines() or [""]
        raise ConfigurationError(f"{key}: {type(error).__name__}: {line[0]}") from error


# --- what the configuration alone decides ---


def check_buildable(settings: RunSettings, stages: Collection[str]) -> None:
    """Builds what the settings of `stages` describe. Raises ConfigurationError with the key.

    The state of PyTorch's random numbers stays as it was.
    """
    with torch.random.fork_rng(devices=[]):
        _build_all(settings, stages)


def _build_all(settings: RunSettings, stages: Collection[str]) -> None:
    for key, node in fits(settings, stages).items():
        _check_optimizer(key, node)
        if isinstance(node, PolicySettings):
            _check_policy(key, node, settings)

    for name, node in settings.callbacks.extra.items():
        with _named(f"callbacks.extra.{name}"):
            build(node)
    if "warmup" in stages and settings.model.path is None:
        _check_shape(settings)


def fits(settings: RunSettings, stages: Collection[str]) -> dict[str, FitSettings]:
    """The node of every fit of `stages` by its key, the policies of a comparison included."""
    found: dict[str, FitSettings] = {}
    if "warmup" in stages and settings.has_warmup:
        found["warmup"] = settings.warmup
    if "grm" in stages:
        found["grm"] = settings.grm
    if "policy" in stages:
        found["policy"] = settings.policy
    if "report" in stages:
        for name, changes in settings.report.variants.items():
            key = f"report.compare.{name}"
            found[key] = rebind(settings.policy, changes, key)
    return found


def precisions(settings: RunSettings, stages: Collection[str]) -> dict[str, tuple[str, bool]]:
    """The precision of everything in `stages` that computes, by its key: all `fits`, then the
    passes. With each, whether it is that of a fit."""
    found = {key: (node.precision, True) for key, node in fits(settings, stages).items()}
    for name in ("sample", "score", "evaluate"):
        if name in stages:
            found[name] = (getattr(settings, name).precision, False)
    return found


class _OneMatrix(nn.Linear):
    """A network of four weights, which never computes."""

    def __init__(self) -> None:
        super().__init__(2, 2, bias=False)

    def get_decoder(self) -> None:
        return None

    def get_output_embeddings(self) -> None:
        return None


def _check_optimizer(key: str, node: FitSettings) -> None:
    """Takes one step with the optimizer and the scheduler of a fit."""
    module = CompletionModule(
        _OneMatrix(),
        pad_id=0,
        end_ids=(),
        optimizer=_built(f"{key}.optimizer", node.optimizer),
        scheduler=_built(f"{key}.scheduler", node.scheduler),
        steps=node.steps or 1,
        warmup_share=node.warmup_share,
    )
    with _named(f"{key}.optimizer"):
        optimizer: Any = module.optimizer
        optimizer([p for p in module.parameters() if p.requires_grad])
    with _named(f"{key}.scheduler"):
        made = module.configure_optimizers()

    weight = next(module.parameters())
    weight.grad = torch.zeros_like(weight)
    with _named(f"{key}.optimizer"):
        made["optimizer"].step(lambda: torch.zeros(()))
    with _named(f"{key}.scheduler"):
        made["lr_scheduler"]["scheduler"].step()


def _built(key: str, node: dict[str, Any]) -> Any:
    with _named(key):
        return build(node)


def _check_policy(key: str, node: PolicySettings, settings: RunSettings) -> None:
    """Tries the functions of a policy node, and compares its precision with that of the scores."""
    if node.precision != settings.score.precision:
        raise ConfigurationError(
            f"{key}.precision is {node.precision}, but the scores are made at "
            f"{settings.score.precision} (score.precision): give both the same"
        )
    rows = _built(f"{key}.rows", node.rows)
    if rows.func is teacher_solution_rows and not offers(settings.teacher, "solve"):
        raise ConfigurationError(
            f"{key}.rows: the teacher {settings.teacher['_target_']} writes no whole solutions, as "
            f"teacher=oracle and teacher=reference do (a method `solve`)"
        )

    rule = _built(f"{key}.reward", node.reward)
    with _named(f"{key}.reward"):
        for is_right in (True, False):
            _try_reward(rule, is_right)

    objective = _built(f"{key}.objective", node.objective)
    with _named(f"{key}.objective"):
        sums = objective(_token_batch())
        if not isinstance(sums, ObjectiveSums):
            raise TypeError(f"it returned {type(sums).__name__}, ObjectiveSums is needed")


def _try_reward(rule: Any, is_right: bool) -> None:
    """Rewards an attempt; of a wrong one the correction removes the second half."""
    logprobs = np.full(TOKENS, -0.5, dtype=np.float32)  # [n]
    removed = np.arange(TOKENS) >= (TOKENS if is_right else TOKENS // 2)  # [n]
    first_edit = None if is_right else TOKENS // 2
    more = accepted_arguments(rule, old_logprobs=logprobs, first_edit=first_edit)

    rewards = np.asarray(rule(logprobs, is_right, removed, **more))
    if rewards.shape != (TOKENS,):
        raise ValueError(f"it returned shape {rewards.shape} for {TOKENS} tokens")


def _token_batch() -> TokenBatch:
    """One row whose first half is rewarded and whose second half is punished."""
    rewards = torch.tensor([0.1, 0.1, -0.1, -0.1])  # [N]
    return TokenBatch(
        torch.full((TOKENS,), -0.5, requires_grad=True),
        torch.full((TOKENS,), -0.5),
        rewards,
        torch.ones(TOKENS),
        torch.ones(TOKENS, dtype=torch.bool),
        torch.zeros(TOKENS, dtype=torch.int64),
    )


@dataclass(frozen=True)
class _StandInTokenizer:
    """What a new network reads of its tokenizer, before there is one."""

    size: int
    eos_token_id: int = 1
    pad_token_id: int = 0
    bos_token_id: None = None

    def __len__(self) -> int:
        return self.size

    def get_vocab(self) -> dict[str, int]:
        return {"": self.size - 1}


def _check_shape(settings: RunSettings) -> None:
    """Makes the new network without storage for its weights."""
    model = settings.model
    tokenizer = _StandInTokenizer(model.vocabulary_size)
    with _named("model.shape"), torch.device("meta"):
        new_network(model.shape, tokenizer, model.attention, settings.warmup.seed)


# --- what this machine decides ---


def check_machine(run: Run, stages: Collection[str]) -> None:
    """Makes a Trainer for every precision of `stages`, with the strategy of their fits.

    Raises ConfigurationError with the key.
    """
    settings = run.settings
    with _named("trainer.strategy"):
        strategy = fit_strategy(run)

    for key, node in fits(settings, stages).items():
        _check_strategy(key, node, strategy, settings)

    # Equal settings make equal Trainers, so each is made once, under the first key that has it.
    first: dict[tuple[str, bool], str] = {}
    for name, setting in precisions(settings, stages).items():
        first.setdefault(setting, f"{name}.precision")
    for (precision, is_fit), key in first.items():
        _check_trainer(run, key, precision, is_fit)


def _check_strategy(key: str, node: FitSettings, strategy: Any, settings: RunSettings) -> None:
    generates = key != "grm" and node.val_problems > 0
    data: Any = SimpleNamespace(plan=SimpleNamespace(accumulate=settings.trainer.accumulate or 1))
    validation: Any = SimpleNamespace(prompts=[[0]] if generates else [])
    with _named("trainer.strategy"):
        check_strategy(key, strategy, data, validation)


def _check_trainer(run: Run, key: str, precision: str, is_fit: bool) -> None:
    t = run.settings.trainer
    arguments = trainer_arguments(run, precision)
    if is_fit:
        arguments |= {"strategy": fit_strategy(run), "profiler": t.profiler}
    about = f"trainer (accelerator={t.accelerator}, devices={t.devices}), {key}={precision}"
    with _named(about), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trainer = L.Trainer(**arguments, enable_checkpointing=False)
    with _named(about):
        check_accelerator(trainer)
    if is_fit and run.settings.model.compile:
        with _named("model.compile"):
            check_compiler(trainer)

    # Lightning warns, and then computes in another precision.
    for warning in said:
        text = str(warning.message)
        if "not supported" in text:
            raise ConfigurationError(f"{about}: {text.splitlines()[0]}")


def check_accelerator(trainer: Any) -> None:
    """Raises ValueError for DeepSpeed on a CPU, which Lightning would refuse at the first fit."""
    if isinstance(trainer.strategy, DeepSpeedStrategy) and not _on_gpu(trainer):
        raise ValueError("DeepSpeed needs CUDA GPUs: use trainer=ddp")


def check_compiler(trainer: Any) -> None:
    """Raises ValueError where no layer could be compiled, which the first step would find out."""
    obstacle = compiler_obstacle(_on_gpu(trainer))
    if obstacle is not None:
        raise ValueError(obstacle)


def _on_gpu(trainer: Any) -> bool:
    return isinstance(trainer.accelerator, CUDAAccelerator)
