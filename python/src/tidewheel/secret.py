"""A value that must not be shown."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_MASK = "Secret(***)"


class Secret:
    """Holds a value that never appears in text, logs, results or pickles. ``reveal()`` is the one way to it.

    >>> login = Secret({"user": "ann", "password": "hunter22"})
    >>> print(login, f"{login}", login["password"])
    Secret(***) Secret(***) Secret(***)
    >>> login["user"].reveal()
    'ann'
    """

    __slots__ = ("__value",)

    def __init__(self, value: "Any") -> None:
        self.__value = value

    def reveal(self) -> "Any":
        """The value itself. Keep it close: pass it on, do not store it."""
        return self.__value

    def __getitem__(self, key: "Any") -> "Secret":
        return Secret(self.__value[key])

    def __repr__(self) -> str:
        return _MASK

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return _MASK

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        left, right = self.__value, other.__value
        if isinstance(left, str) and isinstance(right, str):
            import hmac  # a comparison that takes as long for a near miss as for a far one

            return hmac.compare_digest(left.encode(), right.encode())
        return bool(left == right)

    __hash__ = None  # type: ignore[assignment]  # a hash would tell whether two are equal

    def __reduce_ex__(self, protocol: "Any") -> "NoReturn":
        raise TypeError("a Secret cannot be pickled or copied")
