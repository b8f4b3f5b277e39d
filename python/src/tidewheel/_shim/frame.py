"""Frames as bytes, and back.

>>> decoder = FrameDecoder()
>>> decoder.feed(encode({"t": "drain"}) + encode_raw({"t": "task_start"}, b"xyz")[:9])
[({'t': 'drain'}, None)]
>>> decoder.feed(encode_raw({"t": "task_start"}, b"xyz")[9:])
[({'t': 'task_start'}, b'xyz')]
"""

from __future__ import annotations

from json import JSONDecodeError, JSONDecoder
from struct import Struct

from ..encode import dump_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, NoReturn, Optional, Tuple

    Message = Dict[str, Any]

#: Longest frame, its length field not counted. Larger values go by reference.
MAX_FRAME = 16 * 1024 * 1024
CODEC_JSON = 0
CODEC_RAW = 1

_HEAD = Struct(">IB")
_U32 = Struct(">I")


class ProtocolError(Exception):
    """The other side broke the protocol; there is no way to go on."""


def frame_json(text: bytes) -> bytes:
    """A frame around JSON text."""
    return _HEAD.pack(len(text) + 1, CODEC_JSON) + text


def encode(message: "Message") -> bytes:
    """A frame of one JSON object."""
    return frame_json(dump_bytes(message, "frame"))


def encode_raw(header: "Message", raw: bytes) -> bytes:
    """A frame of a JSON object and raw bytes."""
    text = dump_bytes(header, "frame")
    return _HEAD.pack(len(text) + len(raw) + 5, CODEC_RAW) + _U32.pack(len(text)) + text + raw


class FrameDecoder:
    """Cuts a stream into messages. Bytes that do not make a frame yet are kept."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> "List[Tuple[Message, Optional[bytes]]]":
        """The messages that are complete with this piece; raises `ProtocolError`."""
        buffer = self._buffer
        buffer += data
        out: "List[Tuple[Message, Optional[bytes]]]" = []
        position, end = 0, len(buffer)
        unpack = _HEAD.unpack_from
        while end - position >= 5:
            length, codec = unpack(buffer, position)
            if not 1 <= length <= MAX_FRAME:
                raise ProtocolError(f"a frame of {length} bytes; 1 to {MAX_FRAME} are allowed")
            stop = position + 4 + length
            if stop > end:
                break
            body = buffer[position + 5 : stop]
            if codec == CODEC_JSON:
                out.append((_object(body), None))
            elif codec == CODEC_RAW:
                out.append(_with_raw(body))
            else:
                raise ProtocolError(f"unknown codec {codec}")
            position = stop
        del buffer[:position]
        return out


def _with_raw(body: bytearray) -> "Tuple[Message, bytes]":
    if len(body) < 4:
        raise ProtocolError("a raw frame without its header length")
    (length,) = _U32.unpack_from(body)
    if length > len(body) - 4:
        raise ProtocolError("a raw frame whose header is longer than the frame")
    return _object(body[4 : 4 + length]), bytes(body[4 + length :])


def _no_constant(name: str) -> "NoReturn":
    raise ValueError(f"{name} is not JSON")


_scan: "Callable[[str, int], Tuple[Any, int]]" = getattr(JSONDecoder(parse_constant=_no_constant), "scan_once")


def _object(body: bytearray) -> "Message":
    # The scanner itself: `json.loads` would look for an encoding and for spaces at both ends first.
    try:
        text = body.decode()
        message, end = _scan(text, 0)
    except StopIteration:
        raise ProtocolError("a frame that is not JSON") from None
    except (ValueError, RecursionError) as error:  # bad UTF-8, bad JSON, too deep
        kind = "not JSON" if isinstance(error, JSONDecodeError) else "not usable"
        raise ProtocolError(f"a frame that is {kind}: {error}") from None
    if type(message) is not dict or end != len(text):
        raise ProtocolError("a frame that is not one JSON object")
    return message
