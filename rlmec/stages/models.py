"""Which model a stage starts from, and what it needs to be used: tokenizer, prompts, network."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rlmec.artifacts import Artifact
from rlmec.language.loading import (
    context_length,
    context_of,
    enable_gradient_checkpointing,
    end_ids,
    export_network,
    load_network,
    new_network,
)
from rlmec.language.tokenizers import codec, load_tokenizer, train_tokenizer
from rlmec.origin import Origin, write_origin
from rlmec.prompts import Codec, Prompts, Templates
from rlmec.records import Problem
from rlmec.settings import RunSettings, as_plain


@dataclass(frozen=True)
class LanguageModel:
    """A model directory or hub name with its tokenizer; networks are loaded anew for every use."""

    path: str
    settings: RunSettings

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.path, self._revision)

    @cached_property
    def codec(self) -> Codec:
        tokenizer = self.tokenizer  # first, so that a directory without one is named
        return codec(tokenizer, end_ids(self.path, self._revision))

    @cached_property
    def prompts(self) -> Prompts:
        return Prompts(templates(self.settings), self.codec)

    @cached_property
    def context(self) -> int | None:
        """Positions the model was made for, None where its configuration does not say."""
        return context_of(self.path, self._revision)

    def limited(self, length: int) -> int:
        """`length`, or the model's context where that is shorter."""
        return length if self.context is None else min(length, self.context)

    def network(self) -> Any:
        model = self.settings.model
        return load_network(
            self.path,
            attention=model.attention,
            revision=self._revision,
            gradient_checkpointing=model.gradient_checkpointing,
        )

    @property
    def _revision(self) -> str | None:
        return self.settings.model.revision if self.path == self.settings.model.path else None


def templates(settings: RunSettings) -> Templates:
    return Templates(**as_plain(settings.prompt))


def start_tokenizer(settings: RunSettings, problems: list[Problem]) -> Any:
    """The tokenizer of the policy's start: a finished model's own, or a fresh one."""
    if settings.model.path is not None:
        return load_tokenizer(settings.model.path, settings.model.revision)
    return fresh_tokenizer(settings, problems)


def fresh_tokenizer(settings: RunSettings, problems: list[Problem]) -> Any:
    """The tokenizer of a model from scratch: `model.tokenizer`, or trained on train problems."""
    model = settings.model
    if model.tokenizer is not None:
        return load_tokenizer(model.tokenizer)
    t = templates(settings)
    texts = [t.policy, t.rewrite, t.rewrite_answer_only, t.locate, t.located]
    texts += [text for p in problems for text in (p.question, p.solution, p.answer) if text]
    return train_tokenizer(texts, model.vocabulary_size, model.digits_per_token)


def fresh_network(settings: RunSettings, tokenizer: Any) -> Any:
    """A network at random weights of `model.shape`, seeded by the warm-up's seed."""
    model = settings.model
    network = new_network(model.shape, tokenizer, model.attention, settings.warmup.seed)
    if model.gradient_checkpointing:
        enable_gradient_checkpointing(network)
    return network


def save(network: Any, tokenizer: Any, folder: Path) -> None:
    export_network(network, tokenizer, folder)


def save_asked(network: Any, model: LanguageModel, kind: str, folder: Path) -> None:
    """Saves a trained network with what it must be asked with, so that it can be used outside the
    chain (`library`)."""
    save(network, model.tokenizer, folder)
    write_origin(folder, origin_of(model, kind))


def origin_of(model: LanguageModel, kind: str) -> Origin:
    """What a model of the stage `kind` (policy or grm) was trained as."""
    longest = getattr(model.settings, kind).max_completion_length
    return Origin(kind, templates(model.settings), model.codec.digest, longest)


def of_artifact(artifact: Artifact, settings: RunSettings) -> LanguageModel:
    return LanguageModel(str(artifact.file("model")), settings)


def fitting_prompts(
    network: Any, prompts: list[list[int]], completion_length: int, what: str
) -> None:
    """Raises ValueError where a prompt and its completion do not fit the network's context."""
    limit = context_length(network)
    longest = max(map(len, prompts), default=0)
    if limit is not None and longest + completion_length > limit:
        raise ValueError(
            f"{what}: the longest prompt has {longest} tokens and max_completion_length is "
            f"{completion_length}, but the model's context is {limit}"
        )
