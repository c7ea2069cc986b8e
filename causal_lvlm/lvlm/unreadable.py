"""Why a model could not be loaded, and what to do about it: one message for each reason."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from causal_lvlm.errors import (
    CausalLVLMError,
    ModelAccessError,
    ModelMemoryError,
    ModelNotFoundError,
    ModelOfflineError,
    UnsupportedModelError,
)
from causal_lvlm.lvlm.memory import is_out_of_memory

__all__ = ["loading_error"]

_LOG_IN = "log in with `hf auth login` (or set HF_TOKEN)"


def loading_error(
    source: str | Path, revision: str | None, error: BaseException, part: str
) -> CausalLVLMError:
    """Return the exception to raise for what transformers or the hub said.

    Parameters
    ----------
    source : str or path
        Hub id or folder.
    revision : str or None
    error : BaseException
        Caught while loading; what it came from is looked at, too.
    part : {"configuration", "processor", "weights"}
        What was being loaded.
    """
    name = repr(str(source))
    chain = list(_chain(error))

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(e, kinds) for e in chain)

    if any(is_out_of_memory(e) for e in chain):
        return ModelMemoryError(
            f"memory ran out while loading {name}; free some, or give dtype='bfloat16' or another "
            "device"
        )
    if has(GatedRepoError) or any(
        _status(e) in (401, 403) and not _no_repository(e) for e in chain
    ):
        return ModelAccessError(
            f"{name} is gated: accept its terms on its page of the hub, {_LOG_IN} with the same "
            "account, and load it again"
        )
    if has(RevisionNotFoundError):
        return ModelNotFoundError(
            f"{name} has no revision {revision!r}; give a branch, a tag or a commit of it, or "
            "leave revision out for its main branch"
        )
    if has(RepositoryNotFoundError):
        return ModelNotFoundError(
            f"the hub has no model {name}; check the spelling ('owner/name'). If it is private, "
            f"{_LOG_IN} with an account that may read it"
        )
    if has(HFValidationError):
        return ModelNotFoundError(
            f"{name} is neither a folder here nor a hub id, which looks like 'owner/name'"
        )
    if isinstance(source, str) and _is_offline(chain):
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        at = "" if revision is None else f" (revision {revision!r})"
        return ModelOfflineError(
            f"{name}{at} is not on this machine and {why}; connect to the network, or download it "
            f"elsewhere (`hf download {source}`) and give the folder"
        )
    lines = str(error).strip().splitlines()
    first = " ".join(line.strip() for line in lines[: 2 if lines and lines[0][-1:] == ":" else 1])
    if "ignore_mismatched_sizes" in first:
        first = "its weights have other sizes than its config.json says"
    said = f"{type(error).__name__}: {first}" if first else type(error).__name__
    if has(ImportError):
        return UnsupportedModelError(f"{name} needs a package that is not installed ({said})")
    if part == "processor":
        return UnsupportedModelError(
            f"{name} has no usable processor ({said}); take one from the model it was made from "
            "and give both as a pair: load_model((model, processor))"
        )
    if has(EntryNotFoundError):
        return UnsupportedModelError(
            f"the model {name} cannot be loaded: a file of its {part} is missing ({said}); give a "
            "checkpoint in the format of transformers"
        )
    return UnsupportedModelError(
        f"the model {name} cannot be loaded ({said}); give a hub id, a local folder, or nothing "
        "for the embedded model"
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__  # type: ignore[assignment]


def _status(error: BaseException) -> int | None:
    found = getattr(getattr(error, "response", None), "status_code", None)
    return found if isinstance(error, HfHubHTTPError) else None


def _no_repository(error: BaseException) -> bool:
    # The hub answers 401 for a repository that does not exist, too.
    return isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError)


def _is_offline(chain: list[BaseException]) -> bool:
    if os.environ.get("TRANSFORMERS_OFFLINE") == "1":
        return True
    # Without a status the hub did not answer; an entry that is only missing here was never found.
    return any(
        isinstance(
            e, (OfflineModeIsEnabled, LocalEntryNotFoundError, ConnectionError, TimeoutError)
        )
        or type(e).__name__ in ("ConnectError", "ConnectTimeout", "ReadTimeout", "ProxyError")
        for e in chain
    )
