"""Faults on a whole service with real engines, and their effect on callers."""
