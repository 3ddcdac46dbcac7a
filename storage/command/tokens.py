"""Commands about tokens. Tags 50 to 59."""

from storage.command.base import Command


class TokenPut(Command, frozen=True, tag=50):
    """A new service token, known only by its keyed digest. Rejected(TOKEN_EXISTS | PARENT_GONE).

    A token with an `issuer`, the id of an auth method's mount, goes when that mount does;
    Rejected(NO_SUCH_MOUNT) if it is gone already.
    """

    digest: bytes
    accessor: str
    parent: bytes | None  # digest of the parent; None for an orphan
    policies: tuple[str, ...]
    path: str
    display_name: str
    metadata: dict[str, str] | None
    num_uses: int  # 0: without limit
    ttl_ns: int  # 0: does not expire
    explicit_max_ttl_ns: int  # 0: none
    period_ns: int  # 0: not periodic
    renewable: bool
    expires_ns: int  # 0: never
    entity_id: str = ""
    role: str = ""  # of the token store, or of the issuer: whose rules a renewal follows
    bound_cidrs: tuple[str, ...] = ()  # where it may be presented; () anywhere
    issuer: str = ""


class TokenRenew(Command, frozen=True, tag=51):
    """Set a live token's expiry. Rejected(NO_SUCH_TOKEN) if it is gone or has expired by time_ns."""

    digest: bytes
    ttl_ns: int
    expires_ns: int


class TokenRevoke(Command, frozen=True, tag=52):
    """Revoke a token with all its descendants; orphan_children=True lets the children live on as orphans.

    Done({"revoked": n}) with n = 0 if there was none.
    """

    digest: bytes
    orphan_children: bool = False


class TokenUse(Command, frozen=True, tag=53):
    """Spend one use of a token. Rejected(NO_SUCH_TOKEN) if it is gone, has expired or has no use left.

    Done({"remaining": n}), n being the token's num_uses from now on: -1 after the last use (it stays present
    until the request that spent it revokes it, or a minute later TokensExpire does), 0 if it has no limit.
    """

    digest: bytes


class TokensExpire(Command, frozen=True, tag=54):
    """Revoke at most `limit` tokens (and their descendants) that expired by time_ns. Done({"revoked": n})."""

    limit: int
