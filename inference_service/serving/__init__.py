"""Models for their callers, and the runs of engines that serve them."""
