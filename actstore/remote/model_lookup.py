"""Whether a model is on the Hub, found out by one request and no second try."""

from __future__ import annotations


def look(name: str, revision: str | None) -> None:
    """Ask for a model's configuration, unless it is in the cache.

    What loads a model later asks again and again where nobody answers, half a minute long.

    Raises:
        huggingface_hub's own errors: there is no such repository or revision, the token does
            not open it, nothing can be reached.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if try_to_load_from_cache(name, "config.json", revision=revision) is not None:
        return
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json", revision=revision))
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError):
        raise
    except (EntryNotFoundError, HfHubHTTPError):
        return  # a Hub that is busy is worth another try, and transformers explains the rest
