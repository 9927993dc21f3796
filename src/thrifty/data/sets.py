"""The table of sets that have a name: where they lie, what they are called in reports, how to get them."""

from dataclasses import dataclass

from .augment import Augment

IMAGES, TEXT, LABELLED, ITEMS = "images", "text", "labelled text", "next items"
LOADERS = {IMAGES: "load_images", TEXT: "load_text", LABELLED: "load_labelled_text", ITEMS: "load_next_items"}


@dataclass(frozen=True)
class Place:
    """A path below a data root where a set may lie; a folder must hold a match for each pattern in `needs`.

    `title` is the set's name in reports; without one the format that was read is named.
    """

    path: str
    title: str = ""
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Remote:
    """A file at its official address, with its MD5 as published there."""

    address: str
    md5: str

    @property
    def file(self) -> str:
        """The file's name."""
        return self.address.rsplit("/", 1)[1]


@dataclass(frozen=True)
class NamedSet:
    """A row of the table: `files` and `address` are what a person needs who fetches the set by hand."""

    name: str
    kind: str
    about: str
    places: tuple[Place, ...]
    files: tuple[str, ...]
    address: str
    remotes: tuple[Remote, ...] = ()
    classes: tuple[str, ...] = ()
    augment: Augment | None = None
    packaged: bool = False


_FASHION_ADDRESS = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_FASHION = (
    Remote(_FASHION_ADDRESS + "train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
    Remote(_FASHION_ADDRESS + "train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
    Remote(_FASHION_ADDRESS + "t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
    Remote(_FASHION_ADDRESS + "t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
)
_FASHION_FILES = tuple(remote.file for remote in _FASHION)
_FASHION_NEEDS = ("train-images*", "train-labels*", "t10k-images*", "t10k-labels*")
_FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
# Clothes mirror well; at 28 pixels two of padding are the share that four are at CIFAR's 32 with its wider margins.
_FASHION_AUGMENT = Augment(flip=True, crop_padding=2)
_CIFAR_10 = Remote("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a")
_CIFAR_100 = Remote("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85")


def _cifar_places(name: str, dashed: str, python_folder: str, binary_folder: str, test: str) -> tuple[Place, ...]:
    places = []
    for outer in ("", f"{name}/", f"{dashed}/"):
        places += [
            Place(f"{outer}{python_folder}", needs=(test,)),
            Place(f"{outer}{dashed}-python.tar.gz"),
            Place(f"{outer}{binary_folder}", needs=(f"{test}.bin",)),
            Place(f"{outer}{dashed}-binary.tar.gz"),
        ]
    return tuple(places)


def _folder_places(name: str, title: str) -> tuple[Place, ...]:
    return (
        Place(f"{name}/{name}.zip", title),
        Place(f"{name}.zip", title),
        Place(name, title, needs=("train",)),
    )


_ROWS = (
    NamedSet(
        "fashion-mnist-slice",
        IMAGES,
        "11,500 + 2,000 images 28x28, 10 classes of clothes; comes with the package",
        (Place("fashion_mnist_slice", "Fashion-MNIST (slice of 11,500 + 2,000 images)"),),
        _FASHION_FILES,
        _FASHION_ADDRESS,
        classes=_FASHION_CLASSES,
        augment=_FASHION_AUGMENT,
        packaged=True,
    ),
    NamedSet(
        "fashion-mnist",
        IMAGES,
        "60,000 + 10,000 images 28x28, 10 classes of clothes",
        (
            Place("fashion-mnist", "Fashion-MNIST", _FASHION_NEEDS),
            Place("FashionMNIST/raw", "Fashion-MNIST", _FASHION_NEEDS),
        ),
        _FASHION_FILES,
        _FASHION_ADDRESS,
        _FASHION,
        _FASHION_CLASSES,
        _FASHION_AUGMENT,
    ),
    NamedSet(
        "cifar10",
        IMAGES,
        "50,000 + 10,000 images 32x32, 10 classes",
        (
            *_cifar_places("cifar10", "cifar-10", "cifar-10-batches-py", "cifar-10-batches-bin", "test_batch"),
            *_folder_places("cifar10", "CIFAR-10 (ImageFolder)"),
            Place("cifar10-jpeg75/cifar10.zip", "CIFAR-10 (JPEG q75)"),
        ),
        (_CIFAR_10.file,),
        _CIFAR_10.address,
        (_CIFAR_10,),
    ),
    NamedSet(
        "cifar100",
        IMAGES,
        "50,000 + 10,000 images 32x32, 100 classes",
        (
            *_cifar_places("cifar100", "cifar-100", "cifar-100-python", "cifar-100-binary", "test"),
            *_folder_places("cifar100", "CIFAR-100 (ImageFolder)"),
        ),
        (_CIFAR_100.file,),
        _CIFAR_100.address,
        (_CIFAR_100,),
    ),
    NamedSet(
        "imagenette-128",
        IMAGES,
        "9,469 + 3,925 images 128x128, 10 ImageNet classes",
        _folder_places("imagenette-128", "Imagenette (128 px)"),
        ("imagenette-128.zip with train/<class>/ and test/<class>/",),
        "https://github.com/fastai/imagenette",
    ),
    NamedSet(
        "tiny-imagenet-25",
        IMAGES,
        "12,500 + 1,250 images 64x64, 25 classes",
        _folder_places("tiny-imagenet-25", "Tiny ImageNet (25 of 200 classes)"),
        ("tiny-imagenet-25.zip with train/<class>/ and test/<class>/",),
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    ),
    NamedSet(
        "ptb",
        TEXT,
        "Penn Treebank, 929,589 training tokens, 10,000 words",
        (Place("ptb", "Penn Treebank", ("*train.txt", "*valid.txt", "*test.txt")),),
        ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt"),
        "http://www.fit.vutbr.cz/~imikolov/rnnlm/simple-examples.tgz",
    ),
    NamedSet(
        "brown",
        TEXT,
        "Brown corpus, 929,728 training words, 49,368 types",
        (Place("brown", "Brown corpus", ("*train.txt", "*valid.txt", "*test.txt")),),
        ("train.txt", "valid.txt", "test.txt (a sentence a line)"),
        "https://www.nltk.org/nltk_data/",
    ),
    NamedSet(
        "imdb-reviews",
        LABELLED,
        "IMDB film reviews, 25,000 + 25,000 texts, 2 classes",
        (Place("imdb-reviews", "IMDB reviews", ("train.tsv*", "test.tsv*")),),
        ("train.tsv.xz", "test.tsv.xz (a line: label, rating, id, text)"),
        "https://ai.stanford.edu/~amaas/data/sentiment/",
        classes=("negative", "positive"),
    ),
    *(
        NamedSet(
            name,
            ITEMS,
            f"Amazon reviews, {about}: next-item sequences",
            (Place(f"amazon-next-item/{name}.npz", f"Amazon {about}"), Place(f"{name}.npz", f"Amazon {about}")),
            (f"{name}.npz with items and offsets",),
            "https://jmcauley.ucsd.edu/data/amazon/",
        )
        for name, about in (
            ("beauty-54k", "Beauty, 54,542 items"),
            ("games-24k", "Video Games, 23,715 items"),
            ("sports-18k", "Sports, 18,357 items"),
        )
    ),
)
SETS = {row.name: row for row in _ROWS}
