"""Where the model of a stage comes from, and what the stages of one round share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from rlmec.pipeline import models
from rlmec.pipeline.chain import Run, Stage
from rlmec.pipeline.content import model_digest
from rlmec.records import Problem, hash_share
from rlmec.settings.schema import RunSettings, TeachSettings
from rlmec.store.artifacts import Artifact


@dataclass(frozen=True)
class ModelSource:
    """The place of a model: the stage that trains it, or a directory or hub name.

    Without a `stage` and a `path` it is the finished model that the settings name (`model.path`).
    """

    run: Run
    stage: Stage | None = None
    path: str | None = None

    @property
    def parents(self) -> dict[str, Stage]:
        """The stage that trains the model, under its name; empty for a finished model."""
        return {} if self.stage is None else {self.stage.name: self.stage}

    @property
    def is_foreign(self) -> bool:
        """Whether the user named the model's place, so that its training data is not known."""
        return self.path is not None

    @property
    def settings(self) -> RunSettings:
        """The run's settings, with the prompt that the model is asked with.

        A directory that the user named is asked as it was trained, with the prompt that it records,
        unless the command sets `prompt` or a key of it.
        """
        settings = self.run.settings
        recorded = None if self.path is None else models.recorded_prompt(self.path)
        if recorded is None or self._command_sets_prompt:
            return settings
        return replace(settings, prompt=recorded)

    @property
    def prompt_note(self) -> str | None:
        """A line on the keys of the prompt in which the run and the model's directory differ."""
        if self.path is None:
            return None
        keys = models.other_prompt_keys(self.path, self.run.settings.prompt)
        if not keys:
            return None
        if self._command_sets_prompt:
            return f"trained with another prompt than the command sets: {keys} differ"
        return (
            f"asked with the prompt that it was trained with, which differs from the "
            f"configuration's in {keys} (set prompt=... to ask with another)"
        )

    @property
    def _command_sets_prompt(self) -> bool:
        keys = [override.partition("=")[0].lstrip("+~") for override in self.run.overrides]
        return any(key == "prompt" or key.startswith("prompt.") for key in keys)

    def inputs(self) -> dict[str, str]:
        """The digest of a finished model, for the fingerprint of a stage that reads it."""
        if self.stage is not None:
            return {}
        if self.path is not None:
            return {"model": model_digest(self.path, None)}
        model = self.run.settings.model
        return {"model": model_digest(str(model.path), model.revision)}

    def model(self, parents: Mapping[str, Artifact]) -> models.LanguageModel:
        """The model, from the artifacts of a stage's parents or from its own place."""
        if self.stage is not None:
            return models.of_artifact(parents[self.stage.name], self.run.settings)
        return models.LanguageModel(self.path or str(self.run.settings.model.path), self.settings)


class RoundStage(Stage):
    """A stage that every round has. It starts from the model of `source`, the policy of that round
    before its training."""

    def __init__(
        self,
        source: ModelSource,
        round: int = 1,
        variant: str = "",
        **parents: Stage,
    ) -> None:
        super().__init__(source.run, source.parents | parents, variant=variant, round=round)
        self.source = source

    def inputs(self) -> dict[str, str]:
        return self.source.inputs()


def dev_problems(run: Run, count: int) -> list[Problem]:
    """The first `count` problems of the split `dev`; none for 0, also where there is no split."""
    return run.task.problems("dev")[:count] if count else []


def is_asked(settings: TeachSettings, round: int) -> bool:
    """Whether the teacher corrects in a round."""
    return settings.rounds is None or round <= settings.rounds


def is_taught(settings: TeachSettings, problem_id: str) -> bool:
    """Whether a problem is in the teacher's share of the problems."""
    return hash_share(settings.seed, "teach", problem_id) < settings.share
