"""What needs the shares of several people: rekeying, and making a root token. Pure bookkeeping of one attempt each.

An attempt lives in the memory of the leader and ends with its leadership, as in Vault. It is known by its nonce,
which only who began it is told, and who shows a token that may read it: without the nonce nobody can add to an
attempt or cancel it. What an attempt makes is kept until the store has taken it, and what a rekey answered is kept in
the store for a while: when an answer was lost, or its outcome was not known, the same shares under the same nonce ask
for the same thing again, on any leader, and no new shares are ever lost.
"""

import asyncio
import base64
import hmac
import os
import secrets
import uuid
from dataclasses import dataclass, field
from typing import Any

from node import seals
from node.errors import InvalidRequest
from node.pgp import Recipient
from node.seals import Keeper
from node.store import Store
from storage.keyring import RootKey
from storage.seal import SealFile, SealType, Unsealer, create_shamir
from storage.secret import Secret

REQUEST_ID_BYTES = 16
SEED_BYTES = 32


@dataclass(frozen=True, slots=True)
class Shares:
    """How a key is to be split, and for whom."""

    shares: int
    threshold: int
    recipients: tuple[Recipient, ...] = ()  # none, or one a share

    def seal(self, root: RootKey, cluster_id: str, *, generation: int = 0) -> tuple[SealFile, list[bytes]]:
        """A seal file around the root key, and the shares that open it."""
        return create_shamir(
            root, cluster_id=cluster_id, shares=self.shares, threshold=self.threshold, generation=generation
        )

    def shown(self, parts: list[bytes]) -> dict[str, list[str]]:
        """The members of an answer that hand the shares out: encrypted for their holders, where those gave keys."""
        if self.recipients:  # what a holder decrypts is hexadecimal, as in Vault
            parts = [
                each.encrypt(part.hex().encode()) for each, part in zip(self.recipients, parts, strict=True)
            ]
        return {
            "keys": [part.hex() for part in parts],
            "keys_base64": [base64.b64encode(part).decode() for part in parts],
        }

    @property
    def fingerprints(self) -> list[str] | None:
        return [each.fingerprint for each in self.recipients] or None


@dataclass(slots=True)
class Attempt:
    """Shares being collected against a seal file."""

    unsealer: Unsealer
    nonce: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def required(self) -> int:
        return self.unsealer.threshold

    def offer(self, share: str, nonce: str, *, kind: str) -> RootKey | None:
        """One share under the right nonce; the root key when there are enough. Raises InvalidRequest."""
        if not secrets.compare_digest(nonce.encode(), self.nonce.encode()):
            raise InvalidRequest(f"incorrect nonce supplied for this {kind} operation")
        return seals.offer(self.unsealer, share, wrong=f"{kind} failed")

    def prove(self, store: Store, keeper: Keeper, share: str, nonce: str, *, kind: str) -> RootKey | None:
        """offer(), for shares that must be in force still when the last of them comes in."""
        root = self.offer(share, nonce, kind=kind)
        if root is None:
            return None
        if not self._in_force(seals.authority(store, keeper)):
            raise InvalidRequest(f"{kind} failed: these shares were replaced meanwhile")
        if not hmac.compare_digest(root.reveal(), store.root.reveal()):
            raise InvalidRequest(f"{kind} failed: these shares are of another store")
        return root

    def _in_force(self, authority: SealFile) -> bool:
        return authority == self.unsealer.file


@dataclass(slots=True)
class NewSeal:
    """What a rekey made: a seal file that holds the root key under new shares."""

    file: SealFile
    shown: dict[str, list[str]] = field(repr=False)  # as they are handed out
    fingerprints: list[str] | None  # of the keys that they are encrypted for
    expect: int  # the revision that it replaces
    request_id: bytes = field(default_factory=lambda: os.urandom(REQUEST_ID_BYTES))
    verifier: Unsealer | None = None  # collects new shares, where they must prove themselves first
    verification_nonce: str = ""


@dataclass(slots=True)
class Rekey(Attempt):
    """New shares for the seal (or for the recovery keys), proven by the old ones."""

    target: str = seals.SEAL
    wanted: Shares = field(default_factory=lambda: Shares(1, 1))
    backup: bool = False
    verify: bool = False
    made: NewSeal | None = None

    @classmethod
    def begin(
        cls, store: Store, keeper: Keeper, *, target: str, wanted: Shares, backup: bool, verify: bool
    ) -> "Rekey":
        """Raises InvalidRequest where there are no shares to replace."""
        by_people = seals.in_force(store, keeper).type is SealType.SHAMIR
        if by_people and target == seals.RECOVERY:
            raise InvalidRequest(
                "recovery rekeying not supported: people open this store with its unseal keys"
            )
        if not by_people and target == seals.SEAL:
            raise InvalidRequest("a key file opens this store: only its recovery keys can be rekeyed")
        authority = seals.authority(store, keeper)
        return cls(Unsealer(authority), target=target, wanted=wanted, backup=backup, verify=verify)

    def _in_force(self, authority: SealFile) -> bool:
        """What this attempt made may be in force already, when an answer was lost."""
        return authority == self.unsealer.file or (self.made is not None and authority == self.made.file)

    def kept(self, made: NewSeal) -> dict[str, Any]:
        """What must survive this node for resume() to find."""
        return {
            "nonce": self.nonce,
            "replaced": self.unsealer.file.as_dict(),
            "made": made.file.as_dict(),
            "shown": made.shown,
            "fingerprints": made.fingerprints,
            "backup": self.backup,
        }

    @classmethod
    def resume(cls, store: Store, target: str, kept: dict[str, Any]) -> "Rekey | None":
        """A rekey that is in force and whose answer may be lost: the shares of before prove themselves again."""
        file = SealFile.parse(kept["made"])
        if seals.recorded(store, target) != file:
            return None
        return cls(
            Unsealer(SealFile.parse(kept["replaced"])),
            nonce=kept["nonce"],
            target=target,
            wanted=Shares(file.shares, file.threshold),
            backup=kept["backup"],
            made=NewSeal(file, kept["shown"], kept["fingerprints"], expect=0),
        )

    async def make(self, store: Store, keeper: Keeper, root: RootKey) -> NewSeal:
        """The new seal; the same one again until it is forgotten. Splitting among many takes a second."""
        if self.made is None:
            before = seals.recorded(store, self.target)
            generation = (before or keeper.seal_file).generation + 1
            cluster_id = keeper.seal_file.cluster_id
            file, parts = await asyncio.to_thread(self.wanted.seal, root, cluster_id, generation=generation)
            shown, fingerprints = await asyncio.to_thread(self.wanted.shown, parts), self.wanted.fingerprints
            self.made = NewSeal(file, shown, fingerprints, seals.revision(store, self.target))
            if self.verify:
                self.made.verifier, self.made.verification_nonce = Unsealer(file), str(uuid.uuid4())
        return self.made


@dataclass(slots=True)
class RootGeneration(Attempt):
    """A new root token, proven by shares, readable by whoever holds the one-time pad or the PGP key."""

    pad: Secret = field(default_factory=lambda: Secret(b""))
    recipient: Recipient | None = None
    seed: bytes = field(
        default_factory=lambda: os.urandom(SEED_BYTES), repr=False
    )  # the same token on a retry

    def encoded(self, token: Secret) -> str:
        """The token as it is handed out."""
        clear = token.reveal()
        if self.recipient is not None:
            return base64.b64encode(self.recipient.encrypt(clear)).decode()
        padded = bytes(a ^ b for a, b in zip(clear, self.pad.reveal(), strict=True))
        return base64.b64encode(padded).decode().rstrip("=")


@dataclass(slots=True)
class Ceremonies:
    """The attempts of one node: at most one of each kind."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # held by every step of any of them
    rekeys: dict[str, Rekey] = field(default_factory=dict)  # by target
    root: RootGeneration | None = None

    def forget(self) -> None:
        """On sealing."""
        self.rekeys.clear()
        self.root = None
