"""The events of a stream, kept whole, so that others can be put between them."""

_END = b"\n\n"
_END_CRLF = b"\r\n\r\n"
_LARGEST = 1 << 20  # bytes of one event that are held until its end comes


class Events:
    """The bytes of a stream of events, as they come, cut at the ends of events."""

    def __init__(self) -> None:
        self._rest = b""
        self._broken = False  # an event too large to be held is on its way

    @property
    def between(self) -> bool:
        """Whether what has been passed on ends with an event."""
        return not self._broken

    def feed(self, data: bytes) -> bytes:
        """Return what can be passed on now: whole events, of which there may be none."""
        if not self._rest and data.endswith((_END, _END_CRLF)):
            self._broken = False
            return data
        return self._cut(self._rest + data)

    def rest(self) -> bytes:
        """Return what is left at the end of the stream: an event without its end, if any."""
        rest, self._rest = self._rest, b""
        return rest

    def _cut(self, data: bytes) -> bytes:
        end = max(_behind(data, _END), _behind(data, _END_CRLF))
        if not end and len(data) > _LARGEST:
            end = len(data)
            self._broken = True
        elif end:
            self._broken = False
        self._rest = data[end:]
        return data[:end]


def _behind(data: bytes, end: bytes) -> int:
    """Return the place behind the last end of an event, 0 for none."""
    found = data.rfind(end)
    return found + len(end) if found >= 0 else 0
