"""Bundles on the HuggingFace Hub, as dataset repositories: `push` writes one, `pull` fetches and imports one.

The client is huggingface_hub, with what it reads from the environment: HF_ENDPOINT, HF_TOKEN (or the token that
`hf auth login` stored), HF_HOME, HF_HUB_OFFLINE. The token is handed to it and to nothing else.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas.errors import AtlasError, IntegrityError, UsageError
from atlas.share.listing import NAME

FOLDERS = ("runs", "edits", "selections")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Pushed:
    """url: of the repository. commit: 40 hex digits."""

    url: str
    commit: str


def push(folder: Path, repository: str, *, public: bool = False, message: str | None = None) -> Pushed:
    """Write a bundle to a dataset repository, which is made where there is none; what it had of another is removed.

    A large bundle takes several commits, bundle.json among them: a `pull` in between is refused by its sums.

    public: make a new repository public; that of one that is there already stays as it is.

    Raises:
        UsageError: a bad name, no such owner, or HF_HUB_OFFLINE.
        AtlasError: no token, one without the right to write, or no network.
    """
    with _explained(_checked(repository)) as hub:
        api = hub.HfApi(library_name="neuron-atlas")
        url = api.create_repo(repository, repo_type="dataset", private=not public, exist_ok=True)
        done = api.upload_folder(
            repo_id=repository,
            repo_type="dataset",
            folder_path=folder,
            commit_message=message or "Bundle of a neuron atlas",
            delete_patterns=[f"{name}/*" for name in FOLDERS],
        )
        return Pushed(str(url), str(done.oid))


@contextmanager
def pulled(repository: str, place: Path, revision: str | None = None) -> Iterator[tuple[Path, str]]:
    """Fetch a bundle, and give its folder and commit; the folder is gone after the block.

    Interrupted, or without a network half-way, the next call with the same place goes on where it was.

    place: the folder to fetch into. revision: a branch, a tag or a commit; else the newest.

    Raises:
        UsageError: no such repository or revision, no bundle in it, or HF_HUB_OFFLINE.
        AtlasError: no right to read it, or no network.
    """
    folder = place / f".pull-{_checked(repository).replace('/', '--')}"
    with _explained(repository) as hub:
        api = hub.HfApi(library_name="neuron-atlas")
        found = api.repo_info(repository, repo_type="dataset", revision=revision)
        if not found.sha or NAME not in {s.rfilename for s in found.siblings or []}:
            raise UsageError(f"the dataset {repository} holds no bundle: it has no {NAME} (`atlas push` writes one)")
        patterns = [NAME, *(f"{name}/*" for name in FOLDERS)]
        api.snapshot_download(
            repository, repo_type="dataset", revision=found.sha, local_dir=folder, allow_patterns=patterns
        )
    try:
        yield folder, str(found.sha)
    except IntegrityError:
        shutil.rmtree(folder, ignore_errors=True)  # kept, it would be taken for whole the next time
        if not any(place.iterdir()):
            place.rmdir()
        raise
    shutil.rmtree(folder, ignore_errors=True)


def require_online(repository: str) -> None:
    """Refuse, before any work, what could not be sent.

    Raises:
        UsageError: a bad name, or HF_HUB_OFFLINE.
    """
    with _explained(_checked(repository)):
        pass


@contextmanager
def workplace() -> Iterator[Path]:
    """A folder to write a bundle in before it is pushed; gone after the block."""
    with tempfile.TemporaryDirectory(prefix="neuron-atlas-push-") as folder:
        yield Path(folder) / "bundle"


def _checked(repository: str) -> str:
    if not _REPOSITORY.fullmatch(repository) or len(repository) > 96 or ".." in repository or "--" in repository:
        raise UsageError(f"'{repository}' is not a name of a dataset on the Hub; write OWNER/NAME")
    return repository


@contextmanager
def _explained(repository: str) -> Iterator[Any]:
    """The client for the block; what it says becomes what to do about it."""
    import httpx2
    import huggingface_hub
    from huggingface_hub import constants, errors
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if constants.HF_HUB_OFFLINE:
        raise UsageError("HF_HUB_OFFLINE is set: the Hub is not asked; unset it, or hand on a folder (`atlas export`)")
    disable_progress_bars()
    where = f"{repository} at {constants.ENDPOINT}"
    try:
        yield huggingface_hub
    except errors.RevisionNotFoundError as error:
        raise UsageError(f"{where} has no such revision; give a branch, a tag or a commit") from error
    except (errors.RepositoryNotFoundError, errors.GatedRepoError) as error:
        raise UsageError(
            f"there is no dataset {where}, or it is private or gated and HF_TOKEN has no access to it"
        ) from error
    except errors.HfHubHTTPError as error:
        raise _refused(where, error) from error
    except (httpx2.HTTPError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise AtlasError(
            f"cannot reach {where} ({type(error).__name__}); what was fetched is kept, try again"
        ) from error


def _refused(where: str, error: Any) -> AtlasError:
    status = getattr(error.response, "status_code", None)
    if status in (401, 403):
        return AtlasError(
            f"the Hub refuses {where} ({status}): set HF_TOKEN to a token that may do this, or `hf auth login`"
        )
    said = " ".join(str(getattr(error, "server_message", None) or "").split())[:200]
    return AtlasError(f"the Hub fails for {where} ({status or 'no answer'}{f': {said}' if said else ''}); try again")
