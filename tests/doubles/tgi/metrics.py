"""The gauges of `/metrics`, in the exposition format. None exists before its first use."""

from __future__ import annotations


class Metrics:
    """The gauges by their names."""

    def __init__(self) -> None:
        self._gauges: dict[str, int] = {}

    def add(self, name: str, step: int) -> None:
        """Move a gauge."""
        self._gauges[name] = self._gauges.get(name, 0) + step

    def render(self) -> str:
        """Return the body of `/metrics`."""
        gauges = self._gauges.items()
        return "".join(f"# TYPE {name} gauge\n{name} {value}\n\n" for name, value in gauges)
