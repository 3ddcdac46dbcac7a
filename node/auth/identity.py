"""Who asks: from the token that a caller presents to the row that the store keeps of it.

A token is known only by its keyed digest: HMAC-SHA-256 under a key derived from the root key, so that neither
the database nor the log holds anything that could be presented.
"""

import dataclasses
import hmac
import secrets
import string
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from node.auth import batch
from node.auth.cidr import inside
from node.auth.fields import ends_ns
from node.entities.directory import Directory
from node.errors import PermissionDenied
from node.store import CommandRejected, Store
from storage.command import TokenPut, TokenRevoke, TokenUse
from storage.keyring import BATCH_TOKEN, TOKEN_DIGEST
from storage.outcome import Reason
from storage.rows import Token
from storage.secret import Secret

TOKEN_BYTES_MAX = 512  # longer service tokens cannot be ours; spares hashing what a stranger sends
RANDOM_CHARACTERS = 24  # of base 62: 142 bits
BASE62 = string.ascii_letters + string.digits
ROOT = "root"
_BATCH = batch.PREFIX.encode()


@dataclass(frozen=True, slots=True)
class Minted:
    """A token that is not in the store yet: what its owner gets, and the command that makes it valid."""

    token: Secret
    command: TokenPut


class TokenAuthority:
    """Tells valid tokens from others. Keeps nothing but keys of the store that it saw last."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._store: Store | None = None
        self._key = b""
        self._batch_key: AESGCM | None = None

    def digest(self, store: Store, token: Secret) -> bytes:
        """What the store knows a token by."""
        return hmac.digest(self._digest_key(store), token.reveal(), "sha256")

    def _digest_key(self, store: Store) -> bytes:
        if store is not self._store:
            self._key = store.root.derive(TOKEN_DIGEST)
            self._batch_key = AESGCM(store.root.derive(BATCH_TOKEN))
            self._store = store
        return self._key

    def forget(self) -> None:
        """Drop the keys: the node is sealed."""
        self._store, self._key, self._batch_key = None, b"", None

    def find(self, store: Store, token: Secret) -> Token | None:
        """The row of a live token: neither expired nor used up, whether or not it was swept yet."""
        presented = token.reveal()
        if presented.startswith(_BATCH):
            return self._carried(store, token)
        if len(presented) > TOKEN_BYTES_MAX:
            return None
        return live(store.token(self.digest(store, token)), store.now_ns())

    def _carried(self, store: Store, token: Secret) -> Token | None:
        """The row that a batch token holds, if all that it depends on lives."""
        presented = token.reveal()
        if len(presented) > batch.BATCH_TOKEN_BYTES_MAX:
            return None
        digest, now_ns = self.digest(store, token), store.now_ns()
        assert self._batch_key is not None, "digest() has made it"
        row = live(batch.unseal(self._batch_key, presented, digest), now_ns)
        if row is None or (row.parent is not None and live(store.token(row.parent), now_ns) is None):
            return None
        if row.issuer and not store.has_mount(row.issuer):
            return None
        return row

    def seal_batch(self, store: Store, row: Token) -> Secret:
        """The batch token that carries this row. Raises InvalidRequest if it is too long."""
        self._digest_key(store)
        assert self._batch_key is not None
        return batch.seal(self._batch_key, row)

    async def authenticate(
        self, store: Store, token: Secret | None, remote: str, *, spends: bool = True
    ) -> Token:
        """The row of the token that `remote`, an address, presents: see permit(). Raises as that does."""
        row = None if token is None else self.find(store, token)
        if row is None:
            raise PermissionDenied("permission denied")
        return await self.permit(store, row, remote, spends=spends)

    async def permit(self, store: Store, row: Token, remote: str, *, spends: bool = True) -> Token:
        """A live token's row, one use spent if it has a limit (last use: num_uses is -1): the one place that decides.

        Refused from outside the networks that it is bound to, and if its entity is disabled or gone. The count is
        replicated: two nodes cannot both spend the last use, and the row is gone before the last request acts.
        Raises PermissionDenied, NoQuorum or OutcomeUnknown.
        """
        if self._refuses(store, row, remote):
            raise PermissionDenied("permission denied")
        return await self._spend(store, row) if row.num_uses and spends else row

    def still(self, store: Store, token: Secret, remote: str) -> Token | None:
        """The row of a token whose holder was let in before, and would be again; no use is spent."""
        row = self.find(store, token)
        return None if row is None or self._refuses(store, row, remote) else row

    def permit_at_once(self, store: Store, digest: bytes, remote: str, now_ns: int) -> Token | None:
        """What authenticate() gives for a service token, known by its digest, where it neither refuses nor waits."""
        row = live(store.token(digest), now_ns)
        if row is None or row.num_uses or self._refuses(store, row, remote):
            return None
        return row

    def _refuses(self, store: Store, row: Token, remote: str) -> bool:
        if row.bound_cidrs and not inside(remote, row.bound_cidrs):
            return True
        if not row.entity_id:
            return False
        identity = self._directory.find(store, row.entity_id)
        return identity is None or identity.entity.disabled

    async def _spend(self, store: Store, row: Token) -> Token:
        try:
            _, value = await store.submit(TokenUse(time_ns=store.now_ns(), digest=row.digest))
        except CommandRejected as error:
            if error.reason != Reason.NO_SUCH_TOKEN:
                raise
            raise PermissionDenied("permission denied") from None
        remaining = int(value["remaining"])
        if remaining >= 0:
            return dataclasses.replace(row, num_uses=remaining)
        await store.submit(TokenRevoke(time_ns=store.now_ns(), digest=row.digest))
        return dataclasses.replace(row, num_uses=-1)

    def mint(
        self,
        store: Store,
        *,
        policies: tuple[str, ...],
        path: str,
        token: str | None = None,
        seed: bytes = b"",
        parent: bytes | None = None,
        display_name: str = "token",
        metadata: dict[str, str] | None = None,
        num_uses: int = 0,
        ttl_ns: int = 0,
        explicit_max_ttl_ns: int = 0,
        period_ns: int = 0,
        renewable: bool = False,
        expires_ns: int | None = None,
        **bound: Any,
    ) -> Minted:
        """A service token "s." + 24 base-62 characters (or the given one) with an accessor of its own.

        Durations in nanoseconds, 0 for none; expires_ns is the clock plus ttl_ns unless given. With a seed,
        the same one gives the same token and accessor again, and tells nobody without the key what they are.
        `bound`: entity_id, role, bound_cidrs and issuer of TokenPut.
        """
        drawn = self._seeded(store, b"token", seed) if seed else random_base62()
        accessor = self._seeded(store, b"accessor", seed) if seed else random_base62()
        secret = Secret((token if token is not None else f"s.{drawn}").encode())
        now_ns = store.now_ns()
        command = TokenPut(
            time_ns=now_ns,
            digest=self.digest(store, secret),
            accessor=accessor,
            parent=parent,
            policies=policies,
            path=path,
            display_name=display_name,
            metadata=metadata,
            num_uses=num_uses,
            ttl_ns=ttl_ns,
            explicit_max_ttl_ns=explicit_max_ttl_ns,
            period_ns=period_ns,
            renewable=renewable,
            expires_ns=expires_ns if expires_ns is not None else (ends_ns(now_ns, ttl_ns) if ttl_ns else 0),
            **bound,
        )
        return Minted(secret, command)

    def _seeded(self, store: Store, label: bytes, seed: bytes) -> str:
        key = hmac.digest(self._digest_key(store), b"\x00mint " + label, "sha256")
        number = int.from_bytes(hmac.digest(key, seed, "sha256"), "big")
        characters = []
        for _ in range(RANDOM_CHARACTERS):
            number, position = divmod(number, len(BASE62))
            characters.append(BASE62[position])
        return "".join(characters)

    def root_token_commands(self, store: Store, token: str | None = None, *, seed: bytes = b"") -> Minted:
        """A root token: no parent, no end. `token` is for `dev`, where the operator chooses it; seed: see mint()."""
        return self.mint(
            store, policies=(ROOT,), path="auth/token/root", token=token, seed=seed, display_name=ROOT
        )


def live(row: Token | None, now_ns: int) -> Token | None:
    """The row if it is valid now: expiry and use count decide, not whether a sweep came by."""
    if row is None or row.num_uses < 0 or 0 < row.expires_ns <= now_ns:
        return None
    return row


def random_base62(characters: int = RANDOM_CHARACTERS) -> str:
    """Uniform, from the system's generator."""
    return "".join(secrets.choice(BASE62) for _ in range(characters))
