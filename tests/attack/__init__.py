"""Attacks on a whole service, and the table of what they found."""
