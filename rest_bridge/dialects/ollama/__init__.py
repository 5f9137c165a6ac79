"""Ollama's API, made of OpenAI's JSON, for clients that speak nothing else.

Its facts are those of Ollama's `docs/api.md` and of the client `ollama` for Python.
"""
