"""Endpoints that Vault serves without a token, because people with shares may have none. What a token adds here:
who shows one that a policy lets may see an attempt's nonce and cancel it; a stranger may not.
"""

import secrets

from node.core.core import Core
from node.core.request import Request
from node.errors import PermissionDenied, Unsupported


def check_open(core: Core) -> None:
    """Raises Unsupported where the operator closed these endpoints (disable_unauthed_rekey_endpoints)."""
    if not core.settings.unauthenticated_rekey:
        raise Unsupported("unsupported operation")


async def vouched(core: Core, request: Request) -> bool:
    """Whether the caller shows a token whose policies allow this very request."""
    if request.token_row is not None:
        return True  # the pipeline has seen to it
    if request.token is None:
        return False
    try:
        row = await core.tokens.authenticate(core.unsealed, request.token, request.remote, spends=False)
    except PermissionDenied:
        return False
    return core.acl(row).allows(request.operation, request.path, request.parameters, sudo=False)


async def check_may_cancel(core: Core, request: Request, nonce: str) -> None:
    """Raises PermissionDenied unless the caller knows the attempt's nonce, or is vouched for."""
    given = str(request.data.get("nonce") or request.query.get("nonce") or "")
    if given and secrets.compare_digest(given.encode(), nonce.encode()):
        return
    if not await vouched(core, request):
        raise PermissionDenied(
            "cancelling needs the nonce of the operation (?nonce=...), or a token that may cancel it"
        )
