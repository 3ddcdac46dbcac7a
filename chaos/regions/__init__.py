"""The rehearsal of regions: whole clusters of processes that follow, hand over, and are killed, under load."""
