"""The options of requests in JSON that an engine would drop, or take for another.

An option is honoured or refused, so that nobody takes an answer for what was asked. Tables say what
is refused (`tables.py`); they were measured on the programs themselves. Hints that change no answer
pass (`user`, `metadata`, `service_tier`), and so do values that mean the same as no option at all.
"""
