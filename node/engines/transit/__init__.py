"""The transit engine: encryption as a service, with keys that do not leave. Vault's transit engine."""

from node.core.router import Route
from node.engines.transit import encryption, keyless, keys, signing


def routes() -> list[Route]:
    """The paths of a mount, relative to it."""
    return [*keys.routes(), *encryption.routes(), *signing.routes(), *keyless.routes()]
