"""devpi's value format: bytes to values and back.

The format is a postfix one: opcodes push values on a stack or fold the topmost ones, `Q` ends a value.
Lengths are signed 32 bit, big endian. Source: `devpi_server/fileutil.py` (its `load` and `_dump_*`).

    @ n  tuple of the n topmost   A n  bytes          C R  False, True    D    float, 8 bytes
    E n  frozenset                F G  int, 4 bytes   H I n  int as text  J    {}
    K n  list of n, to be filled  L    None           M n  bytes          N S n  str, UTF-8
    O n  set                      P    container, key, value: container[key] = value
    Q    end of the value         T    complex, 2 x 8 bytes

The invariant: whatever arrives, the outcome is a value or a `CorruptEntry`; never another exception, and
never more memory than a small multiple of `Limits.entry_bytes`. No value is decoded twice, however the
network cuts the stream: the decoder keeps its stack between chunks and goes on at the token it stopped in.

This module does no I/O and knows nothing of keys, entries or serials.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class
from typing import Any, NamedTuple

from replisync.errors import CorruptEntry

_signed = Struct(">i").unpack_from
# Lengths are read unsigned: a negative one is then beyond every limit, which costs no check of its own.
_unsigned = Struct(">I").unpack_from
_float = Struct(">d").unpack_from
_new_tuple = tuple.__new__
_pack_int = Struct(">i").pack
_pack_float = Struct(">d").pack

_INT_MAX = 2**31 - 1
_INT_MIN = -(2**31)

# Hashing a tuple recurses in C without a guard: as a key or member, a deep one would end the process.
_MAX_KEY_DEPTH = 32

# An item of a list is at least its index (5 bytes), a value (1) and the setting of it (1).
_LIST_ITEM_BYTES = 7

# A mapping or a set of one byte takes as much memory as a list of so many items.
_CONTAINER_ITEMS = 9


# For each byte, 1 if it is not ASCII.
_BEYOND_ASCII = bytes(128) + b"\1" * 128
# bytes.find() says -1 for "nowhere"; modulo this it becomes a position behind everything.
_NEVER = 2**62


@dataclass(frozen=True, slots=True)
class Limits:
    """Bound what a stream may make us allocate.

    entry_bytes: the longest value that is accepted, in bytes. SQLite's own bound for a row is 10**9; the
        largest real entries (the links of a project with thousands of files) have tens of megabytes.
    """

    entry_bytes: int = 256 * 1024 * 1024


class Decoded(NamedTuple):
    """One complete value.

    value: the Python value.
    raw: the bytes that it came as, its end mark included.
    second: where in `raw` a list began that is the second item of the outermost level; else -1. In a
        changelog entry this is where the list of renames begins, right behind the changes.
    """

    value: Any
    raw: bytes
    second: int


class Unread(Enum):
    """What stands for a value that was checked for its structure and not built."""

    UNREAD = "unread"


UNREAD = Unread.UNREAD


def _corrupt(why: str) -> CorruptEntry:
    return CorruptEntry("cannot decode the primary's data", why)


class Decoder:
    """Split a stream of values into values at memory speed.

    Feed it chunks as they come; each call returns the values that the chunk completed. After an error
    the decoder is of no further use.

    kinds: in a mapping of names to `(kind, number, item)` at the outermost level, the kinds of which the
        items are built; all others are only checked, which is several times as fast, and become UNREAD.
        None builds everything.
    """

    __slots__ = (
        "_beyond",
        "_depth",
        "_failed",
        "_kinds",
        "_limit",
        "_need",
        "_parts",
        "_parts_size",
        "_promised",
        "_rest",
        "_second",
        "_stack",
    )

    def __init__(self, limits: Limits | None = None, kinds: frozenset[str] | None = None) -> None:
        self._limit = (limits or Limits()).entry_bytes
        self._kinds = kinds
        self._depth = -1  # how many values an item that is passed over has so far; -1 outside of one
        self._beyond: bytes | None = None  # for each byte of the chunk whether it is not ASCII, once asked
        self._failed: CorruptEntry | None = None  # after values that were still good
        self._rest: list[bytes] = []  # the bytes from the incomplete token on
        self._need = 0  # how many bytes `_rest` lacks at least before decoding can go on
        self._stack: list[Any] = []
        self._parts: list[bytes] = []  # the bytes of the current value before the incomplete token
        self._parts_size = 0
        self._second = -1
        self._promised = 0  # bytes that the lists of the current value announced

    @property
    def pending(self) -> int:
        """Return how many bytes of an incomplete value are held."""
        return self._parts_size + sum(map(len, self._rest))

    def feed(self, chunk: bytes) -> list[Decoded]:
        """Return the values that `chunk` completes, in order.

        Raises CorruptEntry where the bytes are not devpi's format or are beyond the limits; values before
        the bad one are returned first, and the next call raises.
        """
        self.check()
        done: list[Decoded] = []
        try:
            self._feed(chunk, done)
        except CorruptEntry as err:
            if not done:
                raise
            self._failed = err
        return done

    def check(self) -> None:
        """Raise the CorruptEntry that is held back, if there is one."""
        if self._failed is not None:
            raise self._failed

    def _feed(self, chunk: bytes, done: list[Decoded]) -> None:
        self._rest.append(chunk)
        self._need -= len(chunk)
        if self._need > 0:
            return
        data = b"".join(self._rest) if len(self._rest) > 1 else chunk
        self._beyond = None
        try:
            pos = self._run(data, done)
        except (TypeError, ValueError, RecursionError) as err:
            raise _corrupt(f"a value that cannot be one ({type(err).__name__})") from err
        rest = data[pos:]
        self._rest = [rest] if rest else []
        if self._parts_size + len(rest) + max(self._need, 0) > self._limit:
            raise self._too_long()

    def _run(self, data: bytes, done: list[Decoded]) -> int:
        """Decode tokens until the data ends; return where the first incomplete token begins.

        One function with everything in local names, since each call and attribute is paid for every value
        of the history; strings and folds look one token ahead, because what follows is nearly always the
        setting of an item. `pos` moves, and the stack changes, only when a token is complete. Errors of
        the stack, of containers and of keys surface as the exceptions of Python's own containers.
        """
        stack = self._stack
        push = stack.append
        pop = stack.pop
        size = len(data)
        start = pos = 0  # start: of the current value, as far as it lies in `data`
        need = 1
        length_at = _unsigned
        kinds = self._kinds
        try:
            if self._depth >= 0:
                pos = self._pass_over(data, 0)
            while self._depth < 0:
                op = data[pos]
                if op == 78 or op == 83:  # N S
                    begin = pos + 5
                    end = begin + length_at(data, pos + 1)[0]
                    if end >= size:
                        need = self._missing(end + 1 - size)
                        break
                    text = data[begin:end].decode()
                    op = data[end]
                    if op == 78:  # mostly a key and its value
                        begin = end + 5
                        last = begin + length_at(data, end + 1)[0]
                        if last >= size:
                            need = self._missing(last + 1 - size)
                            break
                        if data[last] == 80:
                            stack[-1][text] = data[begin:last].decode()
                            pos = last + 1
                        else:
                            push(text)
                            push(data[begin:last].decode())
                            pos = last
                    elif op == 80:
                        key = pop()
                        stack[-1][key if key.__class__ is str else _key(key)] = text
                        pos = end + 1
                    else:
                        push(text)
                        pos = end
                elif op == 80:  # P
                    value = pop()
                    key = pop()
                    stack[-1][key if key.__class__ is str else _key(key)] = value
                    pos += 1
                elif op == 70 or op == 71:  # F G
                    number = _signed(data, pos + 1)[0]
                    if data[pos + 5 : pos + 7] == b"LP":
                        stack[-1][number] = None
                        pos += 7
                    else:
                        push(number)
                        pos += 5
                        if len(stack) == 4 and kinds is not None and stack[2] not in kinds:
                            pos = self._pass_over(data, pos)
                elif op == 64:  # @
                    length = length_at(data, pos + 1)[0]
                    if length == 3:
                        third = pop()
                        second = pop()
                        stack[-1] = (stack[-1], second, third)
                    elif length == 2:
                        second = pop()
                        stack[-1] = (stack[-1], second)
                    else:
                        self._fold(tuple, length)
                    pos += 5
                elif op == 74:  # J
                    self._promise(_CONTAINER_ITEMS)
                    push({})
                    pos += 1
                elif op == 75:  # K
                    length = length_at(data, pos + 1)[0]
                    self._promise(length)
                    if len(stack) == 1:
                        self._second = self._parts_size + pos - start
                    push([None] * length)
                    pos += 5
                elif op == 81:  # Q
                    pos += 1
                    self._finish(done, data[start:pos])
                    start = pos
                elif op == 76:  # L
                    push(None)
                    pos += 1
                elif op == 82:  # R
                    push(True)
                    pos += 1
                elif op == 67:  # C
                    push(False)
                    pos += 1
                elif op == 79 or op == 69:  # O E
                    self._fold(set if op == 79 else frozenset, length_at(data, pos + 1)[0])
                    pos += 5
                elif op == 65 or op == 77 or op == 72 or op == 73:  # A M H I
                    begin = pos + 5
                    end = begin + length_at(data, pos + 1)[0]
                    if end > size:
                        need = self._missing(end - size)
                        break
                    push(data[begin:end] if op == 65 or op == 77 else _integer(data[begin:end]))
                    pos = end
                elif op == 68:  # D
                    push(_float(data, pos + 1)[0])
                    pos += 9
                elif op == 84:  # T
                    push(complex(_float(data, pos + 1)[0], _float(data, pos + 9)[0]))
                    pos += 17
                else:
                    raise _corrupt(f"unknown opcode {op:#04x}")
        except StructError:
            pass  # the data ends inside the token at `pos`
        except IndexError:
            if pos < size:
                raise _corrupt("an item without a container, or beyond its list") from None
        if self._depth < 0:
            self._need = need
        if pos > start:
            self._parts.append(data[start:pos])
            self._parts_size += pos - start
        return pos

    def _pass_over(self, data: bytes, pos: int) -> int:
        """Check an item from `pos` on without building it, and push UNREAD when its end is reached.

        Values are only counted: opcodes, lengths, texts and folds are checked, but not whether a key can
        be one. The item ends where the tuple of three that holds it is folded.
        """
        depth = max(self._depth, 0)
        size = len(data)
        # Where the next byte that is not ASCII is: texts before it need not be looked at one by one.
        if self._beyond is None:
            self._beyond = data.translate(_BEYOND_ASCII)
        beyond = self._beyond
        high = beyond.find(1, pos) % _NEVER
        need = 1
        length_at = _unsigned
        try:
            while pos < size:
                op = data[pos]
                if op == 78 or op == 83:  # N S
                    begin = pos + 5
                    end = begin + length_at(data, pos + 1)[0]
                    if end >= size:
                        need = self._missing(end + 1 - size)
                        break
                    if high < end:
                        data[begin:end].decode()
                        high = beyond.find(1, end) % _NEVER
                    op = data[end]
                    if op == 78:  # mostly a key and its value
                        depth += 1
                        pos = end
                        begin = pos + 5
                        end = begin + length_at(data, pos + 1)[0]
                        if end >= size:
                            need = self._missing(end + 1 - size)
                            break
                        if high < end:
                            data[begin:end].decode()
                            high = beyond.find(1, end) % _NEVER
                        op = data[end]
                    if op == 80:  # the value of an item
                        if depth < 2:
                            raise _corrupt("an item without a container")
                        depth -= 1
                        pos = end + 1
                    elif op == 75 and depth and data[end : end + 6] == b"K\0\0\0\0P":
                        pos = end + 6  # the key of an empty list
                    else:
                        depth += 1
                        pos = end
                elif op == 80:  # P
                    depth -= 2
                    if depth < 1:
                        raise _corrupt("an item without a container")
                    pos += 1
                elif op == 70 or op == 71:  # F G
                    if data[pos + 5 : pos + 7] == b"LP" and depth:
                        pos += 7
                    elif pos + 5 > size:
                        break
                    else:
                        depth += 1
                        pos += 5
                elif op == 76 or op == 74 or op == 82 or op == 67:  # L J R C
                    depth += 1
                    pos += 1
                elif op == 64 or op == 79 or op == 69:  # @ O E
                    length = length_at(data, pos + 1)[0]
                    if length > depth:
                        if op == 64 and length == 3 and depth == 1:
                            self._stack.append(UNREAD)
                            depth = -1
                            break
                        raise _corrupt(f"a fold of {length} items where there are {depth}")
                    depth += 1 - length
                    pos += 5
                elif op == 75:  # K
                    length = length_at(data, pos + 1)[0]
                    if length:
                        self._promise(length)
                    depth += 1
                    pos += 5
                elif op == 65 or op == 77 or op == 72 or op == 73:  # A M H I
                    begin = pos + 5
                    end = begin + length_at(data, pos + 1)[0]
                    if end > size:
                        need = self._missing(end - size)
                        break
                    if op == 72 or op == 73:
                        _integer(data[begin:end])
                    depth += 1
                    pos = end
                elif op == 68 or op == 84:  # D T
                    end = pos + (9 if op == 68 else 17)
                    if end > size:
                        break
                    depth += 1
                    pos = end
                else:
                    raise _corrupt(f"opcode {op:#04x} inside an item")
        except StructError:
            pass  # the data ends inside the token at `pos`
        self._depth = depth
        self._need = need
        return pos

    def _too_long(self) -> CorruptEntry:
        return _corrupt(f"a value of more than {self._limit} bytes, the most that --max-entry-size allows")

    def _missing(self, missing: int) -> int:
        if missing > self._limit:
            raise self._too_long()
        return missing

    def _promise(self, length: int) -> None:
        # Without this, 5 bytes could allocate 16 gigabytes, and a row of empty mappings 70 times its size.
        self._promised += length * _LIST_ITEM_BYTES
        if self._promised > self._limit:
            raise self._too_long()

    def _fold(self, kind: type, length: int) -> None:
        stack = self._stack
        if length > len(stack):
            raise _corrupt(f"a {kind.__name__} of {length} items where there are {len(stack)}")
        if kind is not tuple:
            self._promise(_CONTAINER_ITEMS)
        if not length:
            stack.append(kind())
            return
        items = stack[-length:]
        folded = kind(items) if kind is tuple else kind(map(_key, items))
        stack[-length:] = [folded]

    def _finish(self, done: list[Decoded], tail: bytes) -> None:
        if len(self._stack) != 1:
            raise _corrupt(f"an end with {len(self._stack)} values on the stack")
        raw = tail
        if self._parts:
            raw = b"".join([*self._parts, tail])
            self._parts = []
            self._parts_size = 0
        if len(raw) > self._limit:
            raise self._too_long()
        # The tuple's own constructor, and the stack used again: this is paid twice for each entry.
        done.append(_new_tuple(Decoded, (self._stack.pop(), raw, self._second)))
        self._second = -1
        self._promised = 0


def _key(key: Any) -> Any:
    """Return `key` if it can be hashed without harm."""
    nested = [key] if key.__class__ is tuple else []
    for _ in range(_MAX_KEY_DEPTH):
        if not nested:
            return key
        nested = [item for outer in nested for item in outer if item.__class__ is tuple]
    raise _corrupt("a key or member that is nested too deeply")


def _integer(text: bytes) -> int:
    # int() would also take blanks, signs and underscores; what devpi writes is str(int).
    value = int(text)
    if str(value).encode() != text:
        raise _corrupt("a number that is not written as one")
    return value


def decode(data: bytes, limits: Limits | None = None, kinds: frozenset[str] | None = None) -> Decoded:
    """Return the one value that `data` consists of.

    kinds: see Decoder.
    Raises CorruptEntry where it is not exactly one value.
    """
    decoder = Decoder(limits, kinds)
    done = decoder.feed(data)
    decoder.check()
    if len(done) != 1 or decoder.pending:
        raise _corrupt(f"{len(data)} bytes that are not exactly one value")
    return done[0]


def is_cut(data: bytes, limits: Limits | None = None) -> bool:
    """Tell whether bytes are the beginning of a value: nothing is wrong but that the rest is missing."""
    decoder = Decoder(limits)
    try:
        done = decoder.feed(data)
        decoder.check()
    except CorruptEntry:
        return False
    return not done


def encode(value: Any) -> bytes:
    """Return the bytes of one value, its end mark included, as devpi's `fileutil.dumps` writes them.

    Raises ValueError for what the format cannot express.
    """
    try:
        return b"".join(_encode(value)) + b"Q"
    except RecursionError as err:
        raise ValueError("nested too deeply") from err


def _encode(value: Any) -> Iterator[bytes]:
    kind = value.__class__
    if value is None or kind is bool:
        yield b"L" if value is None else b"R" if value else b"C"
    elif kind is int:
        yield _encode_int(value)
    elif kind is str:
        yield from _with_length(b"N", value.encode())
    elif kind is bytes:
        yield from _with_length(b"A", value)
    elif kind is float:
        yield b"D" + _pack_float(value)
    elif kind is complex:
        yield b"T" + _pack_float(value.real) + _pack_float(value.imag)
    elif kind is dict or kind is list:
        yield b"J" if kind is dict else b"K" + _pack_int(len(value))
        for key, item in value.items() if kind is dict else enumerate(value):
            yield from _encode(key)
            yield from _encode(item)
            yield b"P"
    elif kind in _FOLDS:
        for item in value:
            yield from _encode(item)
        yield _FOLDS[kind] + _pack_int(len(value))
    else:
        raise ValueError(f"devpi's format has no place for {kind.__name__}")


_FOLDS: dict[type, bytes] = {tuple: b"@", set: b"O", frozenset: b"E"}


def _with_length(opcode: bytes, data: bytes) -> Iterator[bytes]:
    yield opcode + _pack_int(len(data))
    yield data


def _encode_int(value: int) -> bytes:
    if value < _INT_MIN:
        raise ValueError(f"devpi's format has no place for {value}")
    if value <= _INT_MAX:
        return b"F" + _pack_int(value)
    text = str(value).encode()
    return b"H" + _pack_int(len(text)) + text
