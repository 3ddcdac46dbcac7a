"""One HTTPS request at a time, for setting up and checking; the load comes from wrk."""

import http.client
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TIMEOUT_S = 15.0


class Unreachable(Exception):
    """Nobody answered."""


class Web:
    """Sends JSON to servers whose certificates this CA signed."""

    def __init__(self, ca_path: Path) -> None:
        self._tls = ssl.create_default_context(cafile=str(ca_path))

    def ask(
        self, method: str, url: str, body: Any = None, *, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """(status, JSON or None). Raises Unreachable."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data=data, method=method, headers=dict(headers or {}))
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=self._tls) as response:
                return response.status, _json(response.read())
        except urllib.error.HTTPError as error:
            return error.code, _json(error.read())
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{method} {url}: {error}") from error

    def text(self, url: str, *, headers: Mapping[str, str]) -> str:
        """The body of a 200. Raises Unreachable for everything else."""
        request = urllib.request.Request(url, headers=dict(headers))
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=self._tls) as response:
                return str(response.read().decode())
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{url}: {error}") from error


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
