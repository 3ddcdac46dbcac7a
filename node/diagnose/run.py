"""All checks of one node, in the order in which a start meets them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from node.config import ConfigError, load
from node.diagnose import content, disk, keys, machine, network
from node.diagnose.finding import Finding, fail, ok, warn


def diagnose(configs: Sequence[Path], environ: Mapping[str, str]) -> list[Finding]:
    """Looks, and changes nothing. Blocking. A check that breaks is a finding, not an exception."""
    try:
        settings = load(configs, environ=environ)
    except ConfigError as error:
        return [fail("configuration", str(error), "mend the file; docs/configuration.md has every key")]
    found = [warn("configuration", notice, "remove it") for notice in settings.notices]
    found = found or [ok("configuration", "can be used as it is")]
    found += machine.check()
    if settings.storage != "raft":
        return found
    for checks in (disk.check, keys.check, content.check, network.check):
        try:
            found += checks(settings)
        except OSError as error:
            what = f"{error.filename or 'the operating system'}: {error.strerror or error}"
            found.append(
                fail(checks.__module__.rpartition(".")[2], what, "make it readable for the node's user")
            )
    return found
