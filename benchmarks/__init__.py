"""The benchmark, `make bench`: the service beside its peers, on one engine."""
