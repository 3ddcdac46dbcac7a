"""The auth methods that this build has."""

from node.auth.methods import approle, cert, jwt, kubernetes, userpass
from node.auth.methods.lockout import Lockout
from node.auth.methods.method import Method, no_renewals
from node.core.router import Table

TOKEN = "token"  # noqa: S105 - a name


def auth_methods(lockout: Lockout) -> dict[str, Method]:
    """By Mount.kind. The paths of the token store are in the system table: its mount has none."""
    methods = [
        approle.method(),
        cert.method(),
        jwt.method(),
        kubernetes.method(),
        userpass.method(lockout),
        Method(TOKEN, Table([]), no_renewals),
    ]
    return {method.kind: method for method in methods}
