"""What a stopped run leaves for the script that starts it again."""

import errno
import json
import os

import pytest

from recipe.errors import RecordError
from record.stopping import REQUEUE, STOP, mark_requeue


def test_the_marker_says_where_and_why_and_takes_the_stop_file_away(tmp_path):
    (tmp_path / STOP).touch()
    mark_requeue(tmp_path, 40, "STOP")
    assert [path.name for path in tmp_path.iterdir()] == [REQUEUE]
    marked = json.loads((tmp_path / REQUEUE).read_text())
    assert marked == {"step": 40, "reason": "STOP"}


def test_a_marker_that_cannot_be_written_is_our_own_error(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RecordError, match="No space left"):
        mark_requeue(tmp_path, 40, "SIGTERM")
    assert list(tmp_path.iterdir()) == []
