"""The notice that a cloud is about to take this machine back, from its metadata service.

AWS says so two minutes before (``spot/instance-action``), Google Cloud half a minute
(``preempted``). Elsewhere nobody answers at that address, and after some tries nobody is asked.
"""

from __future__ import annotations

import os
import threading
import time
import urllib.error
import urllib.request

#: SPARSEAE_METADATA names another server.
_METADATA = "http://169.254.169.254"

_PAUSE, _TIMEOUT, _TRIES = 5.0, 2.0, 3


class Notice:
    """Asks in the background whether the machine is about to go."""

    def __init__(self) -> None:
        self._base = os.environ.get("SPARSEAE_METADATA", _METADATA)
        #: What the cloud said; empty as long as it has said nothing.
        self.text = ""
        threading.Thread(target=self._ask, name="spot-notice", daemon=True).start()

    def _ask(self) -> None:
        unanswered = 0
        while not self.text and unanswered < _TRIES:
            try:
                self.text = self._aws() or self._google()
                unanswered = 0
            except OSError:
                unanswered += 1
            time.sleep(_PAUSE)

    def _aws(self) -> str:
        token = self._get(
            "/latest/api/token", "PUT", {"X-aws-ec2-metadata-token-ttl-seconds": "300"}
        )
        return token and self._get(
            "/latest/meta-data/spot/instance-action", headers={"X-aws-ec2-metadata-token": token}
        )

    def _google(self) -> str:
        said = self._get(
            "/computeMetadata/v1/instance/preempted", headers={"Metadata-Flavor": "Google"}
        )
        return "preempted" if said.strip() == "TRUE" else ""

    def _get(self, path: str, method: str = "GET", headers: dict[str, str] | None = None) -> str:
        """What is there; empty where there is nothing, as before a notice.

        Raises:
            OSError: where nobody answers.
        """
        request = urllib.request.Request(self._base + path, method=method, headers=headers or {})
        try:
            # Never through a proxy: the address is this machine's own.
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(request, timeout=_TIMEOUT) as answer:
                return answer.read(4096).decode(errors="replace")
        except urllib.error.HTTPError:
            return ""
