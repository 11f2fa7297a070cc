import errno

import pytest

from monai_passion.errors import ResourceError
from monai_passion.system.files import write_atomically


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
