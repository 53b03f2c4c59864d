"""Every form of class file that people have, and what is refused of each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unbackdoor.base.errors import InputError
from unbackdoor.data.classfile import read_class_file, read_lines

ABC = ("ant", "bee", "great white shark")
LINES = "ant\nbee\ngreat white shark\n"
IMAGENET = {"0": ["n02219486", "ant"], "1": ["n02206856", "bee"], "2": ["n01484850", "great_white_shark"]}
SYNSETS = "n02219486 ant, emmet, pismire\nn02206856 bee\nn01484850 great white shark, white shark\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("n.txt", LINES),
        ("n.txt", "\ufeff" + LINES.replace("\n", "\r\n")),
        ("n.txt", "\n ant \n\nbee\ngreat white shark"),
        ("n.json", json.dumps(ABC)),
        ("n.txt", "\ufeff" + json.dumps(ABC)),
        ("n.json", json.dumps({str(i): n for i, n in enumerate(ABC)})),
        ("n.json", json.dumps({str(i): ABC[i] for i in (2, 0, 1)})),
        ("n.json", json.dumps({n: i for i, n in enumerate(ABC)})),
        ("n.json", json.dumps({n: str(i) for i, n in enumerate(ABC)})),
        ("n.json", json.dumps(IMAGENET)),
        ("n.json", json.dumps(list(IMAGENET.values()))),
        ("n.json", json.dumps([{"id": i, "name": ABC[i]} for i in (2, 1, 0)])),
        ("n.json", json.dumps({"categories": [{"id": i, "name": ABC[i]} for i in (2, 1, 0)]})),
        ("n.json", json.dumps({"names": ABC})),
        ("config.json", json.dumps({"model_type": "vit", "id2label": {str(i): ABC[i] for i in (1, 0, 2)}})),
        ("config.json", json.dumps({"label2id": {n: i for i, n in enumerate(ABC)}})),
        ("n.csv", "id,name\n2,great white shark\n0,ant\n1,bee\n"),
        ("n.csv", "ClassId,Name\n0,ant\n1,bee\n2,great white shark\n"),
        ("n.csv", "name,class_id,color\nbee,1,x\nant,0,y\ngreat white shark,2,z\n"),
        ("n.csv", ",name\n0,ant\n1,bee\n2,great white shark\n"),
        ("n.csv", '"label","name"\n"0","ant"\n"1","bee"\n"2","great white shark"\n'),
        ("n.tsv", "id\tname\n2\tgreat white shark\n0\tant\n1\tbee\n"),
        ("n.csv", "id;name\n0;ant\n1;bee\n2;great white shark\n"),
        ("n.csv", "name\n" + LINES),
        ("n.csv", "0,ant\n1,bee\n2,great white shark\n"),
        ("n.txt", "0 ant\n1 bee\n2 great white shark\n"),
        ("n.txt", "2: great white shark\n0: ant\n1: bee\n"),
        ("n.txt", "1. ant\n2. bee\n3. great white shark\n"),
        ("n.txt", "ant 0\nbee 1\ngreat white shark 2\n"),
        ("n.py", "classes = ['ant', 'bee',  # three\n 'great white shark',]\n"),
        ("n.txt", "{0: 'ant',\n 1: 'bee',\n 2: 'great white shark'}"),
        ("n.txt", "('ant', \"bee\", 'great white shark')"),
        ("n.txt", SYNSETS),
        ("words.txt", SYNSETS.replace(" ", "\t", 1)),
        ("map_clsloc.txt", "n02219486 2 bee\nn02206856 1 ant\nn01484850 3 great_white_shark\n"),
    ],
)  # fmt: skip
def test_forms(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert read_class_file(tmp_path / name).names == ABC


def test_numbers_ids_and_synonyms_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "n"
    file.write_text("1 ant\n2 bee\n3 wasp\n")
    assert read_class_file(file).first == 1
    file.write_text(SYNSETS)
    assert read_class_file(file).entries[0].keys[:2] == ("n02219486", "ant, emmet, pismire")
    file.write_text('{"ant_folder": "ant", "b": "bee"}')
    found = read_class_file(file)
    assert (found.names, found.first, found.entries[0].keys) == (("ant", "bee"), None, ("ant_folder",))
    file.write_text("20 km/h\n30 km/h\n50 km/h\n")  # names, whose lines might be numbered by others
    assert read_class_file(file).names[0] == "20 km/h" and read_class_file(file).first is None


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "holds no names"),
        ("[]", "holds no names"),
        ("{}", "holds no names"),
        ('{"0": "a", "2": "b"}', "no class has the number 1"),
        ('{"5": "a", "6": "b"}', "no class has the number 0"),
        ('{"0": "a", "00": "b"}', "number 0 is given to two classes"),
        ('{"0": "a", "0": "b"}', "occurs twice"),
        ("{0: 'a', 0: 'b'}", "occurs twice"),
        ('{"a": 0, "b": 0}', "number 0 is given to two"),
        ('{"a": 0, "b": 2}', "no class has the number 1"),
        ('{"-1": "a", "0": "b"}', "'-1' is no number"),
        ('{"1000000000": "a", "0": "b"}', "no class has the number 1"),
        ('{"0": {"a": 1}}', "no list of class names"),
        ("[[1], [2]]", "no list of class names"),
        ("[null]", "no list of class names"),
        ('["a", ""]', "class 1 has no name"),
        ('{"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}', "placeholders"),
        ('{"id2label": {"0": "a"}, "label2id": {"b": 0}}', "name other classes"),
        ("0: a\n2: b\n", "no class has the number 1"),
        ("id,name\n0,a\n0,b\n", "number 0 is given to two"),
        ("id,name\n0,a\n1\n", "line 3: has 1 cells under 2"),
        ("[__import__('os').system('true'), 'cat']", "nor is it a list of strings in Python"),
        ("[9**9**9, 'cat']", "nor is it a list"),
        ("[f'{1}']", "nor is it a list"),
        ("[" * 100_000, "nor is it"),
        ("[" * 20 + "'a'" + "]" * 20, "nor is it"),
        ("x" * 2000, "characters"),
        ("\n".join(f"c{i}" for i in range(100_001)), "100,000 at most"),
    ],
)
def test_refused(tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "n").write_text(text)
    with pytest.raises(InputError) as caught:
        read_class_file(tmp_path / "n")
    assert part in str(caught.value) and len(str(caught.value)) < 400


def test_sentences(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes("\ufeffa {}.\r\nthe {}.\r\n".encode())
    assert read_lines(tmp_path / "t") == ("a {}.", "the {}.")
    (tmp_path / "t").write_text('["a {}."]')
    assert read_lines(tmp_path / "t") == ("a {}.",)
    for bad in ("[1]", "", "[broken"):
        (tmp_path / "t").write_text(bad)
        with pytest.raises(InputError):
            read_lines(tmp_path / "t")
