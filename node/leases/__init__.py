"""Leases: credentials that engines hand out for a time and take back."""
