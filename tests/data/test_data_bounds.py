"""Small files that would become large: refused before the memory is taken. And archives cannot write anywhere."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from data_files import cifar_entries, folder_entries, shorten_cifar, write_tar, write_zip

from thrifty.core.errors import DataError
from thrifty.data import cifar, load_images, load_next_items

OUTSIDE = ("../outside.png", "/tmp/outside.png", "train/../../outside.png", "train/ant/../../../outside.png")


def test_an_archive_of_many_entries_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "_MAX_ENTRIES", 5)
    path = write_tar(tmp_path / "many.tar.gz", {f"note{i}": b"" for i in range(6)})
    with pytest.raises(DataError, match=r"many\.tar\.gz: more than 5 entries"):
        load_images(path)


def test_an_archive_that_unpacks_to_more_than_it_may_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "_MAX_ARCHIVE_BYTES", 1 << 20)
    path = write_tar(tmp_path / "bomb.tar.gz", {"padding": bytes(1 << 22), **cifar_entries()})
    assert path.stat().st_size < 1 << 20
    with pytest.raises(DataError, match="unpacks to more than 1048576 bytes"):
        load_images(path)


def test_a_header_that_claims_a_long_name_is_not_believed(tmp_path):
    """A GNU long name of 4 GB would be read into memory as one piece."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 32
    path = tmp_path / "long.tar.gz"
    path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 16)))
    with pytest.raises(DataError, match="unpacks to more than"):
        load_images(path)


def test_the_bounds_let_whole_sets_through(tmp_path, monkeypatch):
    shorten_cifar(monkeypatch)
    assert len(load_images(write_tar(tmp_path / "c.tar.gz", cifar_entries())).train) == 20


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_lead_out_of_a_zip_write_nothing(tmp_path, name):
    folder = tmp_path / "inner" / "inner"
    folder.mkdir(parents=True)
    entries = folder_entries()
    write_zip(folder / "set.zip", {**entries, name: next(iter(entries.values()))})
    before = sorted(tmp_path.rglob("*"))
    try:
        load_images(folder / "set.zip")
    except DataError as error:
        assert "\n" not in str(error)
    assert sorted(tmp_path.rglob("*")) == before and not Path("/tmp/outside.png").exists()


def test_names_that_lead_out_of_a_tar_write_nothing(tmp_path, monkeypatch):
    shorten_cifar(monkeypatch)
    entries = {f"../../{name}": content for name, content in cifar_entries().items()}
    folder = tmp_path / "inner" / "inner"
    folder.mkdir(parents=True)
    path = write_tar(folder / "c.tar.gz", entries)
    before = sorted(tmp_path.rglob("*"))
    load_images(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_npz_that_claims_more_than_it_holds_is_refused(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (1 << 40,)})
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("items.npy", header.getvalue() + bytes(64))
        archive.writestr("offsets.npy", header.getvalue() + bytes(64))
    with pytest.raises(DataError, match=r"items\.npy claims shape \(1099511627776,\)"):
        load_next_items(tmp_path / "x.npz")
