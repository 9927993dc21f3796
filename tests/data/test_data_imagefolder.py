import io

import numpy as np
import pytest
import torch
from data_files import CLASSES, encoded, folder_entries, picture, write_tree, write_zip
from PIL import Image

from thrifty.core.errors import DataError
from thrifty.data import decode, load_images


def _write(tmp_path, entries, packed):
    return write_zip(tmp_path / "set.zip", entries) if packed else write_tree(tmp_path / "set", entries)


both = pytest.mark.parametrize("packed", [False, True])


@both
def test_lossless_images_come_back_exactly_in_the_order_of_their_numbers(tmp_path, packed):
    data = load_images(_write(tmp_path, folder_entries(), packed))
    assert data.classes == CLASSES and data.train.images.shape == (9, 8, 8, 3)
    assert data.train.labels.tolist() == [0, 1, 2] * 3 and data.test.labels.tolist() == [0, 1, 2] * 2
    for index in range(9):
        np.testing.assert_array_equal(data.train.images[index], np.asarray(picture(index)))


def test_a_directory_and_a_zip_of_it_are_the_same_data(tmp_path):
    one, other = (load_images(_write(tmp_path, folder_entries("JPEG", ".jpeg"), packed)) for packed in (False, True))
    assert (one.train.images == other.train.images).all() and (one.test.labels == other.test.labels).all()
    assert one.source == "set (ImageFolder)" and other.source == "set.zip (ImageFolder zip)"


@pytest.mark.parametrize(("form", "suffix"), [("PNG", ".PNG"), ("JPEG", ".JPG"), ("WEBP", ".webp")])
def test_the_formats_that_are_read(tmp_path, form, suffix):
    data = load_images(_write(tmp_path, folder_entries(form, suffix), True))
    error = data.train.images[0].float() - torch.from_numpy(np.array(picture(0), dtype=np.float32))
    assert error.abs().mean() < 60


@both
@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_the_test_split_may_be_called_validation(tmp_path, packed, name):
    entries = {path.replace("test/", f"{name}/"): content for path, content in folder_entries().items()}
    assert len(load_images(_write(tmp_path, entries, packed)).test) == 6


@both
def test_side_files_and_hidden_files_are_passed_over(tmp_path, packed):
    entries = folder_entries()
    for name in ("README.md", "train/ant/boxes.txt", "train/ant/.DS_Store", "train/notes.csv", "other/x/1.png"):
        entries[name] = b"no image"
    assert len(load_images(_write(tmp_path, entries, packed)).train) == 9


def test_one_folder_around_a_zip_is_allowed_and_the_mac_folder_ignored(tmp_path):
    entries = {f"mine/{path}": content for path, content in folder_entries().items()}
    entries["__MACOSX/mine/train/ant/._000.png"] = b"x"
    assert len(load_images(write_zip(tmp_path / "set.zip", entries)).train) == 9


def test_a_folder_with_one_zip_in_it_is_that_zip(tmp_path):
    (tmp_path / "outer").mkdir()
    write_zip(tmp_path / "outer" / "set.zip", folder_entries())
    assert len(load_images(tmp_path / "outer").train) == 9
    write_zip(tmp_path / "outer" / "more.zip", folder_entries())
    with pytest.raises(DataError, match=r"more than one archive \(more.zip, set.zip\)"):
        load_images(tmp_path / "outer")


def _without(part):
    return {path: content for path, content in folder_entries().items() if part not in path}


@both
@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (_without("test/"), "no images under test/<class>/: arrange them"),
        (_without("train/ant"), "class test/ant is not among the 2 classes under train"),
        (folder_entries() | {"train/ant/000.png": b"abc"}, "ant/000.png: cannot be decoded: no PNG"),
        (folder_entries() | {"train/bee/x.gif": b"abc"}, "x.gif is among the images but is no .jpeg, .jpg, .png"),
        (folder_entries() | {"train/bee/x.png": b""}, "bee/x.png: cannot be decoded"),
        (folder_entries() | {"test/bee/x.png": encoded(1)[:-40]}, "bee/x.png: cannot be decoded"),
        (folder_entries() | {"train/ant/z.png": encoded(1, size=(9, 7))}, r"z.png: is 7x9 where .* 8x8: pass image_si"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, packed, entries, message):
    with pytest.raises(DataError, match=message.replace("ant/000", r"ant/000")):
        load_images(_write(tmp_path, entries, packed))


def test_folders_of_classes_without_a_split_get_advice(tmp_path):
    folder = write_tree(tmp_path / "flat", {f"{name}/1.png": encoded(1) for name in CLASSES})
    with pytest.raises(DataError, match="no images that can be read: expected train/<class>/ and test/<class>/"):
        load_images(folder)
    packed = write_zip(tmp_path / "flat.zip", {f"{name}/1.png": encoded(1) for name in CLASSES})
    with pytest.raises(DataError, match="no images under train/<class>/: arrange them as"):
        load_images(packed)


def test_an_empty_class_folder_is_named(tmp_path):
    folder = write_tree(tmp_path / "set", folder_entries())
    (folder / "train" / "dog").mkdir()
    with pytest.raises(DataError, match="class folder train/dog has no images"):
        load_images(folder)
    packed = write_zip(tmp_path / "set.zip", folder_entries() | {"train/dog/": b""})
    with pytest.raises(DataError, match="class folder train/dog has no images"):
        load_images(packed)


def test_a_zip_entry_with_a_wrong_checksum_is_named(tmp_path):
    path = write_zip(tmp_path / "set.zip", folder_entries())
    content = bytearray(path.read_bytes())
    content[content.index(b"train/cat/005.png") + 40] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"set.zip: entry train/cat/005.png is damaged"):
        load_images(path)


def test_entries_that_a_damaged_table_of_contents_hides_are_missed(tmp_path):
    path = write_zip(tmp_path / "set.zip", folder_entries())
    content = bytearray(path.read_bytes())
    # The length of an entry's comment: the entries that follow would be read as part of it.
    entry = content.rindex(b"test/ant/000.png") - 46
    content[entry + 32] = len(b"test/ant/000.png") + 46
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"set.zip: holds 14 entries where its end says 15"):
        load_images(path)


def test_images_of_any_size_become_alike(tmp_path):
    entries = folder_entries() | {"train/ant/z.png": encoded(1, size=(30, 10)), "test/ant/z.jpg": encoded(2, "JPEG")}
    path = write_zip(tmp_path / "set.zip", entries)
    assert load_images(path, image_size=6).train.images.shape == (10, 6, 6, 3)
    assert load_images(path, image_size=(4, 9)).test.images.shape == (7, 4, 9, 3)


def test_only_the_chosen_images_are_decoded(tmp_path, monkeypatch):
    seen = []
    original = decode.decode
    monkeypatch.setattr(decode, "decode", lambda name, *rest: seen.append(name) or original(name, *rest))
    data = load_images(_write(tmp_path, folder_entries(), True), limit_train=3, limit_test=3)
    assert sorted(data.train.labels.tolist()) == [0, 1, 2]
    assert len(set(seen)) == 6


def test_large_images_are_decoded_in_threads_to_the_same_pixels(tmp_path, monkeypatch):
    path = _write(tmp_path, folder_entries("WEBP", ".webp"), True)
    alone = load_images(path)
    monkeypatch.setattr(decode, "_THREADS_FROM_PIXELS", 1)
    monkeypatch.setattr(decode, "_BLOCK_IMAGES", 2)
    assert (load_images(path).train.images == alone.train.images).all()


def _save(image, form, **options):
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def test_modes_become_rgb_and_photographs_stand_upright():
    grey = decode.decode("grey", _save(picture(1).convert("L"), "PNG"), None)
    assert grey.shape == (8, 8, 3) and (grey[..., 0] == grey[..., 2]).all()
    palette = picture(1).convert("P")
    assert decode.decode("p", _save(palette, "PNG", transparency=b"\x00\x80"), None).shape == (8, 8, 3)
    assert decode.decode("a", _save(picture(1).convert("RGBA"), "PNG"), None).shape == (8, 8, 3)
    turned = Image.Exif()
    turned[0x0112] = 6
    content = _save(picture(1, (8, 4)), "PNG", exif=turned)
    np.testing.assert_array_equal(decode.decode("t", content, None), np.rot90(np.asarray(picture(1, (8, 4))), -1))


def test_what_would_not_fit_is_refused_before_memory_is_taken(monkeypatch):
    deep = Image.fromarray(np.zeros((8, 8), np.uint16))
    with pytest.raises(DataError, match="deep: pixels of mode I;16 do not fit"):
        decode.decode("deep", _save(deep, "PNG"), None)
    with pytest.raises(DataError, match=r"many: [\d.]+ GB of pixels do not fit in memory: pass a smaller image_size"):
        decode.decode_all(10**12, lambda index: ("x", encoded(1)), None, "many")
    monkeypatch.setattr(decode, "_MAX_PIXELS", 10)
    with pytest.raises(DataError, match="big: 8x8 pixels are more than 10"):
        decode.decode("big", encoded(1), None)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match="big: cannot be decoded: Image size"):
        decode.decode("big", encoded(1), None)
