"""The Docker test bed: images from this machine's files, a registry, private daemons."""
