"""The engines: how each is launched, and asked for tokens."""
