"""Whether a JWT lets somebody in: its signature, its times, and what a role demands of its claims. Pure.

Signatures are checked by PyJWT under public keys only, each for the algorithms of its own kind: neither "none" nor an
HMAC under a public key can pass. Rules and texts are those of Vault's JWT method (RFC 7519).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jwt

from node.auth.globs import matches
from node.auth.methods.jwt_keys import Key
from node.auth.methods.jwt_role import Role
from node.errors import InvalidRequest

JWT_CHARACTERS_MAX = 64 * 1024
CLOCK_SKEW_S = 60
LEEWAY_S = 150
GROUPS_MAX = 512
VALUE_CHARACTERS_MAX = 512

_NOT_CHECKED: Any = dict.fromkeys(
    ("verify_exp", "verify_nbf", "verify_iat", "verify_aud", "verify_iss", "verify_sub", "verify_jti"), False
)


def key_id(token: str) -> str:
    """The id of the key that a token says it was signed with, "" for none. Raises InvalidRequest."""
    return str(_header(token).get("kid") or "")


def _header(token: str) -> dict[str, Any]:
    if len(token) > JWT_CHARACTERS_MAX:
        raise InvalidRequest(f"error validating token: more than {JWT_CHARACTERS_MAX} characters")
    try:
        return jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise InvalidRequest("error validating token: error verifying token signature: not a JWT") from None


def verified(token: str, keys: Sequence[Key], algorithms: Sequence[str]) -> dict[str, Any]:
    """The claims, if one of the keys has signed them. Raises InvalidRequest."""
    header = _header(token)
    algorithm, kid = header.get("alg"), header.get("kid")
    fitting = [key for key in keys if algorithm in key.algorithms and algorithm in algorithms]
    named = [key for key in fitting if kid and key.kid == kid]
    for key in named or fitting:
        try:
            return jwt.decode(token, key.key, algorithms=[str(algorithm)], options=_NOT_CHECKED)
        except (jwt.PyJWTError, ValueError, RecursionError):
            continue
    raise InvalidRequest(
        "error validating token: error verifying token signature:"
        " no known key successfully validated the token signature"
    )


def check(role: Role, claims: Mapping[str, Any], *, issuer: str, now_s: float) -> None:
    """Raises InvalidRequest unless the claims are what the role, and the mount's `issuer`, demand by now."""
    _check_times(role, claims, now_s)
    if issuer and claims.get("iss") != issuer:
        raise InvalidRequest("error validating token: invalid issuer (iss) claim")
    if role.bound_subject and claims.get("sub") != role.bound_subject:
        raise InvalidRequest("error validating token: invalid subject (sub) claim")
    audiences = claims.get("aud") or []
    audiences = audiences if isinstance(audiences, list) else [audiences]
    if audiences and not role.bound_audiences:
        raise InvalidRequest("audience claim found in JWT but no audiences bound to the role")
    if role.bound_audiences and not any(each in role.bound_audiences for each in audiences):
        raise InvalidRequest(
            "error validating token: invalid audience (aud) claim:"
            " audience claim does not match any expected audience"
        )
    for name, expected in role.bound_claims.items():
        actual = claim(claims, name)
        if actual is None:
            raise InvalidRequest(f'error validating claims: claim "{name}" is missing')
        if not _matches(actual, expected, glob=role.bound_claims_type == "glob"):
            raise InvalidRequest(
                f'error validating claims: claim "{name}" does not match any associated bound claim values'
            )


def _check_times(role: Role, claims: Mapping[str, Any], now_s: float) -> None:
    times = {name: _time(claims, name) for name in ("iat", "nbf", "exp")}
    if not any(times.values()):
        raise InvalidRequest(
            "error validating token: no issued at (iat), not before (nbf), or expiration time (exp) claims in token"
        )
    skew_s = _leeway(role.clock_skew_leeway_s, CLOCK_SKEW_S)
    expires_s, begins_s = times["exp"], times["nbf"]
    if not expires_s:
        expires_s = max(times["iat"], begins_s) + _leeway(role.expiration_leeway_s, LEEWAY_S)
    if not begins_s:
        begins_s = times["iat"] or expires_s - _leeway(role.not_before_leeway_s, LEEWAY_S)
    if now_s > expires_s + skew_s:
        raise InvalidRequest("error validating token: invalid expiration time (exp) claim: token is expired")
    if now_s < begins_s - skew_s:
        raise InvalidRequest("error validating token: invalid not before (nbf) claim: token not yet valid")
    if now_s < times["iat"] - skew_s:
        raise InvalidRequest(
            "error validating token: invalid issued at (iat) claim: token issued in the future"
        )


def _time(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        raise InvalidRequest(f"error validating token: the {name} claim is no time")
    return value


def _leeway(seconds: int, default_s: int) -> int:
    return default_s if seconds == 0 else max(seconds, 0)


def claim(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name, or by a JSON pointer (RFC 6901) if it begins with "/"."""
    if not name.startswith("/"):
        return claims.get(name)
    found: Any = claims
    for part in name[1:].split("/"):
        step = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict):
            found = found.get(step)
        elif isinstance(found, list) and re.fullmatch(r"[0-9]{1,4}", step) and int(step) < len(found):
            found = found[int(step)]
        else:
            return None
    return found


def _matches(actual: Any, expected: Any, *, glob: bool) -> bool:
    """Whether one of the actual values is one of the expected."""
    actuals = actual if isinstance(actual, list) else [actual]
    wanted = expected if isinstance(expected, list) else [expected]
    return any(_equal(each, want, glob=glob) for each in actuals for want in wanted)


def _equal(actual: Any, want: Any, *, glob: bool) -> bool:
    if glob and isinstance(actual, str) and isinstance(want, str):
        return matches(want, actual)
    return type(actual) is type(want) and bool(actual == want)


def user(role: Role, claims: Mapping[str, Any]) -> str:
    """Who it is. Raises InvalidRequest."""
    name = role.user_claim
    pointed = f"/{name}" if role.user_claim_json_pointer and not name.startswith("/") else name
    value = claim(claims, pointed)
    if value is None or value == "":
        raise InvalidRequest(f'claim "{name}" not found in token')
    if not isinstance(value, str):
        raise InvalidRequest(f'claim "{name}" could not be converted to string')
    if len(value) > VALUE_CHARACTERS_MAX or not value.isprintable():
        raise InvalidRequest(f'claim "{name}" has more than {VALUE_CHARACTERS_MAX} printable characters')
    return value


def groups(role: Role, claims: Mapping[str, Any]) -> list[str]:
    """The external groups that he is in. Raises InvalidRequest."""
    if not role.groups_claim:
        return []
    value = claim(claims, role.groups_claim)
    if value is None:
        raise InvalidRequest(f'failed to fetch groups: "{role.groups_claim}" claim not found in token')
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(each, str) for each in values) or len(values) > GROUPS_MAX:
        raise InvalidRequest(f"the groups claim is no list of at most {GROUPS_MAX} strings")
    return [each for each in dict.fromkeys(values) if each]


def metadata(role: Role, claims: Mapping[str, Any]) -> dict[str, str]:
    """What the mapped claims say. Raises InvalidRequest."""
    said: dict[str, str] = {}
    for name, key in role.claim_mappings.items():
        value = claim(claims, name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise InvalidRequest(f"error converting claim '{name}' to string")
        said[key] = str(value)
        if len(said[key]) > VALUE_CHARACTERS_MAX:  # cut off it might be somebody else's
            raise InvalidRequest(f"claim '{name}' has more than {VALUE_CHARACTERS_MAX} characters")
    return said
