"""The distance between regions, on one machine: a proxy that delays, narrows, damages and cuts connections."""
