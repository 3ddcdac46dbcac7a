"""How long tests wait for what is to happen."""

PATIENCE_S = 60.0
"""A test that is right never comes near it, on a machine with ten times as much to do as it can either."""
