"""What a decorator or a submission may say, checked here once and brought into the form of the wire.

>>> submit_options(delay="1h30m", priority="high", labels={"customer": "acme"})
{'priority': 'high', 'delay': '1h30m', 'labels': {'customer': 'acme'}}
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import datetime as dt
    from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Type, Union

    Duration = Union[str, int, float, dt.timedelta]
    ErrorKinds = Sequence[Union[Type[BaseException], str]]

_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
# As texts: `re` keeps what it compiled, and a process that gives no durations does not load it.
_PLAIN = r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d|w))+\Z"
_PART = r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)"
_ISO = (
    r"P(?=\d|T\d)(?:(\d+(?:\.\d+)?)W)?(?:(\d+(?:\.\d+)?)D)?"
    r"(?:T(?=\d)(?:(\d+(?:\.\d+)?)H)?(?:(\d+(?:\.\d+)?)M)?(?:(\d+(?:\.\d+)?)S)?)?\Z"
)
_ISO_MS = (604_800_000, 86_400_000, 3_600_000, 60_000, 1_000)
_MEMORY = r"(?i)\d+(?:\.\d+)?\s*(?:[KMGT]i?B?|B)?\Z"
_RATE = r"(\d+)/(?:(\d+)?(s|m|h|d))\Z"
PRIORITIES = ("high", "medium", "low")
#: The server's bound on `max_attempts`.
MAX_ATTEMPTS = 1_000
#: The server's bound on the members of one batch.
MAX_BATCH = 1_000


def duration_ms(value: "Duration") -> int:
    """Milliseconds of a duration: text as on the wire, a number of seconds, or a timedelta.

    >>> duration_ms("1h30m"), duration_ms("PT5M"), duration_ms(2.5)
    (5400000, 300000, 2500)
    """
    if isinstance(value, str):
        import re

        text = value.strip()
        if re.match(_PLAIN, text):
            return round(sum(float(n) * _UNIT_MS[unit] for n, unit in re.findall(_PART, text)))
        iso = re.match(_ISO, text)
        if iso:
            return round(sum(float(n) * ms for n, ms in zip(iso.groups(), _ISO_MS) if n))
        raise ValueError(f"{value!r} is not a duration; write for example '500ms', '10s', '1h30m' or 'PT5M'")
    if hasattr(value, "total_seconds"):
        seconds = value.total_seconds()
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = value
    else:
        raise TypeError(f"a duration is a text, a number of seconds or a timedelta, not {type(value).__name__}")
    if not 0 <= seconds < 1e12:  # also refuses NaN
        raise ValueError(f"{value!r} is not a duration; it has to be zero or more")
    return round(seconds * 1000)


def duration(value: "Duration") -> str:
    """A duration as it is sent. Text stays as the author wrote it, so that it can be found again."""
    ms = duration_ms(value)
    return value.strip() if isinstance(value, str) else f"{ms}ms"


def priority(value: "Union[str, int]") -> "Union[str, int]":
    """Checks a priority: 0 to 9, 9 first, or a name."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 9:
        return value
    if value in PRIORITIES:
        return value
    raise ValueError(f"priority {value!r} is none of 0 to 9, 'high', 'medium', 'low'")


class Retry:
    """What happens after a failed attempt.

    ``max_attempts`` counts the first one too. ``on`` and ``no_retry`` hold exception classes (or their names) and decide
    on the worker, where the class hierarchy is known, whether an error may be retried at all.

    >>> policy = Retry(5, delay="2s", factor=2, max_delay="10s")
    >>> [policy.delay_ms(attempt) for attempt in (1, 2, 3, 4)]
    [2000, 4000, 8000, 10000]
    >>> Retry(on=(OSError,)).allows(ValueError("no"))
    False
    """

    __slots__ = ("max_attempts", "delay", "factor", "max_delay", "jitter", "on", "no_retry")

    def __init__(
        self,
        max_attempts: int = 3,
        *,
        delay: "Duration" = "1s",
        factor: float = 2.0,
        max_delay: "Optional[Duration]" = None,
        jitter: "Optional[Duration]" = None,
        on: "ErrorKinds" = (),
        no_retry: "ErrorKinds" = (),
    ) -> None:
        if not isinstance(max_attempts, int) or not 1 <= max_attempts <= MAX_ATTEMPTS:
            raise ValueError(f"max_attempts is {max_attempts!r}; it has to be 1 to {MAX_ATTEMPTS}")
        if not 1 <= factor <= 100:
            raise ValueError(f"factor is {factor!r}; it has to be 1 to 100 (1 keeps the delay constant)")
        self.max_attempts = max_attempts
        self.delay = duration(delay)
        self.factor = factor
        self.max_delay = None if max_delay is None else duration(max_delay)
        self.jitter = None if jitter is None else duration(jitter)
        self.on = _error_kinds("on", on)
        self.no_retry = _error_kinds("no_retry", no_retry)

    def allows(self, error: BaseException) -> bool:
        """Whether an error of this class may be retried."""
        if _is_one_of(error, self.no_retry):
            return False
        return not self.on or _is_one_of(error, self.on)

    def delay_ms(self, attempt: int) -> int:
        """The wait after the given failed attempt, without jitter."""
        limit = duration_ms(self.max_delay) if self.max_delay is not None else 3_600_000
        # The exponent is bounded before it is used: 2.0 ** 1000 is fine, 100.0 ** 1000 is an OverflowError.
        growth = self.factor ** min(attempt - 1, 64)
        return int(min(duration_ms(self.delay) * growth, limit))

    def wire(self) -> "Dict[str, Any]":
        """As in a submission. `on` and `no_retry` stay here: the server sees names only and would miss subclasses."""
        body: "Dict[str, Any]" = {
            "max_attempts": self.max_attempts,
            "delay": self.delay,
            "backoff": "constant" if self.factor == 1 else "exponential",
        }
        if self.factor != 1:
            body["factor"] = self.factor
        if self.max_delay is not None:
            body["max_delay"] = self.max_delay
        if self.jitter is not None:
            body["jitter"] = self.jitter
        return body

    def __repr__(self) -> str:
        return f"Retry({self.max_attempts}, delay={self.delay!r}, factor={self.factor!r})"


class Batch:
    """Calls are handed over together: at most ``size`` of them, or what came within ``wait``.

    >>> Batch(100, "1s").wire()
    {'size': 100, 'wait': '1s'}
    """

    __slots__ = ("size", "wait")

    def __init__(self, size: int, wait: "Duration" = "1s") -> None:
        if not isinstance(size, int) or not 1 <= size <= MAX_BATCH:
            raise ValueError(f"a batch has 1 to {MAX_BATCH} members, not {size!r}")
        self.size = size
        self.wait = duration(wait)

    def wire(self) -> "Dict[str, Any]":
        return {"size": self.size, "wait": self.wait}

    def __repr__(self) -> str:
        return f"Batch({self.size}, {self.wait!r})"


def retry_policy(value: "Union[None, int, Retry, Mapping[str, Any]]") -> "Optional[Retry]":
    """A policy from what a decorator or a submission gave; a bare number is a number of attempts."""
    if value is None or isinstance(value, Retry):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return Retry(value)
    raise TypeError(f"retry is a Retry or a number of attempts, not {type(value).__name__}")


def timeouts(value: "Union[Duration, Mapping[str, Duration]]") -> "Dict[str, str]":
    """The limits of a task's stages. A bare duration is the limit of one attempt.

    >>> timeouts("10m"), timeouts({"queue": "1h", "heartbeat": 30})
    ({'run': '10m'}, {'queue': '1h', 'heartbeat': '30000ms'})
    """
    if not isinstance(value, dict):
        return {"run": duration(value)}  # type: ignore[arg-type]
    for stage in value:
        if stage not in ("queue", "start", "run", "heartbeat"):
            raise ValueError(f"timeout has no stage {stage!r}; there are queue, start, run and heartbeat")
    return {stage: duration(limit) for stage, limit in value.items()}


def rate(value: str) -> str:
    """Checks a rate such as ``100/m`` or ``5/10s``."""
    import re

    match = re.match(_RATE, value) if isinstance(value, str) else None
    if not match or int(match.group(1)) < 1:
        raise ValueError(f"{value!r} is not a rate; write for example '100/m' or '5/10s'")
    return value


def resources(cpu: "Optional[float]", memory: "Union[None, str, int]", kind: "Optional[str]") -> "Dict[str, Any]":
    """What a task needs of a worker."""
    needs: "Dict[str, Any]" = {}
    if kind is not None:
        needs["class"] = kind
    if cpu is not None:
        if isinstance(cpu, bool) or not 0 < cpu <= 4096:
            raise ValueError(f"cpu is {cpu!r}; it is a number of cores above 0")
        needs["cpu"] = cpu
    if memory is not None:
        import re

        if isinstance(memory, bool) or not (isinstance(memory, int) and memory > 0 or isinstance(memory, str) and re.match(_MEMORY, memory)):
            raise ValueError(f"memory is {memory!r}; write for example '512MB', '4Gi' or a number of bytes")
        needs["memory"] = memory
    return needs


_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def bytes_of(value: "Union[str, int]") -> int:
    """A size in bytes, as the server reads it: `M` and `MiB` are powers of 1,024, `MB` of 1,000.

    >>> bytes_of("512MB"), bytes_of("1.5 Gi"), bytes_of(7)
    (512000000, 1610612736, 7)
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    import re

    match = re.match(r"(?i)(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)(B?)\Z", value.strip()) if isinstance(value, str) else None
    if not match:
        raise ValueError(f"memory is {value!r}; write for example '512MB', '4Gi' or a number of bytes")
    number, unit, binary, byte = match.groups()
    base = 1_000 if unit and byte and not binary else 1_024
    scale: int = base ** _POWERS[unit.lower()]
    return round(float(number) * scale)


def labels(value: "Mapping[str, Any]", name: str = "labels") -> "Dict[str, str]":
    """Labels are texts on both sides; numbers and truth values are written out."""
    out = {}
    for key, item in dict(value).items():
        if not isinstance(key, str):
            raise TypeError(f"{name} has the key {key!r}; keys are texts")
        if isinstance(item, bool):
            item = "true" if item else "false"
        if not isinstance(item, (str, int, float)):
            raise TypeError(f"{name}[{key!r}] is {type(item).__name__}; values are texts")
        out[key] = str(item)
    return out


def run_at(value: "Any") -> str:
    """A time as RFC 3339 in UTC; a datetime without a zone is refused, because nobody knows what it means elsewhere."""
    if isinstance(value, str):
        return value
    if not hasattr(value, "astimezone"):
        raise TypeError(f"run_at is a datetime or an RFC 3339 text, not {type(value).__name__}")
    if value.tzinfo is None:
        raise ValueError("run_at has no time zone; use for example datetime.now(timezone.utc)")
    from datetime import timezone

    return str(value.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z"))


def names(value: "Any") -> "List[str]":
    """A list of texts; one alone is a list of one.

    >>> names("set-1"), names(("a", "b"))
    (['set-1'], ['a', 'b'])
    """
    return [value] if isinstance(value, str) else [str(item) for item in value]


#: Every option of a submission, in the order of the reference, with what checks and converts it.
_SUBMIT: "Dict[str, Callable[[Any], Any]]" = {
    "queue": str,
    "priority": priority,
    "run_at": run_at,
    "delay": duration,
    "ttl": duration,
    "timeout": timeouts,
    "retry": lambda value: dict(value) if isinstance(value, dict) else retry_policy(value).wire(),  # type: ignore[union-attr]
    "key": str,
    "concurrency_key": str,
    "concurrency_limit": int,
    "affinity_key": str,
    "expected_duration": duration,
    "near": names,
    "requires": dict,
    "resources": dict,
    "batchable": bool,
    "labels": labels,
    "correlation_id": str,
    "workflow_id": str,
    "package": str,
    "idempotency_key": str,
}
SUBMIT_OPTIONS = frozenset(_SUBMIT)


def submit_options(**options: "Any") -> "Dict[str, Any]":
    """The options of one submission as they are sent; what is None is left out."""
    for name in options:
        if name not in _SUBMIT:
            from difflib import get_close_matches

            near = get_close_matches(name, _SUBMIT, 1)
            raise TypeError(f"there is no option {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return {name: check(options[name]) for name, check in _SUBMIT.items() if options.get(name) is not None}


def member_keys(shared: "Optional[str]", each: "Optional[Iterable[str]]", count: int) -> "List[Optional[str]]":
    """Idempotency keys of submissions that go together: ``each`` names them, or they follow from the one they ``shared``.

    >>> member_keys("import-7", None, 2), member_keys(None, ["a", "b"], 2), member_keys(None, None, 2)
    (['import-7:0', 'import-7:1'], ['a', 'b'], [None, None])
    """
    if each is None:
        # One key for all would make one task of them.
        return [None if shared is None else f"{shared}:{i}" for i in range(count)]
    if shared is not None:
        raise ValueError("idempotency_key and idempotency_keys are given both")
    if isinstance(each, str):
        raise TypeError("idempotency_keys is a text; it has to be one text per call (idempotency_key is for all of them)")
    keys: "List[Optional[str]]" = list(each)
    if len(keys) != count:
        raise ValueError(f"there are {len(keys)} idempotency_keys for {count} calls")
    for key in keys:
        if not isinstance(key, str) or not key:
            raise TypeError(f"idempotency_keys holds {key!r}; a key is a text that is not empty")
    if len(set(keys)) != count:
        raise ValueError("idempotency_keys names a key twice; the calls with it would be one task")
    return keys


def _error_kinds(name: str, kinds: "ErrorKinds") -> "Tuple[Union[Type[BaseException], str], ...]":
    if isinstance(kinds, (str, type)):
        kinds = (kinds,)
    for kind in kinds:
        if not (isinstance(kind, str) or isinstance(kind, type) and issubclass(kind, BaseException)):
            raise TypeError(f"{name} holds {kind!r}, which is neither an exception class nor the name of one")
    return tuple(kinds)


def _is_one_of(error: BaseException, kinds: "Tuple[Union[Type[BaseException], str], ...]") -> bool:
    names = None
    for kind in kinds:
        if isinstance(kind, str):
            names = names or {base.__name__ for base in type(error).__mro__}
            if kind in names:
                return True
        elif isinstance(error, kind):
            return True
    return False
