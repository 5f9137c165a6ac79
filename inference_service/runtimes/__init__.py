"""Where engines run: each module is one `Runtime`."""
