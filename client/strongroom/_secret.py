"""Values that do not show: in a log, a traceback or a debugger there are stars where the secret is."""

import copy
import hmac
from collections.abc import Iterator, Mapping
from typing import Any, Final, NoReturn

MASK: Final = "***"


class Secret:
    """One value of a secret (any JSON value). reveal() gives it; nothing else does."""

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def reveal(self) -> Any:
        """The value itself; of a list or an object a copy, so that what is done to it reaches nobody else."""
        return copy.deepcopy(self._value)

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        """With another Secret; texts are compared in constant time."""
        if not isinstance(other, Secret):
            return NotImplemented
        if isinstance(self._value, str) and isinstance(other._value, str):
            return hmac.compare_digest(_bytes(self._value), _bytes(other._value))
        return bool(self._value == other._value)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled: it would be written in clear")


def _bytes(text: str) -> bytes:
    """JSON can carry what UTF-8 cannot: halves of a character."""
    return text.encode("utf-8", "surrogatepass")


def revealed(value: object) -> Any:
    """For a JSON encoder: what was read can be written elsewhere without being revealed on the way."""
    if isinstance(value, Secret | SecretMap):
        return value.reveal()
    raise TypeError(f"{type(value).__name__} is no JSON")


class SecretMap(Mapping[str, Secret]):
    """The fields of a secret. Keys show, values do not; reveal() gives a plain dict."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getitem__(self, key: str) -> Secret:
        return Secret(self._values[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def reveal(self) -> dict[str, Any]:
        """All of it, in clear; a copy."""
        return copy.deepcopy(self._values)

    def __repr__(self) -> str:
        return "SecretMap({" + ", ".join(f"{key!r}: {MASK}" for key in self._values) + "})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SecretMap is not pickled: it would be written in clear")
