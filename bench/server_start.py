"""How soon a new server gives its first word: `python -m bench.server_start`.

A server in memory, of a configuration as tools write it for tests (TLS with files, nothing initialised), is started
and asked GET sys/init every few milliseconds until it answers. Wall-clock time runs from before the process is made;
CPU time is what the process had used when the answer was in. Some are started alone, on the port of the one before as
soon as that has ended, some several at once. Ends with 1 if one answered later than --limit, or not at all.
"""

import argparse
import contextlib
import http.client
import json
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench import certificates
from bench.environment import facts
from bench.processes import cpu_seconds, free_ports

TIMES = 100
AT_ONCE = 4
LIMIT_S = 1.0
GIVE_UP_S = 60.0
POLL_S = 0.005
_PROGRAM = Path(sys.executable).with_name("strongroom")


@dataclass(frozen=True, slots=True)
class Start:
    """One start: seconds until the first answer, and CPU seconds used by then."""

    wall_s: float
    cpu_s: float


def start_once(directory: Path, files: certificates.Certificates, port: int) -> Start:
    """Start a server, wait for its first answer, end it. Raises SystemExit if there is none."""
    path = directory / f"{port}.json"
    listener = {
        "address": f"127.0.0.1:{port}",
        "tls_cert_file": str(files.certificate),
        "tls_key_file": str(files.key),
    }
    path.write_text(
        json.dumps(
            {
                "backend": {"inmem": {}},
                "listener": {"tcp": listener},
                "disable_mlock": True,
                "default_lease_ttl": "768h",
                "max_lease_ttl": "768h",
            }
        )
    )
    tls = ssl.create_default_context(cafile=str(files.ca))
    began = time.monotonic()
    with (directory / f"{port}.log").open("wb") as log:
        server = subprocess.Popen([str(_PROGRAM), "server", f"-config={path}"], stdout=log, stderr=log)
    try:
        while True:
            with contextlib.suppress(OSError):
                answer = _ask(port, tls)
                wall_s, cpu_s = time.monotonic() - began, cpu_seconds([server.pid])
                if answer != {"initialized": False}:
                    raise SystemExit(f"the first answer was {answer}")
                return Start(wall_s, cpu_s)
            if time.monotonic() - began > GIVE_UP_S or server.poll() is not None:
                raise SystemExit(f"no answer; the server said:\n{(directory / f'{port}.log').read_text()}")
            time.sleep(POLL_S)
    finally:
        server.terminate()
        server.wait()


def _ask(port: int, tls: ssl.SSLContext) -> object:
    """As hvac asks: on a connection that is to be kept. Raises OSError while nobody listens."""
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=tls, timeout=GIVE_UP_S)
    try:
        connection.request("GET", "/v1/sys/init", headers={"X-Vault-Request": "true"})
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def starts(directory: Path, files: certificates.Certificates, times: int, at_once: int) -> list[Start]:
    """`times` starts, `at_once` of them at a time; one after the other they have the same port."""
    ports = free_ports(times) if at_once > 1 else free_ports(1) * times
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda port: start_once(directory, files, port), ports))


def report(name: str, found: list[Start]) -> str:
    """A line of the table."""
    wall = sorted(each.wall_s * 1e3 for each in found)
    cpu = statistics.median(each.cpu_s * 1e3 for each in found)
    tail = wall[min(len(wall) - 1, len(wall) * 99 // 100)]
    return (
        f"| {name} | {len(found)} | {statistics.median(wall):.0f} | {tail:.0f} | {wall[-1]:.0f} | {cpu:.0f} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=TIMES)
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="strongroom-server-start-") as folder:
        directory = Path(folder)
        files = certificates.create(directory / "tls")
        start_once(directory, files, free_ports(1)[0])  # files that were never read are not what is measured
        alone = starts(directory, files, options.times, 1)
        together = starts(directory, files, options.times, options.at_once)
        for name, value in facts(directory).items():
            print(f"{name:20} {value}")
    print(
        "\n| starts | times | p50 ms | p99 ms | max ms | CPU ms |\n| --- | ---: | ---: | ---: | ---: | ---: |"
    )
    print(report("one at a time", alone))
    print(report(f"{options.at_once} at once", together))
    late = [each for each in (*alone, *together) if each.wall_s > options.limit]
    if late:
        print(f"{len(late)} starts took longer than {options.limit:g} s")
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
