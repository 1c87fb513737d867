"""Where results come from, for the Parquet metadata: versions, processor, data, routines."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import sparseae
from sparseae.sweep.routines import Choices


def provenance(
    datasets: Mapping[str, Any], routines: Choices, tf32: bool, threads: int
) -> dict[str, str]:
    """The metadata of a sweep's Parquet files, each value a text.

    The processor is the driver's; on a cluster its workers may have others.
    """
    return {
        "version": sparseae.__version__,
        "git_commit": git_commit(),
        "versions": json.dumps(versions()),
        "processor": processor(),
        "threads": str(threads),
        "datasets": json.dumps(datasets),
        "gemm": json.dumps(routines),
        "tf32": json.dumps(tf32),
    }


def versions() -> dict[str, str]:
    """Of Python and of the packages that numbers may depend on."""
    found = {"python": platform.python_version()}
    for package in ("torch", "ray", "numpy", "pyarrow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """The kind of this machine's processor: its products round as those of any other of the kind.

    The name alone does not tell: virtual machines say "Intel(R) Xeon(R) Processor" of many.
    """
    known = {}
    try:
        with open("/proc/cpuinfo") as stream:
            for line in stream:
                key, colon, value = line.partition(":")
                if not colon:  # the first processor is through
                    break
                known[key.strip()] = value.strip()
    except OSError:
        pass
    parts = [known.get("model name") or platform.processor() or platform.machine()]
    if "model" in known:
        parts.append(f"family {known.get('cpu family')} model {known['model']}")
    return ", ".join([*parts, torch.backends.cpu.get_cpu_capability()])


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
