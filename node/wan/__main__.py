"""`python -m node.wan CONFIGURATION CONTROL`: the network between the regions of a machine, until SIGTERM."""

import argparse
import asyncio
import signal
from pathlib import Path

import msgspec

from node.wan.control import serve
from node.wan.orders import Configuration, Refused, check_path


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m node.wan", description=__doc__)
    parser.add_argument("configuration", type=Path, help="a JSON file: regions, doors, ways")
    parser.add_argument("control", type=Path, help="the Unix socket that takes orders")
    options = parser.parse_args()
    try:
        check_path(options.control)
        configuration = msgspec.json.decode(options.configuration.read_bytes(), type=Configuration)
        asyncio.run(_run(configuration, options.control))
    except (Refused, OSError, ValueError, msgspec.MsgspecError) as error:
        raise SystemExit(f"{options.configuration}: {error}") from None
    except KeyError as error:
        raise SystemExit(f"{options.configuration}: there is no region {error.args[0]}") from None


async def _run(configuration: Configuration, control: Path) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(configuration, control, stop)


if __name__ == "__main__":
    main()
