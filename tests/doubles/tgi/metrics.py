"""Counters, gauges and histograms, in the exposition format. None exists before its first use."""

from __future__ import annotations

from collections import defaultdict


class Metrics:
    """What `/metrics` shows. Histograms keep their sum and count, not their buckets."""

    def __init__(self) -> None:
        self._counters: defaultdict[str, dict[str, float]] = defaultdict(dict)
        self._gauges: dict[str, float] = {}
        self._sums: dict[str, tuple[float, int]] = {}

    def count(self, name: str, **labels: str) -> None:
        key = ",".join(f'{label}="{value}"' for label, value in labels.items())
        series = self._counters[name]
        series[key] = series.get(key, 0) + 1

    def failure(self, reason: str) -> None:
        """One request that ended badly: overloaded, validation, dropped, generation, incomplete."""
        self.count("tgi_request_failure", err=reason)

    def gauge(self, name: str, value: float) -> None:
        self._gauges[name] = value

    def add(self, name: str, step: float) -> None:
        self._gauges[name] = self._gauges.get(name, 0) + step

    def record(self, name: str, value: float) -> None:
        total, count = self._sums.get(name, (0.0, 0))
        self._sums[name] = (total + value, count + 1)

    def render(self) -> str:
        lines: list[str] = []
        for name, series in self._counters.items():
            lines.append(f"# TYPE {name} counter")
            lines += [f"{name}{_braced(key)} {value:g}" for key, value in series.items()]
            lines.append("")
        for name, value in self._gauges.items():
            lines += [f"# TYPE {name} gauge", f"{name} {value:g}", ""]
        for name, (total, count) in self._sums.items():
            lines += [f"# TYPE {name} histogram", f'{name}_bucket{{le="+Inf"}} {count}']
            lines += [f"{name}_sum {total:g}", f"{name}_count {count}", ""]
        return "\n".join(lines) + "\n"


def _braced(key: str) -> str:
    return f"{{{key}}}" if key else ""
