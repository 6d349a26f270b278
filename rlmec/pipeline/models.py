"""Models as stages use them: a directory or hub name with its tokenizer, prompts and network.

In: the settings of the model, an artifact or a path. Out: networks to sample with or to train, and
saved model directories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rlmec.export.model_folder import FILE, Origin, read_origin, write_origin
from rlmec.lm.gguf import converted
from rlmec.lm.loading import (
    check_loadable,
    codec_of,
    context_length,
    context_of,
    enable_gradient_checkpointing,
    end_ids,
    export_network,
    hub_commit,
    load_network,
    new_network,
    tokenizer_of,
    vocabulary_rows,
)
from rlmec.lm.loading_checks import check_model
from rlmec.lm.lora import (
    is_adapted,
    merged,
    same_lora,
    with_lora,
)
from rlmec.lm.tokenizers import load_tokenizer, train_tokenizer
from rlmec.pipeline.memory_use import give_back
from rlmec.prompts import Codec, Prompts, Templates
from rlmec.records import Problem
from rlmec.settings.binding import ConfigurationError
from rlmec.settings.schema import LoraSettings, PromptSettings, RunSettings, as_plain
from rlmec.store.artifacts import Artifact


@dataclass(frozen=True)
class LanguageModel:
    """A model directory (or that of an adapter) or a hub name, with its tokenizer.

    A network is loaded from it at every use. `more_end_ids` also end its completions.
    """

    path: str
    settings: RunSettings
    more_end_ids: tuple[int, ...] = ()

    @cached_property
    def tokenizer(self) -> Any:
        return tokenizer_of(self.path, self.revision)

    @cached_property
    def codec(self) -> Codec:
        return codec_of(
            self.path,
            self.revision,
            self.tokenizer,
            turns=self.settings.prompt.chat,
            more_end_ids=self.more_end_ids,
        )

    @cached_property
    def added_ends(self) -> list[str]:
        """Tokens that end its completions although its own settings do not name them."""
        own = {self.tokenizer.eos_token_id, *end_ids(self.path, self.revision)}
        return [self.tokenizer.decode([id_]) for id_ in self.codec.end_ids if id_ not in own]

    @cached_property
    def prompts(self) -> Prompts:
        return Prompts(templates(self.settings), self.codec)

    @cached_property
    def context(self) -> int | None:
        """Most positions of the model; None if its configuration does not say."""
        return context_of(self.path, self.revision)

    def limited(self, length: int) -> int:
        """`length`, or the model's context if that is shorter."""
        return length if self.context is None else min(length, self.context)

    def network(self) -> Any:
        """The network for sampling and scoring: frozen weights in `model.dtype` or quantized."""
        return self._load(self.settings.model.dtype)

    def trainable(self, lora: LoraSettings | None, seed: int) -> Any:
        """The network for training.

        With `lora` it is an adapter on frozen weights; an adapter's own directory continues that
        adapter. Without it all weights are trained, in float32. Raises ValueError if the
        directory's adapter has other settings than `lora`.
        """
        model = self.settings.model
        if lora is None:
            network = merged(self._load("float32", quantize=False)).requires_grad_(True)
        else:
            network = self._with_adapter(lora, seed)
        if model.gradient_checkpointing:
            enable_gradient_checkpointing(network)
        return network

    def _with_adapter(self, lora: LoraSettings, seed: int) -> Any:
        network, wanted = self._load(self.settings.model.dtype, trainable=True), as_plain(lora)
        if not is_adapted(network):
            folder = Path(self.path)
            is_here = folder.is_dir()
            base = str(folder.resolve()) if is_here else self.path
            revision = None if is_here else hub_commit(self.path, self.revision)
            return with_lora(network, **wanted, seed=seed, base=base, revision=revision)
        if not same_lora(network, **wanted):
            own = network.peft_config["default"]
            raise ValueError(
                f"{self.path} is an adapter of r={own.r}, alpha={own.lora_alpha}, "
                f"dropout={own.lora_dropout} on {', '.join(sorted(own.target_modules))}, but lora "
                f"is {wanted}: give the same, or start from its merged export"
            )
        return network

    def _load(self, dtype: str, *, quantize: bool = True, trainable: bool = False) -> Any:
        give_back()  # the network that the stage has used before
        model = self.settings.model
        return load_network(
            self.path,
            attention=model.attention,
            revision=self.revision,
            dtype=dtype,
            quantization=model.quantization if quantize else None,
            trainable=trainable,
        )

    @property
    def revision(self) -> str | None:
        """The revision of a hub model that the settings name; None for other models."""
        return self.settings.model.revision if self.path == self.settings.model.path else None


def with_converted(settings: RunSettings) -> RunSettings:
    """The settings with the place of a plain model folder instead of `model.gguf_file`.

    The file is converted into the store the first time that it is named.
    """
    model = settings.model
    if model.gguf_file is None:
        return settings
    folder = converted(model.gguf_file, Path(settings.paths.artifacts))
    return replace(settings, model=replace(model, path=str(folder), gguf_file=None))


def templates(settings: RunSettings) -> Templates:
    """The prompt templates of the settings."""
    return Templates(**as_plain(settings.prompt))


def recorded_prompt(path: str) -> PromptSettings | None:
    """The prompt that a model's directory records (`rlmec.json`); None without a record.

    Raises ValueError that names the file if the record cannot be read, or is no valid prompt.
    """
    origin = read_origin(Path(path))
    if origin is None:
        return None
    try:
        return PromptSettings(**asdict(origin.templates))
    except ValueError as error:
        raise ValueError(f"{Path(path) / FILE}: {error}") from error


def other_prompt_keys(path: str, prompt: PromptSettings) -> str:
    """The keys of `prompt` that a model's directory records differently, with commas between them.

    Empty if there is no record. `date` counts only for prompts in the chat form.
    """
    recorded = recorded_prompt(path)
    if recorded is None:
        return ""
    ours = as_plain(prompt)
    theirs = as_plain(recorded)
    if not (prompt.chat or recorded.chat):
        del ours["date"]
    return ", ".join(name for name, value in ours.items() if theirs[name] != value)


def start_tokenizer(settings: RunSettings, problems: list[Problem]) -> Any:
    """The tokenizer of the policy's start: that of a finished model, or a new one."""
    if settings.model.path is not None:
        return tokenizer_of(settings.model.path, settings.model.revision)
    return fresh_tokenizer(settings, problems)


def fresh_tokenizer(settings: RunSettings, problems: Sequence[Problem]) -> Any:
    """The tokenizer of a model from scratch: `model.tokenizer`, or one trained on `problems`."""
    model = settings.model
    if model.tokenizer is not None:
        return load_tokenizer(model.tokenizer)
    t = templates(settings)
    texts = [t.policy, t.rewrite, t.rewrite_answer_only, t.locate, t.located]
    texts += [text for p in problems for text in (p.question, p.solution, p.answer) if text]
    return train_tokenizer(texts, model.vocabulary_size, model.digits_per_token)


def fresh_network(settings: RunSettings, tokenizer: Any) -> Any:
    """A network of `model.shape` with random weights, from the warm-up's seed."""
    model = settings.model
    network = new_network(model.shape, tokenizer, model.attention, settings.warmup.seed)
    if model.gradient_checkpointing:
        enable_gradient_checkpointing(network)
    return network


def save(module: Any, tokenizer: Any, folder: Path, origin: Origin) -> None:
    """Writes the network of a trained module with its prompts: a plain directory, or that of its
    adapter.

    Generation from the directory stops where the module's completions end.
    """
    export_network(module.network, tokenizer, folder, module.whole_weights, module.end_ids)
    write_origin(folder, origin)


def check_weights(settings: RunSettings) -> None:
    """Raises ConfigurationError if weights that are trained would be rounded or quantized."""
    model = settings.model
    for node, lora in (("model", model.lora), ("grm", settings.grm.lora)):
        if lora is not None:
            continue
        if model.quantization is not None:
            raise ConfigurationError(
                f"model.quantization={model.quantization} is of frozen weights, but {node}.lora is "
                f"null: all weights would be trained; set {node}.lora={{r: 16}}"
            )
        if model.dtype != "float32":
            raise ConfigurationError(
                f"model.dtype={model.dtype} is of frozen weights, but {node}.lora is null: weights "
                f"that are trained are float32; set policy.precision=bf16-mixed, or {node}.lora"
            )


def check_places(settings: RunSettings, until: Sequence[str]) -> None:
    """Raises an error for a model that the settings name and that is not there or not whole.

    `until` are the stages that will be made. No weights are read.
    """
    model = settings.model
    grm = settings.grm.model
    teacher = settings.teacher if isinstance(settings.teacher, dict) else {}
    if model.path is not None:
        check_model(model.path, model.revision, "model.path")
    if grm is not None and "grm" in until:
        check_model(grm, model.revision if grm == model.path else None, "grm.model")
    # A teacher with a revision is a model; other teachers read files or ask a server.
    if "teach" in until and "revision" in teacher:
        check_model(teacher["path"], teacher["revision"], "teacher.path")


def check_start(model: LanguageModel, problem: Problem, what: str) -> list[str]:
    """Checks a finished model before anything is made with it; returns lines to say.

    `problem` is any problem of the task, for the prompts. `what` names the setting. No weights are
    read. Raises ValueError if the files do not hold exactly the weights of the network, or if a
    token of a prompt has no row in its embedding.
    """
    check_loadable(model.path, model.revision, what)
    rows = vocabulary_rows(model.path, model.revision)
    prompts = [model.prompts.policy(problem), model.prompts.rewrite(problem, [])]
    beyond = sorted({i for ids in prompts for i in ids if rows is not None and i >= rows})
    if beyond:
        token = model.tokenizer.convert_ids_to_tokens(beyond[0])
        raise ValueError(
            f"{what} ({model.path}): its prompts have the token {token!r} (id {beyond[0]}), which "
            f"has no row in the network's embedding ({rows} rows): change the prompt, or save the "
            "model after resize_token_embeddings"
        )

    pad = model.tokenizer.pad_token_id
    if rows is None or pad is None or pad < rows:
        return []
    token = model.tokenizer.pad_token
    return [
        f"{what}: the pad token {token!r} (id {pad}) has no row in the network's embedding "
        f"({rows} rows); padding, which is masked, uses id {model.codec.pad_id} instead"
    ]


def origin_of(settings: RunSettings, codec: Codec, kind: str) -> Origin:
    """What the stage `kind` (warmup, policy or grm) trained a model as, for its directory."""
    node = settings.sample if kind == "warmup" else getattr(settings, kind)
    what = "grm" if kind == "grm" else "policy"
    return Origin(what, templates(settings), codec.digest, node.completion_length)


def of_artifact(artifact: Artifact, settings: RunSettings) -> LanguageModel:
    """The model that an artifact holds."""
    return LanguageModel(str(artifact.file("model")), settings)


def fitting_prompts(
    network: Any, prompts: list[list[int]], completion_length: int, what: str
) -> None:
    """Raises ValueError if a prompt and its completion do not fit the network's context."""
    limit = context_length(network)
    longest = max(map(len, prompts), default=0)
    if limit is not None and longest + completion_length > limit:
        raise ValueError(
            f"{what}: the longest prompt has {longest} tokens and max_completion_length is "
            f"{completion_length}, but the model's context is {limit}"
        )
