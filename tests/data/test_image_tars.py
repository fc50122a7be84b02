"""Images in tar files: read as if they lay in folders, and what is said of a broken shard."""

import gzip
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from lightning_modules.data import ImageFolderDataModule, ImageTarsDataModule
from lightning_modules.data.images import shards as shards_file
from lightning_modules.data.labels import label_reader
from lightning_modules.utils.errors import InputError
from tests.helpers.samples import assert_same_batches, batches, message_of, save
from tests.helpers.tars import tar_of_classes, write_tar

OPTIONS = {"num_workers": 0, "image_size": 16, "batch_size": 4}


def picture(seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


PICTURE = picture()
GOOD = [("a.png", PICTURE), ("a.cls", b"cat"), ("b.png", PICTURE), ("b.cls", b"dog")]


@pytest.fixture
def root(tmp_path):
    """Folders of two classes and three splits, and shards of the same pictures."""
    for split, count in (("train", 5), ("val", 2), ("test", 2)):
        for place, name in enumerate(("cat", "dog")):
            for number in range(count):
                path = tmp_path / "folders" / split / name / f"{number}.png"
                save(path, np.asarray(Image.open(io.BytesIO(picture(10 * place + number)))))
        tar_of_classes(tmp_path / "folders" / split, tmp_path / "tars" / split, shards=3)
    return tmp_path


def tars(train, **options) -> ImageTarsDataModule:
    return ImageTarsDataModule(str(train), **OPTIONS | options)


def test_samples_order_and_augmentation_are_those_of_folders(root):
    folders = ImageFolderDataModule(str(root / "folders"), **OPTIONS)
    splits = {split: str(root / "tars" / f"{split}-*.tar") for split in ("val", "test")}
    alone, helped = (tars(root / "tars" / "train-*.tar", **splits, num_workers=n) for n in (0, 2))
    assert alone.class_names == folders.class_names == ["cat", "dog"]
    loaders = [data.train_dataloader() for data in (folders, alone, helped)]
    for epoch in range(2):
        expected = batches(loaders[0], epoch)
        for loader in loaders[1:]:
            assert_same_batches(batches(loader, epoch), expected)
    for split in ("val", "test"):
        expected = getattr(folders, f"{split}_dataset")
        assert_same_batches(list(getattr(alone, f"{split}_dataset")), list(expected))


def test_they_have_no_masks_to_train_on(tmp_path):
    path = write_tar(tmp_path / "a.tar", GOOD)
    with pytest.raises(InputError) as raises:
        tars(path, val=str(write_tar(tmp_path / "val.tar", GOOD))).mask_train()
    message_of(raises, "guidance: the training samples have no masks; accepted: digits")


def test_no_picture_is_read_before_its_turn(tmp_path):
    path = write_tar(tmp_path / "a.tar", [*GOOD, ("c.png", b"no picture"), ("c.cls", b"cat")])
    val = write_tar(tmp_path / "val.tar", GOOD)
    data = tars(path, val=str(val))
    assert len(data.train_dataset) == 3
    data.train_dataset[0]
    with pytest.raises(InputError) as raises:
        data.train_dataset[1]
    message_of(raises, path, "c.png", "cannot be read (cannot identify image file)")


def test_a_shard_that_is_gone_when_a_sample_is_read(tmp_path):
    path = write_tar(tmp_path / "a.tar", GOOD)
    data = tars(path, val=str(write_tar(tmp_path / "val.tar", GOOD)))
    path.unlink()
    with pytest.raises(InputError) as raises:
        data.train_dataset[0]
    message_of(raises, path, "No such file")


def test_labels_of_json_files_and_numbers_in_their_order(tmp_path):
    files = []
    for number in (10, 2, 9):
        files += [(f"{number}.jpg", PICTURE), (f"{number}.json", f'{{"y": {number}}}'.encode())]
    data = tars(
        write_tar(tmp_path / "a.tar", files),
        val=str(write_tar(tmp_path / "b.tar", [("x.PNG", PICTURE), ("x.cls", b" 9 \n")])),
        label_key="y",
    )
    assert data.class_names == ["2", "9", "10"]
    assert [label for _, label in data.train_dataset.samples] == [0, 1, 2]
    assert [label for _, label in data.val_dataset.samples] == [1]


def test_a_fifth_of_every_class_serves_as_val_where_there_is_none(tmp_path):
    files = []
    for number in range(15):
        label = b"cat" if number < 10 else b"dog"
        files += [(f"{number:02d}.png", picture(number)), (f"{number:02d}.cls", label)]
    path = write_tar(tmp_path / "a.tar", files)
    data, again, other = tars(path), tars(path), tars(path, seed=1)
    names = [[str(x) for x, _ in part.samples] for part in (data.train_dataset, data.val_dataset)]
    assert len(set(names[0] + names[1])) == 15 and len(names[1]) == 3
    assert [label for _, label in data.val_dataset.samples] == [0, 0, 1]
    assert [str(x) for x, _ in again.val_dataset.samples] == names[1]
    assert [str(x) for x, _ in other.val_dataset.samples] != names[1]
    assert data.test_dataset is data.val_dataset


def test_what_else_is_in_a_shard_is_left_out_and_told(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("lightning_modules.data.folders.tell", said.append)
    more = [("./._a.png", b"of macOS"), ("a.txt", b"a cat"), ("b.seg.png", PICTURE)]
    files = [(f"./{name}", content) for name, content in GOOD]
    path = write_tar(tmp_path / "a.tar", [*files, *more])
    data = tars(path, val=str(write_tar(tmp_path / "v.tar", GOOD)))
    assert len(data.train_dataset) == 2
    (line,) = said
    assert line.startswith(f"{path}: left out 2 files: a.txt, b.seg.png; taken are pictures")


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ([], "no pictures"),
        ([("a.txt", b"x")], "no pictures"),
        (GOOD[:3], "a picture of b, and no label"),
        ([*GOOD, ("c.cls", b"cat")], "a label of c, and no picture"),
        ([*GOOD, ("c.json", b"{}")], "a label of c, and no picture"),
        ([*GOOD, ("a.png", PICTURE)], "two pictures of a"),
        ([*GOOD, ("a.jpg", PICTURE)], "two pictures of a"),
        ([*GOOD, ("a.cls", b"cat")], "two files .cls of a"),
        ([*GOOD, ("c.png", PICTURE), ("c.json", b'{"y": 1, "z": 2}')], "no 'label'; it has y, z"),
        ([*GOOD, ("c.png", PICTURE), ("c.json", b"{")], "c.json: malformed JSON"),
        ([*GOOD, ("c.png", PICTURE), ("c.json", b"[1]")], "c.json: no 'label'"),
        ([*GOOD, ("c.png", PICTURE), ("c.cls", b"0.5")], "c.cls is '0.5', a number with a fract"),
        ([*GOOD, ("c.png", PICTURE), ("c.cls", b" \n")], "c.cls is ' \\n'"),
        ([*GOOD, ("c.png", PICTURE), ("c.cls", b"\xff")], "c.cls: invalid start byte"),
    ],
)
def test_a_shard_whose_samples_are_incomplete(tmp_path, files, told):
    path = write_tar(tmp_path / "a.tar", files)
    with pytest.raises(InputError) as raises:
        tars(path)
    message_of(raises, path, told)


def headers(content: bytes) -> list[int]:
    """Where the headers of the files lie in a tar file."""
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return [member.offset for member in archive]


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (lambda x: x[: headers(x)[3] + 512 + 1], "unexpected end of data"),
        (lambda x: x[: headers(x)[2] + 100], "what follows byte"),
        (lambda x: x[: headers(x)[2]] + b"q" * 512 + x[headers(x)[2] + 512 :], "is no file"),
        (lambda x: x + x, "what follows byte"),
        (lambda x: b"", "empty file"),
        (lambda x: b"no tar file" * 1000, "cannot be read"),
        (gzip.compress, "compressed (gzip); accepted: an uncompressed .tar file"),
    ],
    ids=["cut off in a file", "in a header", "no header", "two archives", "empty", "text", "gzip"],
)
def test_a_broken_shard(tmp_path, broken, told):
    path = write_tar(tmp_path / "a.tar", GOOD)
    path.write_bytes(broken(path.read_bytes()))
    with pytest.raises(InputError) as raises:
        tars(path)
    message_of(raises, path, told)


def test_a_link_in_a_shard(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("a.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(InputError) as raises:
        tars(path)
    message_of(raises, path, "a.png: a link")


def test_shards_that_do_not_go_together(tmp_path):
    path = write_tar(tmp_path / "train" / "a.tar", GOOD)
    bird = write_tar(tmp_path / "bird.tar", [("x.png", PICTURE), ("x.cls", b"bird")])
    with pytest.raises(InputError) as raises:
        tars(path, val=str(bird))
    message_of(raises, bird, "x.png", "unknown label 'bird'", "cat, dog")
    with pytest.raises(InputError) as raises:
        tars(path, val=str(tmp_path / "train"))
    message_of(raises, path, "a shard of train and of val")
    with pytest.raises(InputError) as raises:
        tars(path)
    message_of(raises, path, "no class has 5 samples")
    for missing in ("nowhere.tar", "none-*.tar"):
        with pytest.raises(FileNotFoundError) as raises:
            tars(tmp_path / missing)
        message_of(raises, "data.train", missing, "no shard is there")
    packed = write_tar(tmp_path / "packed" / "a.tar.gz", GOOD, "w:gz")
    for place in (packed, packed.parent):
        with pytest.raises(ValueError) as raises:
            tars(place)
        message_of(raises, json.dumps(str(packed)), "an uncompressed .tar file")


def test_shards_are_indexed_without_reading_pictures(tmp_path, monkeypatch):
    """What is read of a shard is its headers and labels: little, however large the pictures."""
    large = [("a.png", bytes(4_000_000)), ("a.cls", b"cat")]
    path, read = write_tar(tmp_path / "a.tar", large), []

    class Counted(io.FileIO):
        def readinto(self, buffer):
            count = super().readinto(buffer)
            read.append(count)
            return count

    monkeypatch.setattr(
        shards_file, "open", lambda path, mode: io.BufferedReader(Counted(path)), raising=False
    )
    reader = label_reader("multiclass", "label", "|")
    ((member, label),) = shards_file.index_shards([str(path)], reader)
    assert (member.name, member.size, label) == ("a.png", 4_000_000, "cat")
    assert 0 < sum(read) < 500_000


# -------------------------------------------------------------------------- labels and numbers


def labelled(tmp_path, *contents: str, ending: str = "json", **options) -> ImageTarsDataModule:
    """Pictures 0.png, 1.png, ... of which each content is the file with the label."""
    files = []
    for number, content in enumerate(contents):
        files += [(f"{number}.png", PICTURE), (f"{number}.{ending}", content.encode())]
    path = str(write_tar(tmp_path / "a.tar", files))
    (tmp_path / "val").mkdir(exist_ok=True)
    val = str(write_tar(tmp_path / "val" / "a.tar", files))
    return tars(path, **{"val": val} | options)


@pytest.mark.parametrize(
    ("contents", "options"),
    [
        (('{"y": ["b", "a"]}', '{"y": []}', '{"y": ["b"]}'), {"label_key": "y"}),
        (
            ('{"a": 1, "b": 1}', '{"a": 0, "b": 0}', '{"a": 0, "b": true}'),
            {"label_key": ["a", "b"]},
        ),
        (("b;a\n", "", "b"), {"label_separator": ";", "ending": "cls"}),
    ],
)  # fmt: skip
def test_several_labels_a_picture(tmp_path, contents, options):
    data = labelled(tmp_path, *contents, task="multilabel", **options)
    assert data.class_names == ["a", "b"]
    expected = [[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]]  # by name, not by label
    assert [x["label"].tolist() for x in data.val_dataset] == expected
    assert data.train_labels("data.sampler").tolist() == expected


def test_numbers_of_pictures(tmp_path):
    data = labelled(tmp_path, '{"x": 2, "y": 1.5}', task="regression", label_key=["y", "x"])
    assert data.class_names == ["y", "x"] and data.train_dataset.labels == [[1.5, 2.0]]
    assert data.val_dataset[0]["label"].tolist() == [1.5, 2.0]
    numbers = [f"{x / 4}" for x in range(10)]
    data = labelled(tmp_path, *numbers, ending="cls", val=None, task="regression")
    assert data.class_names == ["label"] and len(data.val_dataset) == 2
    dealt = [label for of in (data.train_dataset, data.val_dataset) for _, label in of.samples]
    assert sorted(dealt) == [[x / 4] for x in range(10)]


@pytest.mark.parametrize(
    ("content", "options", "told"),
    [
        ('{"x": 1}', {"label_key": ["x", "y"]}, "0.json: no 'y'; it has x; accepted"),
        ('{"x": "old"}', {"label_key": "x"}, "0.json: x is 'old'; accepted: a finite number"),
        ("1", {"label_key": ["x", "y"], "ending": "cls"}, "0.cls: one label; accepted: KEY.json"),
    ],
)
def test_numbers_that_are_none_are_told_with_their_file(tmp_path, content, options, told):
    with pytest.raises(InputError) as raises:
        labelled(tmp_path, content, task="regression", **options)
    message_of(raises, tmp_path / "a.tar", told)
