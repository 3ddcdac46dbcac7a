"""What only the leader can do is done there: other nodes send the client to it."""

from http import HTTPStatus
from urllib.parse import quote, urlencode

from consensus.api import Role
from node.core.core import Core
from node.core.request import Request, Response
from node.errors import NoQuorum


def elsewhere(core: Core, request: Request) -> Response | None:
    """None on the leader, else a redirection to it, which clients follow with their token. Raises NoQuorum."""
    store = core.unsealed
    status = store.status()
    if status.role is Role.LEADER:
        return None
    leading = next((node for node in store.reads.nodes() if node.node_id == status.leader_id), None)
    if leading is None:
        raise NoQuorum("no leader is known; nothing happened")
    query = f"?{urlencode(request.query)}" if request.query else ""
    location = f"{leading.api_address}/v1/{quote(request.path)}{query}"
    return Response(status=HTTPStatus.TEMPORARY_REDIRECT, body=b"", headers={"Location": location})
