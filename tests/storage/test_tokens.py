"""Service tokens: the forest, expiry, uses."""

import msgspec
import pytest
from support.state import MINUTE, T0, Node, mount, token

from storage import command as c
from storage.outcome import Reason, Rejected
from storage.tokens import SPENT_GRACE_NS, TOKENS_EXPIRE_MAX


@pytest.fixture
def node():
    node = Node()
    yield node
    node.machine.close()


def refused(outcome) -> str:
    assert isinstance(outcome, Rejected)
    return outcome.reason


def names(node: Node) -> str:
    return "".join(sorted(accessor.removeprefix("accessor-") for accessor in node.reads.accessors()))


def family(node: Node) -> None:
    """a has b and c, b has d, d has e; f is another's."""
    for name, parent in [("a", None), ("b", "a"), ("c", "a"), ("d", "b"), ("e", "d"), ("f", None)]:
        node.ok(token(name, parent))


def test_a_token_reads_back_as_written(node):
    node.ok(token("a"))
    node.ok(token("b", "a", expires_ns=T0 + MINUTE, num_uses=3))
    row = node.reads.token(b"b")
    assert (row.digest, row.accessor, row.parent, row.orphan) == (b"b", "accessor-b", b"a", False)
    assert (row.policies, row.metadata, row.num_uses) == (("default", "app"), {"owner": "b"}, 3)
    assert (row.created_ns, row.expires_ns, row.renewable) == (T0, T0 + MINUTE, True)
    assert node.reads.token_by_accessor("accessor-b") == row
    assert node.reads.token(b"a").orphan
    assert (node.reads.token(b"x"), node.reads.token_by_accessor("x")) == (None, None)


def test_digest_and_accessor_are_taken_once(node):
    node.ok(token("a"))
    assert refused(node.do(token("a"))) == Reason.TOKEN_EXISTS


def test_a_child_needs_a_parent_that_lives(node):
    assert refused(node.do(token("b", "a"))) == Reason.PARENT_GONE
    node.ok(token("a", expires_ns=T0 + MINUTE))
    node.ok(token("b", "a", time_ns=T0 + MINUTE - 1))
    assert refused(node.do(token("c", "a", time_ns=T0 + MINUTE))) == Reason.PARENT_GONE


def test_revoking_takes_all_descendants_and_nobody_else(node):
    family(node)
    assert node.ok(c.TokenRevoke(T0, b"b")) == {"revoked": 3}
    assert names(node) == "acf"
    assert node.ok(c.TokenRevoke(T0, b"b")) == {"revoked": 0}


def test_revoking_alone_makes_the_children_orphans(node):
    family(node)
    assert node.ok(c.TokenRevoke(T0, b"b", orphan_children=True)) == {"revoked": 1}
    assert names(node) == "acdef"
    assert (node.reads.token(b"d").parent, node.reads.token(b"d").orphan) == (None, True)
    assert node.ok(c.TokenRevoke(T0, b"a")) == {"revoked": 2}
    assert names(node) == "def"
    assert node.ok(c.TokenRevoke(T0, b"a", orphan_children=True)) == {"revoked": 0}


def test_renewal_moves_the_expiry_of_a_live_token_only(node):
    node.ok(token("a", expires_ns=T0 + MINUTE))
    node.ok(c.TokenRenew(T0 + 5, b"a", 7, T0 + 2 * MINUTE))
    row = node.reads.token(b"a")
    assert (row.ttl_ns, row.expires_ns, row.last_renewal_ns) == (7, T0 + 2 * MINUTE, T0 + 5)
    late = c.TokenRenew(T0 + 2 * MINUTE, b"a", 7, T0 + 9 * MINUTE)
    assert refused(node.do(late)) == Reason.NO_SUCH_TOKEN
    assert refused(node.do(c.TokenRenew(T0, b"x", 7, T0))) == Reason.NO_SUCH_TOKEN


def test_uses_run_out_and_the_last_one_leaves_minus_one(node):
    node.ok(token("a", num_uses=2))
    assert node.ok(c.TokenUse(T0, b"a")) == {"remaining": 1}
    assert node.ok(c.TokenUse(T0, b"a")) == {"remaining": -1}
    assert node.reads.token(b"a").num_uses == -1
    assert refused(node.do(c.TokenUse(T0, b"a"))) == Reason.NO_SUCH_TOKEN
    assert refused(node.do(c.TokenUse(T0, b"x"))) == Reason.NO_SUCH_TOKEN


def test_a_token_without_limit_is_never_used_up_and_an_expired_one_is_not_used(node):
    node.ok(token("a", expires_ns=T0 + MINUTE))
    assert node.ok(c.TokenUse(T0, b"a")) == {"remaining": 0}
    assert refused(node.do(c.TokenUse(T0 + MINUTE, b"a"))) == Reason.NO_SUCH_TOKEN


def test_a_spent_token_is_swept_after_its_grace_if_nobody_revoked_it(node):
    node.ok(token("a", num_uses=1))
    node.ok(c.TokenUse(T0, b"a"))
    assert node.ok(c.TokensExpire(T0 + SPENT_GRACE_NS - 1, 10)) == {"revoked": 0}
    assert node.ok(c.TokensExpire(T0 + SPENT_GRACE_NS, 10)) == {"revoked": 1}


def test_expiry_takes_the_oldest_first_with_their_children_up_to_the_limit(node):
    for number, name in enumerate("abcd"):
        node.ok(token(name, expires_ns=T0 + number + 1))
    node.ok(token("e", "a"))
    assert not node.reads.tokens_due(T0)
    assert node.reads.tokens_due(T0 + 1)
    assert node.ok(c.TokensExpire(T0 + 3, 2)) == {"revoked": 3}
    assert names(node) == "cd"
    assert node.ok(c.TokensExpire(T0 + 3, 2)) == {"revoked": 1}
    assert node.ok(c.TokensExpire(T0 + 3, 2)) == {"revoked": 0}
    assert names(node) == "d"


def test_one_sweep_is_bounded_whatever_was_asked_for(node):
    for number in range(TOKENS_EXPIRE_MAX + 1):
        node.ok(token(f"{number:05}", expires_ns=T0 + 1))
    assert node.ok(c.TokensExpire(T0 + 1, 10**6)) == {"revoked": TOKENS_EXPIRE_MAX}


def test_a_stamp_that_lags_wakes_no_token_that_others_have_seen_dead(node):
    """Clocks differ: what expired by the latest stamp stays dead for a renewal, a use and a child stamped before."""
    node.ok(token("a", expires_ns=T0 + MINUTE, num_uses=2))
    node.ok(c.PolicyPut(T0 + MINUTE, "later", ""))
    early = T0 + MINUTE - 1
    renewal = c.TokenRenew(early, b"a", ttl_ns=MINUTE, expires_ns=early + MINUTE)
    assert refused(node.do(renewal)) == Reason.NO_SUCH_TOKEN
    assert refused(node.do(c.TokenUse(early, b"a"))) == Reason.NO_SUCH_TOKEN
    assert refused(node.do(token("b", "a", time_ns=early))) == Reason.PARENT_GONE
    assert node.reads.token(b"a").expires_ns == T0 + MINUTE


def test_what_an_auth_method_issued_goes_with_it(node):
    """With all descendants, wherever the method was moved to; and nothing is issued by one that is gone."""
    node.ok(mount("auth/up/", "m-up"))
    issued = msgspec.structs.replace(token("a"), issuer="m-up", entity_id="e", bound_cidrs=("10.0.0.0/8",))
    node.ok(issued)
    row = node.reads.token(b"a")
    assert (row.issuer, row.entity_id, row.bound_cidrs, row.role) == ("m-up", "e", ("10.0.0.0/8",), "")
    node.ok(token("b", "a"))
    node.ok(token("f"))
    node.ok(c.MountMove(T0, "auth/up/", "auth/elsewhere/"))
    node.ok(c.MountRemove(T0, "auth/elsewhere/"))
    assert names(node) == "f"
    late = msgspec.structs.replace(token("c"), issuer="m-up")
    assert refused(node.do(late)) == Reason.NO_SUCH_MOUNT
