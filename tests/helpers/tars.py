"""Tar files, as WebDataset's writers make them."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path


def write_tar(path: Path, files: Iterable[tuple[str, bytes]], mode: str = "w") -> Path:
    """Files by name, in their order; a name may come twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def tar_of_classes(folder: Path, path: Path, shards: int = 1) -> list[Path]:
    """Shards of the pictures in class folders, dealt out in turn, each with its .cls."""
    pictures = sorted(folder.glob("*/*"), key=lambda picture: (picture.name, picture.parent.name))
    return [
        write_tar(
            path.with_name(f"{path.stem}-{shard:03d}.tar"),
            [
                file
                for picture in pictures[shard::shards]
                for file in (
                    (f"{picture.parent.name}/{picture.name}", picture.read_bytes()),
                    (
                        f"{picture.parent.name}/{picture.stem}.cls",
                        f"{picture.parent.name}\n".encode(),
                    ),
                )
            ],
        )
        for shard in range(shards)
    ]
