"""What a run of the whole benchmark leaves: bench/results.json, a table, and docs/bench.svg."""

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results.json"
PLOT = ROOT / "docs" / "bench.svg"

# name -> (what it says, is more better, what to reach)
RATIOS: Mapping[str, tuple[str, bool, float]] = {
    "read_vs_openbao": ("reads/s of one node, 64 clients, divided by OpenBao's", True, 8.0),
    "read_p99_vs_openbao": ("p99 of these reads, divided by OpenBao's", False, 1.0),
    "write_vs_openbao": ("writes/s of three nodes, 64 clients, divided by OpenBao's", True, 3.0),
    "write_vs_etcd": ("writes/s of three nodes, 64 clients, divided by etcd's", True, 1.0),
    "clients_10k_p99_ms": ("p99 of 10,000 keep-alive clients at 2,500 requests/s", False, 20.0),
    "rss_100k_mib": ("resident MiB of a node with 100,000 secrets", False, 1024.0),
    "restart_100k_s": ("seconds from start to the first read, with 100,000 secrets", False, 10.0),
    "rss_1m_mib": ("resident MiB of a node with a million secrets", False, 1024.0),
    "read_1m_vs_1k": ("reads/s of a hot set among a million, divided by among a thousand", True, 0.85),
    "read_1m_uniform_vs_hot": ("reads/s of random secrets of a million, divided by the hot set's", True, 0.5),
    "region_lag_p99_ms": (
        "p99 until a write shows in a region that is 70 ms (round trip) away",
        False,
        1000.0,
    ),
    "region_read_p50_ratio": ("p50 of reads in the primary region, divided by the secondary's", True, 0.9),
    "region_forward_extra_ms": ("a forwarded write, less the round trip and two local writes", False, 5.0),
}


@dataclass
class Results:
    """Figures by name, and the measured rows behind them."""

    machine: Mapping[str, str]
    quick: bool
    figures: dict[str, float] = field(default_factory=dict)
    medians: dict[str, dict[str, float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)  # part -> why it has no figures

    def keep(self) -> None:
        """Begin with the figures of the run before."""
        former = json.loads(RESULTS.read_text(encoding="utf-8"))
        self.figures |= {name: value for name, value in former["figures"].items() if name in RATIOS}
        self.medians |= former["medians"]

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "quick": self.quick,
            "machine": dict(self.machine),
            "figures": {name: round(value, 3) for name, value in self.figures.items()},
            "medians": {
                cell: {name: round(value, 3) for name, value in row.items()}
                for cell, row in self.medians.items()
            },
            "failures": self.failures,
        }


def missed(results: Results) -> list[str]:
    """The figures that are not what they should be."""
    return [name for name, value in results.figures.items() if not _reached(name, value)]


def _reached(name: str, value: float) -> bool:
    _, more, goal = RATIOS[name]
    return value >= goal if more else value <= goal


def table(results: Results) -> list[str]:
    """The figures as a Markdown table, with what is to be reached."""
    lines = ["| figure | value | to reach | | what |", "| --- | ---: | ---: | --- | --- |"]
    for name, value in results.figures.items():
        what, more, goal = RATIOS[name]
        sign, reached = "at least" if more else "at most", "yes" if _reached(name, value) else "NO"
        lines.append(f"| {name} | {value:,.2f} | {sign} {goal:g} | {reached} | {what} |")
    lines += [
        f"| {part} | failed | | | {why.partition(chr(10))[0]} |" for part, why in results.failures.items()
    ]
    return lines


def write(results: Results) -> None:
    """Both files."""
    RESULTS.write_text(json.dumps(results.as_dict(), indent=2) + "\n", encoding="utf-8")
    PLOT.write_text(plot(results), encoding="utf-8")


# --- the plot: bars of rates, one group for each load ---

_WIDTH, _BAR, _GAP, _LEFT, _TOP = 720, 22, 26, 190, 56
_COLOURS = {"strongroom": "#2f6f4f"}
_OTHER = "#9aa5b1"


def plot(results: Results) -> str:
    """Rates of reads and writes beside those of the others, as SVG."""
    groups = [
        (title, {system: row["per_s"] for system, row in _cells(results, prefix).items()})
        for title, prefix in (
            ("KV v2 reads/s, one node, 64 clients", "read/64/"),
            ("KV v2 writes/s, three nodes, 64 clients", "write/64/"),
        )
    ]
    body: list[str] = []
    y = _TOP
    for title, rates in groups:
        if rates:
            body += _group(title, rates, y)
            y += _GAP + len(rates) * (_BAR + 6) + _GAP
    text = f"{results.machine.get('cpu', '')}, kernel {results.machine.get('kernel', '')}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" role="img" font-family="sans-serif">',
            "<title>Reads and writes per second of Strongroom, OpenBao and etcd</title>",
            f'<rect width="{_WIDTH}" height="{y}" fill="white"/>',
            '<text x="16" y="24" font-size="16">Medians of runs that take turns; conditions: docs/bench.md</text>',
            f'<text x="16" y="42" font-size="11" fill="#555">{escape(text)}</text>',
            *body,
            "</svg>",
            "",
        ]
    )


def _cells(results: Results, prefix: str) -> dict[str, dict[str, float]]:
    return {
        cell.removeprefix(prefix): row for cell, row in results.medians.items() if cell.startswith(prefix)
    }


def _group(title: str, rates: Mapping[str, float], y: int) -> Sequence[str]:
    most = max(rates.values())
    lines = [f'<text x="16" y="{y + 14}" font-size="13" font-weight="bold">{escape(title)}</text>']
    y += _GAP
    for system, rate in rates.items():
        width = max(1, round((_WIDTH - _LEFT - 110) * rate / most))
        colour = _COLOURS.get(system, _OTHER)
        lines += [
            f'<text x="{_LEFT - 8}" y="{y + 15}" font-size="12" text-anchor="end">{escape(system)}</text>',
            f'<rect x="{_LEFT}" y="{y}" width="{width}" height="{_BAR}" fill="{colour}"/>',
            f'<text x="{_LEFT + width + 6}" y="{y + 15}" font-size="12">{rate:,.0f}</text>',
        ]
        y += _BAR + 6
    return lines
