"""Who may ask the server: names, tokens, other sites; and what browsers are told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from web_parts import served

pytest.importorskip("fastapi")

TOKEN = "a-long-token"


@pytest.fixture(scope="module")
def guarded(stored_atlas: Path) -> Iterator[Any]:
    with served(stored_atlas, token=TOKEN) as client:
        yield client


def test_other_names_are_refused(stored_atlas: Path) -> None:
    with served(stored_atlas, names=("gpu7.example.org",)) as client:
        for host in ("127.0.0.1:8501", "localhost", "[::1]:8501", "GPU7.example.org:80"):
            assert client.get("/v1/models", headers={"Host": host}).status_code == 200, host
        for host in ("evil.example", "127.0.0.1.evil.example", "", "localhost.evil.example:8501"):
            got = client.get("/v1/models", headers={"Host": host})
            assert got.status_code == 400 and "does not answer to this name" in got.json()["detail"], host


def test_every_route_needs_the_token(guarded: Any) -> None:
    document = guarded.get("/v1/openapi.json", headers={"Authorization": f"Bearer {TOKEN}"}).json()
    routes = [(path, method) for path, methods in document["paths"].items() for method in methods]
    routes += [("/v1/openapi.json", "get"), ("/", "get"), ("/docs", "get"), ("/v1/query", "delete")]
    assert len(routes) > 100
    wrong: list[dict[str, str]] = [{}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}]
    wrong.append({"Cookie": "atlas_token=x"})
    for path, method in routes:
        for headers in wrong:
            got = guarded.request(method, path, headers={"Content-Type": "application/json", **headers})
            assert got.status_code == 401, (method, path, headers)
    assert guarded.get("/nothing").status_code == 401, "nor does it say what there is"


def test_a_token_is_taken_from_the_header_the_cookie_or_once_from_the_address(guarded: Any) -> None:
    assert guarded.get("/v1/models", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    got = guarded.get(f"/v1/neuron?address=0%2F1&token={TOKEN}")
    assert got.status_code == 303 and got.headers["location"] == "/v1/neuron?address=0%2F1", "it does not stay there"
    cookie = got.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie
    guarded.cookies.clear()
    assert guarded.get("/v1/models").status_code == 401
    assert guarded.get("/v1/models", headers={"Cookie": cookie.partition(";")[0]}).status_code == 200
    assert guarded.get("/v1/models?token=wrong").status_code == 401
    assert guarded.get("/v1/models?token=%ff").status_code == 401


def test_forms_of_other_sites_cannot_ask(stored_atlas: Path) -> None:
    with served(stored_atlas) as client:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
            got = client.post("/v1/models", content=b"{}", headers={"Content-Type": kind})
            assert got.status_code == 415, kind


def test_only_listed_sites_may_read_answers(stored_atlas: Path) -> None:
    with served(stored_atlas, origins=("https://good.example",)) as client:
        good, bad = (client.get("/v1/models", headers={"Origin": f"https://{n}.example"}) for n in ("good", "bad"))
        assert good.headers["access-control-allow-origin"] == "https://good.example"
        assert "access-control-allow-origin" not in bad.headers
    with served(stored_atlas) as client:
        got = client.get("/v1/models", headers={"Origin": "https://good.example"})
        assert "access-control-allow-origin" not in got.headers


def test_browsers_load_nothing_from_elsewhere(stored_atlas: Path) -> None:
    with served(stored_atlas) as client:
        for address in ("/v1/models", "/v1/nothing", "/v1/query?concept=x"):
            headers = client.get(address).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy and "http" not in policy
            assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors *" in client.get("/v1/models?embed=1").headers["content-security-policy"]


def test_the_command_refuses_what_would_let_everyone_in() -> None:
    from atlas.errors import UsageError
    from cli.serve import checked_origin, is_loopback

    for text in ("*", "https://*", "https://a.example/path", "file:///x", "a.example"):
        with pytest.raises(UsageError, match="is a site such as"):
            checked_origin(text)
    assert checked_origin("https://A.example/") == "https://a.example"
    assert not is_loopback("0.0.0.0") and not is_loopback("::") and not is_loopback("example.org")
