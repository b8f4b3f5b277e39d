"""Which modules hold tasks, and importing them.

A folder says so itself (`[tool.tidewheel] modules = [...]` in its pyproject.toml); else every module below it that mentions
this package is taken. A module that never names it cannot define a task, and importing it might do anything.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Callable, Iterator, List, Optional, Tuple

# Never a package's own code.
_SKIP = {"tests", "test", "build", "dist", "node_modules", "venv", "site-packages", "__pycache__", "docs"}
_NOT_TASKS = ("setup", "conftest", "__main__")
#: Bound on the files looked at, so that a wrong folder ends with a message instead of a long silence.
MAX_FILES = 20_000


class LoadError(Exception):
    """A module cannot be imported, or there is nothing to import."""

    def __init__(self, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


def add_paths(paths: "List[str]") -> None:
    """Puts folders in front of the module search path, in their order."""
    for path in reversed([os.path.abspath(p) for p in paths if p]):
        if path in sys.path:
            sys.path.remove(path)
        sys.path.insert(0, path)


def modules_of(folder: str) -> "List[str]":
    """The modules of a folder, which is put on the search path (with its `src`, where there is one)."""
    if not os.path.isdir(folder):
        raise LoadError(f"there is no folder {folder}")
    source = os.path.join(folder, "src")
    roots = [source, folder] if os.path.isdir(source) else [folder]
    add_paths(roots)
    named = _named_modules(folder)
    if named is not None:
        return named
    found: "List[str]" = []
    for root in roots:
        for name in _below(root, "", [MAX_FILES]):
            if name not in found and not (root is folder and name.split(".")[0] == "src" and len(roots) > 1):
                found.append(name)
    return found


def _named_modules(folder: str) -> "Optional[List[str]]":
    try:
        with open(os.path.join(folder, "pyproject.toml"), "rb") as file:
            text = file.read().decode("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"{os.path.join(folder, 'pyproject.toml')}: {error}") from None
    try:
        import tomllib
    except ImportError:  # before Python 3.11
        return _modules_by_hand(text)
    try:
        names = tomllib.loads(text).get("tool", {}).get("tidewheel", {}).get("modules")
    except tomllib.TOMLDecodeError as error:
        raise LoadError(f"{os.path.join(folder, 'pyproject.toml')}: {error}") from None
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise LoadError(f"{os.path.join(folder, 'pyproject.toml')}: tool.tidewheel.modules has to be a list of module names")
    return names


def _modules_by_hand(text: str) -> "Optional[List[str]]":
    """The one entry we need of a TOML file, for versions of Python that do not read TOML.

    >>> _modules_by_hand('[tool.tidewheel]\\nmodules = [\\n  "a.b",  # first\\n  \\'c\\',\\n]\\n[other]')
    ['a.b', 'c']
    """
    import re

    section = re.search(r"^\[\s*tool\.tidewheel\s*\][^\n]*\n(.*?)(?=^\[|\Z)", text, re.MULTILINE | re.DOTALL)
    entry = section and re.search(r"^\s*modules\s*=\s*\[(.*?)\]", section.group(1), re.MULTILINE | re.DOTALL)
    if not entry:
        return None
    return [a or b for a, b in re.findall(r"\"([^\"\n]*)\"|'([^'\n]*)'", re.sub(r"#[^\n]*", "", entry.group(1)))]


def _below(folder: str, prefix: str, left: "List[int]") -> "Iterator[str]":
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        left[0] -= 1
        if left[0] < 0:
            raise LoadError(f"more than {MAX_FILES} files below the folder; name the modules in [tool.tidewheel] of pyproject.toml")
        if name.endswith(".py"):
            stem = name[:-3]
            if not stem.isidentifier() or _is_no_task_file(stem) or not _mentions_us(path):
                continue
            if stem == "__init__":
                if prefix:
                    yield prefix[:-1]
            else:
                yield prefix + stem
        elif name.isidentifier() and name not in _SKIP and not os.path.islink(path) and os.path.isfile(os.path.join(path, "__init__.py")):
            yield from _below(path, prefix + name + ".", left)


def _is_no_task_file(stem: str) -> bool:
    return stem in _NOT_TASKS or stem.startswith("test_") or stem.endswith("_test")


def _mentions_us(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return b"tidewheel" in file.read()
    except OSError:
        return False


def import_all(names: "List[str]", importing: "Optional[Callable[[str], None]]" = None) -> None:
    """Imports modules in order, telling each beforehand; raises `LoadError` with file and line of the first that fails."""
    from importlib import import_module

    for name in names:
        if importing is not None:
            importing(name)
        try:
            import_module(name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit too: a module that exits cannot be served
            raise LoadError(_describe(name, error), _trimmed(error)) from None


def _describe(name: str, error: BaseException) -> str:
    where = (error.filename, error.lineno) if isinstance(error, SyntaxError) and error.filename else _last_place(error.__traceback__)
    text = f"{type(error).__name__}: {error}"
    return f"{where[0]}:{where[1]}: {text}" if where else f"module {name!r}: {text}"


def _last_place(traceback: "Optional[TracebackType]") -> "Optional[Tuple[str, int]]":
    """The innermost frame that belongs to the user: not importlib's, and not this package's."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    place = None
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if not file.startswith("<frozen") and not file.startswith(here) and "importlib" not in file:
            place = (file, traceback.tb_lineno)
        traceback = traceback.tb_next
    return place


def _trimmed(error: BaseException) -> str:
    from .report import traceback_text

    return traceback_text(error)
