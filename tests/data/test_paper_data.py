"""Readers of the paper's data sets, on tiny files of their published layout."""

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

import train
from lightning_modules.data import DATAMODULES
from lightning_modules.models.vit_backbone import class_names_of
from lightning_modules.utils.errors import InputError

DARK, BRIGHT = 20, 230


def picture(width: int, height: int, box: tuple[int, int, int, int]) -> Image.Image:
    """Dark, with a bright box (left, top, right, bottom)."""
    image = Image.new("RGB", (width, height), (DARK,) * 3)
    image.paste((BRIGHT,) * 3, box)
    return image


def found_box(mask: torch.Tensor) -> tuple[int, int, int, int]:
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@pytest.fixture
def gtsegs(tmp_path):
    """Two images of different sizes, as MATLAB writes them: axes reversed, behind references."""
    path = tmp_path / "gtsegs_ijcv.mat"
    box = (8, 4, 32, 12)
    with h5py.File(path, "w") as file:
        references = {name: [] for name in ("img", "gt")}
        for i, (width, height) in enumerate([(64, 32), (48, 48)]):
            image = np.asarray(picture(width, height, box))
            mask = (image[..., 0] > 100).astype(np.uint8)
            file[f"refs/img{i}"] = image.transpose(2, 1, 0)
            file[f"refs/mask{i}"] = mask.T
            file.create_dataset(f"refs/cell{i}", (1, 1), dtype=h5py.ref_dtype)
            file[f"refs/cell{i}"][0, 0] = file[f"refs/mask{i}"].ref
            references["img"].append(file[f"refs/img{i}"].ref)
            references["gt"].append(file[f"refs/cell{i}"].ref)
        for name, of_name in references.items():
            file.create_dataset(f"value/{name}", (2, 1), dtype=h5py.ref_dtype)
            for i, reference in enumerate(of_name):
                file[f"value/{name}"][i, 0] = reference
    return path


def test_imagenet_segmentation(gtsegs):
    data = DATAMODULES["imagenet_segmentation"](str(gtsegs), image_size=16)
    assert len(data.test_dataset) == 2 and len(data.class_names) == 1000
    sample = data.test_dataset[0]  # 64 x 32, squeezed to 16 x 16
    assert sample["image"].shape == (3, 16, 16)
    assert found_box(sample["mask"]) == (2, 2, 8, 6)
    bright = sample["image"][0] > sample["image"][0].mean()
    assert (bright == sample["mask"]).float().mean() > 0.85  # not turned, not mirrored
    batch = next(iter(data.test_dataloader()))
    assert batch["mask"].shape == (2, 16, 16)


@pytest.mark.parametrize("content", [b"", b"no HDF5", None])
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "gtsegs_ijcv.mat"
    if content is None:
        with h5py.File(path, "w") as file:
            file["something"] = 1
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"gtsegs_ijcv\.mat.*accepted: .*/value/img"):
        DATAMODULES["imagenet_segmentation"](str(path))
    with pytest.raises(FileNotFoundError, match="no such file"):
        DATAMODULES["imagenet_segmentation"](str(tmp_path / "nowhere.mat"))


def test_imagenet_validation_folder(tmp_path):
    for name in ("n01440764", "n02123045"):  # tench, tabby
        (tmp_path / name).mkdir()
        for i in range(2):
            picture(40, 30, (0, 0, 5, 5)).save(tmp_path / name / f"ILSVRC2012_val_{i}.JPEG")
    data = DATAMODULES["imagenet"](str(tmp_path), image_size=16, num_workers=0)
    labels = sorted(data.test_dataset[i]["label"] for i in range(4))
    assert labels == [0, 0, 281, 281]
    assert data.class_names[0] == "tench" and data.class_names[281] == "tabby"
    assert class_names_of(1000) == data.class_names and class_names_of(3) == ["0", "1", "2"]
    (tmp_path / "cat").mkdir()
    with pytest.raises(InputError, match="no class of ImageNet"):
        DATAMODULES["imagenet"](str(tmp_path))


def test_imagenet_is_not_for_training(tmp_path, capsys):
    (tmp_path / "n01440764").mkdir()
    picture(40, 30, (0, 0, 5, 5)).save(tmp_path / "n01440764" / "a.JPEG")
    config = tmp_path / "a.yaml"
    config.write_text(
        f"run_dir: {tmp_path / 'run'}\nmodel: {{kind: vit, name: vit_tiny_patch16_224}}\n"
        f"data: {{kind: imagenet, root: {tmp_path}, image_size: 32}}\n"
    )
    with pytest.raises(SystemExit) as exit_:
        train.main(["--config", str(config)])
    assert exit_.value.code == 2
    assert "no train and val splits" in capsys.readouterr().err


@pytest.fixture
def pets(tmp_path):
    folder = tmp_path / "oxford-iiit-pet"
    for name in ("images", "annotations/trimaps"):
        (folder / name).mkdir(parents=True)
    lines = {"trainval": [], "test": []}
    for split, count in (("trainval", 10), ("test", 3)):
        for label, breed in enumerate(("Abyssinian", "great_pyrenees"), start=1):
            for i in range(count):
                name = f"{breed}_{split}{i}"
                picture(32, 32, (8, 8, 24, 16)).save(folder / "images" / f"{name}.jpg")
                trimap = np.full((32, 32), 2, dtype=np.uint8)
                trimap[7:17, 7:25], trimap[8:16, 8:24] = 3, 1
                Image.fromarray(trimap).save(folder / "annotations" / "trimaps" / f"{name}.png")
                lines[split].append(f"{name} {label} 1 1")
    for split, of_split in lines.items():
        (folder / "annotations" / f"{split}.txt").write_text("\n".join(of_split))
    return tmp_path


def test_pets(pets):
    data = DATAMODULES["pets"](str(pets), image_size=32, num_workers=0, batch_size=4)
    assert data.class_names == ["Abyssinian", "Great Pyrenees"]
    sizes = [len(d) for d in (data.train_dataset, data.val_dataset, data.test_dataset)]
    assert sizes == [16, 4, 6]
    assert sorted(data.val_dataset[i]["label"] for i in range(4)) == [0, 0, 1, 1]
    sample = DATAMODULES["pets"](
        str(pets),
        image_size=32,
        transforms_of="vit_small_patch14_dinov2.lvd142m",  # no crop
    ).test_dataset[0]
    assert found_box(sample["mask"]) == (7, 7, 25, 17)  # with its outline
    first, again, later = (data.train_dataset[key]["image"] for key in ((1, 3), (1, 3), (2, 3)))
    assert torch.equal(first, again) and not torch.equal(first, later)


def test_training_pets_bring_their_masks_when_they_are_asked_for(pets):
    """The pictures are those without masks, and bright where the mask is but for its outline."""
    options = {"random_erasing": 0.0, "auto_augment": None, "scale": [0.8, 1.0]}
    data = DATAMODULES["pets"](str(pets), image_size=32, num_workers=0, **options)
    before = [data.train_dataset[1, index] for index in range(16)]
    data.mask_train()
    for index, plain in enumerate(before):
        sample = data.train_dataset[1, index]
        assert sample.keys() == {"image", "label", "mask"} and plain.keys() == {"image", "label"}
        assert torch.equal(sample["image"], plain["image"]) and sample["mask"].dtype == torch.bool
        bright = sample["image"][0] > 0
        assert not (bright & ~sample["mask"]).any()
        assert bright.sum() > 0.5 * sample["mask"].sum()


def test_pets_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"data\.root .*accepted: oxford-iiit-pet"):
        DATAMODULES["pets"](str(tmp_path))
