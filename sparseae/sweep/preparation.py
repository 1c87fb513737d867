"""The data that trials train on: what prepares them, and that a sweep goes on with the same."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sparseae import data
from sparseae.errors import RequestError
from sparseae.model.trial import Trial
from sparseae.results.location import Location


@dataclass(frozen=True)
class Preparation:
    """All that a prepared matrix depends on; trials with the same one share it."""

    dataset: str
    samples: int
    whiten: bool
    data_seed: int
    gaussian_inputs: int
    holdout: float = 0.0
    standardize: str = "input"

    @classmethod
    def of(cls, trial: Trial) -> Preparation:
        """What prepares a trial's data."""
        t = trial.training
        return cls(
            trial.dataset, t.samples, t.whiten, t.data_seed, t.gaussian_inputs, t.holdout,
            t.standardize,
        )  # fmt: skip

    @property
    def label(self) -> str:
        """Its name in the provenance."""
        parts = [f"samples={self.samples}"]
        if self.standardize != "input":
            parts.append(f"by {self.standardize}")
        if self.whiten:
            parts.append("whitened")
        if self.data_seed:
            parts.append(f"data_seed={self.data_seed}")
        if self.dataset == "gaussian":
            parts.append(f"inputs={self.gaussian_inputs}")
        if self.holdout:
            parts.append(f"holdout={self.holdout:g}")
        return f"{self.dataset} ({', '.join(parts)})"

    @property
    def memory(self) -> int:
        """Bytes that preparing it takes."""
        return data.source(self.dataset).memory(
            self.samples, self.gaussian_inputs, whiten=self.whiten
        )

    def prepare(self) -> data.Dataset:
        """Load and prepare it.

        Raises:
            RequestError: in one line that names the file and what is wrong with it.
        """
        return data.prepare(
            self.dataset,
            samples=self.samples,
            whiten=self.whiten,
            data_seed=self.data_seed,
            gaussian_inputs=self.gaussian_inputs,
            holdout=self.holdout,
            standardize=self.standardize,
        )


def prepared(trials: Sequence[Trial]) -> dict[Preparation, data.Dataset]:
    """Every data set of some trials, once."""
    return {p: p.prepare() for p in dict.fromkeys(map(Preparation.of, trials))}


def described(datasets: Mapping[Preparation, data.Dataset]) -> dict[str, dict[str, Any]]:
    """Data sets for the provenance, by their label."""
    return {
        preparation.label: {
            "fingerprint": d.fingerprint,
            "description": d.description,
            "samples": d.x.shape[0],
            "inputs": d.x.shape[1],
            **d.details,
        }
        for preparation, d in datasets.items()
    }


def require_same_data(location: Location, datasets: Mapping[str, Mapping[str, Any]]) -> None:
    """A sweep goes on with the data that it began with.

    Raises:
        RequestError: if a data set's fingerprint is another than in the results there.
    """
    for file in (location / "epochs").files(".parquet")[-1:]:
        try:
            metadata = pq.read_schema(file.path, filesystem=file.filesystem).metadata or {}
            known = json.loads(metadata.get(b"sparseae.datasets", b"{}"))
        except (pa.ArrowException, OSError, ValueError):
            return  # the store puts an unreadable file aside
        for label, now in datasets.items():
            before = known.get(label, now)
            if before["fingerprint"] != now["fingerprint"]:
                raise RequestError(
                    f"data set {label!r} is not what {location} began with: fingerprint "
                    f"{now['fingerprint']} ({now['description']}), before "
                    f"{before['fingerprint']} ({before['description']})"
                )
