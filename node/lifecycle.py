"""Turning a node on and off: initialise, unseal, seal, join, stop.

A node is *empty* (no seal.json), *sealed* or *unsealed*. seal.json is written last by `init` and `join`:
what a crash leaves without it is the rest of an attempt that nobody was told of, and is cleared away.
"""

import asyncio
import dataclasses
import uuid
from collections.abc import Callable
from typing import Any

import structlog

from consensus.api import Status
from node import enrol, seals
from node.backup import anew
from node.backup.archive import Contents
from node.ceremonies import Shares
from node.config import Settings
from node.core.core import Core, Initialized
from node.errors import InvalidRequest, NotInitialized, Sealed
from node.genesis import genesis, settlement
from node.identity import Layout, incarnate, incarnate_first, read_identity
from node.joining import Admitted, admission
from node.listener_tls import ListenerTLS
from node.opened import Opener, Unsealed
from node.raft import Start
from node.regions import enrol as enrol_region
from node.regions.arrival import Arrival, Progress, clear_parts
from node.renewal import renew
from node.seal_keeper import SealKeeper
from storage.command import AnyCommand, NodeRemove
from storage.errors import WrongKey
from storage.keyring import AUDIT_HMAC, DATABASE, PEER_IDENTITY, Keyring, RootKey
from storage.machine import Machine
from storage.seal import SealFile

log = structlog.get_logger("lifecycle")


FIRST_TERM = 1  # of a region's log, which begins behind the state that it fetched


class NodeLifecycle:
    """The one owner of seal, Raft group, database and their tasks. Transitions never overlap."""

    def __init__(
        self, *, settings: Settings, tls: ListenerTLS, layout: Layout, on_failure: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._layout = layout
        self._tls = tls
        self._on_failure = on_failure  # housekeeping ended by an exception: the node must stop
        self._transition = asyncio.Lock()
        self._unsealed: Unsealed | None = None
        self._seal = SealKeeper(layout, settings.seal)
        self._admitted: Admitted | None = None
        self._arrival: Arrival | None = None  # the state of another region, while this node begins to follow
        self._fetching: asyncio.Task[None] | None = None
        self.core: Core  # set by the composition root, which needs this object to make it

    @property
    def _opener(self) -> Opener:
        return Opener(
            settings=self._settings,
            layout=self._layout,
            core=self.core,
            renew=self._renew,
            follow_seal=lambda store: seals.follow(store, self),
            on_failure=self._on_failure,
        )

    # --- what is ---

    @property
    def initialized(self) -> bool:
        return self._admitted is not None or self._seal.on_disk

    @property
    def unsealed(self) -> bool:
        return self._unsealed is not None

    @property
    def arriving(self) -> Progress | None:
        """How much of another region's state is here, while this node begins to follow."""
        return self._arrival.progress if self._arrival is not None else None

    @property
    def cluster_id(self) -> str:
        """Empty while sealed."""
        return self._unsealed.identity.cluster_id if self._unsealed else ""

    @property
    def ca_certificate(self) -> bytes:
        """The certificate of the authority, PEM (public)."""
        return self._layout.ca_certificate.read_bytes()

    @property
    def listener_pin(self) -> bytes:
        return self._tls.pin

    @property
    def seal_file(self) -> SealFile:
        """seal.json: sealed key material, worth nothing without the seal."""
        return self._seal.file

    async def adopt_seal(self, file: SealFile) -> None:
        """Keep a newer seal: from the next start on, its shares are the ones that open this node."""
        await self._seal.adopt(file)

    def raft_status(self) -> Status | None:
        """Raft's view, while there is one."""
        return self._unsealed.group.status() if self._unsealed else None

    def raft_counters(self) -> dict[str, float]:
        if self._unsealed is None:
            return {}
        return dataclasses.asdict(self._unsealed.group.counters())

    def seal_status(self) -> dict[str, Any]:
        """The numbers of sys/seal-status that depend on the seal."""
        shamir = self._settings.seal.kind == "shamir"
        if not self.initialized:
            return {"type": self._settings.seal.kind, "t": 0, "n": 0, "progress": 0, "nonce": "",
                    "recovery_seal": not shamir}  # fmt: skip
        seal = people = self.seal_file
        if self._unsealed is not None and not shamir:  # whose shares are asked for, where there are any
            people = seals.recorded(self._unsealed.store, seals.RECOVERY) or seal
        return {
            "type": seal.type,
            "t": people.threshold,
            "n": people.shares,
            "progress": self._seal.progress,
            "nonce": self._seal.nonce,
            "recovery_seal": seal.type != "shamir",
        }

    # --- transitions ---

    async def start(self) -> None:
        """At process start: open the store if the seal needs nobody's hands.

        Requests come in already, and wait: one that began a store would lose it again to what is cleared away here.
        """
        async with self._transition:
            if await asyncio.to_thread(anew.finish, self._layout):
                log.info("an interrupted restore was finished")
            if not self.initialized:
                self._layout.clear_unfinished()
                log.info(
                    "node is not initialised: `operator init` makes a new store, `operator join` enters one"
                )
            elif self._settings.seal.kind != "static":
                log.info("node is sealed: `operator unseal` opens it")
            else:
                await self._open(self._seal.root_by_key_file())

    async def initialize(self, *, seal: Shares, recovery: Shares | None) -> Initialized:
        """Make a new store with this node as its only member. See Lifecycle.initialize."""
        async with self._transition:
            if self.initialized:
                raise InvalidRequest("Vault is already initialized")
            self._layout.clear_unfinished()
            root, cluster_id = RootKey.generate(), str(uuid.uuid4())
            file, keys = await asyncio.to_thread(self._seal.make, root, cluster_id, seal)
            reserve: SealFile | None = None
            recovery_keys: list[bytes] = []
            if recovery is not None:
                reserve, recovery_keys = await asyncio.to_thread(recovery.seal, root, cluster_id)
            ca = self._tls.take_authority()
            identity = incarnate_first(
                self._layout, root, node_id=self._settings.node_id, cluster_id=cluster_id, ca=ca
            )
            opened = await self._opener.open(root, identity, start=Start.CREATE)
            minted = self.core.tokens.root_token_commands(opened.store)
            beginning = genesis(
                settings=self._settings,
                now_ns=opened.store.now_ns(),
                cluster_id=cluster_id,
                keyring=Keyring(root, cluster_id),
                ca_key=ca.key,
                root_token=minted.command,
                recovery=reserve,
            )
            await self._begin(opened, beginning, file)
            log.info("store initialised", cluster_id=cluster_id, seal=file.type)
            return Initialized(minted.token, keys, recovery_keys)

    async def follow(self, *, ticket: str, seal: Shares) -> list[bytes]:
        """Begin a region that follows, with this node as its only member. See Lifecycle.follow."""
        settings = self._settings
        if not settings.link_address:
            raise InvalidRequest(
                "this node has no region_addr in its configuration, at which other regions reach it"
            )
        async with self._transition:
            if self.initialized:
                raise InvalidRequest(
                    "this node has a store already: a region begins to follow with an empty one"
                )
            self._layout.clear_unfinished()
            enrolment = await enrol_region.enrol(
                ticket,
                region=settings.region,
                endpoints=[settings.api_address],
                links=[settings.link_address],
            )
            root, cluster_id = enrolment.root, enrolment.cluster_id
            file, keys = await asyncio.to_thread(self._seal.make, root, cluster_id, seal)
            ca = self._tls.take_authority()
            identity = incarnate_first(
                self._layout, root, node_id=self._settings.node_id, cluster_id=cluster_id, ca=ca
            )
            await self._fetch(enrolment)
            await asyncio.to_thread(self._settle, root)
            opened = await self._opener.open(root, identity, start=Start.CREATE, term=FIRST_TERM)
            beginning = settlement(settings, opened.store.now_ns(), opened.store.keyring, ca.key)
            await self._begin(opened, beginning, file)
            log.info("this region follows", region=settings.region, source=enrolment.source)
            return keys

    async def _fetch(self, enrolment: enrol_region.Enrolment) -> None:
        """The whole state. Raises InvalidRequest if it cannot be had, or if the node is stopped meanwhile."""
        settings, arrival = self._settings, Arrival(self._layout.database)
        fetching = asyncio.create_task(
            enrol_region.fetch_state(enrolment, arrival, region=settings.region, source=settings.link_source),
            name="state of another region",
        )
        self._arrival, self._fetching = arrival, fetching
        try:
            await asyncio.wait({fetching})
            if fetching.cancelled():
                raise InvalidRequest("this node is being stopped: join again, and it goes on where it was")
            fetching.result()
        finally:
            fetching.cancel()
            await asyncio.wait({fetching})
            self._arrival = self._fetching = None

    def _settle(self, root: RootKey) -> None:
        """What was fetched becomes this region's own. Blocking."""
        machine = Machine.open(self._layout.database, key=root.derive(DATABASE))
        try:
            machine.settle(self._settings.region)
            machine.checkpoint()
        finally:
            machine.close()

    async def unseal(self, *, share: str, reset: bool) -> None:
        """Offer one share. Raises InvalidRequest for a bad share or a set that does not open the store."""
        async with self._transition:
            if not self.initialized:
                raise NotInitialized("Vault is not initialized")
            if self._unsealed is not None:
                return
            if self._settings.seal.kind != "shamir":
                raise InvalidRequest("this node opens itself with its seal key: restart it")
            if reset:
                self._seal.reset()
                return
            root = self._seal.offer(share)
            if root is not None:
                await (self._open(root) if self._admitted is None else self._enter(self._admitted, root))

    async def seal(self) -> None:
        """Close the store and forget its keys. Leadership is handed over first."""
        self._seal.settle()
        await self.stop()

    async def stop(self) -> None:
        """seal(), at the end of the process: that may be a crash of all nodes in somebody else's eyes."""
        async with self._transition:
            await self._shut()

    async def _shut(self) -> None:
        opened = self._unsealed
        if opened is not None:
            self._unsealed = None
            if self.core.workers is not None:
                self.core.workers.close()
            self.core.events.close()
            self.core.store = self.core.regions = self.core.copies = None
            self.core.audit.set_key(None)
            self.core.tokens.forget()
            self.core.policies.clear()
            opened.store.values.close()
            self.core.ceremonies.forget()
            self.core.directory.clear()
            await opened.close()
            log.info("node sealed")

    async def hand_over(self) -> None:
        """Before draining: let another node lead, so that clients elsewhere do not wait for an election; and let nobody
        wait here for what may take hours.
        """
        if self._fetching is not None:
            self._fetching.cancel()
        if self._unsealed is not None:
            await self._unsealed.group.step_down(self._settings.election_timeout_s * 3)

    async def step_down(self) -> None:
        """Hand leadership over; nothing happens on a follower."""
        if self._unsealed is None:
            raise Sealed("Vault is sealed")
        await self._unsealed.group.step_down(self._settings.election_timeout_s * 3)

    async def join(self, *, leader_api_address: str, join_token: str) -> None:
        """Enter the cluster that the token names. Raises InvalidRequest with the reason if it does not.

        With key shares the node is sealed afterwards; what it was given stays in memory until `unseal`
        (a restart before that means joining again, for which the same token is good until it expires).
        """
        ticket = enrol.Ticket.parse(join_token)
        async with self._transition:
            if self._seal.on_disk:
                raise InvalidRequest("this node belongs to a cluster already")
            self._layout.clear_unfinished()
            admitted = await admission(self._settings, self._tls, ticket, leader_api_address)
            self._seal.hold(admitted.seal)
            self._admitted = admitted
            log.info("admitted", cluster_id=admitted.cluster_id)
            if admitted.seal.type == "static":
                await self._enter(admitted, self._seal.root_by_key_file())

    async def remove(self, node_id: str, timeout: float) -> None:
        """Take a node out: unregister it (so that nobody adds it again), then take its vote away."""
        opened = self._unsealed
        if opened is None:
            raise Sealed("Vault is sealed")
        if {member.id for member in opened.group.status().members} == {node_id}:
            raise InvalidRequest("the last node of a cluster cannot be removed")
        await opened.group.check_removal(node_id, timeout)
        await opened.store.submit(NodeRemove(time_ns=opened.store.now_ns(), node_id=node_id))
        await opened.group.remove_member(node_id, timeout)

    async def begin_anew(self, contents: Contents) -> None:
        """Put a snapshot of another store in the place of this one. See Lifecycle.begin_anew."""
        async with self._transition:
            opened = self._unsealed
            if opened is None:
                raise Sealed("Vault is sealed")
            if len(opened.group.status().members) > 1:
                raise InvalidRequest(
                    "a snapshot with another root key takes the place of a store of one node: remove the other"
                    " nodes, restore it, and let them join again with empty disks"
                )
            await asyncio.to_thread(anew.check, contents, self._settings)
            await asyncio.to_thread(anew.lay_out, self._layout, contents)
            await self._shut()
            await asyncio.to_thread(anew.finish, self._layout)
            self._seal.replaced()
            log.info("store replaced by a snapshot", cluster_id=contents.meta.cluster_id)
            if self._settings.seal.kind == "static":
                await self._open(self._seal.root_by_key_file())

    # --- steps ---

    async def _begin(self, opened: Unsealed, beginning: AnyCommand, file: SealFile) -> None:
        """A new store: its first command is in force, then its seal is on disk; people's shares close it again."""
        try:
            await opened.store.submit(beginning)
            await self._seal.keep(file)
        except BaseException:
            await opened.close()
            raise
        self._tls.forget_authority()
        if file.type == "shamir":
            await opened.close()
        else:
            self._serve(opened)

    async def _enter(self, admitted: Admitted, root: RootKey) -> None:
        """The second half of join: keep what the cluster gave, and start as a learner."""
        identity = incarnate(
            self._layout,
            root,
            node_id=self._settings.node_id,
            cluster_id=admitted.cluster_id,
            ca_certificate=admitted.ca_certificate,
            peer=admitted.peer,
        )
        opened = await self._opener.open(root, identity, start=Start.JOIN, members=admitted.members)
        try:
            await self._seal.keep(admitted.seal)
        except BaseException:
            await opened.close()
            raise
        self._admitted = None
        self._serve(opened)

    async def _open(self, root: RootKey) -> None:
        """Open what is on disk. StorageError and consensus.Corrupt mean: this directory must not be used."""
        if (beginning := anew.beginning(self._layout)) is not None:
            await self._open_restored(root, beginning)
            return
        identity = read_identity(self._layout.identity, root.derive(PEER_IDENTITY))
        if identity.node_id != self._settings.node_id:
            raise WrongKey(
                f"this directory belongs to node {identity.node_id!r}, not {self._settings.node_id!r}"
            )
        self._serve(await self._opener.open(root, identity, start=Start.OPEN))

    async def _open_restored(self, root: RootKey, beginning: anew.Beginning) -> None:
        """The first time that the keys of a restored store open it."""
        identity = await asyncio.to_thread(
            anew.adopt, root, beginning, self._settings, self._layout, self._tls
        )
        opened = await self._opener.open(root, identity, start=Start.CREATE, term=beginning.term)
        try:
            await asyncio.to_thread(anew.done, self._layout)
        except BaseException:
            await opened.close()
            raise
        self._serve(opened)

    def _renew(self) -> None:
        if (opened := self._unsealed) is not None:
            opened.identity = renew(
                store=opened.store,
                identity=opened.identity,
                peer_contexts=opened.peer_tls,
                tls=self._tls,
                layout=self._layout,
            )

    def _serve(self, opened: Unsealed) -> None:
        self._unsealed = opened
        clear_parts(self._layout.database)
        self.core.audit.set_key(opened.root.derive(AUDIT_HMAC))
        self.core.store, self.core.regions, self.core.copies = opened.store, opened.regions, opened.copies
        self.core.events.open(self.core, opened.store)
        if self.core.workers is not None:
            self.core.workers.open(opened.store, opened.identity.cluster_id)
        log.info("node unsealed", cluster_id=opened.identity.cluster_id)
