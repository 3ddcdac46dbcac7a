"""What other members ask of this one beside Raft itself: proposals, read indexes, membership changes."""

import asyncio
from typing import Protocol

from consensus import wire
from consensus.api import Member
from consensus.changes import Changes
from consensus.errors import MembershipRefused
from consensus.forwarding import ChangeQuestions, ReadQuestions
from consensus.intake import Intake
from consensus.proposals import Proposals
from consensus.replica import Replica
from consensus.restoring import Order, Restoring
from consensus.shipping import Shipping
from consensus.tasks import Spawn

CHANGES_SERVED_MAX = 8


class Local(Protocol):
    """The member that is asked."""

    replica: Replica
    proposals: Proposals
    reads: ReadQuestions
    changes: Changes
    change_questions: ChangeQuestions
    shipping: Shipping
    intake: Intake
    restoring: Restoring

    @property
    def accepting(self) -> bool: ...
    @property
    def term(self) -> int: ...
    def send(self, peer: str, body: bytes) -> bool: ...


class Inbound:
    """Serves requests and hands answers to whoever asked. Its tasks belong to the engine."""

    def __init__(self, local: Local, spawn: Spawn) -> None:
        self._local, self._spawn = local, spawn
        self._changes: set[asyncio.Task[None]] = set()  # that are being made

    def on_request(self, peer: str, frame: wire.Frame) -> None:
        local = self._local
        match frame:
            case wire.Propose():
                self._take(peer, frame.commands)
            case wire.ProposeRefused():
                local.proposals.refused(frame.request_id, frame.code)
            case wire.ReadIndex():
                local.replica.read(
                    lambda good: self._answer_read(peer, frame.number, good=good), confirm=frame.confirm
                )
            case wire.ReadIndexReply():
                local.reads.answered(frame.number, frame.index)
            case wire.Change():
                self._serve_change(peer, frame)
            case wire.ChangeReply():
                local.change_questions.answered(frame)
            case _:
                self._on_file(peer, frame)

    def _on_file(self, peer: str, frame: wire.Frame) -> None:
        local = self._local
        match frame:
            case wire.FileWanted():
                local.shipping.wanted(peer, frame)
            case wire.FilePiece():
                local.intake.piece(peer, frame)
                local.restoring.on_piece(peer, frame)
            case wire.FileOffer():
                local.restoring.on_offer(peer, frame)
            case wire.FileHeld():
                local.restoring.on_held(peer, frame)
            case wire.RestoreAsk():
                self._serve_restore(peer, frame)
            case wire.RemovalAsk():
                self._serve_removal(peer, frame)

    def _take(self, peer: str, commands: list[tuple[bytes, bytes]]) -> None:
        local = self._local
        for request_id, command in commands:
            code = local.proposals.batcher.take(request_id, command)
            if code != wire.DONE:
                self._reply(peer, wire.ProposeRefused(local.term, request_id, code))

    def _reply(self, peer: str, frame: wire.Frame) -> None:
        """If the link is gone the asker knows, and asks again."""
        self._local.send(peer, wire.encode(frame))

    def _answer_read(self, peer: str, number: int, *, good: bool) -> None:
        index = self._local.replica.core.commit_index if good else -1
        self._reply(peer, wire.ReadIndexReply(self._local.term, number, index))

    def _serve_restore(self, peer: str, frame: wire.RestoreAsk) -> None:
        code, text = wire.NOT_LEADER, ""
        if self._local.accepting:
            text = self._local.restoring.append(Order(frame.request_id, frame.sha256, frame.size_bytes))
            code = wire.REFUSED if text else wire.DONE
        self._reply(peer, wire.ChangeReply(self._local.term, frame.number, code, text))

    def _serve_removal(self, peer: str, frame: wire.RemovalAsk) -> None:
        code, text = wire.NOT_LEADER, ""
        if self._local.accepting:
            try:
                self._local.changes.check_removal(frame.node_id)
                code = wire.DONE
            except MembershipRefused as error:
                code, text = wire.REFUSED, str(error)[: wire.TEXT_CHARS_MAX]
        self._reply(peer, wire.ChangeReply(self._local.term, frame.number, code, text))

    def _serve_change(self, peer: str, frame: wire.Change) -> None:
        if not self._local.accepting or len(self._changes) >= CHANGES_SERVED_MAX:
            self._reply(peer, wire.ChangeReply(self._local.term, frame.number, wire.NOT_LEADER, ""))
            return
        task = self._spawn(self._change_for(peer, frame))
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)

    async def _change_for(self, peer: str, frame: wire.Change) -> None:
        member = Member(frame.node_id, frame.address)
        code, text = wire.DONE, ""
        try:
            async with asyncio.timeout(frame.timeout_ms / 1000):
                if member.id == self._local.replica.me and not frame.adding:
                    code = (
                        wire.NOT_LEADER
                    )  # group.py hands over first, and only its own caller can wait for that
                else:
                    await self._local.changes.change(member, adding=frame.adding)
        except TimeoutError:
            code, text = wire.REFUSED, "the deadline passed"
        except MembershipRefused as error:
            code, text = wire.REFUSED, str(error)[: wire.TEXT_CHARS_MAX]
        self._reply(peer, wire.ChangeReply(self._local.term, frame.number, code, text))
