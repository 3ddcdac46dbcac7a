"""The PKI engine: authorities that issue certificates under roles. Vault's pki engine, the parts that services use."""

from node.core.router import Route
from node.engines.pki import certs, issuers, leaf, roles, settings


def routes() -> list[Route]:
    """The paths of a mount, relative to it."""
    return [*issuers.routes(), *settings.routes(), *roles.routes(), *leaf.routes(), *certs.routes()]
