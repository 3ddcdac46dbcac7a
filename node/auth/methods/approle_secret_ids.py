"""Secret ids of approles, as a mount keeps them: added, found, spent, destroyed.

The store knows a secret id only by its keyed digest, so nothing that it holds could be presented. Of a secret id
with a limited use count each use is one atomic write with the token that it gives, which names the revision that
the count was read at: two nodes cannot both spend the last use.

What a mount keeps: secret-id/ROLE/DIGEST and accessor/ROLE/ACCESSOR, which points to it; both expire by themselves.
"""

import hmac
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from node.auth.cidr import inside
from node.auth.methods.approle_role import Role
from node.auth.methods.method import refused
from node.core.core import Core
from node.core.paging import children
from node.core.request import Request
from node.draft import Draft, retried
from node.errors import InvalidRequest
from node.store import CommandRejected, Store
from node.view import View, in_turns
from storage.command import AnyCommand
from storage.keyring import SECRET_ID_DIGEST
from storage.rows import Mount

SECRET_ID_CHARACTERS_MAX = 4096


class SecretId(msgspec.Struct, frozen=True):
    """What is known of one; times in nanoseconds, expires_ns 0 never, uses_left 0 without limit."""

    accessor: str
    created_ns: int
    updated_ns: int
    expires_ns: int
    ttl_ns: int
    uses_left: int
    metadata: dict[str, str]
    cidrs: tuple[str, ...] = ()
    token_bound_cidrs: tuple[str, ...] = ()


class _Pointer(msgspec.Struct, frozen=True):
    """From an accessor to the secret id."""

    digest: str


@dataclass(frozen=True, slots=True)
class Proof:
    """What a secret id adds to a login."""

    metadata: Mapping[str, str] = field(default_factory=dict)
    token_bound_cidrs: tuple[str, ...] = ()
    commands: tuple[AnyCommand, ...] = ()


class SecretIds:
    """The secret ids of one mount."""

    def __init__(self, store: Store, mount: Mount) -> None:
        self._store, self._mount = store, mount
        self._view = View(store, mount.mount_id)

    def digest(self, role: str, secret_id: str) -> str:
        """What the store knows a secret id by."""
        key = self._store.root.derive(SECRET_ID_DIGEST)
        place = b"\x00".join((self._mount.mount_id.encode(), role.encode(), secret_id.encode()))
        return hmac.digest(key, place, "sha256").hex()

    def find(self, role: str, digest: str) -> SecretId | None:
        item = self._view.get(_path(role, digest))
        return msgspec.json.decode(item.raw, type=SecretId) if item else None

    def behind(self, role: str, accessor: str) -> str | None:
        """The digest of the secret id with this accessor."""
        item = self._view.get(_accessor_path(role, accessor))
        return msgspec.json.decode(item.raw, type=_Pointer).digest if item else None

    async def accessors(self, core: Core, request: Request, role: str) -> list[str]:
        """Of all that are good still, in pages. Raises NotFound if there are none."""
        known = in_turns(children(core, request, self._view, f"accessor/{role}/"))
        return [accessor async for accessor in known if self._view.has(_accessor_path(role, accessor))]

    def drawn(self, role: str, request: Request) -> str:
        """A new secret id; the same again for a request that is repeated under its identity."""
        if not request.request_id:
            return str(uuid.uuid4())
        key = hmac.digest(self._store.root.derive(SECRET_ID_DIGEST), b"\x00drawn " + role.encode(), "sha256")
        drawn = hmac.digest(key, self._mount.mount_id.encode() + request.request_id, "sha256")
        return str(uuid.UUID(bytes=drawn[:16], version=4))

    @retried
    async def add(self, request: Request, role: str, secret_id: str, about: SecretId) -> None:
        """Raises InvalidRequest if the role has it already, and not by this very request."""
        digest = self.digest(role, secret_id)
        draft = Draft(self._store, self._mount.mount_id, request)
        known = draft.get(_path(role, digest), SecretId)
        if known is not None and known.accessor == about.accessor:
            return
        if known is not None:
            raise InvalidRequest("failed to store secret_id: SecretID is already registered")
        draft.put(_path(role, digest), about, expires_ns=about.expires_ns)
        draft.put(_accessor_path(role, about.accessor), _Pointer(digest), expires_ns=about.expires_ns)
        try:
            await draft.commit()
        except CommandRejected as error:
            raise refused(error) from None

    @retried
    async def destroy(self, request: Request, role: str, digest: str) -> bool:
        """Whether there was one."""
        draft = Draft(self._store, self._mount.mount_id, request)
        known = draft.get(_path(role, digest), SecretId)
        if known is None:
            return False
        draft.delete(_path(role, digest))
        draft.delete(_accessor_path(role, known.accessor))
        await draft.commit()
        return True

    def removal_of_all(self, role: str) -> list[AnyCommand]:
        """The commands that remove every secret id of a role."""
        return [
            self._view.delete_below(f"secret-id/{role}/"),
            self._view.delete_below(f"accessor/{role}/"),
        ]

    def spend(self, role: Role, secret_id: str, remote: str) -> Proof | None:
        """One use of a secret id by somebody at `remote`; None if it is none. Nothing is written yet."""
        if len(secret_id) > SECRET_ID_CHARACTERS_MAX:
            return None
        digest = self.digest(role.name, secret_id)
        draft = Draft(self._store, self._mount.mount_id)
        known = draft.get(_path(role.name, digest), SecretId)
        if known is None:
            return None
        if known.cidrs and not inside(remote, known.cidrs):
            raise InvalidRequest(
                f'source address "{remote}" unauthorized by CIDR restrictions on the secret ID'
            )
        if known.uses_left == 1:
            draft.delete(_path(role.name, digest))
            draft.delete(_accessor_path(role.name, known.accessor))
        elif known.uses_left:
            left = msgspec.structs.replace(known, uses_left=known.uses_left - 1, updated_ns=draft.now_ns)
            draft.put(_path(role.name, digest), left, expires_ns=known.expires_ns)
        return Proof(known.metadata, known.token_bound_cidrs, tuple(draft.commands()))


def _path(role: str, digest: str) -> str:
    return f"secret-id/{role}/{digest}"


def _accessor_path(role: str, accessor: str) -> str:
    return f"accessor/{role}/{accessor}" if "/" not in accessor else "accessor/"
