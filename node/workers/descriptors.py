"""The descriptors that a worker is started with."""

import socket
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Descriptors:
    """`board` is shared memory, `channel` speaks with the main process, sockets are handed over through `passing`."""

    board: int
    channel: socket.socket
    passing: socket.socket
    listening: tuple[tuple[socket.socket, ...], ...]  # by listener

    def text(self) -> str:
        """For the command line of the process that inherits them."""
        doors = "/".join(",".join(str(each.fileno()) for each in sockets) for sockets in self.listening)
        return f"{self.board}:{self.channel.fileno()}:{self.passing.fileno()}:{doors}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """What text() has made, in the process that inherited them."""
        board, channel, passing, doors = text.split(":")
        listening = tuple(
            tuple(_adopted(number) for number in sockets.split(",")) for sockets in doors.split("/")
        )
        return cls(int(board), _adopted(channel), _adopted(passing), listening)

    @property
    def numbers(self) -> list[int]:
        sockets = [self.channel, self.passing, *(each for door in self.listening for each in door)]
        return [self.board, *(each.fileno() for each in sockets)]


def _adopted(number: str) -> socket.socket:
    adopted = socket.socket(fileno=int(number))
    adopted.setblocking(False)
    adopted.set_inheritable(False)
    return adopted
