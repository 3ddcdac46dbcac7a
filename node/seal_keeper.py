"""The sealed root key on this node's disk, and the shares that people bring to open it.

A rekey replaces seal.json. Whether its new shares reached anybody is not known before they are used, and a crash may
come first: the file of before stays beside it as seal.former.json, and opens the node too, until the new shares opened
it, somebody seals it on purpose, or FORMER_S have passed in which it ran on.
"""

import asyncio
from pathlib import Path

import structlog

from node import seals
from node.ceremonies import Shares
from node.config import SealSettings
from node.errors import InvalidRequest
from node.identity import Layout
from storage.keyring import RootKey
from storage.seal import SealFile, Unsealer, create_static
from storage.seal.static import read_key_file

FORMER_S = 60.0

log = structlog.get_logger("lifecycle")


class SealKeeper:
    """One node's seal."""

    def __init__(self, layout: Layout, settings: SealSettings) -> None:
        self._layout = layout
        self._settings = settings
        self._file: SealFile | None = None  # as it was last read, written or given
        self._unsealers: list[Unsealer] = []  # of the file, and of the former one
        self._settling: asyncio.TimerHandle | None = None

    @property
    def on_disk(self) -> bool:
        """Whether this directory belongs to a store."""
        return self._layout.seal.exists()

    @property
    def file(self) -> SealFile:
        """Raises SealUnavailable, Corrupt, Incompatible."""
        if self._file is None:
            self._file = SealFile.read(self._layout.seal)
        return self._file

    def hold(self, file: SealFile) -> None:
        """A cluster admitted this node: its seal, in memory until keep()."""
        self._file = file
        self._unsealers.clear()

    async def keep(self, file: SealFile) -> None:
        """From now on this directory belongs to a store."""
        await asyncio.to_thread(file.write, self._layout.seal)
        self._file = file

    def replaced(self) -> None:
        """Another store's seal.json lies on the disk now: nothing of the former one counts any more."""
        self.settle()
        self._file = None
        self._unsealers.clear()

    async def adopt(self, file: SealFile) -> None:
        """Replace the file by a newer one; an older one changes nothing."""
        before = self.file
        if file.generation <= before.generation:
            return
        await asyncio.to_thread(before.write, self._layout.former_seal)
        await asyncio.to_thread(file.write, self._layout.seal)
        self._file = file
        self._settle_later()
        log.info("seal replaced", generation=file.generation, shares=file.shares, threshold=file.threshold)

    def make(self, root: RootKey, cluster_id: str, shares: Shares) -> tuple[SealFile, list[bytes]]:
        """The seal of a new store, and the shares to hand out. Blocking."""
        if self._settings.kind == "shamir":
            return shares.seal(root, cluster_id)
        return create_static(root, cluster_id=cluster_id, key_file=self._key_file), []

    # --- opening ---

    def root_by_key_file(self) -> RootKey:
        """What the key file of a static seal opens. Raises SealUnavailable, WrongKey."""
        return self.file.unwrap(read_key_file(self._key_file).reveal())

    @property
    def _key_file(self) -> Path:
        assert self._settings.key_file is not None
        return self._settings.key_file

    @property
    def progress(self) -> int:
        return self._unsealers[0].progress if self._unsealers else 0

    @property
    def nonce(self) -> str:
        return self._unsealers[0].nonce if self._unsealers else ""

    def reset(self) -> None:
        """Forget the shares that are in."""
        self._unsealers.clear()

    def offer(self, share: str) -> RootKey | None:
        """One share, for either file; the root key when there are enough of one. Raises InvalidRequest."""
        if not self._unsealers:
            self._unsealers.append(Unsealer(self.file))
            if self._layout.former_seal.exists():
                self._unsealers.append(Unsealer(SealFile.read(self._layout.former_seal)))
        refusals: list[InvalidRequest] = []
        for unsealer in self._unsealers:
            try:
                root = seals.offer(unsealer, share, wrong="Unseal failed")
            except InvalidRequest as error:
                refusals.append(error)
                continue
            if root is not None:
                self._opened(unsealer.file)
                return root
        if len(refusals) == len(self._unsealers):
            raise refusals[0]
        return None

    def _opened(self, by: SealFile) -> None:
        self._unsealers.clear()
        if by.generation == self.file.generation:
            self.settle()
        else:
            log.warning("opened by the shares of before the last rekey", generation=by.generation)
            self._settle_later()

    # --- the former file ---

    def _settle_later(self) -> None:
        if self._settling is not None:
            self._settling.cancel()
        self._settling = asyncio.get_running_loop().call_later(FORMER_S, self.settle)

    def settle(self) -> None:
        """Only the shares of the last rekey open this node from now on."""
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        self._layout.former_seal.unlink(missing_ok=True)
