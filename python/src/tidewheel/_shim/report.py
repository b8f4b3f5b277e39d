"""What a failure looks like to the other side."""

from __future__ import annotations

import os

from ..errors import Cancelled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Optional

    from ..context import Context
    from ..options import Retry

#: Longest message and longest traceback; the rest is cut.
MAX_MESSAGE = 64 * 1024
MAX_TRACEBACK = 64 * 1024

_HERE = os.path.dirname(os.path.abspath(__file__))


def error_body(error: BaseException, retry: "Optional[Retry]", context: "Optional[Context]" = None) -> "Dict[str, Any]":
    """The `error` of a task_done frame."""
    cancelled_loop_task = type(error).__name__ == "CancelledError" and context is not None and context.cancel_reason
    if cancelled_loop_task:  # how the request reaches a coroutine that waits
        error = Cancelled(context.cancel_reason or "", code="cancelled")  # type: ignore[union-attr]
    message, trace = message_of(error), traceback_text(error)
    if context is not None:
        message, trace = context.redact(message), context.redact(trace)
    return {"type": type(error).__name__, "message": message, "traceback": trace, "retryable": retryable(error, retry)}


def retryable(error: BaseException, retry: "Optional[Retry]") -> bool:
    """The exception's own word first, then the task's policy, else yes."""
    own = getattr(error, "retryable", None)
    if isinstance(own, bool):
        return own
    return retry is None or retry.allows(error)


def message_of(error: BaseException) -> str:
    """The text of an exception, bounded; an exception's own `__str__` may fail too."""
    if isinstance(error, SystemExit):
        return f"the task called sys.exit({_cut(repr(error.code), 200)})"
    if isinstance(error, KeyboardInterrupt):
        return "the task was interrupted"
    try:
        text = str(error)
    except Exception as second:
        text = f"<no message: its __str__ raised {type(second).__name__}>"
    return sendable(text, MAX_MESSAGE)


def traceback_text(error: BaseException) -> str:
    """The traceback without the frames of the shim; bounded at its front, because the end says most."""
    import traceback

    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_HERE):
        trace = trace.tb_next
    try:
        lines = traceback.format_exception(type(error), error, trace)
        text = "".join(line for line in lines if not _ours(line))
    except Exception as second:  # a broken __str__, __repr__ or __cause__ of the user's
        text = f"<no traceback: formatting it raised {type(second).__name__}>"
    if len(text) > MAX_TRACEBACK:
        text = "...\n" + text[-MAX_TRACEBACK + 4 :]
    return sendable(text, MAX_TRACEBACK)


def _ours(line: str) -> bool:
    return line.startswith('  File "') and (_HERE in line or "<frozen importlib" in line)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def sendable(text: str, most: int) -> str:
    """The text as UTF-8 can carry it, in at most so many bytes."""
    data = text[:most].encode("utf-8", "backslashreplace")
    return text if len(text) <= most and len(data) <= most and text.isascii() else data[:most].decode("utf-8", "ignore")
