"""``python -m tidewheel._shim``: what the agent starts.

Options: ``--modules a,b`` or ``--dir DIR`` say what to import (else the environment's TIDEWHEEL_MODULES does), ``--describe``
prints the manifest and ends, ``--replay FILE`` checks the workflows against histories of runs (one per line), prints what came of each, and
ends. With ``--steps`` these two also print, a JSON object a line, which module is imported next (``{"importing": "a"}``, then null) and why the code
cannot be served (``{"refused": {"message", "traceback"}}``): who reads them can tell what ended the process. Environment: TIDEWHEEL_FD (the socket), TIDEWHEEL_PROTO (1), TIDEWHEEL_PATH (folders for the
module search path), TIDEWHEEL_SLOTS (tasks at a time, 1), TIDEWHEEL_PARKED (programs that may wait in it), TIDEWHEEL_ARTIFACTS (folder for artifacts given as bytes).

Exit codes: 0 drained or the agent is gone, 2 wrong call, 3 a module cannot be loaded, 70 the protocol was broken.
"""

from __future__ import annotations

import os
import sys

from .._version import PROTOCOL, __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Tuple

    from .registered import Offer

EXIT_USAGE = 2
EXIT_LOAD = 3
MAX_SLOTS = 1_000


def main(arguments: "List[str]") -> int:
    try:
        options = _parse(arguments)
    except ValueError as error:
        print(f"tidewheel._shim: {error}", file=sys.stderr)
        return EXIT_USAGE
    if "--replay" in options:
        return _replay(options)
    return _describe(options) if "--describe" in options else _serve(options)


def _parse(arguments: "List[str]") -> "Dict[str, str]":
    options: "Dict[str, str]" = {}
    rest = list(arguments)
    while rest:
        name, found, value = rest.pop(0).partition("=")
        if name in ("--describe", "--steps") and not found:
            options[name] = "yes"
        elif name in ("--modules", "--dir", "--replay"):
            if not found and not rest:
                raise ValueError(f"{name} needs a value")
            options[name] = value if found else rest.pop(0)
        else:
            raise ValueError(f"unknown option {name}; there are --modules a,b, --dir DIR, --describe, --replay FILE and --steps")
    return options


def _load(options: "Dict[str, str]", importing: "Optional[Callable[[str], None]]" = None) -> "Offer":
    """Imports what is to be served; its tasks and workflows by function. Raises LoadError. `importing` is told each module before it is."""
    from . import discover
    from .registered import ManifestError, everything

    # `-m` puts the working folder in front, where a file of the user's could hide a module of the standard library.
    if not getattr(sys.flags, "safe_path", False) and sys.path and sys.path[0] in ("", os.getcwd()):
        del sys.path[0]
    discover.add_paths(os.environ.get("TIDEWHEEL_PATH", "").split(os.pathsep))
    names = options.get("--modules", os.environ.get("TIDEWHEEL_MODULES", ""))
    modules = [name.strip() for name in names.split(",") if name.strip()]
    if "--dir" in options:
        below = discover.modules_of(os.path.abspath(options["--dir"]))
        modules = modules or below
    if not modules:
        raise discover.LoadError(
            f"no module below {options['--dir']} uses tidewheel" if "--dir" in options
            else "no modules are named: give --modules, --dir or TIDEWHEEL_MODULES"
        )
    discover.import_all(modules, importing)
    try:
        found = everything()
    except ManifestError as error:
        raise discover.LoadError(str(error)) from None
    if not found:
        raise discover.LoadError(f"there is no @task or @workflow in {', '.join(modules)}")
    return found


class _Answer:
    """The standard output, for the answer alone: what the code prints goes to the standard error from here on."""

    def __init__(self, options: "Dict[str, str]") -> None:
        # Before the code is there, which may hide a module that this needs.
        from ..encode import dump_bytes

        self._dump = dump_bytes
        self._steps = "--steps" in options
        self._file = os.fdopen(os.dup(1), "wb", 0)
        os.dup2(2, 1)

    def load(self, options: "Dict[str, str]") -> "Offer":
        """Imports the code. Raises LoadError."""
        found = _load(options, self._importing if self._steps else None)
        if self._steps:
            self._importing(None)
        return found

    def _importing(self, module: "Optional[str]") -> None:
        self.line({"importing": module})

    def refuse(self, error: "Exception") -> int:
        """Tells why there is no answer; the exit code."""
        trace = getattr(error, "traceback", "")
        sys.stdout.flush()
        if self._steps:
            self.line({"refused": {"message": str(error), "traceback": trace}})
        else:
            print(error, file=sys.stderr)
            if trace:
                print(trace, file=sys.stderr)
        return EXIT_LOAD

    def line(self, value: "Any") -> None:
        left = memoryview(self._dump(value) + b"\n")
        while left:
            left = left[self._file.write(left):]


def _describe(options: "Dict[str, str]") -> int:
    from .discover import LoadError
    from .manifest import manifest
    from .registered import ManifestError

    answer = _Answer(options)
    try:
        entries = manifest(answer.load(options))
    except (LoadError, ManifestError) as error:
        return answer.refuse(error)
    sys.stdout.flush()
    answer.line({**_versions(), "manifest": entries})
    return 0


def _replay(options: "Dict[str, str]") -> int:
    from .discover import LoadError
    from .registered import ManifestError

    answer = _Answer(options)
    try:
        answer.load(options)
    except (LoadError, ManifestError) as error:
        return answer.refuse(error)
    import json

    from .replays import outcome

    with open(options["--replay"], encoding="utf-8") as histories:
        for line in histories:
            if line.strip():
                answer.line(outcome(json.loads(line)))
    return 0


def _versions() -> "Dict[str, Any]":
    return {"sdk": __version__, "python": "%d.%d.%d" % sys.version_info[:3]}


def _serve(options: "Dict[str, str]") -> int:
    try:
        fd, slots = _environment()
    except ValueError as error:
        print(f"tidewheel._shim: {error}", file=sys.stderr)
        return EXIT_USAGE
    from .discover import LoadError
    from .frame import encode
    from .link import Link, LinkClosed
    from .stdio import Output

    link = Link(fd)
    output = Output(before=lambda: link.flush() if link.pending else None)
    output.install()
    try:
        try:
            found = _load(options)
        except LoadError as error:
            output.flush()
            link.send(encode({"t": "load_error", "msg": str(error), "traceback": error.traceback}))
            link.flush()
            return EXIT_LOAD
        from .session import Session

        session = Session(link, found, output, slots)
        # Names alone: schemas were read when the package was built, and would be a good part of this process's start.
        link.send(encode({"t": "hello", "proto": PROTOCOL, "pid": os.getpid(), **_versions(), "fns": list(found)}))
        link.flush()
        _loop(session).serve()
    except LinkClosed:
        pass  # the agent is gone
    except KeyboardInterrupt:
        output.flush()
        return 130
    output.flush()
    return 0


def _loop(session: "Any") -> "Any":
    if session.slots == 1:
        from .serial import SerialLoop

        return SerialLoop(session)
    from .pool import PoolLoop

    return PoolLoop(session)


def _environment() -> "Tuple[int, int]":
    """Socket and slots. Taken out of the environment, so that a child of the user's does not take itself for a worker."""
    fd_text = os.environ.pop("TIDEWHEEL_FD", None)
    version = os.environ.pop("TIDEWHEEL_PROTO", str(PROTOCOL))
    slots_text = os.environ.pop("TIDEWHEEL_SLOTS", "1")
    if fd_text is None:
        raise ValueError("TIDEWHEEL_FD is not set; an agent starts this program (see --describe to look at a package)")
    if version != str(PROTOCOL):
        raise ValueError(f"the agent speaks protocol {version}, this package {PROTOCOL}")
    if not fd_text.isdigit() or not slots_text.isdigit() or not 1 <= int(slots_text) <= MAX_SLOTS:
        raise ValueError(f"TIDEWHEEL_FD={fd_text} or TIDEWHEEL_SLOTS={slots_text} (1 to {MAX_SLOTS}) is not usable")
    try:
        os.fstat(int(fd_text))
    except OSError:
        raise ValueError(f"TIDEWHEEL_FD={fd_text} is not an open file") from None
    return int(fd_text), int(slots_text)


def start() -> None:
    """Runs with this process's arguments, and exits. An agent calls it by ``python -c``, since ``-m`` loads `runpy` first."""
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    start()
