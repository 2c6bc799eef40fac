# Copyright 2026 The hf_cong authors. Licensed under the Apache License, Version 2.0.
"""Who is logged in to the Hub, what they may make there, and what the Hub's refusals mean.

The token is that of `hf auth login` or `HF_TOKEN`; nothing here takes one, or says one.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from huggingface_hub.utils import get_session, validate_repo_id

# Seconds without a byte from the Hub; the client by itself waits for ever, and a training run with it.
_PATIENCE = 300.0
_ADVICE = (
    "Make one that may write at https://huggingface.co/settings/tokens, and run `hf auth login` or set `HF_TOKEN`, "
    "which comes first."
)


def full_repo_id(repo_id: str) -> str:
    """
    `"namespace/name"` of a name; a bare one is of the user who is logged in.

    Raises:
        ValueError: if the Hub knows no such names.
        PermissionError: if the name is bare and nobody is logged in, or the token is not valid.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{str(error)[:300]} Choose another `repo_id`, of a trainer its `hub_model_id`.") from None
    if "/" in repo_id:
        return repo_id
    with explained(repo_id):
        return f"{_whoami()['name']}/{repo_id}"


def require_token() -> None:
    """Raises `PermissionError` if nobody is logged in on this machine."""
    if get_token() is None:
        raise PermissionError("Nobody is logged in to the Hub. Run `hf auth login`, or set `HF_TOKEN`.")


def check_may_create(repo_id: str) -> None:
    """Raises `PermissionError` if whoever is logged in may not make a repository, as far as the Hub tells before."""
    me = _whoami()
    namespace = repo_id.split("/")[0].lower()
    members = [me["name"], *(org["name"] for org in me["orgs"] if org.get("roleInOrg") != "read")]
    if namespace not in map(str.lower, members):
        raise PermissionError(
            f"{me['name']} may not make {repo_id}: it is another user's, or of an organisation that {me['name']} does "
            f"not write in. Before the `/` can stand {', '.join(members)}."
        )
    token = me["auth"].get("accessToken", {})  # a login in the browser has none
    scopes = token.get("fineGrained", {}).get("scoped", [])
    writes = {scope["entity"].get("name", "").lower() for scope in scopes if "repo.write" in scope["permissions"]}
    role = token.get("role")
    if role == "read" or (role == "fineGrained" and namespace not in writes):
        raise PermissionError(f"The token of {me['name']} may not write {repo_id}. {_ADVICE}")


@contextmanager
def explained(what: str) -> Iterator[None]:
    """
    What fails at the Hub or on the way to it, as one sentence that says what to do. Silence is a failure too.

    Args:
        what (`str`): What is being written, for the sentence.

    Raises:
        PermissionError: if the token is not valid, or may not write.
        RuntimeError: if somebody else changed, deleted or renamed `what` meanwhile.
        ConnectionError: if the Hub cannot be reached, is busy or fails, after the retries of huggingface_hub.
    """
    session = get_session()
    patience, session.timeout = session.timeout, _PATIENCE
    try:
        yield
    except (HTTPError, RuntimeError) as error:
        # Of a large file the client says only which; why is the cause.
        cause = error.__cause__ if isinstance(error, RuntimeError) else error
        if not isinstance(cause, HTTPError):
            raise
        status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
        if status == 401:
            raise PermissionError(
                f"The Hub does not know the token of this machine: it is mistyped, expired or revoked. {_ADVICE}"
            ) from None
        if status == 403:
            reason = cause.response.headers.get("X-Error-Message", "no reason given")
            raise PermissionError(
                f"The Hub refuses {what} to the token of this machine ({reason[:200]}). The token may only read, the "
                f"branch is protected, or {what} is somebody else's: then choose another `repo_id`. {_ADVICE}"
            ) from None
        if status == 404:
            raise RuntimeError(
                f"The Hub does not find {what}, or what belongs to it: it was deleted or renamed meanwhile. "
                "Everything is still on this machine: repeat the same command."
            ) from None
        if status == 412:
            raise RuntimeError(
                f"{what} was changed by somebody else meanwhile. Nothing was written, and their change is kept: look "
                "at it, then repeat the same command."
            ) from None
        if status is None or status == 429 or status >= 500:
            reason = f"cannot be reached ({str(cause)[:200]})" if status is None else f"answers with status {status}"
            raise ConnectionError(
                f"The Hub {reason}, and {what} is perhaps not written. Everything is still on this machine: repeat "
                "the same command later, which sends what is missing."
            ) from None  # the addresses of uploads are keys to them
        raise
    finally:
        session.timeout = patience


def _whoami() -> dict:
    require_token()
    return HfApi().whoami()
