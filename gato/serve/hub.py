"""`gato push` and `gato pull`: a checkpoint to a hub of Hugging Face's kind, and from there. Nothing else in this package uses one.

What goes up is what acts, with a card: no training state, no recipe, no results beside those in the card. What comes down is
safetensors and JSON, whatever else the repository may hold.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from gato import digests
from gato.agent import load
from gato.description import BASELINE, check_folder
from gato.description import NAME as DESCRIPTION
from gato.disk import reason

from .card import model_card

CARD = "README.md"
PULLED = re.compile(rf"[\w.-]+\.(safetensors|json|model)|{CARD}")  # no folders, so none that leads elsewhere
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


@contextmanager
def packed(folder: Path, repository: str) -> Iterator[Path]:
    """A temporary folder with what `push` uploads, written anew by the agent that the checkpoint holds.

    **Raises:** `ValueError` if it is no checkpoint or is damaged, or for a repository that is not written as OWNER/NAME.
    """
    _check_name(repository)
    check_folder(folder)
    with tempfile.TemporaryDirectory(prefix="gato-push-") as name:
        load(folder, "cpu").save(Path(name) / "pushed")
        (Path(name) / "pushed" / CARD).write_text(model_card(folder, repository), encoding="utf-8")
        yield Path(name) / "pushed"


def push(folder: Path, repository: str, public: bool = False) -> str:
    """Uploads a checkpoint with its card as one commit. A repository that is made for it is private unless `public`.

    **Returns:** its address. **Raises:** `ValueError` in one line where the hub is not reached or refuses, besides those of `packed`.
    """
    from huggingface_hub import HfApi

    with packed(folder, repository) as pushed, _explained(repository):
        hub = HfApi()
        address = hub.create_repo(repository, private=not public, exist_ok=True)
        hub.upload_folder(
            repo_id=repository,
            folder_path=pushed,
            commit_message=f"{folder.resolve().parent.name}/{folder.resolve().name}, by gato push",
            delete_patterns=["model*.safetensors*"],  # of an earlier push, in another number of files
        )
    return str(address)


def pull(repository: str, folder: Path, revision: str | None = None) -> dict[str, Any]:
    """Fetches a checkpoint into a new folder, which is complete or absent.

    **Arguments:** `revision`: a branch, a tag or a commit.

    **Returns:** `folder`, `commit`, `files`, `bytes`, and `left`: what else the repository holds. **Raises:** `ValueError` if the folder
    exists, the hub is not reached or refuses, the repository holds no checkpoint, there is no room for it, or it came damaged.
    """
    from huggingface_hub import HfApi, snapshot_download

    _check_name(repository)
    if folder.exists():
        raise ValueError(f"'{folder}' exists; name another folder, or remove it")
    with _explained(repository):
        found = HfApi().model_info(repository, revision=revision, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in found.siblings or ()}
    wanted = {name: size for name, size in sizes.items() if PULLED.fullmatch(name)}
    if not {DESCRIPTION, BASELINE} & wanted.keys():
        raise ValueError(f"'{repository}' holds no checkpoint of this package: it has neither {DESCRIPTION} nor {BASELINE}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    total, room = sum(wanted.values()), shutil.disk_usage(folder.parent).free
    if total > room:
        raise ValueError(f"'{repository}' has {total / 1e9:.1f} GB, but only {room / 1e9:.1f} GB are free beside '{folder}'; make room")
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.tmp-", dir=folder.parent) as name:
        coming = Path(name) / "pulled"
        with _explained(repository):
            snapshot_download(repository, revision=found.sha, local_dir=coming, allow_patterns=list(wanted))
        shutil.rmtree(coming / ".cache", ignore_errors=True)
        try:
            if (coming / digests.NAME).is_file():
                digests.check(coming)
            load(coming, "cpu")
        except ValueError as error:
            raise ValueError(f"what came of '{repository}' does not open: {str(error).replace(str(coming), repository)}") from None
        coming.rename(folder)
    left = sorted(sizes.keys() - wanted.keys() - {".gitattributes"})
    return {"folder": str(folder), "commit": found.sha, "files": len(wanted), "bytes": total, "left": left}


def _check_name(repository: str) -> None:
    if not REPOSITORY.fullmatch(repository):
        raise ValueError(f"'{repository}' is no repository of a hub, expected OWNER/NAME")


@contextmanager
def _explained(repository: str) -> Iterator[None]:
    """**Raises:** `ValueError` in one line for whatever the hub or the network says."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError

    (transport,) = (cast(type[Exception], b) for b in HfHubHTTPError.__bases__ if b is not OSError)  # of the HTTP library it is built on
    try:
        yield
    except OfflineModeIsEnabled:
        raise ValueError("HF_HUB_OFFLINE is set, so no hub is asked; unset it where there is a network") from None
    except RevisionNotFoundError:
        raise ValueError(f"'{repository}' has no such revision; leave --revision out for its newest state") from None
    except RepositoryNotFoundError:
        why = "or it is not yours to see: log in with 'hf auth login', or set HF_TOKEN"
        raise ValueError(f"there is no '{repository}' at {constants.ENDPOINT}, {why}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        hint = "; log in with 'hf auth login', or set HF_TOKEN, with the right to write there" if status in (401, 403) else ""
        raise ValueError(f"{constants.ENDPOINT} refuses '{repository}' with status {status}{hint}") from None
    except (transport, OSError) as error:
        raise ValueError(f"the hub at {constants.ENDPOINT} is not reached ({reason(error)}); this needs a network") from None
