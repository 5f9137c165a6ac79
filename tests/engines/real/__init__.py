"""Engines that others have written, installed by `make test-engines`."""
