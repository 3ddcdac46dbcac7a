"""Whole clusters in one process on virtual time: the real consensus and state machine, under faults drawn from a seed.

loop.py     time that jumps from event to event; processes that can be stopped and killed
network.py  links: in order, late, cut both ways or one way, reconnected
disk.py     the journal's files, what a power cut leaves of them, and power cuts in the middle of an operation
machines.py the state machines: a light one, and the store's own
world.py    nodes, and what must hold at every moment
clients.py  writers and readers, and what they must be told
faults.py   what happens to the nodes
defects.py  mistakes put in on purpose, to see that they are found
play.py     one seed, one history; many seeds on many processors

Not simulated: directories (a rename is durable at once), TLS, and the database's own writes (a power cut leaves the
database of its last checkpoint, a kill the one of its last commit).
"""
