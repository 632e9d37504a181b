"""Files made to fill memory, to lead elsewhere or never to end, made and read in a limited process.

Prints a line of JSON for each: name, the error it was refused with, seconds, and growth of the peak memory.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import resource
import struct
import sys
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

import h5py  # noqa: E402
import numpy as np  # noqa: E402
from sandbox import limit_memory  # noqa: E402

from mvkit.errors import MvkitError  # noqa: E402
from mvkit.features import read_features  # noqa: E402
from mvkit.features.stimuli import open_stimuli  # noqa: E402
from mvkit.fetch.manifest import Manifest  # noqa: E402
from mvkit.models.checkpoints import find_weights, read_checkpoint  # noqa: E402
from mvkit.models.names import match_layers  # noqa: E402
from mvkit.neural import ImportSettings, NeuralDataset, import_recordings, open_dataset  # noqa: E402
from mvkit.neural.grey_images import read_image_folder  # noqa: E402
from mvkit.neural.published import read_pickle_structure  # noqa: E402

HUGE = 10_000_000_000


def _zeros(n_bytes: int) -> bytes:
    """Return a deflate stream of zeros, made of one compressed block again and again."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * (n_bytes >> 20) + packer.flush()


def _header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _npz(path: Path, name: str, *, real: bool) -> Path:
    """Write an archive with an array of 10 GB of zeros: of 10 MB of compressed ones, or only declared."""
    content = _zeros(HUGE if real else 1 << 20)
    header = _header((1, HUGE // 4))
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = packed.compress(header) + packed.flush(zlib.Z_FULL_FLUSH) + content
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo(f"{name}.npy")
        info.compress_type, info.file_size, info.compress_size = zipfile.ZIP_DEFLATED, HUGE, len(data)
        info.CRC = info.header_offset = 0
        archive.fp.write(info.FileHeader(zip64=True) + data)  # type: ignore[union-attr]
        archive.filelist.append(info)
        archive.NameToInfo[info.filename] = info
        archive.start_dir = archive.fp.tell()  # type: ignore[union-attr]
        archive._didModify = True  # type: ignore[attr-defined]
    return path


def _arrays(path: Path) -> object:
    return import_recordings([path], ImportSettings(area="VISp")).dataset


def _hdf5(path: Path, fill: Callable[[Any], None]) -> Path:
    with h5py.File(path, "w") as file:
        fill(file)
    return path


def _neural(path: Path, change: Callable[[Any], None]) -> Path:
    rng = np.random.default_rng(0)
    responses = {"VISp": {"m": rng.normal(size=(4, 3, 2)).astype("f4")}}
    NeuralDataset.from_arrays(responses, np.zeros((3, 4, 4), np.uint8)).save(path)
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def _outside(name: str) -> dict[str, Callable[[Any], None]]:
    """Return ways in which an array of this name can lie in another file."""

    def virtual(file: Any) -> None:
        layout = h5py.VirtualLayout((2, 3, 4), "f4")
        layout[...] = h5py.VirtualSource("other.h5", "x", (2, 3, 4))
        file.pop(name, None)
        file.create_virtual_dataset(name, layout)

    def external(file: Any) -> None:
        file.pop(name, None)
        file.create_dataset(name, (2, 3, 4), "u1", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])

    def link(file: Any) -> None:
        file.pop(name, None)
        file[name] = h5py.ExternalLink("other.h5", "/x")

    return {"virtual dataset": virtual, "external storage": external, "external link": link}


def _png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(1 << 16)))
        + chunk(b"IEND", b"")
    )


def _image(folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir()
    (folder / name).write_bytes(content)
    return folder


def _cells(file: Any) -> None:
    """Cell arrays of MATLAB, each of which holds the next one twice, and the last the first."""
    kind = h5py.ref_dtype
    nodes = [file.create_dataset(f"c{number}", (2,), kind) for number in range(40)]
    for node, following in zip(nodes, [*nodes[1:], nodes[0]], strict=True):
        node.attrs["MATLAB_class"] = np.bytes_("cell")
        node[...] = np.array([following.ref, following.ref], kind)


def _groups(file: Any) -> None:
    group = file
    for _number in range(40):
        inner = group.create_group("a")
        group["b"] = inner
        group = inner
    group["a"] = file["/"]


def _never_written(file: Any) -> None:
    file.create_dataset("responses", (10**4, 10**4, 10**4), "f4", chunks=(10, 100, 100), fillvalue=1.0)
    file["stimuli"] = np.zeros((3, 4, 4), np.uint8)


def _chunk_of_zeros(file: Any) -> None:
    data = file.create_dataset(
        "responses", (4, 1000, 10**6), "f4", chunks=(1, 100, 10**6), compression="gzip"
    )
    data.id.write_direct_chunk((0, 0, 0), zlib.compress(bytes(1 << 20)), 0)
    file["stimuli"] = np.zeros((1000, 4, 4), np.uint8)


def _long_units(file: Any) -> None:
    for name in list(file):
        if getattr(file[name], "shape", ()) == (2,):
            del file[name]
            file.create_dataset(name, (10**12,), "i8", chunks=(1000,), fillvalue=3)


def _safetensors(path: Path, header: bytes, length: int) -> Path:
    path.write_bytes(struct.pack("<Q", length) + header)
    return path


def _cases(folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield names and what reads them; each file is made before its reader is timed."""
    for is_real in (True, False):
        kind = "zeros" if is_real else "declared"
        path = _npz(folder / f"bomb_{kind}.npz", "responses", real=is_real)
        yield f"npz, 10 GB {kind}", lambda path=path: _arrays(path)
        path = _npz(folder / f"features_{kind}.npz", "metadata", real=is_real)
        yield f"features npz, 10 GB {kind}", lambda path=path: read_features(path)
    for name, header in (
        ("lying shape", _header((10**6, 10**6))),
        ("negative shape", _header((-1, 5))),
        ("objects", _header((3,), "|O")),
        ("header of 2 GB", b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b"{"),
        ("nested header", b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000),
    ):
        path = folder / f"{name}.npy"
        path.write_bytes(header)
        yield f"npy, {name}", lambda path=path: _arrays(path)
    for name, fill in {
        **_outside("responses"),
        "never written": _never_written,
        "chunk of zeros": _chunk_of_zeros,
        "group circle": _groups,
    }.items():
        path = _hdf5(folder / f"{name}.h5", fill)
        yield f"h5, {name}", lambda path=path: _arrays(path)
    path = _hdf5(folder / "cells.mat", _cells)
    yield "mat, cell circle", lambda path=path: _arrays(path)
    for name, fill in {**_outside("stimuli"), "long units": _long_units}.items():
        path = _neural(folder / f"neural {name}.h5", fill)
        yield f"neural file, {name}", lambda path=path: open_dataset(path)
    (folder / "bomb.csv.gz").write_bytes(
        b"\x1f\x8b\x08\0\0\0\0\0\2\3" + _zeros(HUGE) + struct.pack("<II", 0, HUGE & 0xFFFFFFFF)
    )
    yield "csv.gz, 10 GB of one line", lambda: _arrays(folder / "bomb.csv.gz")
    for name, content in {
        "png 50,000 x 50,000": _png(50_000, 50_000),
        "png 12,000 x 12,000": _png(12_000, 12_000),
        "truncated png": _png(60, 60)[:60],
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) print\n",
    }.items():
        images = _image(folder / f"images {name}", "a.png", content)
        yield f"images, {name}", lambda images=images: open_stimuli(images).read(0, 1)
        yield f"grey images, {name}", lambda images=images: read_image_folder(images)
    (folder / "bomb.pkl.gz").write_bytes(gzip.compress(b"\x80\x04\x8e" + struct.pack("<Q", HUGE)))
    yield "pickle.gz, 10 GB declared", lambda: read_pickle_structure(folder / "bomb.pkl.gz")
    for number, (name, content) in enumerate(
        {
            "memo of memos": b"\x80\x04]\x94" + b"(h\x00h\x00e" * 5 + b".",
            "os.system": pickle.dumps(print),
            "frame of 2**60": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b".",
            "a million marks": b"\x80\x04" + b"(" * 1_100_000,
        }.items()
    ):
        path = folder / f"{number}.pkl"
        path.write_bytes(content)
        yield f"pickle, {name}", lambda path=path: read_pickle_structure(path)
    for name, header, length in (
        ("lying header", b"{" + b" " * 100, 1 << 60),
        (
            "lying offsets",
            (
                text := json.dumps(
                    {"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}
                ).encode()
            ),
            len(text),
        ),
        ("nested header", (text := b'{"a":' * 50_000), len(text)),
    ):
        path = _safetensors(folder / f"{name}.safetensors", header, length)
        yield f"safetensors, {name}", lambda path=path: find_weights(read_checkpoint(path), path)
    path = _npz(folder / "bomb.pt", "archive/data", real=True)
    yield "pt, 10 GB zeros", lambda path=path: find_weights(read_checkpoint(path), path)
    nested = folder / "nested"
    nested.mkdir()
    (nested / "manifest.json").write_text("[" * 100_000)
    yield "manifest, nested lists", lambda: Manifest(nested).records()
    yield "pattern, (a+)+", lambda: match_layers("re:(a+)+", ["a" * 40 + "b"])


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    limited = False
    for name, read in _cases(folder):
        if not limited:
            limit_memory()
            limited = True
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        try:
            read()
            outcome = "value"
        except MvkitError as error:
            outcome = f"{type(error).__name__}: {error}"
        except Exception as error:  # noqa: BLE001
            outcome = f"finding: {type(error).__name__}: {error}"
        took = round(time.process_time() - began, 2)
        grown = round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
        print(json.dumps({"name": name, "outcome": outcome, "s": took, "MB": grown}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
