"""An exported folder on the Hugging Face hub.

In: a folder, the name of a repository, and whoever is logged in (`hf auth login`, or HF_TOKEN).
Out: one commit there. Name and login are checked before anything is made, because an export can be
the end of a night's work.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rlmec.export.model_folder import RECORD, names_below

Kind = Literal["model", "dataset"]


def api() -> Any:
    """The hub's client, for the endpoint and the login of the environment."""
    from huggingface_hub import HfApi

    return HfApi()


def check_hub(name: str, *, dry_run: bool) -> None:
    """Raise ValueError if `name` is no name of a repository, or if nobody is logged in.

    A dry run asks no server.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"export.hub={name!r} is no name of a repository: {error}") from error
    if dry_run:
        return
    try:
        api().whoami()
    except (HfHubHTTPError, LocalTokenNotFoundError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(
            f"export.hub={name}: nobody is logged in to the hub ({first}); run `hf auth login`, or "
            "try export.hub_dry_run=true"
        ) from error


def files_to_push(folder: Path) -> list[tuple[str, int]]:
    """Names and bytes of what a push would send: everything but the record of the export."""
    names = [name for name in names_below(folder) if name != RECORD]
    return [(name, (folder / name).stat().st_size) for name in names]


def push(folder: Path, name: str, kind: Kind, *, private: bool) -> str:
    """Make the repository if there is none, and send the folder as one commit. Returns its address.

    `private` is that of a new repository; one that exists stays as it is.
    """
    hub = api()
    hub.create_repo(name, repo_type=kind, private=private, exist_ok=True)
    done = hub.upload_folder(
        folder_path=folder,
        repo_id=name,
        repo_type=kind,
        ignore_patterns=[RECORD],
        commit_message=f"Export of RLMEC: {kind}",
    )
    return str(done.commit_url)


def shown(files: Sequence[tuple[str, int]]) -> str:
    """Files with their sizes, one per line."""
    return "\n".join(f"  {name} ({size / 1e6:.1f} MB)" for name, size in files)
