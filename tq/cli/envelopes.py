"""Contents and lines as `tq send` gets them, made into what the server takes."""

from __future__ import annotations

from typing import Any

import msgspec


class Form:
    """What is said of each message, and whether contents are JSON already."""

    def __init__(self, is_json: bool, said: dict[str, Any]) -> None:
        self.is_json = is_json
        self._end = b"," + msgspec.json.encode(said)[1:] if said else b"}"

    def envelope(self, content: bytes) -> bytes:
        """An envelope on one line; JSON stays as it is. Raises ValueError for what is none, or no text."""
        if self.is_json:
            msgspec.json.decode(content)  # or it could end the envelope and begin another one
            content = content.translate(_LINE_ENDS)
        else:
            content = msgspec.json.encode(content.decode())
        return b'{"content":' + content + self._end


_LINE_ENDS = bytes.maketrans(b"\r\n", b"  ")  # outside strings, where JSON has none
