"""Files of more than 8 bits a value that Pillow reads but does not write, byte by byte."""

import struct
import zlib
from pathlib import Path

import numpy as np

WHITE_IS_ZERO, GREY, RGB = 0, 1, 2  # a TIFF file's photometric interpretation
BYTES, SIGNED = 1, 2  # its format of samples


def png16(path: Path, values: np.ndarray) -> None:
    """Values [H, W, 3]."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))


def pnm(path: Path, values: np.ndarray, most: int) -> None:
    """Values [H, W] or [H, W, 3] of 0 to `most`, which is above 255."""
    kind = "P5" if values.ndim == 2 else "P6"
    header = f"{kind}\n{values.shape[1]} {values.shape[0]}\n{most}\n"
    path.write_bytes(header.encode() + values.astype(">u2").tobytes())


def tiff(
    path: Path,
    values: np.ndarray,
    photometric: int,
    bits: int = 16,
    sample_format: int = BYTES,
    planes: bool = False,
) -> None:
    """Values [H, W] or [H, W, 3] of 12, 16 or 32 bits; `planes`: a colour after the other."""
    height, width, *colours = values.shape
    count = len(colours) and colours[0] or 1
    stored = np.moveaxis(values, -1, 0) if planes else values
    if bits == 12:
        in_16 = np.unpackbits(stored.astype(">u2").view(np.uint8)).reshape(height, -1, 16)
        data = np.packbits(in_16[..., 4:].reshape(height, -1), axis=1).tobytes()
    else:
        data = stored.astype(f"<{'i' if sample_format == SIGNED else 'u'}{bits // 8}").tobytes()
    strips = count if planes else 1
    # A list of several numbers lies behind the directory, which has 12 bytes an entry.
    lists = 8 + 2 + 12 * 11 + 4
    start = lists + 48  # room for four lists of three numbers
    offsets = [start + i * len(data) // strips for i in range(strips)]
    short, long = "H", "I"
    entries = [
        *((256, short, [width]), (257, short, [height]), (258, short, [bits] * count)),
        *((259, short, [1]), (262, short, [photometric]), (273, long, offsets)),
        *((277, short, [count]), (278, short, [height])),
        *((279, long, [len(data) // strips] * strips), (284, short, [2 if planes else 1])),
        (339, short, [sample_format] * count),
    ]
    directory, behind = struct.pack("<H", len(entries)), b""
    for tag, kind, numbers in entries:
        content = struct.pack(f"<{len(numbers)}{kind}", *numbers)
        if len(content) > 4:
            behind, content = behind + content, struct.pack("<I", lists + len(behind))
        code = 3 if kind == short else 4
        directory += struct.pack("<HHI", tag, code, len(numbers)) + content.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", 0) + behind
    path.write_bytes(head.ljust(start, b"\0") + data)
