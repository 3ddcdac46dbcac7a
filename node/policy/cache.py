"""Compiled ACLs by policy set, so that a request does not parse."""

import weakref
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TypeVar

from node.entities.directory import Identity
from node.policy import template
from node.policy.acl import ACL, NOTHING, ROOT_ACL
from node.policy.default import WRAPPING, WRAPPING_POLICY
from node.policy.parse import Pattern, Policy, PolicyError, Rule, parse, pattern
from node.store import Store
from storage.rows import Token

ACL_CACHE_ENTRIES_MAX = 4096
POLICY_CACHE_ENTRIES_MAX = 4096
ROOT = "root"

Key = tuple[str, ...]
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A set of policies: its ACL as it is for everybody, and the paths that differ from token to token."""

    acl: ACL
    policies: tuple[Policy, ...] = ()
    templates: tuple[str, ...] = ()


class PolicyCache:
    """ACLs of the policies as this node has applied them. A change of any policy empties the cache."""

    def __init__(self) -> None:
        self._store: weakref.ref[Store] | None = None  # a cache keeps no sealed store alive
        self._generation = 0
        self._sets: OrderedDict[Key, _Compiled] = OrderedDict()
        self._filled: OrderedDict[tuple[Key, tuple[str | None, ...]], ACL] = OrderedDict()
        self._parsed: OrderedDict[tuple[str, str], Policy] = OrderedDict()  # survives changes of others

    def acl(self, store: Store, token: Token, identity: Identity | None = None) -> ACL:
        """What the holder of a token with this identity may do. A policy that does not exist grants nothing."""
        names = _names(token, identity)
        compiled = self._compiled(store, names)
        if not compiled.templates:
            return compiled.acl
        try:
            paths = tuple(template.render(text, token, identity) for text in compiled.templates)
        except template.WildError:
            return NOTHING
        acl = self._filled.get((names, paths))
        if acl is None:
            acl = ACL(_fill(compiled, paths))
            _remember(self._filled, (names, paths), acl, ACL_CACHE_ENTRIES_MAX)
        return acl

    def rules(self, store: Store, token: Token, identity: Identity | None = None) -> list[Policy]:
        """The policies that acl() is made of, as they are for this token; none if they grant nothing at all."""
        compiled = self._compiled(store, _names(token, identity))
        try:
            return _fill(
                compiled, tuple(template.render(text, token, identity) for text in compiled.templates)
            )
        except template.WildError:
            return []

    def _compiled(self, store: Store, names: Key) -> _Compiled:
        generation = store.generation("policies")
        if generation != self._generation or self._store is None or self._store() is not store:
            self._sets.clear()
            self._filled.clear()
            self._store, self._generation = weakref.ref(store), generation
        compiled = self._sets.get(names)
        if compiled is None:
            compiled = self._compile(store, names)
            _remember(self._sets, names, compiled, ACL_CACHE_ENTRIES_MAX)
        else:
            self._sets.move_to_end(names)
        return compiled

    def _compile(self, store: Store, names: Key) -> _Compiled:
        if ROOT in names:
            return _Compiled(ROOT_ACL)
        texts = ((name, WRAPPING_POLICY if name == WRAPPING else store.reads.policy(name)) for name in names)
        try:
            policies = tuple(self._parse(name, text) for name, text in texts if text is not None)
        except PolicyError:
            # It was valid when it was written; a release that cannot read it must not guess what it denied.
            return _Compiled(NOTHING)
        rules = (rule for policy in policies for rule in policy.rules)
        templates = dict.fromkeys(rule.path for rule in rules if rule.pattern is Pattern.TEMPLATE)
        return _Compiled(ACL(policies), policies, tuple(templates))

    def _parse(self, name: str, text: str) -> Policy:
        policy = self._parsed.get((name, text))
        if policy is None:
            policy = parse(name, text)
            _remember(self._parsed, (name, text), policy, POLICY_CACHE_ENTRIES_MAX)
        return policy

    def clear(self) -> None:
        """Forget everything: the node is sealed."""
        self._store = None
        self._sets.clear()
        self._filled.clear()
        self._parsed.clear()


def _names(token: Token, identity: Identity | None) -> Key:
    if identity is None or not identity.policies:
        return token.policies
    return tuple(sorted({*token.policies, *identity.policies}))


def _fill(compiled: _Compiled, paths: tuple[str | None, ...]) -> list[Policy]:
    """The policies with their templates filled in; a rule that does not apply stays out."""
    filled = dict(zip(compiled.templates, paths, strict=True))
    return [
        Policy(policy.name, tuple(each for rule in policy.rules if (each := _filled(rule, filled))))
        for policy in compiled.policies
    ]


def _filled(rule: Rule, filled: dict[str, str | None]) -> Rule | None:
    if rule.pattern is not Pattern.TEMPLATE:
        return rule
    path = filled[rule.path]
    if path is None:
        return None
    canonical, kind = pattern(path)
    return replace(rule, path=canonical, pattern=kind)


def _remember(cache: OrderedDict[K, V], key: K, value: V, limit: int) -> None:
    cache[key] = value
    if len(cache) > limit:
        cache.popitem(last=False)
