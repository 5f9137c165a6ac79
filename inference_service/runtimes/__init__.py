"""The runtimes, and what they have in common: names, ports, logs."""
