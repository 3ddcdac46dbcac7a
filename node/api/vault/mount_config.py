"""What clients say of a mount besides where and what it is: read from requests, kept in Mount.details, shown again.

Secret engines and auth methods share it. Mount.details holds only what was said: {"config": {...}, "options":
{...}, "local", "seal_wrap", "external_entropy_access"}. The audit log heeds audit_non_hmac_*, listings heed
listing_visibility. The flags change nothing here: what is replicated is encrypted anyway, and no mount is local to a
node. They are kept because tools compare what they set with what they read.
"""

from collections.abc import Mapping
from typing import Any

from node import VERSION
from node.auth.fields import SECOND_NS, boolean, duration_ns, mapping, strings, text
from node.auth.methods import lockout
from node.auth.ttl import limits
from node.config import Settings
from node.core.fields import Field, Kind, named, of_any_name
from node.errors import InvalidRequest
from storage.rows import Mount

PATH_BYTES_MAX = 512
DESCRIPTION_BYTES_MAX = 4096
OPTIONS_MAX = 64
OPTIONS_BYTES_MAX = 16 * 1024

RUNNING_VERSION = f"v{VERSION}+builtin"

LISTS = (
    "audit_non_hmac_request_keys",
    "audit_non_hmac_response_keys",
    "passthrough_request_headers",
    "allowed_response_headers",
)
_FLAGS = ("local", "seal_wrap", "external_entropy_access")
_VISIBILITIES = frozenset({"", "hidden", "unauth"})
DEFAULT_KIND = "default-service"
TOKEN_TYPES = frozenset({"default-service", "default-batch", "service", "batch"})


# --- what is shown ---

ENTRY = (
    *named(Kind.STRING, "accessor deprecation_status description type uuid"),
    *named(Kind.STRING, "plugin_version running_plugin_version running_sha256"),
    *named(Kind.BOOLEAN, "local seal_wrap external_entropy_access"),
    Field("config", Kind.OBJECT, "How it is tuned; lifetimes in seconds, 0: the server's."),
    Field("options", Kind.STRING_MAP, "Of the engine: the version of kv."),
)
ENTRIES = (of_any_name(Kind.OBJECT, "A mount, by its path.", *ENTRY),)
TUNING = (
    *named(Kind.INTEGER, "default_lease_ttl max_lease_ttl"),
    *named(Kind.BOOLEAN, "force_no_cache external_entropy_access user_lockout_disable"),
    *named(Kind.STRING, "description listing_visibility token_type"),
    *named(Kind.INTEGER, "user_lockout_threshold user_lockout_duration user_lockout_counter_reset_duration"),
    *named(Kind.STRINGS, "allowed_response_headers passthrough_request_headers"),
    *named(Kind.STRINGS, "audit_non_hmac_request_keys audit_non_hmac_response_keys"),
    Field("options", Kind.STRING_MAP, "Of the engine: the version of kv."),
)
ENTRY_OR_TUNING = tuple({each.name: each for each in (*TUNING, *ENTRY)}.values())


def entry(mount: Mount) -> dict[str, Any]:
    """A mount as clients know it. The CLI insists on a string for options.version."""
    config = {
        "default_lease_ttl": mount.default_lease_ttl_ns // SECOND_NS,
        "force_no_cache": False,
        "max_lease_ttl": mount.max_lease_ttl_ns // SECOND_NS,
    }
    status = {} if mount.details.get("builtin") else {"deprecation_status": "supported"}
    return {
        "accessor": mount.accessor,
        "config": dict(sorted((config | mount.details.get("config", {})).items())),
        **status,
        "description": mount.description,
        "options": options(mount),
        "plugin_version": "",
        "running_plugin_version": RUNNING_VERSION,
        "running_sha256": "",
        "type": mount.kind,
        "uuid": mount.mount_id,
        **{flag: bool(mount.details.get(flag, False)) for flag in _FLAGS},
    }


def tuning(mount: Mount, settings: Settings) -> dict[str, Any]:
    """What a mount's tune endpoint tells: the TTLs that are in effect, and what was set besides."""
    bounds = limits(settings, mount)
    shown = {
        "default_lease_ttl": bounds.default_ns // SECOND_NS,
        "description": mount.description,
        "force_no_cache": False,
        "max_lease_ttl": bounds.max_ns // SECOND_NS,
        **mount.details.get("config", {}),
    }
    shown |= shown.pop(lockout.CONFIG, {})
    if options(mount):
        shown["options"] = options(mount)
    if mount.details.get("external_entropy_access"):
        shown["external_entropy_access"] = True
    return shown


def options(mount: Mount) -> dict[str, str] | None:
    """A mount's options: those of a versioned one name its version; None where null was said, or nobody mounted it."""
    said = None if mount.details.get("builtin") else mount.details.get("options", {})
    if mount.version == 2:
        return (said or {}) | {"version": "2"}
    return None if said is None else dict(said)


# --- what is said ---


def new_details(data: Mapping[str, Any], *, auth: bool) -> dict[str, Any]:
    """The details of a mount that is being made, from its request. Raises InvalidRequest."""
    details: dict[str, Any] = {flag: True for flag in _FLAGS if boolean(data.get(flag), flag)}
    config = object_of(data.get("config"), "config")
    kept = _config({}, config, auth=auth)
    if boolean(config.get("force_no_cache"), "force_no_cache"):
        kept["force_no_cache"] = True
    if auth:
        kept.setdefault("token_type", DEFAULT_KIND)
    if "options" in data:
        said = _options(data["options"])
        details["options"] = (
            None if data["options"] is None else said
        )  # shown as it was said: null, or nothing at all
    return details | ({"config": kept} if kept else {})


def tuned_details(mount: Mount, data: Mapping[str, Any], *, auth: bool) -> dict[str, Any]:
    """A mount's details with what a tune request changes. Raises InvalidRequest."""
    details = dict(mount.details)
    details["config"] = _config(details.get("config", {}), data, auth=auth)
    if data.get("options"):
        details["options"] = (details.get("options") or {}) | _options(data["options"])
    return {name: value for name, value in details.items() if value != {}}


def _config(old: Mapping[str, Any], data: Mapping[str, Any], *, auth: bool) -> dict[str, Any]:
    config = dict(old)
    for name in LISTS:
        if data.get(name) is not None:
            config[name] = strings(data[name], name)
    if data.get("listing_visibility") is not None:
        visibility = text(data["listing_visibility"], "listing_visibility")
        if visibility not in _VISIBILITIES:
            raise InvalidRequest(f"invalid listing_visibility {visibility}")
        config["listing_visibility"] = visibility
    if auth and data.get("token_type") is not None:
        kind = text(data["token_type"], "token_type") or DEFAULT_KIND
        if kind not in TOKEN_TYPES:
            raise InvalidRequest("invalid value for 'token_type'")
        config["token_type"] = kind
    if auth and data.get(lockout.CONFIG) is not None:
        said = object_of(data[lockout.CONFIG], lockout.CONFIG)
        config[lockout.CONFIG] = lockout.configured(said, config.get(lockout.CONFIG, {}))
    return {name: value for name, value in config.items() if value not in ([], "")}


def _options(value: Any) -> dict[str, str]:
    said = {name: text(item, "options") for name, item in object_of(value, "options").items()}
    if (
        len(said) > OPTIONS_MAX
        or sum(len(name) + len(item) for name, item in said.items()) > OPTIONS_BYTES_MAX
    ):
        raise InvalidRequest(f"a mount has at most {OPTIONS_MAX} options, of {OPTIONS_BYTES_MAX} characters")
    return said


def ttls(data: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Default and longest lease TTL in nanoseconds; None where nothing, or "", was sent, 0 for "system"."""
    return _ttl(data, "default_lease_ttl"), _ttl(data, "max_lease_ttl")


def _ttl(data: Mapping[str, Any], name: str) -> int | None:
    value = data.get(name)
    if value is None or value == "":
        return None
    return 0 if value == "system" else duration_ns(value, name)


def check_ttls(mount: Mount, default: int | None, longest: int | None) -> None:
    """Raises InvalidRequest if a tune would leave a default that is longer than the maximum."""
    effective = (default if default is not None else mount.default_lease_ttl_ns) // SECOND_NS
    bound = (longest if longest is not None else mount.max_lease_ttl_ns) // SECOND_NS
    if bound and effective > bound:
        raise InvalidRequest(
            f"backend max lease TTL of {bound} would be less than backend default lease TTL of {effective}"
        )


def description(value: Any) -> str:
    """A description. Raises InvalidRequest."""
    described = text(value, "description")
    if len(described.encode()) > DESCRIPTION_BYTES_MAX:
        raise InvalidRequest(f"a description has at most {DESCRIPTION_BYTES_MAX} bytes")
    return described


def object_of(value: Any, name: str) -> dict[str, Any]:
    """A map, or {} for null. Raises InvalidRequest."""
    return mapping(value, name) or {}


def folder(path: str) -> str:
    """A mount's path as it is kept: with a slash at its end."""
    return path if path.endswith("/") else path + "/"


def check_path(path: str) -> None:
    """A mount's path must be one that a request line can ask for and that a policy can name."""
    segments = path.removesuffix("/").split("/")
    if len(path.encode()) > PATH_BYTES_MAX:
        raise InvalidRequest(f"a mount's path has at most {PATH_BYTES_MAX} bytes")
    if not path.isprintable() or any(segment in ("", ".", "..") for segment in segments):
        raise InvalidRequest("a mount's path has no empty or relative segments and no unprintable characters")
    if "*" in path or "+" in path:
        raise InvalidRequest(
            'a mount\'s path has no "*" and no "+": in policies they stand for something else'
        )
