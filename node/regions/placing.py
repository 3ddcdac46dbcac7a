"""Which requests the region that orders writes has to carry out, and which any region answers for itself."""

from node.core.request import Operation, Request

# Asked with POST, and answered from local state all the same: nothing is written.
_READ_ONLY = (
    "sys/capabilities",
    "auth/token/lookup",
    "sys/wrapping/lookup",
    "sys/tools/",
    "sys/internal/",
    "sys/leases/lookup",
    "sys/policies/explain",
)
# About the regions as a whole: whoever is asked, the one that orders writes decides.
_OF_ALL_REGIONS = ("sys/regions/switchover", "sys/regions/remove")
# About this region's own cluster.
_REGIONAL = (
    "sys/init",
    "sys/unseal",
    "sys/seal",
    "sys/step-down",
    "sys/cluster/",
    "sys/storage/",
    "sys/rekey",
    "sys/rotate/root",
    "sys/rotate/recovery",
    "sys/regions",
    "sys/replication",
    "sys/loggers",
)
_WRITES = frozenset({Operation.CREATE, Operation.UPDATE, Operation.PATCH, Operation.DELETE})


def belongs_to_the_primary(request: Request) -> bool:
    """Whether the region that orders writes has to carry this request out."""
    if request.operation not in _WRITES:
        return False
    return request.path in _OF_ALL_REGIONS or not request.path.startswith(_READ_ONLY + _REGIONAL)
