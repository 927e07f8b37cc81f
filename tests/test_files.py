"""Files are replaced atomically."""

import pytest

from lps.files import replacing, write_durably


@pytest.mark.parametrize("shared", [False, True])
def test_a_file_is_replaced_whole_or_not_at_all(shared, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path, shared=shared) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    with replacing(path, shared=shared) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_directory_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "arrays"
    for content in ("old", "new"):
        with replacing(path) as part:
            part.mkdir()
            (part / content).write_text(content)
    with pytest.raises(RuntimeError), replacing(path) as part:
        part.mkdir()
        raise RuntimeError
    assert [file.name for file in path.iterdir()] == ["new"] and list(tmp_path.iterdir()) == [path]


def test_the_remains_of_a_killed_process_are_removed(tmp_path):
    path = tmp_path / "a"
    (tmp_path / ".a.part").mkdir()
    with replacing(path) as part:
        part.write_text("new")
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "a"
    with replacing(path, shared=True) as part:
        part.write_bytes(b"first")
        write_durably(path, b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first" and list(tmp_path.iterdir()) == [path]
