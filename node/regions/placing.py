"""Which requests the region that orders writes has to carry out, and which any region answers for itself.

A route says so itself (Route.local): what it takes by POST or DELETE only reads, or is about a region's own cluster.
Where it does turn out to need a write of what regions share, the store refuses that (NotPrimary), and the request
is carried on like all others.
"""

from node.core.request import Operation, Request
from node.core.router import Route

_WRITES = frozenset({Operation.CREATE, Operation.UPDATE, Operation.PATCH, Operation.DELETE})


def belongs_to_the_primary(request: Request, route: Route) -> bool:
    """Whether only the region that orders writes carries this request out.

    What a local route makes (CREATE, as its `exists` tells) is a write, and so is an answer that is put away.
    """
    if request.operation not in _WRITES:
        return False
    return not route.local or request.operation is Operation.CREATE or request.wrap_ttl_ns > 0
