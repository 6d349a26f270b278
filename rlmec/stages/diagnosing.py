"""Warnings of a finished artifact, from its figures and its training curve."""

from __future__ import annotations

import json
from dataclasses import replace

from rlmec.artifacts import Artifact
from rlmec.diagnosis import NamedWarning, diagnose

CURVE = "curve.jsonl"
"""The file in which a fit leaves what it logged: a line of JSON a row, each with its `step`."""


def curve_of(artifact: Artifact) -> list[dict[str, float]]:
    """What a fit logged and what its validations found, in rows; empty for other stages."""
    path = artifact.path / CURVE
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [*map(json.loads, text.splitlines()), *artifact.metrics.get("history", [])]


def warnings_of(artifact: Artifact) -> list[NamedWarning]:
    """What an artifact's figures warn of; those of a later round say which. Variants are made to
    differ: they warn of nothing."""
    if artifact.manifest.get("variant"):
        return []
    found = diagnose(artifact.stage, artifact.metrics, curve_of(artifact))
    number = artifact.manifest.get("settings", {}).get("round", 1)
    if number == 1:
        return found
    return [replace(warning, text=f"round {number}: {warning.text}") for warning in found]
