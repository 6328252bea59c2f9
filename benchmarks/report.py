"""What all benchmarks share: a clock that waits for the device, tables, and a JSON file with the machine's facts."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import resource
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chorus_core.io.atomic import atomic_path


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds that a call takes, the device's share included."""
    synchronize(device)
    began = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - began


def repeat(call: Callable[[], Any], device: torch.device, warmup: int, times: int) -> np.ndarray:
    """Milliseconds of each of ``times`` calls after ``warmup`` unmeasured ones [times]."""
    for _ in range(warmup):
        call()
    return 1e3 * np.array([seconds_of(call, device) for _ in range(times)])


def spread(milliseconds: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Median, 99th percentile and maximum of some times."""
    values = np.asarray(milliseconds, dtype=np.float64)
    return {
        "p50_ms": float(np.median(values)),
        "p99_ms": float(np.percentile(values, 99)),
        "max_ms": float(values.max()),
    }


def reset_peak_memory(device: torch.device) -> None:
    """Start measuring :func:`peak_memory_mib` anew, where the device allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mib(device: torch.device) -> float:
    """Most memory held, MiB: by tensors on a GPU since the reset, by the whole process since its start on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers depend on; says nothing of whose machine it is."""
    facts: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cpu_cores": len(os.sched_getaffinity(0)),
        "torch_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device.type,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda
        facts["spconv"] = _version("spconv")
    return facts


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(name: str) -> str:
    """Version of the installed distribution that provides a module, or "absent"."""
    for distribution in importlib.metadata.packages_distributions().get(name, []):
        return f"{distribution} {importlib.metadata.version(distribution)}"
    return "absent"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table; columns in the order in which they first appear, absent cells as a dash."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name)) for name in columns] for row in rows]
    widths = [max(len(line[i]) for line in [columns, *cells]) for i in range(len(columns))]

    def line(parts: Iterable[str]) -> str:
        return "| " + " | ".join(part.ljust(width) for part, width in zip(parts, widths, strict=True)) + " |"

    return "\n".join([line(columns), line("-" * width for width in widths), *map(line, cells)])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def publish(
    title: str, rows: Sequence[Mapping[str, Any]], device: torch.device, out: Path | None, **extra: Any
) -> dict[str, Any]:
    """Print a benchmark's table and notes, write its JSON, and return what was written.

    Args:
        extra: further entries of the JSON; texts, numbers and tables (lists of rows) are printed below the table.
    """
    result = {"benchmark": title, "machine": machine(device), "rows": list(rows), **extra}
    facts = ", ".join(f"{key} {value}" for key, value in result["machine"].items())
    print(f"\n## {title}\n\n{facts}\n\n{table(rows)}\n", flush=True)
    for name, value in extra.items():
        if isinstance(value, (str, int, float)):
            print(f"{name}: {_cell(value)}")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            print(f"\n{name}\n\n{table(value)}\n")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(out) as temporary:
            Path(temporary).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    options.add_argument("--out", type=Path, help="JSON file to write")
    options.add_argument("--seed", type=int, default=0)
    return options
