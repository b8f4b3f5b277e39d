"""The other end of the shim's socket, for tests: starts the shim, sends frames, keeps what comes back."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
from typing import Any, Dict, List, Optional, Sequence

HERE = os.path.dirname(os.path.abspath(__file__))
SRC = os.path.join(os.path.dirname(HERE), "src")
FIXTURES = os.path.join(HERE, "fixtures")
#: No test waits longer for a frame; reached only when something is broken.
PATIENCE_S = 30.0


def shim_environment(**more: str) -> Dict[str, str]:
    return {**os.environ, "PYTHONPATH": SRC, "TIDEWHEEL_PATH": FIXTURES, **more}


def frame(message: Dict[str, Any], raw: Optional[bytes] = None) -> bytes:
    text = json.dumps(message).encode()
    if raw is None:
        return struct.pack(">IB", len(text) + 1, 0) + text
    return struct.pack(">IBI", len(text) + len(raw) + 5, 1, len(text)) + text + raw


class Agent:
    """Use as a context manager; the shim is gone afterwards."""

    def __init__(self, modules: str = "shop", slots: int = 1, hello: bool = True,
                 command: Sequence[str] = ("-m", "tidewheel._shim"), **env: str) -> None:
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(PATIENCE_S)
        self.process = subprocess.Popen(
            [sys.executable, *command],
            env=shim_environment(TIDEWHEEL_FD=str(theirs.fileno()), TIDEWHEEL_PROTO="1", TIDEWHEEL_MODULES=modules,
                                 TIDEWHEEL_SLOTS=str(slots), **env),
            pass_fds=[theirs.fileno()],
            # Whoever runs these tests in the background ignores interrupts, and a process inherits that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        theirs.close()
        self._buffer = b""
        self.raw: Dict[str, bytes] = {}
        self.hello: Dict[str, Any] = {}
        if hello:
            self.hello = self.receive()
            self.send({"t": "hello_ack", "proto": 1, "limits": {}})

    def __enter__(self) -> "Agent":
        return self

    def __exit__(self, *_: Any) -> None:
        self.sock.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe:
                pipe.close()

    def send(self, message: Dict[str, Any], raw: Optional[bytes] = None) -> None:
        self.sock.sendall(frame(message, raw))

    def start(self, lease: str, fn: str, input: Any = None, raw: Optional[bytes] = None, **ctx: Any) -> None:
        facts = {"task_id": f"task_{lease}", "attempt": 1, "queue": "default", "deadline_ms": None, **ctx}
        self.send({"t": "task_start", "lease": lease, "fn": f"shop:{fn}", "input": input, "ctx": facts}, raw)

    def receive(self) -> Dict[str, Any]:
        """The next frame; raises EOFError when the shim has closed."""
        while True:
            if len(self._buffer) >= 5:
                (length, codec) = struct.unpack_from(">IB", self._buffer)
                if len(self._buffer) >= length + 4:
                    body, self._buffer = self._buffer[5 : length + 4], self._buffer[length + 4 :]
                    if codec == 0:
                        return json.loads(body)
                    (head,) = struct.unpack_from(">I", body)
                    return {**json.loads(body[4 : 4 + head]), "raw": body[4 + head :]}
            data = self.sock.recv(1 << 20)
            if not data:
                raise EOFError
            self._buffer += data

    def until(self, kind: str, lease: Optional[str] = None) -> Dict[str, Any]:
        """The next frame of a kind (and lease); what comes before it is dropped."""
        while True:
            message = self.receive()
            if message["t"] == kind and lease in (None, message.get("lease")):
                return message

    def done(self, lease: str) -> Dict[str, Any]:
        return self.until("task_done", lease)

    def drain(self) -> List[Dict[str, Any]]:
        """Drains the shim; every frame that still came."""
        self.send({"t": "drain"})
        rest = []
        try:
            while True:
                rest.append(self.receive())
        except (EOFError, ConnectionResetError):
            return rest

    def wait(self) -> int:
        return self.process.wait(PATIENCE_S)
