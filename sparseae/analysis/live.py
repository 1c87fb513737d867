"""The page while its sweep runs: served to this machine alone, and renewed as rows arrive."""

from __future__ import annotations

import functools
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sparseae.analysis.report import report
from sparseae.errors import RequestError
from sparseae.results.location import Location
from sparseae.results.reader import sweeps_in

#: Seconds between looks at the folder, and how many times a page's making the next one waits: a
#: page of a large sweep takes seconds, and the sweep needs the cores.
_LOOK, _REST = 2.0, 4.0

#: What the served page has beside the written one.
_SCRIPT = Path(__file__).parent / "templates" / "live.js"


class Live:
    """A page that is made again when rows have arrived.

    Args:
        place: the sweep's folder or URL.
        output: the folder of the page.
        note: is told what a person should know.
    """

    def __init__(self, place: str, output: Path, note: Callable[[str], None]) -> None:
        self._place, self._output, self._note = place, output, note
        self._shown: object = None
        self._over = threading.Event()
        self._making = threading.Lock()
        #: Counts the pages; the page asks for it.
        self.version = 0

    def renew(self) -> bool:
        """Make the page if the rows are others than those that it shows; return whether it did.

        Raises:
            RequestError: where it cannot be made.
        """
        with self._making:
            state = self._state()
            if state == self._shown:
                return False
            report(self._place, self._output)
            self._shown = state
            self.version += 1
            return True

    def _state(self) -> list[tuple[str, int | None]]:
        files = [
            file.filesystem.get_file_info(file.path)
            for sweep in sweeps_in(Location.of(self._place))
            for kind in ("epochs", "units")
            for file in (sweep / kind).files(".parquet")
        ]
        return [(info.path, info.size) for info in files]

    def watch(self) -> None:
        """Renew the page until `stop`."""
        pause = _LOOK
        while not self._over.wait(pause):
            began = time.monotonic()
            try:
                self.renew()
            except (RequestError, OSError) as error:
                self._note(f"the page stays as it was: {error}")
            pause = max(_LOOK, _REST * (time.monotonic() - began))

    def wait(self) -> None:
        """Return when a person ends it."""
        with suppress(KeyboardInterrupt):
            self._over.wait()

    def stop(self) -> None:
        self._over.set()


@contextmanager
def serving(live: Live, output: Path, port: int = 0) -> Iterator[str]:
    """Serve the page on the loopback interface; gives its address.

    Raises:
        RequestError: where the port is taken.
    """

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/version":
                self._answer("text/plain", str(live.version).encode())
            elif path in ("/", "/report.html"):
                page = (output / "report.html").read_bytes()
                script = b"<script>" + _SCRIPT.read_bytes() + b"</script></body>"
                self._answer("text/html; charset=utf-8", page.replace(b"</body>", script))
            else:
                super().do_GET()

        def _answer(self, kind: str, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def parse_request(self) -> bool:
            # Another site's name that leads here (DNS rebinding) is not answered.
            if not super().parse_request():
                return False
            host = (self.headers.get("Host") or "").rpartition(":")[0]
            if host not in ("127.0.0.1", "localhost"):
                self.send_error(421)
                return False
            return True

        def end_headers(self) -> None:
            self.send_header("Cache-Control", "no-store")
            super().end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(output))
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise RequestError(f"--port {port}: {error.strerror}") from None
    with server:
        threads = [
            threading.Thread(target=server.serve_forever, daemon=True),
            threading.Thread(target=live.watch, daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            live.stop()
            server.shutdown()
            for thread in threads:
                thread.join()
