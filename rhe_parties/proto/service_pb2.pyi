from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Chunk(_message.Message):
    __slots__ = ("data", "size", "digest", "last")
    DATA_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    size: int
    digest: bytes
    last: bool
    def __init__(self, data: _Optional[bytes] = ..., size: _Optional[int] = ..., digest: _Optional[bytes] = ..., last: _Optional[bool] = ...) -> None: ...

class Seated(_message.Message):
    __slots__ = ("error", "text", "code")
    ERROR_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    error: str
    text: str
    code: int
    def __init__(self, error: _Optional[str] = ..., text: _Optional[str] = ..., code: _Optional[int] = ...) -> None: ...

class CollectRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NextDueRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Due(_message.Message):
    __slots__ = ("seconds",)
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    seconds: float
    def __init__(self, seconds: _Optional[float] = ...) -> None: ...

class ProgressRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ProgressReport(_message.Message):
    __slots__ = ("fraction", "text")
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    fraction: float
    text: str
    def __init__(self, fraction: _Optional[float] = ..., text: _Optional[str] = ...) -> None: ...
