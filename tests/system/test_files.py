import errno

import pytest

from monai_passion.errors import InputError, ResourceError, UsageError
from monai_passion.system.files import read_json, write_atomically


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def half(temporary):
        temporary.write_text("ne")
        raise OSError(errno.ENOSPC, "disk full")

    with pytest.raises(ResourceError, match=r"disk full.*free some space"):
        write_atomically(path, half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "table.csv"

    def write(temporary):
        temporary.write_text("new")
        assert not path.exists()

    assert write_atomically(path, write).read_text() == "new"


@pytest.mark.parametrize(("content", "why"), [(None, "cannot be read"), (b"{", "not JSON"), (b"\xff", "not JSON")])
@pytest.mark.parametrize("kind", [InputError, UsageError])
def test_what_is_no_json_is_told_with_its_name_the_reason_and_what_to_do(tmp_path, content, why, kind):
    path = tmp_path / "some.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(kind, match=rf"some\.json .*{why}.*; make another") as error:
        read_json(path, "make another", kind)
    assert type(error.value) is kind
    path.write_text('{"a": [1, "\u00e9"]}', encoding="utf-8")
    assert read_json(path, "make another") == {"a": [1, "\u00e9"]}
