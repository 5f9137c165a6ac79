"""The Docker test bed: images made from this machine's files, a registry, private engines."""
