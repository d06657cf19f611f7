"""Bundles on the HuggingFace Hub, as dataset repositories: `push` writes one, `pull` fetches and imports one.

The client is huggingface_hub, configured by the environment: HF_ENDPOINT, HF_TOKEN (or the token that
`hf auth login` stored), HF_HOME, HF_HUB_OFFLINE. The token is given to it and to nothing else.
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
    """The result of a push. url: of the repository. commit: 40 hex digits."""

    url: str
    commit: str


def push(folder: Path, repository: str, *, public: bool = False, message: str | None = None) -> Pushed:
    """Write a bundle to a dataset repository, which is created if needed; files of an earlier bundle are removed.

    A large bundle takes several commits: a `pull` between them fails the checksums and is refused.

    public: make a new repository public; the visibility of an existing one does not change.

    Raises:
        UsageError: a bad name, no such owner, or HF_HUB_OFFLINE.
        AtlasError: no token, a token without write access, or no network.
    """
    with _client(_repository_name(repository)) as hub:
        api = hub.HfApi(library_name="neuron-atlas")
        url = api.create_repo(repository, repo_type="dataset", private=not public, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            repo_type="dataset",
            folder_path=folder,
            commit_message=message or "Bundle of a neuron atlas",
            delete_patterns=[f"{name}/*" for name in FOLDERS],
        )
        return Pushed(str(url), str(commit.oid))


@contextmanager
def fetched_bundle(repository: str, place: Path, revision: str | None = None) -> Iterator[tuple[Path, str]]:
    """Fetch a bundle, and give its folder and commit; the folder is removed after the block.

    After an interruption or a network failure, the next call with the same place resumes the download.

    place: the folder to fetch into. revision: a branch, a tag or a commit; else the newest.

    Raises:
        UsageError: no such repository or revision, no bundle in it, or HF_HUB_OFFLINE.
        AtlasError: no read access, or no network.
    """
    folder = place / f".pull-{_repository_name(repository).replace('/', '--')}"
    with _client(repository) as hub:
        api = hub.HfApi(library_name="neuron-atlas")
        info = api.repo_info(repository, repo_type="dataset", revision=revision)
        if not info.sha or NAME not in {s.rfilename for s in info.siblings or []}:
            raise UsageError(f"the dataset {repository} is not a bundle: it has no {NAME} (`atlas push` writes one)")
        patterns = [NAME, *(f"{name}/*" for name in FOLDERS)]
        api.snapshot_download(
            repository, repo_type="dataset", revision=info.sha, local_dir=folder, allow_patterns=patterns
        )
    try:
        yield folder, str(info.sha)
    except IntegrityError:
        shutil.rmtree(folder, ignore_errors=True)  # else the next call would reuse the damaged files
        if not any(place.iterdir()):
            place.rmdir()
        raise
    shutil.rmtree(folder, ignore_errors=True)


def require_online(repository: str) -> None:
    """Refuse a push that would fail, before any work.

    Raises:
        UsageError: a bad name, or HF_HUB_OFFLINE.
    """
    with _client(_repository_name(repository)):
        pass


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A temporary folder to write a bundle in before it is pushed; removed after the block."""
    with tempfile.TemporaryDirectory(prefix="neuron-atlas-push-") as folder:
        yield Path(folder) / "bundle"


def _repository_name(repository: str) -> str:
    if not _REPOSITORY.fullmatch(repository) or len(repository) > 96 or ".." in repository or "--" in repository:
        raise UsageError(f"'{repository}' is not a name of a dataset on the Hub; write OWNER/NAME")
    return repository


@contextmanager
def _client(repository: str) -> Iterator[Any]:
    """The client for the block; its errors become messages that say what to do."""
    import httpx2
    import huggingface_hub
    from huggingface_hub import constants, errors
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if constants.HF_HUB_OFFLINE:
        raise UsageError(
            "HF_HUB_OFFLINE is set, so the Hub cannot be used; unset it, or share a folder (`atlas export`)"
        )
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
        raise _http_error(where, error) from error
    except (httpx2.HTTPError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise AtlasError(
            f"cannot reach {where} ({type(error).__name__}); what was fetched is kept, try again"
        ) from error


def _http_error(where: str, error: Any) -> AtlasError:
    status = getattr(error.response, "status_code", None)
    if status in (401, 403):
        return AtlasError(
            f"the Hub refuses {where} ({status}): set HF_TOKEN to a token that may do this, or `hf auth login`"
        )
    reason = " ".join(str(getattr(error, "server_message", None) or "").split())[:200]
    return AtlasError(
        f"the Hub fails for {where} ({status or 'no answer'}{f': {reason}' if reason else ''}); try again"
    )
