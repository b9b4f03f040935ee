"""Runs on Hugging Face's hub: `hf://USER/NAME` in place of a run's folder, and the upload of a run's files.

A repository that `tlkit push` wrote holds the files of a run, with its `manifest.json`. Only what the manifest lists is
downloaded, by huggingface_hub (the extra `tlkit[hf]`), and nothing is used before its SHA-256 was compared. The files
are kept in the cache of tlkit, kind "models", one folder for each commit; they share their place on the disk with
huggingface_hub's own cache where the file system can.

The token is huggingface_hub's: $HF_TOKEN, or what `hf auth login` stored. It is neither read, stored nor shown here.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tlkit.backbones.huggingface import HUB, bars_as_ours, check_installed, commit_of, hub_file, reason_of
from tlkit.cache import Cache, describe
from tlkit.disk import check_room
from tlkit.errors import RunError, SpecError, WeightsError
from tlkit.files import name_beside
from tlkit.folders import DESCRIPTION, PLAN
from tlkit.manifest import MANIFEST, digest, unsealed
from tlkit.progress import bar, log
from tlkit.words import counted

EXPORT = "saved_model"
OWN = re.compile(r"[\w.]+\.(json|csv|html|npz|keras)|(saved_model|modules)/.*")  # what `tlkit push` may have written
_HANDLE = re.compile(r"hf:/{1,2}([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_WITHOUT_NETWORK = "Download the repository {page} elsewhere, and give its folder."


@dataclass(frozen=True)
class Handle:
    """A repository of a run. repo: "USER/NAME". revision: a branch, a tag or a commit; "" for the main branch."""

    repo: str
    revision: str = ""

    def __str__(self) -> str:
        return f"hf://{self.repo}" + (f"@{self.revision}" if self.revision else "")


def handle_of(name: str | Path) -> Handle | None:
    """Read "hf://USER/NAME" or "hf://USER/NAME@REVISION"; None for anything else, such as a path.

    Raises SpecError for text that begins with hf:// and names no repository.

    >>> handle_of("hf://me/birds@v2")
    Handle(repo='me/birds', revision='v2')
    """
    given = str(name)  # a Path of it has one slash
    if not given.startswith("hf:/"):
        return None
    found = _HANDLE.fullmatch(given)
    if found is None:
        raise SpecError(f"'{given}' names no repository. Expected hf://USER/NAME, or hf://USER/NAME@REVISION.")
    return Handle(found[1], found[2] or "")


def at_revision(name: str, revision: str | None) -> str:
    """Return a name of a model with a revision. Raises SpecError if it is no repository, or has another revision."""
    if revision is None:
        return name
    handle = handle_of(name)
    if handle is None or handle.revision not in ("", revision):
        raise SpecError(f"`revision` is {revision}, but the model is '{name}'. Expected hf://USER/NAME with it.")
    return str(Handle(handle.repo, revision))


def local_folder(model: str | Path, *, whole: bool = True) -> Path:
    """Return the folder of a run: the path itself, or where the files of "hf://USER/NAME" are, downloaded if need be.

    Args:
        model: a path, or the name of a repository.
        whole: all files of the run. Otherwise only what its SavedModel needs to answer.

    Raises:
        RunError: the repository cannot be reached or is no run of tlkit's, or a file of it is not the one that its
            manifest lists; or huggingface_hub is not installed.
    """
    handle = handle_of(model)
    if handle is None:
        return Path(model)
    with _of_the_hub():
        listing = hub_file(handle.repo, MANIFEST, handle.revision, otherwise=_WITHOUT_NETWORK)
        if listing is None:
            raise RunError(
                f"'{handle}' is no model of tlkit's: it has no {MANIFEST}. Expected what `tlkit push` wrote."
            )
        pinned = Handle(handle.repo, commit_of(listing))
        listed = _listed(pinned, listing)
        if not whole:
            listed = {name: one for name, one in listed.items() if name in (PLAN, "metrics.json")}
        return _complete(pinned, listing, listed)


def _listed(handle: Handle, listing: Path) -> dict[str, dict[str, Any]]:
    """What a repository's manifest lists, by name. Raises RunError if it is not one of a run."""
    try:
        values = unsealed(listing.read_bytes())
        files = values["files"]
        assert PLAN in files and EXPORT in values["exports"]
        assert all(_is_inside(name) and {"bytes", "sha256"} <= set(one) for name, one in files.items())
    except (ValueError, KeyError, TypeError, AssertionError, AttributeError) as error:
        raise RunError(
            f"'{handle}' is no model of tlkit's, or is spoiled: its {MANIFEST} is not the one of a run "
            f"({type(error).__name__}). Expected what `tlkit push` wrote; ask its owner to upload it again."
        ) from None
    return files


def _is_inside(name: str) -> bool:
    """Whether a name of a listing is a plain relative path, which cannot lead out of its folder."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and not re.search(r"[\\:]", name)


def _complete(handle: Handle, listing: Path, listed: Mapping[str, Mapping[str, Any]]) -> Path:
    """Put what is missing of a commit into its folder of the cache, verified, and return the folder of the run."""
    user, _, name = handle.repo.partition("/")
    entry = Cache().at("models", f"{user}--{name}-{handle.revision[:12]}")
    folder = entry / name
    describe(entry, f"hf://{handle.repo} at {handle.revision[:12]}")
    _put(handle, folder, MANIFEST, digest(listing))
    _put(handle, folder, f"{EXPORT}/{DESCRIPTION}", None)
    wanted = {**listed, **_of_export(handle, folder)}
    missing = {one: values for one, values in wanted.items() if not (folder / one).is_file()}
    if missing:
        size = sum(one["bytes"] for one in missing.values())
        check_room(folder, size, "the model")
        log.info(f"download  hf://{handle.repo}: {counted(len(missing), 'file')}, {size / 1e6:.1f} MB")
    with bar(len(missing), "file") as update:
        for number, (one, values) in enumerate(missing.items(), start=1):
            _put(handle, folder, one, values)
            update(number)
    return folder


def _of_export(handle: Handle, folder: Path) -> dict[str, dict[str, Any]]:
    """The files of the repository's SavedModel, as its description lists them."""
    try:
        values = unsealed((folder / EXPORT / DESCRIPTION).read_bytes())
        files = values["checksums"]
        assert all(_is_inside(name) and {"bytes", "sha256"} <= set(one) for name, one in files.items())
        for empty in (name for name in values["files"] if name.endswith("/") and _is_inside(name)):
            (folder / EXPORT / empty).mkdir(parents=True, exist_ok=True)
    except (ValueError, KeyError, TypeError, AssertionError, AttributeError):
        (folder / EXPORT / DESCRIPTION).unlink(missing_ok=True)
        raise RunError(
            f"'{EXPORT}/{DESCRIPTION}' of '{handle}' is spoiled: it is not what tlkit wrote, or differs from its "
            "checksum. Nothing of it is used. Ask its owner to upload it again, or give another revision."
        ) from None
    return {f"{EXPORT}/{name}": one for name, one in files.items()}


def _put(handle: Handle, folder: Path, name: str, expected: Mapping[str, Any] | None) -> None:
    """Put a file of a commit into its place unless it is there. expected: its digest; None if it has one of its own."""
    place = folder / name
    if place.is_file():
        return
    for again in (False, True):  # huggingface_hub's cache does not verify what it holds
        file = hub_file(handle.repo, name, handle.revision, otherwise=_WITHOUT_NETWORK, again=again)
        if file is None:
            raise RunError(
                f"'{handle}' is incomplete: it has no '{name}', which its {MANIFEST} lists. Upload it again."
            )
        if expected is None or digest(file)["sha256"] == expected["sha256"]:
            _link(file.resolve(), place)
            return
    raise RunError(
        f"'{name}' of '{handle}' is spoiled: its SHA-256 is not the one that its {MANIFEST} lists. It is not used. Ask "
        "its owner to upload it again, or give another revision."
    )


def _link(file: Path, place: Path) -> None:
    """Give a file a second name, or copy it where the file system cannot."""
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = name_beside(place, "tmp")
    try:
        try:
            temporary.hardlink_to(file)
        except OSError:
            shutil.copyfile(file, temporary)
        temporary.replace(place)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _of_the_hub() -> Iterator[None]:
    """Turn errors about weights into those about runs."""
    try:
        yield
    except WeightsError as error:
        raise RunError(str(error)) from None


def check_upload(to: str | Path) -> Handle:
    """Return where to upload to. Raises SpecError for no repository, RunError without huggingface_hub or a token."""
    handle = handle_of(to)
    if handle is None:
        raise SpecError(f"'{to}' is no place to upload to. Expected hf://USER/NAME.")
    with _of_the_hub():
        check_installed()
    import huggingface_hub

    if not huggingface_hub.get_token():
        raise RunError(
            "There is no token of Hugging Face on this machine. Log in with `hf auth login`, or set the environment "
            f"variable HF_TOKEN to a token that may write ({HUB}/settings/tokens)."
        )
    return handle


def upload(handle: Handle, files: Mapping[str, Path], *, public: bool, kept: Collection[str] = ()) -> str:
    """Upload files as one commit, and remove from the repository what an earlier upload had and this one has not.

    Args:
        handle: the repository, made if need be, and a branch of it, made if need be.
        files: by their names in the repository.
        public: whether everyone may read it. Otherwise one that everyone can read is refused.
        kept: names of `files` that are left as they are if the repository has them.

    Returns:
        The commit.

    Raises:
        RunError: the hub cannot be reached or refuses the upload, or the repository is open to all.
    """
    import huggingface_hub as hub

    api = hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    with _refusals_said(handle), bars_as_ours(hub):
        there = _names_there(api, handle, public)
        api.create_repo(handle.repo, private=not public, exist_ok=True)
        if handle.revision:
            api.create_branch(handle.repo, branch=handle.revision, exist_ok=True)
        new = {name: file for name, file in files.items() if not (name in kept and name in there)}
        gone = sorted(name for name in there if OWN.fullmatch(name) and name not in files)
        size = sum(file.stat().st_size for file in new.values())
        log.info(f"upload    {counted(len(new), 'file')}, {size / 1e6:.1f} MB to hf://{handle.repo}")
        adds = [hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(file)) for name, file in new.items()]
        removes = [hub.CommitOperationDelete(path_in_repo=name, is_folder=False) for name in gone]
        done = api.create_commit(
            handle.repo, [*adds, *removes], commit_message="Upload a run of tlkit", revision=handle.revision or None
        )
        return str(done.oid)


def _names_there(api: Any, handle: Handle, public: bool) -> set[str]:
    """The files of a repository; none if there is no such repository or branch. Raises RunError if it is open."""
    from huggingface_hub import errors

    try:
        info = api.model_info(handle.repo)
    except errors.RepositoryNotFoundError:
        return set()
    if not public and info.private is False:
        raise RunError(
            f"'hf://{handle.repo}' is there, and everyone can read it. Nothing was uploaded. Give `public` to upload "
            "to it all the same, or another name."
        )
    if public and info.private:
        log.warning(f"'hf://{handle.repo}' is there and private, and stays private; {HUB}/{handle.repo}/settings")
    if handle.revision:
        try:
            info = api.model_info(handle.repo, revision=handle.revision)
        except errors.RevisionNotFoundError:
            return set()
    return {one.rfilename for one in info.siblings or ()}


@contextlib.contextmanager
def _refusals_said(handle: Handle) -> Iterator[None]:
    """Say why an upload failed. Whatever was uploaded is no commit before all of it is there."""
    from huggingface_hub import errors

    try:
        yield
    except RunError:
        raise
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status == 401:
            why = "Hugging Face does not know the token. Log in again with `hf auth login`, or renew HF_TOKEN."
        elif status == 403:
            why = f"The token may not write to it. Make one that may: {HUB}/settings/tokens."
        else:
            why = f"Hugging Face refused it ({reason_of(error)})."
        raise RunError(f"Nothing was uploaded to 'hf://{handle.repo}'. {why}") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise RunError(f"Nothing was uploaded to 'hf://{handle.repo}' ({reason_of(error)}). Try again later.") from None
    except Exception as error:
        if not type(error).__module__.startswith(("httpx", "requests")):
            raise
        raise RunError(
            f"Nothing was uploaded to 'hf://{handle.repo}': Hugging Face cannot be reached ({reason_of(error)}). Try "
            "again later."
        ) from None
