"""What tests of the record share."""

import os

import pytest


@pytest.fixture(autouse=True)
def no_disk_to_wait_for(monkeypatch):
    """No test cuts the power, and a crowded disk takes seconds for an fsync."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
