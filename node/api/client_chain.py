"""The certificates that a TLS client has shown, once its connection's context has verified them."""

import asyncio
import ssl
from typing import Any

# What a transport's get_extra_info() knows it by, if another process has verified it.
VERIFIED = "verified_chain"


def verified(transport: asyncio.BaseTransport | None) -> tuple[bytes, ...]:
    """DER, the client's own certificate first; () if it has shown none, or nobody asked.

    Of a resumed session only the client's own is known.
    """
    told: tuple[bytes, ...] | None = None if transport is None else transport.get_extra_info(VERIFIED)
    if told is not None:
        return told
    ssl_object = None if transport is None else transport.get_extra_info("ssl_object")
    if ssl_object is None or ssl_object.context.verify_mode is ssl.CERT_NONE:
        return ()
    own = ssl_object.getpeercert(binary_form=True)
    if own is None:
        return ()
    return tuple(_chain(ssl_object)) or (own,)


def _chain(ssl_object: Any) -> list[bytes]:
    """The ssl module has it as a method of its objects since 3.13; before, of what they are made of."""
    if hasattr(ssl_object, "get_verified_chain"):
        return list(ssl_object.get_verified_chain())
    inner = getattr(ssl_object, "_sslobj", None)
    found = inner.get_verified_chain() if inner is not None else None
    return [ssl.PEM_cert_to_DER_cert(each.public_bytes()) for each in found or ()]
