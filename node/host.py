"""What this machine has, from /proc: for operators who look through the API. Linux only, and never an error."""

import os
import platform
import shutil
import socket
import time
from pathlib import Path
from typing import Any

KIB = 1024


def host() -> dict[str, Any]:
    """The machine and its system."""
    uptime_s = int(float(_read("/proc/uptime").split(" ")[0] or 0))
    return {
        "hostname": socket.gethostname(),
        "uptime": uptime_s,
        "bootTime": int(time.time()) - uptime_s,
        "os": platform.system().lower(),
        "kernelVersion": platform.release(),
        "kernelArch": platform.machine(),
    }


def memory() -> dict[str, Any]:
    """Bytes."""
    known = dict(line.split(":", 1) for line in _read("/proc/meminfo").splitlines() if ":" in line)
    amounts = {
        name: int(value.split()[0]) * KIB for name, value in known.items() if value.split()[1:] == ["kB"]
    }
    total, available = amounts.get("MemTotal", 0), amounts.get("MemAvailable", 0)
    used = total - available
    return {
        "total": total,
        "available": available,
        "used": used,
        "usedPercent": 100.0 * used / total if total else 0.0,
        "free": amounts.get("MemFree", 0),
        "buffers": amounts.get("Buffers", 0),
        "cached": amounts.get("Cached", 0),
        "swaptotal": amounts.get("SwapTotal", 0),
        "swapfree": amounts.get("SwapFree", 0),
    }


def processors() -> list[dict[str, Any]]:
    """One entry a processor that this process may use."""
    names = [
        line.partition(":")[2].strip() for line in _read("/proc/cpuinfo").splitlines() if "model name" in line
    ]
    usable = sorted(os.sched_getaffinity(0))
    return [
        {"cpu": number, "cores": 1, "modelName": names[number] if number < len(names) else ""}
        for number in usable
    ]


def disk(path: Path) -> list[dict[str, Any]]:
    """The file system that holds the data, in bytes; nothing where there is none."""
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return []
    percent = 100.0 * usage.used / usage.total if usage.total else 0.0
    return [
        {
            "path": str(path),
            "total": usage.total,
            "free": usage.free,
            "used": usage.used,
            "usedPercent": percent,
        }
    ]


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
