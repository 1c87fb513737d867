"""Where results come from: versions, commit, data and routines, for the Parquet metadata."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import sparseae
from sparseae.sweep.routines import Choices


def provenance(datasets: Mapping[str, Any], routines: Choices, tf32: bool) -> dict[str, str]:
    """The metadata of a sweep's Parquet files, each value a text."""
    versions = {"python": platform.python_version()}
    for package in ("torch", "ray", "numpy", "pyarrow"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "version": sparseae.__version__,
        "git_commit": git_commit(),
        "versions": json.dumps(versions),
        "datasets": json.dumps(datasets),
        "gemm": json.dumps(routines),
        "tf32": json.dumps(tf32),
    }


def git_commit() -> str:
    """The commit of this code, with ``+`` where files were changed; empty where it is not known.

    Code that was sent to a cluster is no checkout: who sent it says what it was.
    """
    if (sent := os.environ.get("SPARSEAE_GIT_COMMIT")) is not None:
        return sent
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return ""
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty=+"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
