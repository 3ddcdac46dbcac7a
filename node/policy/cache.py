"""Compiled ACLs by policy set, so that a request does not parse."""

import weakref
from collections import OrderedDict

from node.policy.acl import ACL, NOTHING, ROOT_ACL
from node.policy.default import WRAPPING, WRAPPING_POLICY
from node.policy.parse import Policy, PolicyError, parse
from node.store import Store

ACL_CACHE_ENTRIES_MAX = 4096
POLICY_CACHE_ENTRIES_MAX = 4096
ROOT = "root"


class PolicyCache:
    """ACLs of the policies as this node has applied them. A change of any policy empties the cache."""

    def __init__(self) -> None:
        self._store: weakref.ref[Store] | None = None  # a cache keeps no sealed store alive
        self._generation = 0
        self._acls: OrderedDict[tuple[str, ...], ACL] = OrderedDict()
        self._parsed: OrderedDict[tuple[str, str], Policy] = OrderedDict()  # survives changes of others

    def acl(self, store: Store, names: tuple[str, ...]) -> ACL:
        """What tokens with these policies may do. A policy that does not exist grants nothing."""
        generation = store.generation("policies")
        if generation != self._generation or self._store is None or self._store() is not store:
            self._acls.clear()
            self._store, self._generation = weakref.ref(store), generation
        acl = self._acls.get(names)
        if acl is not None:
            self._acls.move_to_end(names)
            return acl
        acl = self._compile(store, names)
        self._acls[names] = acl
        if len(self._acls) > ACL_CACHE_ENTRIES_MAX:
            self._acls.popitem(last=False)
        return acl

    def _compile(self, store: Store, names: tuple[str, ...]) -> ACL:
        if ROOT in names:
            return ROOT_ACL
        texts = ((name, WRAPPING_POLICY if name == WRAPPING else store.reads.policy(name)) for name in names)
        try:
            return ACL([self._parse(name, text) for name, text in texts if text is not None])
        except PolicyError:
            # It was valid when it was written; a release that cannot read it must not guess what it denied.
            return NOTHING

    def _parse(self, name: str, text: str) -> Policy:
        policy = self._parsed.get((name, text))
        if policy is None:
            policy = parse(name, text)
            self._parsed[name, text] = policy
            if len(self._parsed) > POLICY_CACHE_ENTRIES_MAX:
                self._parsed.popitem(last=False)
        return policy

    def clear(self) -> None:
        """Forget everything: the node is sealed."""
        self._store = None
        self._acls.clear()
        self._parsed.clear()
