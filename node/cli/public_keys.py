"""Public keys of people, as files: what unseal keys and root tokens can be encrypted with by the server."""

import base64
from pathlib import Path

from node.cli.output import LocalError

KEY_BYTES_MAX = 64 * 1024


def public_keys(told: str) -> list[str]:
    """Base64 of each file in a list separated by commas. Raises LocalError."""
    return [_one(name.strip().removeprefix("@")) for name in told.split(",") if name.strip()]


def _one(name: str) -> str:
    if name.startswith("keybase:"):
        raise LocalError(
            f"{name}: keys are not fetched from the network; save the key to a file and name that."
        )
    try:
        with Path(name).expanduser().open("rb") as file:
            raw = file.read(KEY_BYTES_MAX + 1)
    except OSError as e:
        raise LocalError(f"The public key {name} cannot be read: {e.strerror}.") from e
    if len(raw) > KEY_BYTES_MAX:
        raise LocalError(f"The public key {name} is longer than {KEY_BYTES_MAX} bytes.")
    try:
        base64.b64decode(raw, validate=True)
        return raw.decode().strip()  # it is base64 already
    except ValueError:
        return base64.b64encode(raw).decode()
