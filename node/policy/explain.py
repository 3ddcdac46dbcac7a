"""Why these policies say yes or no: the rule that decided, who wrote it, and which others matched but did not count.

Pure. The decision itself is the ACL's; this only says what it was made of.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from node.core.request import Operation
from node.policy.acl import ACL
from node.policy.parse import CAPABILITIES, Policy, Rule

MATCHES_SHOWN_MAX = 100


@dataclass(frozen=True, slots=True)
class Explanation:
    """`deciding` and `others` are rules as answers show them, `deciding` all those on the one pattern that counts."""

    pattern: str
    reason: str
    deciding: list[dict[str, Any]]
    others: list[dict[str, Any]]


def explain(
    policies: Iterable[Policy],
    acl: ACL,
    operation: Operation,
    path: str,
    data: Mapping[str, Any],
    *,
    sudo: bool,
) -> Explanation:
    """What `acl`, made of `policies`, goes by."""
    pattern, reason = acl.verdict(operation, path, data, sudo=sudo)
    matching = [
        (policy.name, rule)
        for policy in policies
        for rule in policy.rules
        if ACL([Policy(policy.name, (rule,))]).verdict(operation, path, data, sudo=sudo)[0]
    ]
    return Explanation(
        pattern,
        reason,
        [_shown(name, rule) for name, rule in matching if rule.written == pattern][:MATCHES_SHOWN_MAX],
        [_shown(name, rule) for name, rule in matching if rule.written != pattern][:MATCHES_SHOWN_MAX],
    )


def _shown(policy: str, rule: Rule) -> dict[str, Any]:
    granted = sorted(name for name, bit in CAPABILITIES.items() if rule.capabilities & bit)
    return {"policy": policy, "path": rule.written, "capabilities": granted}
