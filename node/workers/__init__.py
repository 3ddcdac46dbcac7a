"""Read workers: processes that share the listeners and answer plain reads from what the main process told them.

A worker has no store, no database and no keys but that of the listener. What it does not know it asks of the main
process, which answers as the listener itself would (desk.py), and says along with a plain read's answer what that
depends on: the value's mark, the epoch of everything else, when the token and the value end. The worker answers the
same to the same caller for as long as the marks in shared memory (board.py) stand, and the node's state is fresh.
The main process moves a mark while it applies a change, so before anybody is told of it, and shows until when its
state is fresh before it sends anything to another node (consensus.api.Group.watch).

What one end has sent and the other has not read is bounded (messages.Channel): a worker then listens to nobody who
could ask more, the main process answers nobody there until its answers are taken.
"""
