"""Faults on a whole service with real engines, and what each has cost its callers."""
