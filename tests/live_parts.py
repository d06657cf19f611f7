"""A server with a live model for tests, and a client that waits for what it asked."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from web_parts import served

from ingest.requests.load_model import LoadModel

TOKEN = "a-long-token"


class LiveClient:
    """A client with the token. worker: of the server; it is ready."""

    def __init__(self, client: Any):
        self.client = client
        self.worker = client.app.state.asking.worker
        self.headers = {"Authorization": f"Bearer {TOKEN}"}

    def get(self, address: str, **headers: str) -> Any:
        return self.client.get(address, headers=self.headers | headers)

    def post(self, address: str, **content: Any) -> Any:
        headers = self.headers | {"Content-Type": "application/json"}
        return self.client.post(address, content=json.dumps(content), headers=headers)

    def ended(self, action: str) -> dict[str, Any]:
        """An action, when it is over."""
        for _ in range(2000):
            shown: dict[str, Any] = self.get(f"/live/actions/{action}").json()
            if shown["state"] not in ("waiting", "running"):
                return shown
            time.sleep(0.02)
        raise AssertionError(f"{shown} does not end")

    def done(self, address: str, **content: Any) -> Any:
        """The result of an action."""
        got = self.post(address, **content)
        assert got.status_code == 202, got.text
        shown = self.ended(got.json()["action"])
        assert shown["state"] == "done", shown
        return shown["result"]


@contextmanager
def live_server(path: Path, model: str | Path, **settings: Any) -> Iterator[LiveClient]:
    """A client of a server of the atlas at a path, whose model is loaded."""
    with served(path, token=TOKEN, live=LoadModel(str(model)), **settings) as client:
        live = LiveClient(client)
        for _ in range(2000):
            if live.worker.state != "loading":
                break
            time.sleep(0.02)
        yield live
