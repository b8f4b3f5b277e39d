"""The four levels of a log, for tasks (`ctx.log`) and for workflows (`wf.log`) alike."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict


class Levels:
    """Lines with fields. Fields have to be plain values; others are written as text."""

    __slots__ = ()

    def _write(self, level: str, msg: object, fields: "Dict[str, Any]") -> None:
        raise NotImplementedError

    def debug(self, msg: object, /, **fields: "Any") -> None:
        """For whoever looks for a fault."""
        self._write("debug", msg, fields)

    def info(self, msg: object, /, **fields: "Any") -> None:
        """The normal course of things."""
        self._write("info", msg, fields)

    def warning(self, msg: object, /, **fields: "Any") -> None:
        """Something to look at; the work goes on."""
        self._write("warning", msg, fields)

    def error(self, msg: object, /, **fields: "Any") -> None:
        """Something went wrong."""
        self._write("error", msg, fields)
