"""A strict double of text-generation-inference 3.3.7: launcher, router and shard in one process.

It is configured as the launcher is (flags and their environment twins) and answers as the router
does; `README.md` beside this file lists what else it can be told. It needs the standard library
and aiohttp, and imports only from its own folder, so that an image can carry it under any name.
"""
