"""A strict double of text-generation-inference 3.3.7: launcher, router and shards.

The variables of its environment are the launcher's, its answers the router's; `README.md` beside
this file lists the orders that a test can add. It needs the standard library and aiohttp, and
imports only from its own folder, so that an image can carry it under any name.
"""
