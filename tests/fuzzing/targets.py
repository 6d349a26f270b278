"""All targets, with their shares of the inputs."""

from __future__ import annotations

from . import files, settings, texts
from .runner import Target

TARGETS = [
    Target("rows", 180, files.rows),
    Target("tasks", 200, files.tasks),
    Target("imports", 100, files.imports),
    Target("stored", 50, files.stored),
    Target("tables", 40, files.tables),
    Target("parts", 15, files.parts),
    Target("manifests", 50, files.manifests),
    Target("notes", 40, files.notes),
    Target("answers", 220, texts.answers),
    Target("teachers", 50, texts.teachers),
    Target("pages", 25, texts.pages),
    Target("signatures", 15, settings.signatures),
    Target("configurations", 12, settings.configurations),
    Target("overrides", 3, settings.overrides),
]
