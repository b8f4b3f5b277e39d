"""How many no-op tasks one worker process runs per second, and how long one takes from start to answer.

Run it as ``python3 python/tests/bench_shim.py [tasks]``. The peer is this process: it only counts frames, so that the figure
is the shim's.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import List

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from agent import Agent, frame  # noqa: E402


def start(lease: str, fn: str, value: object) -> bytes:
    facts = {"task_id": f"task_{lease}", "attempt": 1, "queue": "default", "deadline_ms": 1700000000000, "idempotency_key": lease,
             "labels": {}, "correlation_id": None, "traceparent": None}
    return frame({"t": "task_start", "lease": lease, "fn": f"shop:{fn}", "input": value, "ctx": facts})


def throughput(agent: Agent, fn: str, value: object, count: int) -> float:
    """Tasks per second with a window of 1,000 sent ahead."""
    chunks = [b"".join(start(f"{fn}-{i:08}", fn, value) for i in range(n, min(n + 250, count))) for n in range(0, count, 250)]
    window = threading.Semaphore(4)

    def send() -> None:
        for chunk in chunks:
            window.acquire()
            agent.sock.sendall(chunk)

    begin = time.perf_counter()
    thread = threading.Thread(target=send)
    thread.start()
    seen, last = 0, b""
    while seen < count:
        data = last + agent.sock.recv(1 << 20)
        before = seen // 250
        seen += data.count(b'"task_done"')
        last = data[-10:]  # a mark may be cut in two; never a whole one, which has 11 bytes
        for _ in range(seen // 250 - before):
            window.release()
    elapsed = time.perf_counter() - begin
    thread.join()
    return count / elapsed


def latency(agent: Agent, count: int) -> List[float]:
    """Milliseconds from sending one start to its task_done, one at a time."""
    out = []
    for i in range(count):
        begin = time.perf_counter()
        agent.sock.sendall(start(f"one-{i}", "noop", None))
        data = b""
        while b'"task_done"' not in data:
            data += agent.sock.recv(1 << 16)
        out.append((time.perf_counter() - begin) * 1000)
    return sorted(out)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    begin = time.perf_counter()
    with Agent() as agent:
        print(f"start to hello: {(time.perf_counter() - begin) * 1000:.0f} ms")
        throughput(agent, "noop", None, 2_000)
        agent._buffer = b""
        print(f"no-op:          {throughput(agent, 'noop', None, count):,.0f} tasks/s")
        print(f"typed add:      {throughput(agent, 'add', {'a': 1, 'b': 2}, count):,.0f} tasks/s")
        print(f"async no-op:    {throughput(agent, 'nap0', None, min(count, 10_000)):,.0f} tasks/s")
        times = latency(agent, 1_000)
        print(f"one at a time:  p50 {times[500]:.3f} ms, p99 {times[990]:.3f} ms")


if __name__ == "__main__":
    main()
