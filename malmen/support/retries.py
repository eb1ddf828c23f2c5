"""Downloads that fail are tried again where that may help, later each time."""

import errno
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

import tenacity
from httpx2 import DecodingError, HTTPError, HTTPStatusError, TransportError
from huggingface_hub.errors import HfHubHTTPError

__all__ = [
    "ATTEMPTS",
    "FAILURES",
    "CorruptedError",
    "UnavailableError",
    "cause",
    "is_of_disk",
    "persistently",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")

ATTEMPTS = 6
ATTEMPTS_AT_CORRUPTED = 2  # a place that holds another file will send it again
LONGEST_WAIT = 300.0
"""Seconds; a server that wants longer is left alone."""

_BACKOFF = tenacity.wait_exponential_jitter(initial=1, max=60)


class CorruptedError(Exception):
    """Report that a file has arrived which is not the one that was asked for."""


class UnavailableError(Exception):
    """Report that a place does not have a file, or gives it to nobody."""


FAILURES = (HTTPError, OSError, CorruptedError, UnavailableError)
"""What may go wrong in a download."""


def persistently(action: Callable[[], T], *, what: str) -> T:
    """Return what ``action`` returns, trying it again as long as that may help.

    Cut and refused connections, time-outs, statuses 408, 429 and 5xx pass with time, and are tried
    :data:`ATTEMPTS` times, at intervals that double, or as long as the server's ``Retry-After``
    says. A corrupted file is tried once more. ``what`` names it in the log.

    Raises:
        Exception: that of the last attempt, one of :data:`FAILURES` or a fault of ``action``.
    """
    corrupted = 0

    def is_hopeless(state: tenacity.RetryCallState) -> bool:
        nonlocal corrupted
        error = _error(state)
        corrupted += isinstance(error, CorruptedError)
        return (
            state.attempt_number >= ATTEMPTS
            or corrupted >= ATTEMPTS_AT_CORRUPTED
            or _retry_after(error) > LONGEST_WAIT
        )

    def report(state: tenacity.RetryCallState) -> None:
        error, wait = _error(state), state.upcoming_sleep
        logger.warning("%s: %s; again in %.0f s", what, cause(error), wait)

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_may_pass),
        wait=lambda state: max(_BACKOFF(state), _retry_after(_error(state))),
        stop=is_hopeless,
        before_sleep=report,
        reraise=True,
    )
    return retrying(action)


def cause(error: BaseException) -> str:
    """Return on one line what went wrong."""
    if isinstance(error, HTTPStatusError | HfHubHTTPError):
        status = f"{error.response.status_code} {error.response.reason_phrase}".strip()
        return f"status {status} of {error.response.url}"
    text = " ".join(str(error).split())
    return text or type(error).__name__


def is_of_disk(error: BaseException) -> bool:
    """Tell whether a failure is one of this machine's disk, which no other server mends."""
    if not isinstance(error, OSError):
        return False
    return error.filename is not None or error.errno in (errno.ENOSPC, errno.EDQUOT)


def _error(state: tenacity.RetryCallState) -> BaseException:
    error = state.outcome.exception() if state.outcome else None
    assert error is not None  # only failed attempts are followed by others
    return error


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, HTTPStatusError | HfHubHTTPError):
        status = error.response.status_code
        return status in (408, 429) or status >= 500
    passing = isinstance(error, TransportError | DecodingError | CorruptedError | OSError)
    return passing and not is_of_disk(error)


def _retry_after(error: BaseException) -> float:
    """Return for how many seconds the server wants to be left alone; 0 if it does not say."""
    if not isinstance(error, HTTPStatusError | HfHubHTTPError):
        return 0.0
    value = error.response.headers.get("Retry-After", "")
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # no date, or one without a time zone
        return 0.0
