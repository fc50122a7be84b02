"""Shards of images: tar files in WebDataset's layout, and where the pictures lie in them.

    KEY.jpg    the picture of a sample, or another of IMAGE_ENDINGS
    KEY.cls    its label, as a table has it in one column; or
    KEY.json   an object with its label or labels

KEY is the path of a file up to the first dot of its name.
"""

import glob
import json
import os
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from rich.console import Console
from rich.progress import track

from lightning_modules.data.folders import files_in, has_ending, hidden, say_left_out
from lightning_modules.data.images.files import IMAGE_ENDINGS, read_image
from lightning_modules.data.labels import LabelReader
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.options import check_option
from lightning_modules.utils.terminal import is_first_process

LAYOUT = f"KEY.cls or KEY.json beside each picture KEY.* ({' '.join(IMAGE_ENDINGS)})"
SHARDS = "a .tar file, a folder of them, or a pattern, as train-*.tar"
TAKEN = f"pictures ({' '.join(IMAGE_ENDINGS)}) and their labels (.cls .json)"
COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
ENDINGS_OF_COMPRESSED = (".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".tzst")
CHUNK = 2**20  # bytes


class Member(NamedTuple):
    """A file in a shard."""

    shard: str
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.shard}, {self.name}"


def read_picture(member: Member) -> Image.Image:
    """As ``read_image`` of the same picture in a file of its own.

    A shard is opened for every picture: one that is open cannot go to a worker.

    Raises:
        InputError: see ``read_image``.
    """
    try:
        with open(member.shard, "rb") as shard:
            shard.seek(member.offset)
            content = shard.read(member.size)
    except OSError as error:
        raise InputError(f"{member}: {error.strerror}; accepted: a shard as at the start") from None
    return read_image(str(member), content)


def find_shards(option: str, pattern: str) -> list[str]:
    """Paths of the shards that a file, a folder or a glob pattern come to, sorted.

    Raises:
        FileNotFoundError: there are none.
        ValueError: one is compressed by its name.
    """
    path = Path(pattern).expanduser()
    if path.is_dir():
        inside = files_in(path)
        found = [file for file in inside if has_ending(file, (".tar", *ENDINGS_OF_COMPRESSED))]
        say_left_out(path, sorted(set(inside) - set(found)), "shards (.tar)")
    else:
        found = [str(path)] if path.is_file() else sorted(glob.glob(str(path), recursive=True))
    if not found:
        raise FileNotFoundError(f"data.{option} {pattern}: no shard is there; accepted: {SHARDS}")
    for file in found:
        check_option(option, file, not has_ending(file, ENDINGS_OF_COMPRESSED), _uncompressed())
    return found


def index_shards(shards: list[str], reader: LabelReader) -> list[tuple[Member, Any]]:
    """The picture and the label of every sample, by shard and key. No picture is read.

    Args:
        shards: their paths.
        reader: of the labels; its columns are names in an object in KEY.json.

    Raises:
        InputError: a shard is compressed, broken or has no samples; a key has no label, no picture
            or two of one; a label is none.
    """
    console = Console(file=sys.stderr)
    hide = len(shards) == 1 or not console.is_terminal or not is_first_process()
    samples = []
    for shard in track(shards, "indexing shards", console=console, transient=True, disable=hide):
        samples += _index_shard(shard, reader)
    return samples


def _index_shard(shard: str, reader: LabelReader) -> list[tuple[Member, Any]]:
    pictures: dict[str, Member] = {}
    labels: dict[str, dict[str, bytes]] = {".cls": {}, ".json": {}}
    others = []
    for member, content in _members(shard):
        key, ending = _key_and_ending(member.name)
        known = labels.get(ending, pictures if ending in IMAGE_ENDINGS else None)
        if known is None:
            others.append(os.path.join(shard, member.name))
            continue
        if key in known:
            what = "pictures" if known is pictures else f"files {ending}"
            raise InputError(f"{shard}: two {what} of {key}; accepted: {LAYOUT}, one of each")
        known[key] = member if known is pictures else content
    if not pictures and not any(labels.values()):
        raise InputError(f"{shard}: no pictures; accepted: {LAYOUT}")
    say_left_out(shard, others, TAKEN)
    for key in labels[".cls"] | labels[".json"]:
        if key not in pictures:
            raise InputError(f"{shard}: a label of {key}, and no picture; accepted: {LAYOUT}")
    return [(member, _label_of(shard, key, labels, reader)) for key, member in pictures.items()]


def _members(shard: str) -> Iterator[tuple[Member, bytes | None]]:
    """The files in a shard that are not hidden, with the content of those that hold labels."""
    try:
        with open(shard, "rb") as file:
            _check_uncompressed(shard, file.read(max(map(len, COMPRESSED))))
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for info in archive:
                    if info.isdir() or any(hidden(x) for x in info.name.split("/") if x != "."):
                        continue
                    if not info.isreg() or info.issparse():
                        problem = f"{shard}, {info.name}: a link or a device"
                        raise InputError(f"{problem}; accepted: files")
                    is_label = _key_and_ending(info.name)[1] in (".cls", ".json")
                    content = archive.extractfile(info).read() if is_label else None
                    yield Member(shard, info.name, info.offset_data, info.size), content
                end = archive.offset
            # tarfile takes anything that is no header for the end, were it in the middle.
            file.seek(end)
            while chunk := file.read(CHUNK):
                if any(chunk):
                    raise tarfile.ReadError(f"what follows byte {end} is no file")
    except (tarfile.TarError, OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{shard}: cannot be read ({reason}); accepted: a whole .tar file, uncompressed"
        ) from error


def _key_and_ending(name: str) -> tuple[str, str]:
    """Key, and ending in lower case, of a file's name: "a/b" and ".seg.png" of a/b.seg.png."""
    folder, _, file = name.rpartition("/")
    stem, dot, ending = file.partition(".")
    return f"{folder}/{stem}" if folder else stem, f"{dot}{ending}".lower()


def _check_uncompressed(shard: str, beginning: bytes) -> None:
    for magic, called in COMPRESSED.items():
        if beginning.startswith(magic):
            raise InputError(f"{shard}: compressed ({called}); accepted: {_uncompressed()}")


def _uncompressed() -> str:
    return "an uncompressed .tar file, in which pictures can be read at any place"


def _label_of(
    shard: str, key: str, labels: dict[str, dict[str, bytes]], reader: LabelReader
) -> Any:
    """The label of a key that has a picture, from its .cls or else its .json."""
    if key in labels[".cls"]:
        where = f"{shard}, {key}.cls"
        if len(reader.columns) > 1:
            names = ", ".join(reader.columns)
            raise InputError(f"{where}: one label; accepted: KEY.json with {names}")
        return reader.value(_text(labels[".cls"][key], where), where)
    where = f"{shard}, {key}.json"
    if key not in labels[".json"]:
        raise InputError(f"{shard}: a picture of {key}, and no label; accepted: {LAYOUT}")
    try:
        found = json.loads(_text(labels[".json"][key], where))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where}: malformed JSON ({error}); accepted: an object") from None
    for name in reader.columns:
        if not isinstance(found, dict) or name not in found:
            names = f"; it has {', '.join(map(str, found))}" if isinstance(found, dict) else ""
            raise InputError(
                f"{where}: no {name!r}{names}; accepted: an object with the label, by the name "
                f"that data.label_key= gives"
            )
    return reader.read(found, where)


def _text(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: {error.reason}; accepted: UTF-8") from None
