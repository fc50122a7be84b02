"""What a person wants explained, from files, folders, patterns or as given on the command line."""

from __future__ import annotations

import glob
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_modules.data.folders import (
    files_in,
    has_ending,
    left_by_system,
    parted_by_ending,
    say_left_out,
)
from lightning_modules.data.texts.files import Line
from lightning_modules.data.texts.pairs import Pair
from lightning_modules.modalities import MODALITIES, Modality
from lightning_modules.utils.errors import InputError
from lightning_modules.utils.terminal import counted


@dataclass(frozen=True)
class Input:
    """What a sample is made of: for each source a file or a line of one, or a text that was given.

    Files are not read yet.
    """

    name: str
    contents: Mapping[str, Path | Line | str | Pair]

    @property
    def path(self) -> Path | None:
        """The first of its files."""
        files = (x.path if isinstance(x, Line) else x for x in self.contents.values())
        return next((x for x in files if isinstance(x, Path)), None)

    def read(self, sources: Mapping[str, Modality]) -> dict[str, Any]:
        """The content of each source.

        Raises:
            OSError, InputError: it cannot be read, or there is nothing to explain.
        """
        contents = {}
        for name, modality in sources.items():
            given = self.contents[name]
            if isinstance(given, Path | Line):
                contents[name] = modality.read(given)
            else:
                contents[name] = modality.typed_text(given, self.name)
        return contents


def given_texts(texts: list[str], seconds: Sequence[str] = ()) -> list[str] | list[Pair]:
    """Those of the command line; for ``-`` one a line of standard input.

    ``seconds`` makes pairs of them: the second text of each, in their order. Where it is ``-``
    alone, a line has both, with a tab between.

    Raises:
        InputError: there are not as many.
    """
    lines = []
    if "-" in (*texts, *seconds):
        lines = [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if "-" in texts and list(seconds) == ["-"] == texts:
        return [pair_in(line, number) for number, line in enumerate(lines, start=1)]
    texts = [t for text in texts for t in (lines if text == "-" else [text])]
    if not seconds:
        return texts
    if len(texts) != len(seconds):
        raise InputError(
            f"--text-pair: {counted(len(seconds), 'text')} for {len(texts)} of --text; accepted: "
            "one for each, in their order; or --text - --text-pair -, with a tab in each line"
        )
    return [Pair(first, second) for first, second in zip(texts, seconds, strict=True)]


def pair_in(line: str, number: int) -> Pair:
    """The two texts of a line of standard input."""
    parts = line.split("\t")
    if len(parts) != 2:
        raise InputError(
            f"--text-pair -: line {number} has {counted(len(parts), 'text')}; accepted: two, with "
            "a tab between"
        )
    return Pair(*parts)


def find_inputs(
    patterns: Sequence[str], texts: Sequence[str | Pair], sources: Mapping[str, Modality]
) -> list[Input]:
    """All inputs that files, folders (with all they hold), glob patterns and texts come to.

    Of a classifier with several sources each pattern begins with that of its source, as
    ``image=photos``, and a sample is made of the files with the same name but for the ending. Of
    one with two, one of which may be typed, each file makes a sample with each text.

    Raises:
        InputError: there are none, a path leads to none, or the classifier takes no such input.
    """
    if len(sources) > 1:
        if texts and len(sources) == 2 and any(x.typed for x in sources.values()):
            return typed_pairs(patterns, texts, sources)
        return joined_inputs(patterns, texts, sources)
    ((name, modality),) = sources.items()
    if texts and not modality.typed:
        raise InputError(
            f"--text: the checkpoint is of {a(modality.called)} classifier; accepted: --input"
        )
    found = [
        Input(str(part), {name: part})
        for pattern in patterns
        for path in find_files(pattern, modality)
        for part in modality.within(path)
    ]
    found += [Input(f"text {number}", {name: x}) for number, x in enumerate(texts, start=1)]
    if not found:
        accepted = "--input PATH..." + (" or --text TEXT..." if modality.typed else "")
        raise InputError(f"no input; accepted: {accepted}")
    return list({x.name: x for x in found}.values())


def typed_pairs(
    patterns: Sequence[str], texts: Sequence[str], sources: Mapping[str, Modality]
) -> list[Input]:
    """Each of the files with each of the texts; a pattern may begin with the files' source."""
    typed = next(name for name, modality in sources.items() if modality.typed)
    (other,) = set(sources) - {typed}
    files = [
        path
        for pattern in patterns
        for path in find_files(pattern.removeprefix(f"{other}="), sources[other])
    ]
    if not files:
        called = sources[other].called
        raise InputError(f"--text: no {called} to go with it; accepted: --input PATH --text TEXT")
    return [
        Input(f"{path} + text {number}", {other: path, typed: text})
        for path in dict.fromkeys(files)
        for number, text in enumerate(texts, start=1)
    ]


def joined_inputs(
    patterns: Sequence[str], texts: Sequence[str], sources: Mapping[str, Modality]
) -> list[Input]:
    """The inputs of a classifier with several sources."""
    accepted = "--input " + " ".join(f"{name}=PATH" for name in sources)
    if len(sources) == 2 and any(x.typed for x in sources.values()):
        accepted = f"--input PATH --text TEXT, or {accepted}"
    files = {name: {} for name in sources}
    for pattern in patterns:
        name, equals, path = pattern.partition("=")
        if not equals or name not in sources:
            raise InputError(f"--input {pattern}: it names no source; accepted: {accepted}")
        files[name] |= {file.stem: file for file in find_files(path, sources[name])}
    if texts or not all(files.values()):
        problem = "--text: it is not said for which input" if texts else "no input of each source"
        raise InputError(f"{problem}; accepted: {accepted}")
    if all(len(x) == 1 for x in files.values()):  # one sample, whatever its files are called
        paths = {name: next(iter(x.values())) for name, x in files.items()}
        return [Input(" + ".join(map(str, paths.values())), paths)]
    everywhere = set.intersection(*map(set, files.values()))
    alone = sorted(set.union(*map(set, files.values())) - everywhere)
    if alone:
        raise InputError(
            f"--input: not every source has a file {alone[0]}; accepted: files with the same "
            "names, but for their endings, of each source"
        )
    return [
        Input(stem, {name: of_source[stem] for name, of_source in files.items()})
        for stem in sorted(everywhere)
    ]


def find_files(pattern: str, modality: Modality) -> list[Path]:
    """A file; or those of the modality in a folder; or what matches a glob pattern.

    Says what else lies in a folder. What is hidden there, or left by systems, counts as nothing.
    """
    path = Path(pattern).expanduser()
    wanted = f"{modality.called}s ({' '.join(modality.endings)})"
    accepted = f"a file, a folder of {wanted}, or a glob pattern"
    if path.is_file():
        for other in MODALITIES.values():
            if has_ending(path, other.endings) and not has_ending(path, modality.endings):
                raise InputError(
                    f"--input {pattern}: the classifier is of {modality.called}s, this is "
                    f"{a(other.called)}; accepted: {accepted}"
                )
        return [path]
    if path.is_dir():
        files, others = parted_by_ending(files_in(path), modality.endings)
        files = sorted(map(Path, files))
    else:
        matches = map(Path, sorted(glob.glob(str(path), recursive=True)))
        files = [match for match in matches if match.is_file() and is_asked_for(match, path)]
        others = []
    if not files:
        raise InputError(f"--input {pattern}: no {modality.called} is there; accepted: {accepted}")
    say_left_out(path, others, wanted)
    return files


def is_asked_for(match: Path, pattern: Path) -> bool:
    """False where a wildcard stands for what a system has left; glob itself leaves out dots."""
    return not any(map(left_by_system, set(match.parts) - set(pattern.parts)))


def a(noun: str) -> str:
    """A noun with its article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def inputs_of_sources(overrides: Sequence[str], sources: Mapping[str, Modality]) -> list[str]:
    """Those that are source=path, and so inputs, of a classifier with several sources."""
    if len(sources) == 1:
        return []
    return [text for text in overrides if text.partition("=")[0] in sources]
