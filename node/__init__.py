"""A Strongroom node: serves requests over an agreed log (consensus/) and what it keeps (storage/)."""

VERSION = "0.1.0"

# What clients are told. They switch features on and off by the version of the API that they speak, which is OpenBao's.


def api_version(software: str) -> str:
    """What a node with this version of the software calls itself: that of the API, then its own."""
    return f"2.7.2+strongroom.{software}"


API_VERSION = api_version(VERSION)
