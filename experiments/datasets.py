"""The images that the experiments train on.

Fashion-MNIST and MNIST are read from a folder that holds their four files in the idx
format, compressed by gzip, under their official names. The folder is the first of

1. the one that is given (`--data DIR`), or else named by the environment variable
   `VTUNE_DATA`; the files may lie in it or in a folder of it named like the data set;
2. `/usr/share/datasets/<name>`, where Debian's package `dataset-fashion-mnist` puts
   them;
3. `~/.cache/vtune/<name>`, where `--download` puts them, each checked by its SHA-256.

Where there is none, scikit-learn's digits take their place: 1,797 images of 8 x 8
pixels that need no network.
"""

import argparse
import dataclasses
import gzip
import hashlib
import math
import os
import struct
import urllib.request
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, UInt8


NAMES = ("fashion-mnist", "mnist", "digits")

# The order of the fields of an idx data set: x_train, y_train, x_test, y_test.
FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
ADDRESSES = {
    "fashion-mnist": (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/"
        "fashion/"
    ),
    "mnist": "https://storage.googleapis.com/cvdf-datasets/mnist/",
}
SHA256 = {
    "fashion-mnist": (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
    "mnist": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
}
SHARED_FOLDER = Path("/usr/share/datasets")
LARGEST_FILE = 64 * 2**20
UNSIGNED_BYTE = 0x08
# Deflate, the compression of gzip, makes no more than this of one byte.
LARGEST_EXPANSION = 1032


@dataclasses.dataclass(frozen=True)
class DataSet:
    """Labelled images in two parts, scaled to 0..1.

    Args:
        name: `"fashion-mnist"`, `"mnist"` or `"digits"`.
        source: where the images were read from, in words.
        x_train: the images to train on, float32.
        y_train: their labels, 0 to 9, int32.
        x_test: the images that are held out.
        y_test: their labels.
    """

    name: str
    source: str
    x_train: Float32[np.ndarray, "train height width"]
    y_train: Int32[np.ndarray, " train"]
    x_test: Float32[np.ndarray, "test height width"]
    y_test: Int32[np.ndarray, " test"]

    def __str__(self) -> str:
        height, width = self.x_train.shape[1:]
        return (
            f"{self.name}: {len(self.x_train):,} images to train on, "
            f"{len(self.x_test):,} held out, {height} x {width} pixels, "
            f"from {self.source}"
        )


def load(
    name: str = "fashion-mnist",
    folder: str | Path | None = None,
    limit: int | None = None,
    download: bool = False,
) -> DataSet:
    """Loads a data set, or the digits where its files are not to be found.

    Args:
        name: `"fashion-mnist"`, `"mnist"` or `"digits"`.
        folder: the folder of the four files; where None, the environment variable
            `VTUNE_DATA` and the places named above are tried.
        limit: keep so many images of each part, the first ones.
        download: fetch the files where no folder holds them.

    Returns:
        The data set, with images in 0..1.

    Raises:
        ValueError: if the name is unknown, if a folder that was named does not hold the
            files, or if a file is damaged.
        OSError: if a download fails.

    Example:
        ```python
        from experiments import datasets

        data = datasets.load("digits", limit=100)
        assert data.x_train.shape == (100, 8, 8)
        ```
    """
    if name not in NAMES:
        raise ValueError(f"`load({name!r})`: the data sets are {', '.join(NAMES)}.")
    if limit is not None and limit < 1:
        raise ValueError(f"`load(limit=...)` is at least 1, got {limit}.")
    if name == "digits":
        data = _digits("scikit-learn")
    else:
        found = _find(name, folder or os.environ.get("VTUNE_DATA") or None)
        if found is None and download:
            found = _download(name)
        if found is not None:
            data = _read_folder(name, found)
        else:
            data = _digits(f"scikit-learn ({name} was not found; see `--data DIR`)")
    return data if limit is None else _shortened(data, limit)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that choose the data: `--dataset`, `--data` and `--download`."""
    parser.add_argument("--dataset", choices=NAMES, default="fashion-mnist")
    parser.add_argument(
        "--data", metavar="DIR", help="the folder of the four idx.gz files"
    )
    parser.add_argument(
        "--download", action="store_true", help="fetch them where no folder has them"
    )


def _cache(name: str) -> Path:
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "vtune" / name


def _find(name: str, named: str | Path | None) -> Path | None:
    if named is not None:
        folders = (Path(named) / name, Path(named))
    else:
        folders = (SHARED_FOLDER / name, _cache(name))
    for folder in folders:
        if all((folder / file).is_file() for file in FILES):
            return folder
    if named is not None:
        raise ValueError(
            f"The folder {str(named)!r} does not hold {name}. Expected the files "
            f"{', '.join(FILES)}, in it or in its folder {name!r}."
        )
    return None


def _download(name: str) -> Path:
    folder = _cache(name)
    folder.mkdir(parents=True, exist_ok=True)
    for file, sha256 in zip(FILES, SHA256[name], strict=True):
        address = ADDRESSES[name] + file
        with urllib.request.urlopen(address, timeout=60) as response:
            content = response.read(LARGEST_FILE)
        found = hashlib.sha256(content).hexdigest()
        if found != sha256:
            raise ValueError(
                f"The download of {address} has the SHA-256 {found} instead of "
                f"{sha256}: it is not the file that it should be, and was not kept."
            )
        # Under its own name only when complete: half a file is never found again.
        partial = folder / f"{file}.{os.getpid()}"
        partial.write_bytes(content)
        partial.replace(folder / file)
    return folder


def _read_folder(name: str, folder: Path) -> DataSet:
    x_train, y_train, x_test, y_test = (
        read_idx(folder / file, dimensions=3 if "idx3" in file else 1) for file in FILES
    )
    for images, labels in ((x_train, y_train), (x_test, y_test)):
        if len(images) != len(labels):
            raise ValueError(
                f"The folder {str(folder)!r} has {len(labels)} labels for "
                f"{len(images)} images: its files do not belong together."
            )
    return DataSet(
        name,
        str(folder),
        x_train / np.float32(255),
        y_train.astype(np.int32),
        x_test / np.float32(255),
        y_test.astype(np.int32),
    )


def read_idx(path: Path, dimensions: int) -> UInt8[np.ndarray, "..."]:
    """Reads an array of bytes from a compressed file in the idx format.

    The format (Y. LeCun, "THE MNIST DATABASE of handwritten digits", "FILE FORMATS"):
    two zero bytes, the code of the type, the number of dimensions, the size of each as
    a big-endian 32-bit integer, and then the entries.

    Args:
        path: the file, compressed by gzip.
        dimensions: how many dimensions the array should have.

    Returns:
        The array, read-only.

    Raises:
        ValueError: if the file is damaged, cut short, or holds something else.
    """
    try:
        with gzip.open(path) as file:
            shape = _read_shape(path, file.read(4 + 4 * dimensions), dimensions)
            size = math.prod(shape)
            if size > LARGEST_EXPANSION * path.stat().st_size:
                raise ValueError(
                    f"{str(path)!r} announces {size:,} entries, more than a file of "
                    f"its size can hold: it is damaged."
                )
            content = file.read(size + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{str(path)!r} is damaged or cut short: {error}.") from error
    if len(content) != size:
        comparison = "fewer" if len(content) < size else "more"
        raise ValueError(
            f"{str(path)!r} has {comparison} than the {size:,} entries that it "
            f"announces: it is damaged."
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _read_shape(path: Path, header: bytes, dimensions: int) -> tuple[int, ...]:
    expected = bytes((0, 0, UNSIGNED_BYTE, dimensions))
    if header[:4] != expected:
        raise ValueError(
            f"{str(path)!r} begins with {header[:4].hex(' ')!r} instead of "
            f"{expected.hex(' ')!r}: it is no idx file of bytes in {dimensions} "
            f"dimension(s)."
        )
    if len(header) != 4 + 4 * dimensions:
        raise ValueError(f"{str(path)!r} is cut short within its header.")
    return struct.unpack(f">{dimensions}I", header[4:])


def _digits(source: str) -> DataSet:
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "The digits come with scikit-learn, which is not installed. Install it "
            'with `pip install -e ".[experiments]"`, or name a folder that holds '
            "Fashion-MNIST or MNIST with `--data DIR`."
        ) from error
    digits: Any = load_digits()
    images = (digits.images / 16).astype(np.float32)
    labels = digits.target.astype(np.int32)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=0.25, stratify=labels, random_state=0
    )
    return DataSet(
        "digits", source, images[train], labels[train], images[test], labels[test]
    )


def _shortened(data: DataSet, limit: int) -> DataSet:
    return dataclasses.replace(
        data,
        x_train=data.x_train[:limit],
        y_train=data.y_train[:limit],
        x_test=data.x_test[:limit],
        y_test=data.y_test[:limit],
    )
