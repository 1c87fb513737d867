"""A data folder and a cache of the tests' own."""

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty SPARSEAE_DATA_DIR, and a cache apart from the user's."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("SPARSEAE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "data"
