"""What the Hub client raises, for people (one line that says what to do) and for retries (whether one may help)."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .text import first_line, short

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN (which comes first)"
TOKENS = "https://huggingface.co/settings/tokens"
# A time-out, another request in conflict, a commit in between, too early, too many: gone at the next attempt, maybe.
TRANSIENT_STATUS = {408, 409, 412, 425, 429}


class HubError(OSError):
    """The Hub or its client has failed; the message is what `explain` says of it."""


@contextmanager
def explained(repo_id: str, repo_type: str = "model") -> Iterator[None]:
    """Turns what the client raises into `HubError`; arguments as for `explain`."""
    try:
        yield
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, RuntimeError) as error:
        raise HubError(explain(error, repo_id, repo_type)) from error


def explain(error: Exception, repo_id: str, repo_type: str = "model") -> str:
    """One line on why the Hub or its client failed and what to do. It never holds a token.

    Args:
        error: what the client raised, on any call and over Xet or LFS.
        repo_id: the repository that was meant.
        repo_type: "model" or "dataset".
    """
    name = short(repo_id)[1:-1]  # without control characters, which a mistyped name may hold
    return f"{name}: {_reason(_root(error), name.split('/')[0], repo_type)}"


def is_transient(error: Exception) -> bool:
    """Whether a new attempt, with operations made anew, may succeed where this one failed.

    So it is with refused and lost connections, time-outs, answers that are cut or no JSON, 5xx, `TRANSIENT_STATUS`, and
    whatever storage and hf_xet say. Not with offline mode: it is a setting, and stays until the process ends.
    """
    root = _root(error)
    if (status := _status(root)) is not None:
        # Storage says 403 to an address that has expired; a new attempt is given a new one.
        return status >= 500 or status in TRANSIENT_STATUS or _is_from_storage(root)
    if isinstance(root, OfflineModeIsEnabled | httpx2.LocalProtocolError | httpx2.UnsupportedProtocol):
        return False
    if _is_from_xet(root):
        return True
    network = httpx2.TransportError | httpx2.DecodingError | ConnectionError | TimeoutError
    # hf_xet says RuntimeError where it has no better word.
    return isinstance(root, network | JSONDecodeError | RuntimeError)


def _reason(error: BaseException, owner: str, repo_type: str) -> str:
    status, said = _status(error), _said(error)
    match error:
        case HFValidationError():
            allowed = "letters, digits, '-', '_' and '.', at most 96 of them, without '--', '..' or a '.git' at the end"
            return f"cannot be the name of a {repo_type}; 'owner/name' it must be, each part of {allowed}"
        case LocalTokenNotFoundError():
            return f"not logged in to the Hub; {LOG_IN}"
        case httpx2.LocalProtocolError() | UnicodeEncodeError():  # its message would show the token
            return f"the token holds characters that no token has; {LOG_IN}"
        case OfflineModeIsEnabled():
            return "the Hub is not asked in offline mode; unset HF_HUB_OFFLINE"
        case httpx2.HTTPError() if status == 401 and not _token_sent(error):
            return f"not logged in to the Hub; {LOG_IN}"
        case RevisionNotFoundError():
            return f"there is no such branch or commit{said}"
        case RepositoryNotFoundError():
            return f"no such {repo_type} on the Hub, or not one that your token may see; check the name and the token"
    if status is not None and _is_from_storage(error):
        return f"the storage of the Hub is out of order (status {status}); try again later"
    if status is not None:
        return _reason_of_status(status, said, owner)
    hub = urlsplit(constants.ENDPOINT).netloc.rpartition("@")[2]
    again = "check the network and try again"
    match error:
        case httpx2.ConnectTimeout() | httpx2.ConnectError() | httpx2.ProxyError() | httpx2.UnsupportedProtocol():
            return f"the Hub cannot be reached at {hub}{said}; check the network, and HF_ENDPOINT if you have set it"
        case httpx2.TimeoutException() | TimeoutError():
            return f"the Hub at {hub} did not answer in time; {again}"
        case httpx2.TransportError() | httpx2.DecodingError() | ConnectionError():
            return f"the connection to the Hub at {hub} broke off; {again}"
        case JSONDecodeError():
            return f"the Hub at {hub} answered with something else than JSON; try again later"
    return said[2:-1] or type(error).__name__


def _reason_of_status(status: int, said: str, owner: str) -> str:
    if status == 401:
        return f"the Hub does not accept the token: expired, revoked or mistyped; make one at {TOKENS} and {LOG_IN}"
    if status == 403:
        scope = f'"Write access to contents/settings of all repos" for {owner}'
        return f'the token has no write access{said}; it needs the role "write", or, fine-grained, {scope} ({TOKENS})'
    if status in (409, 412):
        return f"somebody else is changing it at the same time{said}; try again"
    if status == 429:
        return "the Hub has had too many requests from you; try again later"
    if status == 408 or status >= 500:
        return f"the Hub is out of order (status {status}); try again later"
    return f"the Hub refuses it with status {status}{said}"


def _root(error: BaseException) -> BaseException:
    """The error of the request, where the client raised another one that only says what the request was for."""
    while not isinstance(error, httpx2.HTTPError):
        if not isinstance(error.__cause__, httpx2.HTTPError | ConnectionError):
            break
        error = error.__cause__
    return error


def _status(error: BaseException) -> int | None:
    """The status that was answered, if any was; hf_xet tells it in words only."""
    if (response := getattr(error, "response", None)) is not None:
        return response.status_code
    words = re.search(r"HTTP status (?:client|server) error \((\d{3})", str(error))
    return int(words[1]) if words and isinstance(error, ConnectionError) else None


def _said(error: BaseException) -> str:
    """What the server, or else the error, has to say: " (…)", or nothing."""
    if (response := getattr(error, "response", None)) is not None:
        text = getattr(error, "server_message", None) or ""
        secret = response.request.headers.get("Authorization", "").removeprefix("Bearer ")
    else:
        text, secret = first_line(error), ""
    for token in filter(None, (secret, get_token())):
        text = text.replace(token, "hf_…")
    text = re.sub(r"\bhf_[A-Za-z0-9]{30,}", "hf_…", next(iter(text.strip().splitlines()), ""))
    return f" ({text[:200].rstrip('.')})" if text else ""


def _token_sent(error: httpx2.HTTPError) -> bool:
    return "Authorization" in error.response.request.headers


def _is_from_storage(error: BaseException) -> bool:
    """Whether not the Hub itself answered, but the storage behind it, to which it sends for large files."""
    response = getattr(error, "response", None)
    return response is not None and response.url.netloc != httpx2.URL(constants.ENDPOINT).netloc


def _is_from_xet(error: BaseException) -> bool:
    """Among them: the storage's own token was refused, which a new attempt asks for anew."""
    return type(error).__module__.partition(".")[0] == "hf_xet"
