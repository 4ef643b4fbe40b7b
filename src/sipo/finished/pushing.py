"""An exported folder on the Hugging Face hub. Nothing else in sipo sends anything there."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.repocard import metadata_load
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from sipo import __version__
from sipo.errors import SipoError, first_line
from sipo.settings.model import on_the_hub

CARD, ADAPTER, MODEL = "README.md", "adapter_config.json", "config.json"
UNREACHED: type[Exception] = HfHubHTTPError.__bases__[0]
"""What the client that the hub's library uses raises, whichever that is, where there is no answer at all."""
UNKNOWN, FORBIDDEN, TAKEN, TOO_MANY = 401, 403, 409, 429


@dataclass(frozen=True)
class Parcel:
    """What is sent: the files of an export, all that are not hidden, and where to."""

    folder: Path
    files: tuple[Path, ...]
    repo: str

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes, by the names that the files have there."""
        return {each.relative_to(self.folder).as_posix(): each.stat().st_size for each in self.files}


def parcel_of(folder: Path, repo: str) -> Parcel:
    """Raises SipoError for what is no export that others can load, or no place on the hub."""
    if not folder.is_dir():
        raise SipoError(f"{folder}: no such folder; name one that `sipo export` wrote")
    try:
        validate_repo_id(repo)
        whole = repo.count("/") == 1
    except HFValidationError:
        whole = False
    if not whole:
        raise SipoError(f"--to {repo}: is no place on the hub, which looks like `owner/name`")
    _check_export(folder)
    visible = (each for each in sorted(folder.rglob("*")) if each.is_file())
    files = tuple(each for each in visible if not any(p.startswith(".") for p in each.relative_to(folder).parts))
    return Parcel(folder, files, repo)


def _check_export(folder: Path) -> None:
    """Is it one of ours, and of a base that others have?"""
    try:
        about = metadata_load(folder / CARD) or {}
        lora = json.loads((folder / ADAPTER).read_text(encoding="utf-8")) if (folder / ADAPTER).exists() else None
        base = about.get("base_model") if lora is None else lora["base_model_name_or_path"]
        ours = "sipo" in (about.get("tags") or []) and (lora is not None or (folder / MODEL).exists())
    except (OSError, ValueError, TypeError, KeyError):
        ours = False
    if not ours:
        raise SipoError(f"{folder}: holds no model with a card that `sipo export` wrote; export one and push that")
    if not isinstance(base, str) or not on_the_hub(base):
        where = f"is {base}, on this machine alone" if isinstance(base, str) else "is on this machine alone"
        raise SipoError(f"{folder}: its base model {where}; export it again with --base ID, the id that others have")


def send(parcel: Parcel, *, public: bool) -> dict[str, Any]:
    """Make the repository where there is none, private unless `public`, and add one commit with all files.

    What is there already stays, but for files of the same names. Raises SipoError, one line with the way out.
    """
    if constants.HF_HUB_OFFLINE:
        raise SipoError("HF_HUB_OFFLINE is set, so nothing is sent; unset it and run the same command again")
    if get_token() is None:
        raise SipoError("the hub wants a token; `hf auth login` keeps one, or set HF_TOKEN")
    api, repo = HfApi(library_name="sipo", library_version=__version__), parcel.repo
    with _explained(api, repo):
        private = _made(api, repo, public)
        added = [CommitOperationAdd(name, parcel.folder / name) for name in parcel.sizes]
        commit = api.create_commit(repo, added, commit_message=f"Upload {parcel.folder.name} by sipo {__version__}")
    return {"url": f"{api.endpoint}/{repo}", "commit": commit.oid, "private": private}


def _made(api: HfApi, repo: str, public: bool) -> bool:
    """Is the repository, which is made where there is none, private? Raises SipoError for a public one unasked."""
    try:
        api.create_repo(repo, private=not public)
        return not public
    except HfHubHTTPError as error:
        if error.response.status_code != TAKEN:
            raise
    private = bool(api.model_info(repo).private)
    if not private and not public:
        raise SipoError(f"{repo}: is there and is public; --public says that all may see this, or name another")
    return private


@contextmanager
def _explained(api: HfApi, repo: str) -> Iterator[None]:
    """Whatever the hub or the way to it refuses, as a line."""
    owner = repo.partition("/")[0]
    try:
        yield
    except HfHubHTTPError as error:
        status, reason = error.response.status_code, error.server_message or first_line(error)
        known = {
            UNKNOWN: "the hub does not know the token; `hf auth login` keeps a new one, or set HF_TOKEN",
            FORBIDDEN: f"the token may not write to `{owner}`; take one that may, or name another place",
            TAKEN: "something else was changed there at the same time; run the same command again",
            TOO_MANY: "the hub has had too many requests; wait a little, and run the same command again",
        }
        raise SipoError(f"{repo}: {known.get(status, f'the hub answered {reason}')} ({status})") from None
    except UNREACHED as error:
        raise SipoError(f"{api.endpoint}: no answer ({first_line(error)}); is there a network?") from None
    except (RuntimeError, ValueError, OSError) as error:  # of the ways that large files take
        raise SipoError(
            f"{repo}: was not sent ({first_line(error)}); run the same command again, or with HF_HUB_DISABLE_XET=1 "
            "where the hub or a proxy lets nobody through to Xet's storage"
        ) from None
