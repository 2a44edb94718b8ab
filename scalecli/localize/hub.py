"""Files of a model hub: from its cache without asking, otherwise fetched, or one clear line.

A machine without a hub waits :data:`TIMEOUT` seconds once, not once per file and retry.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from scalecli.core.errors import ScalecliError, UsageError

TIMEOUT = 5.0
"""Seconds to wait for the hub's first answer."""
WAYS_OUT = "use cached weights, --model local-dir:FOLDER, or --model embedded"


class HubUnreachable(ScalecliError):
    """The file is not cached, and the hub cannot or must not be asked."""


def go_offline() -> None:
    """No library of this process asks the hub any more."""
    from huggingface_hub import constants

    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True  # read from the environment when it was imported


def is_offline() -> bool:
    """Whether the hub must not be asked."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def cached(repo: str, names: Sequence[str]) -> Path | None:
    """The first of a repository's files that the cache holds."""
    from huggingface_hub import try_to_load_from_cache

    for name in names:
        found = try_to_load_from_cache(repo, name)
        if isinstance(found, str):
            return Path(found)
    return None


def fetch(repo: str, names: Sequence[str]) -> Path:
    """The first of a repository's files that there is: cached, otherwise downloaded.

    Args:
        repo: ``organisation/name``.
        names: file names in order of preference.

    Raises:
        HubUnreachable: not cached, and the hub does not answer or must not be asked.
        UsageError: the repository or its files do not exist or are not open to this user.
    """
    found = cached(repo, names)
    if found is not None:
        return found
    if is_offline():
        raise HubUnreachable(f"{repo} is not cached and the network is off (offline); {WAYS_OUT}")
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
    )

    for name in names:
        try:
            get_hf_file_metadata(hf_hub_url(repo, name), timeout=TIMEOUT)
            return Path(hf_hub_download(repo, name))
        except GatedRepoError as error:
            raise UsageError(
                f"{repo}: its owners ask you to accept terms; do so on its page and log in with "
                "`hf auth login`"
            ) from error
        except RepositoryNotFoundError as error:
            raise UsageError(f"{repo}: the model hub has no such (public) repository") from error
        except EntryNotFoundError:
            continue
        except HfHubHTTPError as error:
            status = getattr(error.response, "status_code", "an error")
            raise HubUnreachable(f"{repo}: the model hub answers {status}; {WAYS_OUT}") from error
        except Exception as error:
            # The HTTP library differs from version to version, and so does its base exception.
            go_offline()
            raise HubUnreachable(
                f"{repo} is not cached and the model hub cannot be reached "
                f"({type(error).__name__}); {WAYS_OUT}"
            ) from error
    raise UsageError(f"{repo}: the model hub holds none of {', '.join(names)} there")
