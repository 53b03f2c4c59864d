"""Classes of data against those that are wanted: a table of what is matched, how, and of what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from unbackdoor.base.errors import InputError
from unbackdoor.base.notices import collected
from unbackdoor.data.classes import check_named, merged, positions, reconcile, reconciled
from unbackdoor.data.classfile import ClassEntry, ClassList, as_list
from unbackdoor.data.images import ImageSet
from unbackdoor.data.names import alike, loosened, normalized, number_of
from unbackdoor.data.wordnet import imagenet, lemmas, name_of

TWELVE = [str(i) for i in sorted(range(12), key=str)]  # as folders are sorted: 0, 1, 10, 11, 2, …
NAMES12 = tuple(f"name {c}" for c in "mlkjihgfedcb")


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Striped_Red-Star", "striped red star"), ("\ufeffcat", "cat"), (" cat\u00a0", "cat"), ("ｃａｔ", "cat"),
        ("Straße", "STRASSE"), ("a—b", "a b"),
    ],
)  # fmt: skip
def test_normalized(a: str, b: str) -> None:
    assert normalized(a) == normalized(b)


def test_loosened_keeps_what_tells_apart() -> None:
    assert loosened("St. Bernard's (dog)") == loosened("st bernards dog") and loosened("SeaHorse") == "seahorse"
    assert loosened("C++") != loosened("C#") and loosened("type 1 1") != loosened("type 11")
    assert [number_of(n) for n in ("7", "007", "7.0", "7.5", "-7", "seven")] == [7, 7, 7, None, None, None]
    assert alike(["Cat", "dog", "cat", "dog"]) == [("Cat", "cat"), ("dog", "dog")]


def test_wordnet_in_order() -> None:
    from open_clip import IMAGENET_CLASSNAMES

    assert tuple(imagenet().values()) == tuple(IMAGENET_CLASSNAMES) and len(lemmas()) > 21_000
    assert list(imagenet()) == sorted(imagenet())
    # Tench, hen, the bird and the machine.
    assert [name_of(w) for w in ("n01440764", "n01514859", "n02012849", "n03126707", "n99999999")] == [
        "tench", "hen", "crane bird", "construction crane", None,
    ]  # fmt: skip


def one_based(*names: str) -> ClassList:
    return ClassList(tuple(ClassEntry(n) for n in names), 1)


MATCHED: list[tuple[str, Sequence[str], Sequence[Any], ClassList | None, Sequence[str], Sequence[int]]] = [
    ("its own", ("b", "a"), (1, 0, None, -3), None, ("b", "a"), (1, 0, -1, -1)),
    ("gathered", (), ("dog", "cat", None, ""), None, ("cat", "dog"), (1, 0, -1, -1)),
    ("folders of numbers", TWELVE, (2, 4), None, [str(i) for i in range(12)], (10, 2)),
    ("folders of numbers, named", TWELVE, (2, 4), as_list(NAMES12), NAMES12, (10, 2)),
    ("zero-padded folders", ("000", "001"), (1, 0), as_list(("x", "y")), ("x", "y"), (1, 0)),
    ("folders from one", ("1", "10", "2", *"3456789"), (1, 0), one_based(*"abcdefghij"), tuple("abcdefghij"), (9, 0)),
    ("floats", (), (1.0, 0.0, float("nan")), as_list("xy"), ("x", "y"), (1, 0, -1)),
    ("numbers as text", (), ("1.0", "0", "02"), as_list("xyz"), tuple("xyz"), (1, 0, 2)),
    ("numbers as text, unnamed", (), ("1.0", "0"), None, (), (1, 0)),
    ("numbers from one", (), (1, 2), one_based("x", "y"), ("x", "y"), (0, 1)),
    ("numbers listed as names", ("3", "1"), (0, 1), as_list("abcd"), tuple("abcd"), (3, 1)),
    ("numbers that are the names", ("3", "1"), (0, 1), as_list(("1", "3.0")), ("1", "3.0"), (1, 0)),
    ("another order", ("a", "b", "c"), (0, 1, 2), as_list("cab"), tuple("cab"), (1, 2, 0)),
    (
        "respelled",
        ("red_star", "Blue-Dot"),
        (0, 1),
        as_list(("blue dot", "red star")),
        ("blue dot", "red star"),
        (1, 0),
    ),
    (
        "no space",
        ("AnnualCrop", "SeaLake"),
        (0, 1),
        as_list(("sea lake", "annual crop")),
        ("sea lake", "annual crop"),
        (1, 0),
    ),
    ("a wider list", ("b",), (0, 0), as_list("abc"), tuple("abc"), (1, 1)),
    ("unused ones may lack", ("a", "z"), (0,), as_list("ba"), tuple("ba"), (1,)),
    ("case that tells apart", ("a", "A"), (0, 1), as_list("Aa"), tuple("Aa"), (1, 0)),
    (
        "numbered folders",
        ("001.Black_footed_Albatross", "002.Laysan"),
        (0, 1),
        as_list(("laysan", "black footed albatross")),
        ("laysan", "black footed albatross"),
        (1, 0),
    ),
    (
        "keys",
        ("f1", "f2"),
        (0, 1),
        ClassList((ClassEntry("x", ("f2",)), ClassEntry("y", ("F1",))), None),
        ("x", "y"),
        (1, 0),
    ),
    (
        "a name before another's synonym",
        ("cat",),
        (0,),
        ClassList((ClassEntry("x", ("cat",)), ClassEntry("cat"))),
        ("x", "cat"),
        (1,),
    ),
    (
        "synonyms of the data",
        ("tench, Tinca tinca", "hen"),
        (0, 1),
        as_list(("hen", "tench")),
        ("hen", "tench"),
        (1, 0),
    ),
    (
        "synonyms of the list",
        ("tench",),
        (0,),
        as_list(("hen", "tench, Tinca tinca")),
        ("hen", "tench, Tinca tinca"),
        (1,),
    ),
    ("ImageNet's folders", ("n01440764", "n01443537"), (0, 1), None, ("tench", "goldfish"), (0, 1)),
    (
        "ImageNet's folders, named",
        ("n01440764", "n01443537"),
        (0, 1),
        as_list(("goldfish", "tench")),
        ("goldfish", "tench"),
        (1, 0),
    ),
    ("a list of ids", ("n01440764",), (0,), as_list(("n01443537", "n01440764")), ("goldfish", "tench"), (1,)),
    (
        "other ids",
        ("n01000001", "n01000002"),
        (0, 1),
        ClassList((ClassEntry("a", ("n01000002",)), ClassEntry("b", ("n01000001",)))),
        ("a", "b"),
        (1, 0),
    ),
    (
        "one name for two, in the same order",
        ("hen", "crane", "crane", "tick"),
        (1, 2),
        as_list(("hen", "crane", "crane", "tick")),
        ("hen", "crane", "crane", "tick"),
        (1, 2),
    ),
]


@pytest.mark.parametrize(
    ("listed", "labels", "wanted", "names", "indices"), [c[1:] for c in MATCHED], ids=[c[0] for c in MATCHED]
)
def test_matched(
    listed: Sequence[str], labels: Sequence[Any], wanted: ClassList | None, names: Sequence[str], indices: Sequence[int]
) -> None:
    found = reconcile("data", listed, labels, wanted)
    assert found.names == tuple(names) and found.indices.tolist() == list(indices)
    assert found.indices.dtype == torch.int64


REFUSED: list[tuple[str, Sequence[str], Sequence[Any], ClassList | None, str]] = [
    ("by position", ("a", "b"), (0, 1), as_list(("one", "two")), "0: 'a' and 'one', 1: 'b' and 'two'"),
    ("one unmatched", ("a", "b"), (0, 1), as_list(("a", "c")), "1 of its classes are not in the class list: 'b'"),
    ("fewer", ("a", "b", "c"), (0, 1, 2), as_list(("a", "b")), "'c'"),
    ("a label beyond its own names", ("a", "b"), (2,), None, "label 2 has no name"),
    (
        "a label beyond the list",
        (),
        (0, 2),
        as_list("ab"),
        "label 2 has no name; the class list names the numbers 0",
    ),
    (
        "a label before the list",
        (),
        (0, 1),
        one_based("a", "b"),
        "label 0 has no name; the class list names the numbers 1 to 2",
    ),
    ("folders from one, list from nought", ("1", "2"), (0, 1), as_list("ab"), "label 2 has no name"),
    (
        "numbers against names without any",
        (),
        (0,),
        ClassList((ClassEntry("a", ("x",)),), None),
        "gives its names none",
    ),
    ("two that are one", ("red star", "Red_Star"), (0, 1), as_list(("red-star", "x")), "both fit 'red-star'"),
    ("one that fits two", ("RED star",), (0,), as_list(("Red star", "red_star")), "fits 2 classes"),
    ("a name given twice", ("hen", "cock"), (0, 1), as_list(("hen", "hen", "cock")), "fits 2 classes"),
    ("two folders of one number", ("1", "01"), (0, 1), None, "are one number"),
    ("names and numbers", ("a", "b"), ("a", 1), None, "some labels are names ('a') and some numbers"),
    ("strange words", ("a", "b"), ("c",), None, "'c' are none of its own 2"),
    ("a broken number", (), (0.5,), None, "label '0.5' is no class"),
    ("no end", (), (float("inf"),), None, "is no class"),
    ("several labels", (), ([1, 2],), None, "is no class"),
    ("too large", (), (1 << 70,), None, "is no class"),
]


@pytest.mark.parametrize(("listed", "labels", "wanted", "part"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_refused(listed: Sequence[str], labels: Sequence[Any], wanted: ClassList | None, part: str) -> None:
    with pytest.raises(InputError) as caught:
        reconcile("data", listed, labels, wanted)
    assert part in str(caught.value)


def test_imagenet_as_published_by_its_synonyms() -> None:
    """The Hugging Face list of ImageNet holds `crane` twice; everything else fits once and in order."""
    from unbackdoor.data.classnames import class_list

    own = [lemmas()[wnid] for wnid in imagenet()]
    assert own.count("crane") == 2
    found = reconcile("data", own, range(1000), class_list("imagenet-1k"))
    assert found.indices.tolist() == list(range(1000))
    found = reconcile("data", own[::-1][:100], range(100), class_list("imagenet-1k"))
    assert found.indices.tolist() == list(range(999, 899, -1))
    with pytest.raises(InputError, match="fits 2 classes"):
        reconcile("data", own[::-1], range(1000), class_list("imagenet-1k"))


def test_a_dictionary_of_words_gives_the_data_s_classes_alone() -> None:
    words = ClassList(tuple(ClassEntry(f"w{i}", (f"n{i:08}",)) for i in range(30_000)), 0, "words.txt")
    found = reconcile("data", ("n00000007", "n00000003"), (0, 1), words)
    assert found.names == ("w7", "w3") and found.indices.tolist() == [0, 1]


def images(classes: Sequence[str], labels: Sequence[int]) -> ImageSet:
    return ImageSet(
        torch.zeros(len(labels), 3, 2, 2, dtype=torch.uint8), torch.tensor(labels), tuple(classes), None, 0, "test"
    )


def test_a_test_set_is_read_by_training_s_classes() -> None:
    found = reconciled(images(("c", "a"), (0, 1, -1, 1)), ("a", "b", "c"))
    assert found.classes == ("a", "b", "c") and found.labels.tolist() == [2, 0, -1, 0]
    same = images(("a", "b"), (0, 1))
    assert reconciled(same, ("a", "b")) is same and reconciled(same, ()) is same
    assert reconciled(images((), (-1, -1)), ("a", "b")).classes == ("a", "b")
    assert reconciled(images(("z", "a"), (1, -1)), ("a", "b")).labels.tolist() == [0, -1]
    for bad, part in (
        (images((), (0, 1)), "numbers without names"),
        (images(("a", "z"), (0, 1)), "'z'"),
        (images(("x", "y"), (0, 1)), "none of its 2 class names"),
        (images(("a", "b"), (0, 2)), "label 2 has no name"),
    ):
        with pytest.raises(InputError, match=part):
            reconciled(bad, ("a", "b", "c"))


def test_label_lists_of_several_files() -> None:
    assert positions(("b", "A_1"), ("a 1", "b", "c"), "x.parquet") == (1, 0)
    assert merged([("a", "b"), ("B", "c"), ()]) == ("a", "b", "c")
    with pytest.raises(InputError, match="'z'"):
        positions(("b", "z"), ("a", "b"), "x.parquet")


def test_names_that_say_nothing() -> None:
    with pytest.raises(InputError, match="WordNet ids"):
        check_named("data", ("n01000001", "cat"))
    with pytest.raises(InputError, match="class 1 has no name"):
        check_named("data", ("a", ""))
    with collected() as lines:
        check_named("data", ("0", "1"))
        reconcile("data", ("Cat", "cat"), (0, 1))
    assert "are numbers" in lines[0] and "'Cat' and 'cat' are the same to a model" in lines[1]
