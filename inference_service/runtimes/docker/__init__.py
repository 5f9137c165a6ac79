"""The runtime `docker`: engines in containers of a Docker daemon on this machine."""
