"""Files of Hugging Face's hub, by huggingface_hub (the extra `tlkit[hf]`).

Only this file and `tlkit.runs.hub`, which uploads runs, import it. It keeps files in its own cache ($HF_HOME), where
other programs find them too. It reads $HF_TOKEN and $HF_ENDPOINT by itself; neither is stored or shown by tlkit.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tlkit.backbones.checkpoint import SUFFIXES
from tlkit.errors import WeightsError
from tlkit.progress import bars_shown, log

HUB = "https://huggingface.co"


def check_installed() -> None:
    """Raise WeightsError if huggingface_hub is not installed."""
    _package()


WITHOUT_NETWORK = (
    "Download it and config.json from {page} elsewhere, put both into one folder, and give that as `weights=FOLDER`."
)


def hub_file(
    repo: str, file: str, revision: str, *, otherwise: str = WITHOUT_NETWORK, again: bool = False
) -> Path | None:
    """Return a file of a repository, downloaded unless it is in the cache; None if the repository has no such file.

    Args:
        repo: "USER/REPO".
        file: its path in the repository.
        revision: a branch, a tag or a commit; "" for the main branch. A commit's file that is in the cache takes no
            network. Without a network, the branch is taken as it was when it was last asked for.
        otherwise: what to do where there is no network, of which "{page}" is the address of the repository.
        again: download it although it is in the cache, where it is damaged.

    Raises WeightsError if the repository cannot be reached, does not exist, or is closed.
    """
    hub = _package()
    errors = hub.errors
    if _is_commit(revision) and not again:  # what an earlier call found out of it stays true
        known = hub.try_to_load_from_cache(repo, file, revision=revision)
        if known is not None:
            return Path(known) if isinstance(known, str) else None
    place = {"revision": revision or None, "endpoint": os.environ.get("HF_ENDPOINT") or None}
    forced = {"force_download": True} if again else {}
    unreachable = _unreachable(hub, hub.hf_hub_url(repo, file, **place))
    if not unreachable and file.endswith(SUFFIXES):
        log.info(f"download  {file} of {repo} from Hugging Face")
    try:
        with bars_as_ours(hub):
            return Path(hub.hf_hub_download(repo, file, **place, local_files_only=bool(unreachable), **forced))
    except errors.LocalEntryNotFoundError as error:  # a kind of EntryNotFoundError
        raise WeightsError(
            f"'{file}' of '{repo}' is not on this machine and cannot be downloaded "
            f"({unreachable or reason_of(error)}). " + otherwise.format(page=f"{HUB}/{repo}")
        ) from None
    except errors.EntryNotFoundError:
        return None
    except errors.RevisionNotFoundError:
        raise WeightsError(f"'{repo}' has no revision '{revision}'. Expected a branch, a tag or a commit.") from None
    except errors.GatedRepoError:
        raise WeightsError(
            f"'{repo}' is open only to those who accepted its terms. Accept them at {HUB}/{repo}, and set the "
            "environment variable HF_TOKEN to a token of yours."
        ) from None
    except errors.RepositoryNotFoundError:
        raise WeightsError(
            f"There is no repository '{repo}' at Hugging Face, or it is private. Expected a name such as "
            "timm/resnext50_32x4d.tv_in1k. For a private one, set the environment variable HF_TOKEN."
        ) from None
    except Exception as error:  # httpx, requests and the file system raise many kinds
        raise WeightsError(
            f"'{file}' of '{repo}' cannot be downloaded ({reason_of(error)}). Try again later."
        ) from None


def commit_of(file: Path) -> str:
    """Return the commit that a file of the cache belongs to."""
    parts = file.parts
    return parts[len(parts) - parts[::-1].index("snapshots")]


def published_sha256(file: Path) -> str | None:
    """Return the SHA-256 under which the hub keeps a large file of the cache; None if it keeps it under another name.

    The cache holds a link to it, except on systems without links.
    """
    name = file.resolve().name
    return name if re.fullmatch("[0-9a-f]{64}", name) else None


def without_token(text: str) -> str:
    """Return a text without the token of Hugging Face."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        token = os.environ.get(name, "").strip()
        text = text.replace(token, "...") if token else text
    module = sys.modules.get("huggingface_hub")
    stored = module.get_token() if module is not None else None  # of `hf auth login`
    return text.replace(stored, "...") if stored else text


def _is_commit(revision: str) -> bool:
    return re.fullmatch("[0-9a-f]{40}", revision) is not None


def _unreachable(hub: Any, url: str) -> str:
    """Return why an address cannot be reached, "" if it can. `hf_hub_download` would try again for half a minute."""
    try:
        hub.get_hf_file_metadata(url)
    except (hub.errors.HfHubHTTPError, hub.errors.FileMetadataError):  # it answers
        return ""
    except Exception as error:  # httpx and requests raise many kinds
        return reason_of(error)
    return ""


def _package() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as error:
        raise WeightsError(
            f"Hugging Face's hub needs 'huggingface-hub', which is not installed ({error}). "
            "Install it with: pip install 'tlkit[hf]'."
        ) from None
    return huggingface_hub


@contextlib.contextmanager
def bars_as_ours(hub: Any) -> Iterator[None]:
    """Let huggingface_hub draw its progress bars only where tlkit draws its own."""
    tools = hub.utils
    if bars_shown() or tools.are_progress_bars_disabled():
        yield
        return
    tools.disable_progress_bars()
    try:
        yield
    finally:
        tools.enable_progress_bars()


def reason_of(error: BaseException) -> str:
    """What failed, in a line without the token."""
    while error.__cause__ is not None:  # the first one says what failed
        error = error.__cause__
    text = str(error).strip() or type(error).__name__
    return without_token(text.splitlines()[0][:160])
