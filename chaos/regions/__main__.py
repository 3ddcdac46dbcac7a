"""The rehearsal of regions: `python -m chaos.regions --switchovers 50`, `--kills 50`, `--splits 20`, `--links`.

Starts regions of its own behind a network that can be cut, writes in all of them while it breaks them, and holds
what they have against what was acknowledged. Ends with 1 if a promise was broken, and then keeps the directory.
"""

import argparse
import json
import secrets
import signal
import sys
from pathlib import Path

from chaos.place import Place
from chaos.regions.kills import kills
from chaos.regions.links import links
from chaos.regions.report import lines, summary
from chaos.regions.run import Mode, Plan, rehearse
from chaos.regions.splits import splits
from chaos.regions.switchovers import switchovers

MODES: dict[str, Mode] = {"switchovers": switchovers, "kills": kills, "splits": splits, "links": links}
SEED_BITS = 32
WRITERS, RATE = 48, 250.0  # some 200 writes per second, over an ocean


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos.regions", description=__doc__.split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--switchovers", type=int, metavar="N", help="hand over N times, there and back")
    what.add_argument(
        "--kills", type=int, metavar="N", help="kill the primary region N times, and promote another"
    )
    what.add_argument(
        "--splits",
        type=int,
        metavar="N",
        help="cut a living primary off N times, and promote another by force",
    )
    what.add_argument(
        "--links",
        type=int,
        nargs="?",
        const=1,
        metavar="N",
        help="break the links in every way, N times over",
    )
    parser.add_argument("--regions", type=int, choices=(2, 3), default=2)
    parser.add_argument("--nodes", type=int, default=3, help="of each region (default %(default)s)")
    parser.add_argument("--writers", type=int, default=WRITERS)
    parser.add_argument(
        "--rate",
        type=float,
        default=RATE,
        help="writes per second, did answers take no time (default %(default)s)",
    )
    parser.add_argument(
        "--round-trip-ms", type=float, help="between regions (default: 70 to 150, as between continents)"
    )
    parser.add_argument(
        "--fault-seconds",
        type=float,
        default=10.0,
        help="how long each fault of --links lasts, twice as long where packets vanish (default %(default)s)",
    )
    parser.add_argument(
        "--untimed", action="store_true", help="print how long things took, and do not judge it"
    )
    parser.add_argument("--seed", type=int, help="repeat the faults of an earlier run")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="of the summary")
    parser.add_argument("--directory", type=Path, help="where to run (default: a temporary directory)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    options = _arguments(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end like ^C: no process stays behind
    mode = next(name for name in MODES if getattr(options, name) is not None)
    seed = secrets.randbits(SEED_BITS) if options.seed is None else options.seed
    plan = Plan(
        mode=mode,
        count=getattr(options, mode),
        seed=seed,
        regions=options.regions,
        nodes=options.nodes,
        writers=options.writers,
        writes_per_s=options.rate,
        round_trip_s=None if options.round_trip_ms is None else max(options.round_trip_ms, 0.001) / 1000,
        fault_s=options.fault_seconds,
    )
    place = Place(options.directory, "regions")
    _say(f"seed {seed} (--seed {seed} repeats these faults), directory {place.directory}")
    told = summary(rehearse(plan, MODES[mode], place.directory, _say))
    print(json.dumps(told, indent=1) if options.format == "json" else "\n".join(lines(told)), flush=True)
    good = bool(told["good"]) and (options.untimed or not told["too_slow"])
    return place.leave(_say, good=good, promise="every promise was kept")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
