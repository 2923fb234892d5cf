"""Errors of the Hub client: one helpful line for people, and whether a retry may succeed."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import (
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .text import first_line, short

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN (it takes precedence)"
TOKENS = "https://huggingface.co/settings/tokens"


class HubError(OSError):
    """A request to the Hub failed. The message comes from `explain`."""


@contextmanager
def explained(repo_id: str, repo_type: str = "model") -> Iterator[None]:
    """Turn errors of the Hub client into `HubError`."""
    try:
        yield
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, RuntimeError) as error:
        raise HubError(explain(error, repo_id, repo_type)) from error


def check_reachable(name: str, repo_type: str = "model") -> None:
    """Raise a `HubError` if a repository is not in the cache, and the Hub cannot be reached.

    Commands call it before they import torch, which takes seconds. Anything else that is wrong is left to them.
    """
    if Path(constants.HF_HUB_CACHE, f"{repo_type}s--{name.replace('/', '--')}").exists():
        return
    try:
        HfApi().repo_info(name, repo_type=repo_type)  # a single request; functions that load files would try many times
    except httpx2.TransportError as error:
        raise HubError(explain(error, name, repo_type).replace(": ", ": no such file or folder; ", 1)) from error
    except (httpx2.HTTPError, OSError, ValueError, RuntimeError):
        return


def explain(error: Exception, repo_id: str, repo_type: str = "model") -> str:
    """Return one line that says why a request failed and what to do. It never contains a token."""
    name = short(repo_id)[1:-1]  # repr() escapes control characters in a mistyped name
    return f"{name}: {_diagnose(error, name.split('/')[0], repo_type)[0]}"


def is_transient(error: Exception) -> bool:
    """Return whether another attempt, with new commit operations, may succeed."""
    return _diagnose(error)[1]


def _diagnose(error: BaseException, owner: str = "", repo_type: str = "model") -> tuple[str, bool]:
    """Return why a request failed, and whether another attempt may succeed."""
    while not isinstance(error, httpx2.HTTPError) and isinstance(error.__cause__, httpx2.HTTPError | ConnectionError):
        error = error.__cause__  # the client has wrapped the error of the request
    status, detail, response = _status(error), _detail(error), getattr(error, "response", None)
    is_from_storage = response is not None and response.url.netloc != httpx2.URL(constants.ENDPOINT).netloc
    hub = urlsplit(constants.ENDPOINT).netloc.rpartition("@")[2]
    unreachable = f"cannot reach the Hub at {hub}{detail}; check the network, and HF_ENDPOINT if you have set it"
    match error:
        case HFValidationError():
            rules = "letters, digits, '-', '_' and '.', up to 96 characters, no '--' or '..', no '.git' at the end"
            return f"not a valid {repo_type} name; use 'owner/name', each part made of {rules}", False
        case LocalTokenNotFoundError():
            return f"not logged in to the Hub; {LOG_IN}", False
        case httpx2.LocalProtocolError() | UnicodeEncodeError():  # their messages contain the token
            return f"the token contains invalid characters; {LOG_IN}", False
        case OfflineModeIsEnabled():
            return "the Hub cannot be used in offline mode; unset HF_HUB_OFFLINE", False
        case httpx2.HTTPError() if status == 401 and "Authorization" not in response.request.headers:
            return f"not logged in to the Hub; {LOG_IN}", False
        case RevisionNotFoundError():
            return f"branch or commit not found{detail}", False
        case RepositoryNotFoundError():
            missing = f"{repo_type} not found on the Hub, or not visible to your token"
            return f"{missing}; check the name and the token", False
        # The storage answers 403 if an upload address has expired. The next attempt gets a new one.
        case _ if status is not None and (status >= 500 or status in (408, 429) or is_from_storage):
            return f"the Hub is not working, or busy (status {status}); try again later", True
        case _ if status in (409, 412):
            return f"someone else is changing the repository right now{detail}; try again", True
        case _ if status == 401:
            reason = "the Hub rejected the token (expired, revoked or mistyped)"
            return f"{reason}; create one at {TOKENS} and {LOG_IN}", False
        case _ if status == 403:
            scope = f'"Write access to contents/settings of all repos" for {owner}'
            needed = f'the role "write" or, if fine-grained, {scope} ({TOKENS})'
            return f"the token has no write access{detail}; it needs {needed}", False
        case _ if status is not None:
            return f"the Hub refused the request with status {status}{detail}", False
        case httpx2.UnsupportedProtocol():
            return unreachable, False
        case httpx2.ConnectTimeout() | httpx2.ConnectError() | httpx2.ProxyError():
            return unreachable, True
        case httpx2.TransportError() | httpx2.DecodingError() | ConnectionError() | TimeoutError():
            return f"lost the connection to the Hub at {hub}; check the network and try again", True
        case JSONDecodeError():
            return f"the answer of the Hub at {hub} is not JSON; try again later", True
    is_from_xet = isinstance(error, RuntimeError) or type(error).__module__.partition(".")[0] == "hf_xet"
    return detail[2:-1] or type(error).__name__, is_from_xet


def _status(error: BaseException) -> int | None:
    """Return the HTTP status of the answer, if there was one. hf_xet gives it only in its message."""
    if (response := getattr(error, "response", None)) is not None:
        return response.status_code
    words = re.search(r"HTTP status (?:client|server) error \((\d{3})", str(error))
    return int(words[1]) if words and isinstance(error, ConnectionError) else None


def _detail(error: BaseException) -> str:
    """Return the message of the server, or else of the error, as " (...)" without tokens; "" if there is none."""
    has_answer = getattr(error, "response", None) is not None
    text = (getattr(error, "server_message", None) or "") if has_answer else first_line(error)
    tokens = "|".join([*map(re.escape, filter(None, [get_token()])), "hf_[A-Za-z0-9]{30,}"])
    text = re.sub(tokens, "hf_…", next(iter(text.strip().splitlines()), ""))
    return f" ({text[:200].rstrip('.')})" if text else ""
