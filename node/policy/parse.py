"""From the text of a policy, HCL or JSON, to rules of our own.

The language is Vault's (https://developer.hashicorp.com/vault/docs/concepts/policies): blocks
`path "..." { capabilities = [...] }` with parameter constraints, and the older `policy = "read"` shorthand.
Parsing is total: a text is a Policy or a PolicyError, within time linear in POLICY_BYTES_MAX.
"""

import enum
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from node import hcl
from node.auth.fields import duration_ns
from node.errors import InvalidRequest

POLICY_BYTES_MAX = 64 * 1024
NAME_CHARACTERS_MAX = 256

DENY, CREATE, READ, UPDATE, PATCH, DELETE, LIST, SCAN, SUDO, SUBSCRIBE = (1 << bit for bit in range(10))
CAPABILITIES: Mapping[str, int] = {
    "deny": DENY,
    "create": CREATE,
    "read": READ,
    "update": UPDATE,
    "patch": PATCH,
    "delete": DELETE,
    "list": LIST,
    "scan": SCAN,
    "sudo": SUDO,
    "subscribe": SUBSCRIBE,
}
_SHORTHAND = {
    "deny": DENY,
    "read": READ | LIST,
    "write": CREATE | READ | UPDATE | DELETE | LIST,
    "sudo": CREATE | READ | UPDATE | DELETE | LIST | SUDO,
}
_RULE_KEYS = frozenset(
    {
        "comment",
        "policy",
        "capabilities",
        "required_parameters",
        "allowed_parameters",
        "denied_parameters",
        "min_wrapping_ttl",
        "max_wrapping_ttl",
        "subscribe_event_types",
    }
)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@+/-]*(?<!/)")

Parameters = Mapping[str, tuple[Any, ...]]


class PolicyError(ValueError):
    """The text is no policy, or the name no name. The message is for the caller."""


class Pattern(enum.Enum):
    """How a rule's path is compared."""

    EXACT = "exact"
    PREFIX = "prefix"  # path is what stood before the "*"
    SEGMENTS = "segments"  # "+" segments; path keeps its final "*"
    TEMPLATE = "template"  # "{{identity...}}": another of these once it is filled in for a token


@dataclass(frozen=True, slots=True)
class Rule:
    """What one `path` block says. None for parameters means no constraint of that sort."""

    path: str
    pattern: Pattern
    capabilities: int  # DENY alone, or a union of the others
    required: tuple[str, ...] = ()
    allowed: Parameters | None = None
    denied: Parameters | None = None
    min_wrapping_ttl_ns: int = 0
    max_wrapping_ttl_ns: int = 0
    event_types: tuple[str, ...] = ()  # globs: what `subscribe` is for; () everything

    @property
    def written(self) -> str:
        """The pattern as it was written."""
        return f"{self.path}*" if self.pattern is Pattern.PREFIX else self.path


@dataclass(frozen=True, slots=True)
class Policy:
    name: str
    rules: tuple[Rule, ...]


def policy_name(raw: str) -> str:
    """The one canonical spelling of a policy's name: lower case, printable ASCII without spaces.

    Nothing is stripped: " root" and its Unicode look-alikes are no names at all. Raises PolicyError.
    """
    if len(raw) > NAME_CHARACTERS_MAX or not _NAME.fullmatch(raw):
        raise PolicyError(
            "invalid policy name: use letters, digits and any of _ . : @ + / -, "
            f"starting with a letter, digit or _, at most {NAME_CHARACTERS_MAX} characters"
        )
    return raw.lower()


def parse(name: str, text: str) -> Policy:
    """The rules of a policy, in order. Raises PolicyError("failed to parse policy: ...")."""
    if len(text.encode("utf-8", "surrogatepass")) > POLICY_BYTES_MAX:
        raise PolicyError(f"failed to parse policy: more than {POLICY_BYTES_MAX} bytes")
    try:
        return Policy(name, tuple(_rules(_document(text))))
    except (hcl.HclError, PolicyError, InvalidRequest) as error:
        raise PolicyError(f"failed to parse policy: {error}") from None


def _document(text: str) -> hcl.Block:
    if not text.lstrip().startswith("{"):
        return hcl.loads(text)
    try:
        document = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise PolicyError(f"{error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise PolicyError("nested too deeply") from None
    except ValueError as error:
        if isinstance(error, PolicyError):
            raise
        raise PolicyError("a number is too long") from None
    assert isinstance(document, hcl.Block)
    return document


def _unique(pairs: list[tuple[str, Any]]) -> hcl.Block:
    if len({key for key, _ in pairs}) != len(pairs):
        raise PolicyError("a key is given twice in one object")
    return hcl.Block(pairs)


def _rules(document: hcl.Block) -> list[Rule]:
    rules: list[Rule] = []
    for key, value in document:
        if key == "name":
            continue
        if key != "path":
            raise PolicyError(f'invalid key "{key}"')
        # JSON allows {"path": [{"a": {...}}, {"b": {...}}]} too
        for block in value if _is_list(value) else [value]:
            if not isinstance(block, hcl.Block):
                raise PolicyError("a path must be a block")
            rules.extend(_rule(path, body) for path, body in block)
    return rules


def _is_list(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list) and not isinstance(value, hcl.Block)


def _rule(path: str, body: Any) -> Rule:
    if _is_list(body) and len(body) == 1:
        body = body[0]
    if not isinstance(body, hcl.Block):
        raise PolicyError(f'path "{path}": expected a block')
    try:
        return _checked_rule(path.removeprefix("/"), body)
    except (PolicyError, InvalidRequest) as error:
        raise PolicyError(f'path "{path}": {error}') from None


def _checked_rule(path: str, body: hcl.Block) -> Rule:
    fields: dict[str, Any] = {}
    for key, value in body:
        if key not in _RULE_KEYS:
            raise PolicyError(f'invalid key "{key}"')
        if key in fields:
            raise PolicyError(f'"{key}" is given twice')
        fields[key] = value
    canonical, kind = pattern(path)
    capabilities = _capabilities(path, fields)
    if capabilities == DENY:
        return Rule(canonical, kind, DENY)
    minimum = duration_ns(fields.get("min_wrapping_ttl"), "min_wrapping_ttl")
    maximum = duration_ns(fields.get("max_wrapping_ttl"), "max_wrapping_ttl")
    if 0 < maximum < minimum:
        raise PolicyError("max_wrapping_ttl cannot be less than min_wrapping_ttl")
    return Rule(
        canonical,
        kind,
        capabilities,
        required=tuple(name.lower() for name in _texts(fields, "required_parameters")),
        allowed=_parameters(fields, "allowed_parameters"),
        denied=_parameters(fields, "denied_parameters"),
        min_wrapping_ttl_ns=minimum,
        max_wrapping_ttl_ns=maximum,
        event_types=tuple(_texts(fields, "subscribe_event_types")),
    )


def pattern(path: str) -> tuple[str, Pattern]:
    """How a rule's path is kept and compared. Raises PolicyError."""
    if "+*" in path:
        raise PolicyError(f"path \"{path}\": invalid use of wildcards ('+*' is forbidden)")
    if "{{" in path:
        return path, Pattern.TEMPLATE
    if path == "+" or path.startswith("+/") or "/+" in path:
        return path, Pattern.SEGMENTS
    if path.endswith("*"):
        return path[:-1], Pattern.PREFIX
    return path, Pattern.EXACT


def _capabilities(path: str, fields: Mapping[str, Any]) -> int:
    granted = 0
    shorthand = fields.get("policy", "")
    if shorthand != "":
        if not isinstance(shorthand, str) or shorthand not in _SHORTHAND:
            raise PolicyError(f'path "{path}": invalid policy "{shorthand}"')
        granted = _SHORTHAND[shorthand]
    for capability in _texts(fields, "capabilities"):
        if capability not in CAPABILITIES:
            raise PolicyError(f'path "{path}": invalid capability "{capability}"')
        granted |= CAPABILITIES[capability]
    return DENY if granted & DENY else granted


def _texts(fields: Mapping[str, Any], key: str) -> list[str]:
    value = fields.get(key, [])
    if not _is_list(value) or not all(isinstance(item, str) for item in value):
        raise PolicyError(f'"{key}" must be a list of strings')
    return list(value)


def _parameters(fields: Mapping[str, Any], key: str) -> Parameters | None:
    value = fields.get(key)
    if _is_list(value) and all(isinstance(item, hcl.Block) for item in value):
        value = hcl.Block(entry for block in value for entry in block)
    if value is None:
        return None
    if not isinstance(value, hcl.Block) or not all(_is_list(values) for _, values in value):
        raise PolicyError(f'"{key}" must map parameters to lists of values')
    parameters: dict[str, tuple[Any, ...]] = {}
    for parameter, values in value:
        if parameter.lower() in parameters:
            raise PolicyError(f'"{key}" names "{parameter.lower()}" twice')
        parameters[parameter.lower()] = tuple(_plain(item) for item in values)
    return parameters or None


def _plain(value: Any, depth: int = 0) -> Any:
    """Nested blocks as the dicts that a request's JSON holds."""
    if depth > hcl.DEPTH_MAX:
        raise PolicyError("nested too deeply")
    if isinstance(value, hcl.Block):
        return {key: _plain(item, depth + 1) for key, item in value}
    return [_plain(item, depth + 1) for item in value] if isinstance(value, list) else value
