"""Rights under fire: what may be done by whom, while it changes and nodes die (docs/chaos.md)."""
