import gzip
import lzma

import pytest

from thrifty.core.errors import DataError, UsageError
from thrifty.data import load_labelled_text, load_text


def _texts(folder, prefix="", **changes):
    files = {"train": b" the cat sat \n the dog\n", "valid": b"the cat", "test": b"cat the cat\n\n"} | changes
    folder.mkdir(exist_ok=True)
    for split, content in files.items():
        (folder / f"{prefix}{split}.txt").write_bytes(content)
    return folder


@pytest.mark.parametrize("prefix", ["", "mine."])
def test_every_line_ends_and_common_words_come_first(tmp_path, prefix):
    data = load_text(_texts(tmp_path / "mine", prefix))
    assert data.vocab == ("<eos>", "the", "cat", "dog", "sat")
    assert data.train.tolist() == [1, 2, 4, 0, 1, 3, 0]
    assert data.valid.tolist() == [1, 2, 0] and data.test.tolist() == [2, 1, 2, 0, 0]
    assert data.name == data.source == "mine"


def test_words_that_training_lacks_are_unknown(tmp_path):
    data = load_text(_texts(tmp_path / "mine", test=b"the bird\n"))
    assert data.vocab[-1] == "<unk>" and data.test.tolist() == [1, len(data.vocab) - 1, 0]
    data = load_text(_texts(tmp_path / "mine", train=b"<unk> <unk> the <unk>\n", valid=b"the\n", test=b"bird\n"))
    assert data.vocab == ("<unk>", "<eos>", "the") and data.test.tolist() == [0, 1]


def test_only_ascii_space_parts_tokens_and_newline_lines(tmp_path):
    data = load_text(_texts(tmp_path / "mine", train="a\u00a0b\u2028c\n".encode(), valid=b"x", test=b"x"))
    assert "a\u00a0b\u2028c" in data.vocab


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"valid": b"good \xff\n"}, "valid.txt: no UTF-8 text at byte 5"),
        ({"test": b" \n"}, "test.txt: holds no tokens"),
    ],
)
def test_bad_text_is_named(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        load_text(_texts(tmp_path / "mine", **changes))


def test_missing_and_doubled_files_are_named(tmp_path):
    folder = _texts(tmp_path / "mine")
    (folder / "ptb.test.txt").write_bytes(b"x")
    with pytest.raises(DataError, match=r"2 such files, ptb.test.txt and test.txt for test"):
        load_text(folder)
    (folder / "valid.txt").unlink()
    with pytest.raises(DataError, match=r"no such file for valid: expected valid.txt or NAME.valid.txt"):
        load_text(folder)


def test_the_penn_treebank_is_the_standard_one(shared_data):
    data = load_text("ptb", root=shared_data)
    assert [len(split) for split in (data.train, data.valid, data.test)] == [929_589, 73_760, 82_430]
    assert len(data.vocab) == 10_000 and data.source == "Penn Treebank"


TRAIN = b"1\t9\tx1\tA fine, FINE film<br /><br />It's fine.\n0\t2\tx2\tDull \xc3\xa9t\xc3\xa9 film\n1\t8\tx3\t...\n"
TEST = b"0\t1\ty1\tdull unseen word and more and more\n"


def _reviews(folder, train=TRAIN, test=TEST, pack="xz"):
    folder.mkdir(exist_ok=True)
    pressed = {"xz": lzma.compress, "gz": gzip.compress, "": bytes}[pack]
    for split, content in (("train", train), ("test", test)):
        (folder / f"{split}.tsv{'.' if pack else ''}{pack}").write_bytes(pressed(content))
    return folder


@pytest.mark.parametrize("pack", ["xz", "gz", ""])
def test_reviews_become_padded_numbers(tmp_path, pack):
    data = load_labelled_text(_reviews(tmp_path / "mine", pack=pack), max_length=6)
    assert data.vocab == ("<pad>", "<unk>", "fine", "film", "a", "dull", "it's", "été")
    assert data.train.tokens.tolist() == [[4, 2, 2, 3, 6, 2], [5, 7, 3, 0, 0, 0], [1, 0, 0, 0, 0, 0]]
    assert data.train.lengths.tolist() == [6, 3, 1] and data.train.labels.tolist() == [1, 0, 1]
    assert data.test.tokens.tolist() == [[5, 1, 1, 1, 1, 1]] and data.classes == ("0", "1")
    assert len(data.test) == 1


def test_a_vocabulary_has_a_limit(tmp_path):
    data = load_labelled_text(_reviews(tmp_path / "mine"), vocab_size=4)
    assert data.vocab == ("<pad>", "<unk>", "fine", "film")
    assert int(data.train.tokens.max()) == 3


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (b"", "train.tsv.xz: holds no lines"),
        (b"1\tx\tgood\n2\tgood\n", r"line 2 \(byte 9\) has 2 columns, not 3: label first, text last"),
        (b"alone\n", "has 1 columns, not 2"),
        (b"1\tgood\n-1\tbad\n", r"line 2 \(byte 7\): label '-1' is no whole number"),
        (b"1\tgood\n1\tb\xffd\n", "line 2: no UTF-8 text at byte 10"),
    ],
)
def test_bad_lines_are_named(tmp_path, train, message):
    with pytest.raises(DataError, match=message):
        load_labelled_text(_reviews(tmp_path / "mine", train))


def test_damaged_archives_and_strange_labels_are_named(tmp_path):
    folder = _reviews(tmp_path / "mine")
    path = folder / "train.tsv.xz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"train.tsv.xz: damaged or truncated near byte"):
        load_labelled_text(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"none of train.tsv, train.tsv.xz, train.tsv.gz is there"):
        load_labelled_text(folder)
    with pytest.raises(DataError, match="a test label is 5, but there are 2 classes"):
        load_labelled_text(_reviews(tmp_path / "other", test=b"5\tx\ty\tgood\n"))
    with pytest.raises(UsageError, match="vocab_size is 2"):
        load_labelled_text(folder, vocab_size=2)


@pytest.mark.slow
def test_the_imdb_reviews_are_the_standard_ones(shared_data):
    data = load_labelled_text("imdb-reviews", root=shared_data, max_length=64)
    assert data.train.labels.bincount().tolist() == data.test.labels.bincount().tolist() == [12_500, 12_500]
    assert data.classes == ("negative", "positive") and len(data.vocab) == 20_000
