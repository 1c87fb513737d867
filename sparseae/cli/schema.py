"""``sparseae schema``: what a configuration may hold, for editors."""

from __future__ import annotations

import json

from sparseae.cli import _console as console
from sparseae.cli import app


@app.command()
def schema() -> None:
    """Print the JSON schema of a configuration; an editor completes and checks keys with it."""
    from sparseae.sweep.schema import schema as made

    console.write(json.dumps(made(), indent=1) + "\n")
