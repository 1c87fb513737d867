"""All that imports Ray or a cloud: connection, Tune, placement, jobs, watching, providers."""

import os
import re
import subprocess
import sys

from sparseae.errors import RequestError


def _require_readable_settings() -> None:
    """Refuse what Ray cannot read: it takes RAY_name for a number or a flag, and crashes otherwise.

    Which names these are its own libraries know, so another process tries. A whole number does
    no harm.
    """

    def bears(*settings: str) -> bool:
        kept = {k: v for k, v in os.environ.items() if k in settings or not _SETTING.match(k)}
        asked = [sys.executable, "-c", "import ray._raylet"]
        return subprocess.run(asked, env=kept, capture_output=True, check=False).returncode >= 0

    found = [
        k for k, v in os.environ.items() if _SETTING.match(k) and not re.fullmatch(r"-?\d+", v)
    ]
    if found and not bears(*found):
        for name in found:
            if not bears(name):
                raise RequestError(
                    f"{name}={os.environ[name]!r}: Ray cannot read it and would crash; correct it "
                    f"(most are a number, true or false), or: unset {name}"
                )


#: Ray's own settings; what users set by its documentation is in capitals.
_SETTING = re.compile(r"RAY_[a-z]\w*\Z")

if "ray" not in sys.modules:  # or it has survived
    _require_readable_settings()
