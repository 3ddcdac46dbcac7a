"""Service tokens as replicated commands: a forest by parent, with expiry and use counts."""

import msgspec

from storage import entries, leases
from storage.command import (
    TokenPut,
    TokenRenew,
    TokenRevoke,
    TokensExpire,
    TokenUse,
)
from storage.database import Database
from storage.outcome import Done, Outcome, Reason, Rejected

TOKENS_EXPIRE_MAX = 1000  # roots of trees revoked by one TokensExpire
SPENT_GRACE_NS = 60 * 10**9  # how long a spent token waits for its last request to revoke it
USES_SPENT = -1

# A token and its descendants. UNION, not UNION ALL: it would end even on a cycle, which TokenPut cannot make.
_TREE = (
    "WITH RECURSIVE tree (digest) AS (SELECT ? UNION"
    " SELECT tokens.digest FROM tokens JOIN tree ON tokens.parent = tree.digest) SELECT digest FROM tree"
)

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


def put(db: Database, command: TokenPut) -> Outcome:
    if db.one("SELECT 1 FROM tokens WHERE digest = ? OR accessor = ?", (command.digest, command.accessor)):
        return Rejected(Reason.TOKEN_EXISTS)
    if command.parent is not None and not _is_live(db, command.parent):
        return Rejected(Reason.PARENT_GONE)
    if command.issuer and not db.one("SELECT 1 FROM mounts WHERE mount_id = ?", (command.issuer,)):
        return Rejected(Reason.NO_SUCH_MOUNT)
    db.run(
        "INSERT INTO tokens (digest, accessor, parent, policies, path, display_name, metadata, num_uses,"
        " ttl_ns, explicit_max_ttl_ns, period_ns, renewable, created_ns, expires_ns, entity_id, role,"
        " bound_cidrs, issuer) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            command.digest,
            command.accessor,
            command.parent,
            _encode(command.policies),
            command.path,
            command.display_name,
            None if command.metadata is None else _encode(command.metadata),
            command.num_uses,
            command.ttl_ns,
            command.explicit_max_ttl_ns,
            command.period_ns,
            command.renewable,
            command.time_ns,
            command.expires_ns,
            command.entity_id,
            command.role,
            _encode(command.bound_cidrs),
            command.issuer,
        ),
    )
    return Done()


def renew(db: Database, command: TokenRenew) -> Outcome:
    if not _is_live(db, command.digest):
        return Rejected(Reason.NO_SUCH_TOKEN)
    db.run(
        "UPDATE tokens SET ttl_ns = ?, expires_ns = ?, last_renewal_ns = ? WHERE digest = ?",
        (command.ttl_ns, command.expires_ns, command.time_ns, command.digest),
    )
    return Done()


def revoke(db: Database, command: TokenRevoke) -> Outcome:
    if command.orphan_children:
        if not db.run("DELETE FROM tokens WHERE digest = ?", (command.digest,)):
            return Done({"revoked": 0})
        db.run("UPDATE tokens SET parent = NULL WHERE parent = ?", (command.digest,))
        entries.remove_owned(db, "?", (command.digest,))
        leases.end_owned(db, "?", (command.digest,))
        return Done({"revoked": 1})
    return Done({"revoked": _revoke_tree(db, command.digest)})


def use(db: Database, command: TokenUse) -> Outcome:
    row = db.one("SELECT num_uses FROM tokens WHERE digest = ?", (command.digest,))
    if row is None or row[0] == USES_SPENT or not _is_live(db, command.digest):
        return Rejected(Reason.NO_SUCH_TOKEN)
    if row[0] == 0:
        return Done({"remaining": 0})
    left = row[0] - 1 if row[0] > 1 else USES_SPENT
    spent_ns = command.time_ns if left == USES_SPENT else 0
    db.run("UPDATE tokens SET num_uses = ?, spent_ns = ? WHERE digest = ?", (left, spent_ns, command.digest))
    return Done({"remaining": left})


def expire(db: Database, command: TokensExpire) -> Outcome:
    limit = min(command.limit, TOKENS_EXPIRE_MAX)
    due = db.all(
        "SELECT digest FROM tokens WHERE expires_ns > 0 AND expires_ns <= ?"
        " ORDER BY expires_ns, digest LIMIT ?",
        (command.time_ns, limit),
    )
    due += db.all(
        "SELECT digest FROM tokens WHERE spent_ns > 0 AND spent_ns <= ? ORDER BY spent_ns, digest LIMIT ?",
        (command.time_ns - SPENT_GRACE_NS, limit - len(due)),
    )
    return Done({"revoked": sum(_revoke_tree(db, digest) for (digest,) in due)})


def revoke_issued(db: Database, mount_id: str) -> None:
    """Every token that an auth method issued, with all descendants."""
    issued = db.all("SELECT digest FROM tokens WHERE issuer = ? ORDER BY digest", (mount_id,))
    for (digest,) in issued:
        _revoke_tree(db, digest)


def _revoke_tree(db: Database, digest: bytes) -> int:
    """With what the tokens own; what they hold on lease falls due."""
    entries.remove_owned(db, _TREE, (digest,))
    leases.end_owned(db, _TREE, (digest,))
    return db.run(f"DELETE FROM tokens WHERE digest IN ({_TREE})", (digest,))  # noqa: S608 - a constant


def _is_live(db: Database, digest: bytes) -> bool:
    """By the machine's clock: a stamp that lags behind it wakes no token that others have seen dead."""
    row = db.one("SELECT expires_ns FROM tokens WHERE digest = ?", (digest,))
    return row is not None and (row[0] == 0 or row[0] > db.clock_ns)
