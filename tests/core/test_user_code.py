"""Objects that users name on a command line."""

import pytest

from nncf_ext.user_code import made_by, named_object

CODE = """
import neighbour
class Thing:
    size = neighbour.SIZE
def thing():
    return Thing()
def broken():
    raise RuntimeError("no\\n data")
ready = Thing()
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))  # so that what the loading adds to the path goes again
    (tmp_path / "neighbour.py").write_text("SIZE = 3\n", encoding="utf-8")
    (tmp_path / "things.py").write_text(CODE, encoding="utf-8")
    return str(tmp_path / "things.py")


@pytest.mark.parametrize("name", ["thing", "Thing", "ready"])
def test_a_function_a_class_or_an_object_gives_the_object(file, name):
    assert made_by(f"{file}:{name}").size == 3


def test_a_module_can_be_named_by_its_path_in_python():
    assert named_object("json:dumps").__name__ == "dumps"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("things.py", "expected FILE.py:NAME"),
        ("nowhere.py:thing", "there is no file nowhere.py"),
        ("no.such.module:thing", "cannot be imported: ModuleNotFoundError"),
    ],
)
def test_what_is_not_there_is_one_sentence(name, message):
    with pytest.raises(ValueError, match=message):
        made_by(name)


def test_the_nearest_name_is_named(file):
    with pytest.raises(ValueError, match="has no 'thign'; did you mean 'thing'"):
        made_by(f"{file}:thign")


def test_a_function_that_fails_is_one_sentence(file):
    with pytest.raises(ValueError, match=r"broken\(\) fails: RuntimeError: no data$"):
        made_by(f"{file}:broken")


def test_a_file_that_fails_is_one_sentence(tmp_path):
    path = tmp_path / "syntax.py"
    path.write_text("def (:\n", encoding="utf-8")
    with pytest.raises(ValueError, match="syntax.py cannot be imported: SyntaxError"):
        made_by(f"{path}:x")
