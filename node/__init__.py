"""A Strongroom node: serves requests over an agreed log (consensus/) and what it keeps (storage/)."""

VERSION = "0.1.0"
