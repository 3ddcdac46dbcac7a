"""Who the client is: a token, or credentials that are exchanged for one whenever that is needed."""

from dataclasses import dataclass, field
from typing import Any, Protocol


class Credentials(Protocol):
    """Something that a token can be had for."""

    def login(self) -> tuple[str, dict[str, Any]] | None:
        """(path of the API, in clear; body) of the login, or None: there is nothing but the token."""
        ...


@dataclass(frozen=True, slots=True)
class Token:
    """A token that somebody made. It is renewed, and when it has ended it cannot be replaced."""

    token: str = field(repr=False)

    def login(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class UserPass:
    """A user of the server with a password."""

    username: str
    password: str = field(repr=False)
    mount: str = "userpass"

    def login(self) -> tuple[str, dict[str, Any]]:
        return f"auth/{self.mount}/login/{self.username}", {"password": self.password}


@dataclass(frozen=True, slots=True)
class AppRole:
    """A role for a service. secret_id: None where the role needs none."""

    role_id: str
    secret_id: str | None = field(default=None, repr=False)
    mount: str = "approle"

    def login(self) -> tuple[str, dict[str, Any]]:
        body = {"role_id": self.role_id} | (
            {"secret_id": self.secret_id} if self.secret_id is not None else {}
        )
        return f"auth/{self.mount}/login", body
