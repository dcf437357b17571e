"""Reading data sets: what is whole is read, what is damaged is refused."""

import dataclasses
import gzip
import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given, strategies as st

from experiments import datasets


FASHION = datasets.SHARED_FOLDER / "fashion-mnist"


def idx(array, code=0x08, shape=None):
    shape = array.shape if shape is None else shape
    header = bytes((0, 0, code, len(shape))) + struct.pack(f">{len(shape)}I", *shape)
    return header + array.tobytes()


def write_folder(folder, train=5, test=3, side=4):
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    arrays = []
    for count in (train, test):
        arrays.append(generator.integers(0, 256, (count, side, side), dtype=np.uint8))
        arrays.append(generator.integers(0, 10, count, dtype=np.uint8))
    for file, array in zip(datasets.FILES, arrays, strict=True):
        (folder / file).write_bytes(gzip.compress(idx(array)))
    return arrays


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """No data set is found but those that a test puts somewhere."""
    monkeypatch.delenv("VTUNE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "SHARED_FOLDER", tmp_path / "shared")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("idx") / "file.gz"


@given(
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=3), seed=st.integers(0, 9)
)
def test_an_idx_file_gives_its_array(file, shape, seed):
    array = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    file.write_bytes(gzip.compress(idx(array)))
    read = datasets.read_idx(file, dimensions=len(shape))
    assert read.shape == array.shape
    assert np.array_equal(read, array)


@pytest.mark.parametrize("compressed", [True, False])
@given(data=st.data())
def test_a_file_cut_anywhere_is_refused(file, compressed, data):
    whole = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    if compressed:
        whole = gzip.compress(whole)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    file.write_bytes(cut if compressed else gzip.compress(cut))
    with pytest.raises(ValueError, match="file.gz"):
        datasets.read_idx(file, dimensions=3)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"no gzip file at all", "damaged or cut short"),
        (
            gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x02ab!", mtime=0),
            "more than the 2",
        ),
        (gzip.compress(idx(np.zeros(2, np.uint8), code=0x0D), mtime=0), "begins with"),
        (gzip.compress(idx(np.zeros((2, 2), np.uint8)), mtime=0), "1 dimension"),
        (
            gzip.compress(idx(np.zeros(2, np.uint8), shape=(2**32 - 1,)), mtime=0),
            "can hold",
        ),
        (gzip.compress(b"\x00\x00\x08\x01\x00\x00", mtime=0), "within its header"),
    ],
)
def test_a_damaged_file_is_refused_with_its_reason(file, content, message):
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        datasets.read_idx(file, dimensions=1)


def test_a_flipped_byte_is_noticed(file):
    content = bytearray(gzip.compress(idx(np.arange(200, dtype=np.uint8))))
    content[-6] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        datasets.read_idx(file, dimensions=1)


@pytest.mark.parametrize("inner", ["", "mnist"])
def test_a_named_folder_is_read_and_scaled(tmp_path, inner):
    x_train, y_train, x_test, y_test = write_folder(tmp_path / "named" / inner)
    data = datasets.load("mnist", folder=tmp_path / "named")
    assert data.name == "mnist"
    assert str(tmp_path / "named" / inner) in str(data)
    for images, bytes_ in ((data.x_train, x_train), (data.x_test, x_test)):
        assert images.dtype == np.float32
        assert np.array_equal(np.round(images * 255), bytes_)
        assert 0 <= images.min() and images.max() <= 1
    for labels, bytes_ in ((data.y_train, y_train), (data.y_test, y_test)):
        assert labels.dtype == np.int32
        assert np.array_equal(labels, bytes_)


def test_the_flag_goes_before_the_environment_and_that_before_the_shared_folder(
    tmp_path, monkeypatch
):
    write_folder(tmp_path / "shared" / "mnist", train=2)
    assert len(datasets.load("mnist").x_train) == 2
    write_folder(tmp_path / "environment", train=3)
    monkeypatch.setenv("VTUNE_DATA", str(tmp_path / "environment"))
    assert len(datasets.load("mnist").x_train) == 3
    write_folder(tmp_path / "flag", train=4)
    assert len(datasets.load("mnist", folder=tmp_path / "flag").x_train) == 4


def test_a_named_folder_without_the_files_is_an_error(tmp_path, monkeypatch):
    write_folder(tmp_path / "shared" / "mnist")
    write_folder(tmp_path / "partial")
    (tmp_path / "partial" / datasets.FILES[2]).unlink()
    with pytest.raises(ValueError, match="t10k-images-idx3-ubyte.gz"):
        datasets.load("mnist", folder=tmp_path / "partial")
    monkeypatch.setenv("VTUNE_DATA", str(tmp_path / "missing"))
    with pytest.raises(ValueError, match="missing"):
        datasets.load("mnist")


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    write_folder(tmp_path / "named", train=5)
    labels = gzip.compress(idx(np.zeros(6, np.uint8)))
    (tmp_path / "named" / datasets.FILES[1]).write_bytes(labels)
    with pytest.raises(ValueError, match="6 labels for 5 images"):
        datasets.load("mnist", folder=tmp_path / "named")


def test_without_files_the_digits_are_loaded_and_said():
    data = datasets.load("fashion-mnist")
    assert data.name == "digits"
    assert "fashion-mnist was not found" in str(data)


def test_the_digits_are_split_evenly_and_never_change():
    data = datasets.load("digits")
    assert data.x_train.shape == (1347, 8, 8) and data.x_test.shape == (450, 8, 8)
    assert data.x_train.dtype == data.x_test.dtype == np.float32
    assert data.y_train.dtype == data.y_test.dtype == np.int32
    assert data.x_train.min() == 0 and data.x_train.max() == 1
    totals = np.bincount(data.y_train) + np.bincount(data.y_test)
    assert np.all(abs(np.bincount(data.y_test) - totals / 4) < 1)
    train = {image.tobytes() for image in data.x_train}
    assert not any(image.tobytes() in train for image in data.x_test)
    again = datasets.load("digits")
    for field in dataclasses.fields(datasets.DataSet):
        assert np.array_equal(getattr(data, field.name), getattr(again, field.name))


def test_limit_keeps_the_first_images_of_each_part():
    whole, part = datasets.load("digits"), datasets.load("digits", limit=7)
    for name in ("x_train", "y_train", "x_test", "y_test"):
        assert np.array_equal(getattr(part, name), getattr(whole, name)[:7])


@pytest.mark.parametrize("arguments", [{"name": "cifar"}, {"limit": 0}])
def test_wrong_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="load"):
        datasets.load(**arguments)


def serve(tmp_path, monkeypatch, sha256=None):
    """Lets the data set be downloaded from a folder, through a file address."""
    write_folder(tmp_path / "server", train=6)
    files = [tmp_path / "server" / file for file in datasets.FILES]
    found = tuple(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    address = (tmp_path / "server").as_uri() + "/"
    monkeypatch.setitem(datasets.ADDRESSES, "mnist", address)
    monkeypatch.setitem(datasets.SHA256, "mnist", sha256 or found)


def test_a_download_happens_only_when_asked_for_and_once(tmp_path, monkeypatch):
    serve(tmp_path, monkeypatch)
    assert datasets.load("mnist").name == "digits"
    assert len(datasets.load("mnist", download=True).x_train) == 6
    monkeypatch.setitem(datasets.ADDRESSES, "mnist", "file:///nowhere/")
    assert len(datasets.load("mnist", download=True).x_train) == 6
    assert len(datasets.load("mnist").x_train) == 6


def test_a_download_of_other_bytes_is_refused_and_not_kept(tmp_path, monkeypatch):
    serve(tmp_path, monkeypatch, sha256=datasets.SHA256["mnist"])
    with pytest.raises(ValueError, match="SHA-256"):
        datasets.load("mnist", download=True)
    assert datasets.load("mnist").name == "digits"
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.skipif(not FASHION.exists(), reason="Debian's data set is not installed")
def test_fashion_mnist_is_the_original(monkeypatch):
    monkeypatch.setattr(datasets, "SHARED_FOLDER", FASHION.parent)
    data = datasets.load("fashion-mnist")
    assert data.name == "fashion-mnist"
    assert data.x_train.shape == (60_000, 28, 28)
    assert data.x_test.shape == (10_000, 28, 28)
    for labels, count in ((data.y_train, 6_000), (data.y_test, 1_000)):
        assert np.array_equal(np.bincount(labels), np.full(10, count))


@pytest.mark.skipif(not FASHION.exists(), reason="Debian's data set is not installed")
@pytest.mark.parametrize(
    "file, seconds", list(zip(datasets.FILES, (606, 606, 627, 627), strict=True))
)
def test_the_known_sums_are_those_of_the_original_files(file, seconds):
    # Debian's copies were stored without the name and the time of the original files;
    # with both put back (RFC 1952, section 2.3), the bytes are the original ones.
    copy = (FASHION / file).read_bytes()
    time = struct.pack("<I", 1_504_176_000 + seconds)
    name = file.removesuffix(".gz").encode() + b"\0"
    original = b"\x1f\x8b\x08\x08" + time + copy[8:9] + b"\x03" + name + copy[10:]
    known = datasets.SHA256["fashion-mnist"][datasets.FILES.index(file)]
    assert hashlib.sha256(original).hexdigest() == known
