"""How often a key term was used: counted from the log, whatever became of a command."""

import msgspec
from support.state import T0, Node, mount, put, sealed

from storage import command as c
from storage.outcome import Rejected


def term(number: int) -> c.KeyTermAdd:
    return c.KeyTermAdd(T0, number, b"wrapped")


def under(command: c.KvPut, number: int) -> c.KvPut:
    return msgspec.structs.replace(command, value=msgspec.structs.replace(command.value, term=number))


def begun(path=None) -> Node:
    node = Node(path)
    node.ok(
        c.batch(
            T0, c.ClusterInit(T0, "id", "name"), term(1), c.SystemSecretPut(T0, "ca-key", sealed()), mount()
        )
    )
    return node


def test_every_sealed_value_in_the_log_counts_refused_or_not():
    node = begun()
    assert node.machine.wraps == 1, "of the batch that made the term itself"
    node.ok(put("a", 1))
    assert isinstance(node.do(put("a", 1)), Rejected)
    node.ok(c.KvDelete(T0, "m1", "a", ()))
    assert isinstance(node.do(c.batch(T0, put("a", 2), put("a", 9))), Rejected)
    assert node.machine.wraps == 5
    node.ok(c.EntryPut(T0, "sys:test", "a", sealed()))
    assert node.machine.wraps == 6


def test_a_retry_is_not_another_use():
    node = begun()
    node.do(put("a", 1), request_id=b"r" * 16)
    node.do(put("a", 1), request_id=b"r" * 16)
    assert node.machine.wraps == 2


def test_a_new_term_begins_at_nothing_and_stragglers_count_for_the_old_one():
    node = begun()
    node.ok(put("a", 1))
    node.ok(term(2))
    assert node.machine.wraps == 0
    node.ok(under(put("a", 2), 2))
    node.ok(under(put("b", 1), 1))
    assert node.machine.wraps == 1
    assert [(each.term, each.wraps) for each in node.reads.key_terms()] == [(1, 3), (2, 0)]


def test_counts_survive_a_restart_and_are_part_of_the_state(tmp_path):
    node = begun(tmp_path / "state.db")
    node.ok(put("a", 1))
    digest = node.machine.state_digest()
    node.machine.close()
    again = Node(tmp_path / "state.db")
    assert again.machine.wraps == 2
    assert again.machine.state_digest() == digest
    twin = begun()
    twin.ok(put("a", 1))
    assert twin.machine.state_digest() == digest
    twin.ok(put("a", 2))
    assert twin.machine.state_digest() != digest
