"""Pickles changed instruction by instruction: most stay well formed, and reach what reads the objects."""

from __future__ import annotations

import functools
import random
import struct

_MOST_INSTRUCTIONS = 1500

_NAMES = [
    (b"numpy", b"ndarray"),
    (b"numpy", b"dtype"),
    (b"numpy._core.multiarray", b"_reconstruct"),
    (b"numpy.core.multiarray", b"scalar"),
    (b"numpy._core.numeric", b"_frombuffer"),
    (b"pandas.core.indexes.base", b"_new_Index"),
    (b"pandas.core.indexes.base", b"Index"),
    (b"pandas.core.indexes.range", b"RangeIndex"),
    (b"pandas.core.indexes.multi", b"MultiIndex"),
    (b"pandas.core.indexes.frozen", b"FrozenList"),
    (b"pandas.core.arrays.string_", b"StringArray"),
    (b"pandas.core.arrays.string_arrow", b"ArrowStringArray"),
    (b"pandas._libs.missing", b"NA"),
    (b"pandas._libs.arrays", b"__pyx_unpickle_NDArrayBacked"),
    (b"pyarrow.lib", b"_restore_array"),
    (b"pyarrow.lib", b"chunked_array"),
    (b"pyarrow.lib", b"py_buffer"),
    (b"pyarrow.lib", b"type_for_alias"),
    (b"xarray.core.dataarray", b"DataArray"),
    (b"xarray.core.variable", b"Variable"),
    (b"xarray.core.indexing", b"PandasIndexAdapter"),
    (b"collections", b"OrderedDict"),
    (b"builtins", b"bytes"),
    (b"builtins", b"bytearray"),
    (b"builtins", b"dict"),
    (b"builtins", b"slice"),
    (b"_codecs", b"encode"),
    (b"os", b"system"),
    (b"builtins", b"eval"),
    (b"builtins", b"getattr"),
    (b"posix", b"system"),
    (b"subprocess", b"Popen"),
    (b"numpy", b"load"),
    (b"pandas", b"read_pickle"),
    (b"torch._utils", b"_rebuild_tensor"),
    (b"torch._utils", b"_rebuild_tensor_v2"),
    (b"torch._utils", b"_rebuild_tensor_v3"),
    (b"torch._utils", b"_rebuild_parameter"),
    (b"torch._utils", b"_rebuild_sparse_tensor"),
    (b"torch._utils", b"_rebuild_qtensor"),
    (b"torch._utils", b"_rebuild_device_tensor_from_numpy"),
    (b"torch._tensor", b"_rebuild_from_type_v2"),
    (b"torch", b"FloatStorage"),
    (b"torch", b"LongStorage"),
    (b"torch", b"UntypedStorage"),
    (b"torch", b"TypedStorage"),
    (b"torch.storage", b"UntypedStorage"),
    (b"torch", b"float32"),
    (b"torch", b"uint16"),
    (b"torch", b"load"),
    (b"torch", b"Size"),
    (b"torch", b"device"),
    (b"torch.nn.modules.linear", b"Linear"),
    (b"argparse", b"Namespace"),
    (b"collections", b"defaultdict"),
    (b"collections", b"Counter"),
    (b"builtins", b"set"),
]
_TEXTS = [
    b"",
    b"stimuli",
    b"neural_data",
    b"_variable",
    b"_coords",
    b"_dims",
    b"_data",
    b"data",
    b"names",
    b"levels",
    b"codes",
    b"labels",
    b"start",
    b"stop",
    b"step",
    b"units",
    b"trials",
    b"frame_id",
    b"unit_id",
    b"specimen_id",
    b"visual_area",
    b"time_relative_to_stimulus_onset",
    b"array",
    b"_pa_array",
    b"string",
    b"latin1",
    b"<",
    b">",
    b"|",
    b"f8",
    b"u1",
    b"O8",
    b"U3",
    b"M8",
    b"V16",
    b"i8",
    b"b1",
    b"C",
    b"F",
    b"K",
    b"\xc3\xa9" * 9,
    b"\xff",
    b"a" * 300,
    b"\x00",
    b"\xed\xa0\x80",
    b"storage",
    b"module",
    b"cpu",
    b"cuda:0",
    b"0",
    b"1",
    b"state_dict",
    b"format",
    b"mvkit",
    b"_parameters",
    b"_buffers",
    b"_modules",
    b"_metadata",
    b"_non_persistent_buffers_set",
    b"__reduce__",
    b"__setstate__",
]
_NUMBERS = [0, 1, 2, 3, 4, 5, 8, 127, 128, 255, 256, 65535, 65536, (1 << 31) - 1, (1 << 32) - 1]
_PLAIN = b"N\x88\x89(0122)]}\x8f\x85\x86\x87taesuR\x81\x92b\x93\x94\x90\x91o.PQ\x97\x98"

#: Values that a recording could have somewhere.
_VALUES = [
    b"\x8c\x07numpy._\x94",
    b"K\x01K\x02\x86",
    b")",
    b"]",
    b"}",
    b"N",
    b"K\x00",
    b"J\xff\xff\xff\xff",
    b"G\x7f\xf8\x00\x00\x00\x00\x00\x00",
    b"G\x7f\xf0\x00\x00\x00\x00\x00\x00",
    b"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x00",
    b"\x8a\x20" + b"\xff" * 31 + b"\x7f",
    b"C\x00",
    b"C\x08" + b"\xff" * 8,
    b"X\x03\x00\x00\x00abc",
    b"K\x01\x85",
    b"(K\x01K\x02K\x03t",
    b"\x88",
    b"h\x00",
    b"h\x01",
    b"h\x02",
]


#: Opcode -> length of its operand; -1, -4, -8: a length of so many bytes stands before it; "\n": lines.
_OPERANDS: dict[int, int | str] = {
    **dict.fromkeys(b"\x80Khq\x82", 1),
    **dict.fromkeys(b"M\x83", 2),
    **dict.fromkeys(b"Jjr\x84", 4),
    **dict.fromkeys(b"G\x95", 8),
    **dict.fromkeys(b"\x8cCU\x8a", -1),
    **dict.fromkeys(b"XBT\x8b", -4),
    **dict.fromkeys(b"\x8d\x8e\x96", -8),
    **dict.fromkeys(b"ILFSVgpP", "\n"),
    **dict.fromkeys(b"ci", "\n\n"),
}


@functools.lru_cache(maxsize=4096)
def split(data: bytes) -> tuple[bytes, ...]:
    """Return a pickle's instructions; at most :data:`_MOST_INSTRUCTIONS`."""
    pieces, at = [], 0
    while at < len(data) and len(pieces) < _MOST_INSTRUCTIONS:
        operand, end = _OPERANDS.get(data[at], 0), at + 1
        if isinstance(operand, str):
            for _ in operand:
                end = (data.find(b"\n", end) + 1) or len(data)
        elif operand < 0:
            end += -operand + int.from_bytes(data[end : end - operand], "little")
        else:
            end += operand
        pieces.append(data[at:end])
        at = end
    return tuple(pieces)


def instruction(draw: random.Random) -> bytes:
    """Return one instruction, or a few that make one value."""
    kind = draw.random()
    if kind < 0.3:
        return bytes([draw.choice(_PLAIN)])
    if kind < 0.5:
        return draw.choice(_VALUES)
    if kind < 0.65:
        text = draw.choice(_TEXTS)
        if len(text) < 256 and draw.random() < 0.8:
            return b"\x8c" + bytes([len(text)]) + text
        return b"X" + struct.pack("<I", draw.choice((len(text), draw.choice(_NUMBERS)))) + text
    if kind < 0.8:
        module, name = draw.choice(_NAMES)
        if draw.random() < 0.5:
            return b"c" + module + b"\n" + name + b"\n"
        return b"\x8c" + bytes([len(module)]) + module + b"\x8c" + bytes([len(name)]) + name + b"\x93"
    number = draw.choice(_NUMBERS)
    if kind < 0.9:
        return draw.choice(
            [
                b"K" + bytes([number & 255]),
                b"M" + struct.pack("<H", number & 0xFFFF),
                b"J" + struct.pack("<i", number >> 1),
            ]
        )
    code = draw.choice(
        [b"h", b"q", b"C", b"B", b"T", b"\x8e", b"\x96", b"\x8d", b"\x8a", b"\x8b", b"\x95", b"j", b"r"]
    )
    if code in (b"h", b"q", b"C", b"\x8a"):
        return code + bytes([number & 255])
    return code + (
        struct.pack("<Q", number)
        if code in (b"\x8e", b"\x96", b"\x8d", b"\x95")
        else struct.pack("<I", number & 0xFFFFFFFF)
    )


def mutate(data: bytes, other: bytes, draw: random.Random) -> bytes:
    """Return a pickle with a few instructions added, removed, replaced, moved, or taken from another one."""
    pieces = list(split(data))
    for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 5, 9))):
        at = draw.randrange(len(pieces) + 1)
        kind = draw.random()
        if kind < 0.25 or not pieces:
            pieces.insert(at, instruction(draw))
        elif kind < 0.45:
            pieces[at % len(pieces)] = instruction(draw)
        elif kind < 0.55:
            del pieces[at % len(pieces)]
        elif kind < 0.65:
            end = at + draw.randrange(1, 12)
            pieces[draw.randrange(len(pieces)) : 0] = pieces[at:end]
        elif kind < 0.72:
            del pieces[at : at + draw.randrange(1, 12)]
        elif kind < 0.82:
            theirs = split(other)
            start = draw.randrange(len(theirs))
            pieces[at:at] = theirs[start : start + draw.randrange(1, 30)]
        elif kind < 0.9:
            first, second = draw.randrange(len(pieces)), draw.randrange(len(pieces))
            pieces[first], pieces[second] = pieces[second], pieces[first]
        else:
            piece = bytearray(pieces[at % len(pieces)])
            if piece:
                piece[draw.randrange(len(piece))] = draw.choice((0, 1, 127, 128, 255, draw.randrange(256)))
            pieces[at % len(pieces)] = bytes(piece)
    return b"".join(pieces)


def generate(draw: random.Random) -> bytes:
    """Return a pickle of instructions drawn at random."""
    body = b"".join(instruction(draw) for _ in range(draw.randrange(1, 60)))
    return b"\x80" + bytes([draw.choice((2, 3, 4, 5))]) + body + b"."
