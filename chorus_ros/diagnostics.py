"""Health of the node as ``diagnostic_msgs``: rates, staleness, drops. Times are seconds on a monotonic clock."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from std_msgs.msg import Header

from chorus_core.pipeline import PipelineStatus


class StreamMonitor:
    """Rate and age of one stream of messages. Safe to use from several threads."""

    def __init__(self, name: str, window: int = 100) -> None:
        self.name = name
        self._arrivals: deque[float] = deque(maxlen=window)
        self._count = 0
        self._lock = threading.Lock()

    def tick(self, now: float) -> None:
        """A message arrived."""
        with self._lock:
            self._arrivals.append(now)
            self._count += 1

    @property
    def count(self) -> int:
        with self._lock:
            return self._count

    def rate(self, now: float, horizon: float = 10.0) -> float:
        """Messages a second, over the last ``horizon`` seconds or the last ``window`` messages."""
        with self._lock:
            recent = [t for t in self._arrivals if now - t <= horizon]
        if len(recent) < 2 or recent[-1] <= recent[0]:
            return 0.0
        return (len(recent) - 1) / (recent[-1] - recent[0])

    def age(self, now: float) -> float | None:
        """Seconds since the last message; None before the first."""
        with self._lock:
            return now - self._arrivals[-1] if self._arrivals else None

    def status(self, now: float, stale_after: float) -> DiagnosticStatus:
        """OK while messages arrive, STALE when none has for ``stale_after`` seconds."""
        age = self.age(now)
        stale = age is None or age > stale_after
        message = "nothing has arrived" if age is None else f"nothing for {age:.1f} s" if stale else "arriving"
        values = {"rate (Hz)": f"{self.rate(now):.2f}", "messages": str(self.count)}
        return make_status(self.name, DiagnosticStatus.STALE if stale else DiagnosticStatus.OK, message, values)


class DropMonitor:
    """Warns while something is being dropped."""

    def __init__(self, name: str = "drops") -> None:
        self.name = name
        self._last: dict[str, int] = {}

    def status(self, counts: Mapping[str, int]) -> DiagnosticStatus:
        """WARN where a count has grown since the last call; one that has fallen was reset, and grew from zero."""
        before = {cause: self._last.get(cause, 0) for cause in counts}
        grown = {cause: n - (before[cause] if before[cause] <= n else 0) for cause, n in counts.items()}
        grown = {cause: n for cause, n in grown.items() if n > 0}
        self._last = dict(counts)
        message = ", ".join(f"{cause} +{n}" for cause, n in grown.items()) if grown else "nothing dropped lately"
        level = DiagnosticStatus.WARN if grown else DiagnosticStatus.OK
        return make_status(self.name, level, message, {cause: str(n) for cause, n in counts.items()})


def map_status(status: PipelineStatus) -> DiagnosticStatus:
    """Size of the map, how much of it has features, milliseconds per stage.

    WARN while encoding fails, ERROR once its thread has ended.
    """
    values = {
        "gaussians": str(status.gaussians),
        "evicted": str(status.evicted),
        "encodes": str(status.encodes),
        "encode failures": str(status.encode_failures),
        "encoded (%)": f"{100 * status.encoded:.1f}",
    }
    values |= {f"held back ({cause})": str(count) for cause, count in status.held.items()}
    values |= {f"{stage} (ms)": f"p50 {p50:.1f}, p99 {p99:.1f}" for stage, (p50, p99) in status.stage_ms.items()}
    if status.ended:
        return make_status("map", DiagnosticStatus.ERROR, f"the encoding thread ended: {status.ended}", values)
    if status.last_error:
        message = f"encoding failed {status.encode_failures} times: {status.last_error}"
        return make_status("map", DiagnosticStatus.WARN, message, values)
    message = f"{status.gaussians} Gaussians, encoded {status.encodes} times"
    return make_status("map", DiagnosticStatus.OK, message, values)


def diagnostic_array(stamp: Time, node_name: str, statuses: Sequence[DiagnosticStatus]) -> DiagnosticArray:
    """The message for ``/diagnostics``; each status is named ``<node>: <part>``."""
    for status in statuses:
        status.name = f"{node_name}: {status.name}"
        status.hardware_id = node_name
    return DiagnosticArray(header=Header(stamp=stamp), status=list(statuses))


def make_status(name: str, level: bytes, message: str, values: Mapping[str, str]) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=value) for key, value in values.items()]
    return DiagnosticStatus(name=name, level=level, message=message, values=pairs)
