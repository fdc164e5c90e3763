from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from superlower.errors import BadInputError
from superlower.folders import replacing, replacing_file


def written(folder: Path) -> set[str] | None:
    return {"mark", "sub/ours"} if (folder / "mark").exists() else None


def write(folder: Path, text: str) -> None:
    with replacing(folder, "box", written) as aside:
        assert aside.is_absolute()
        (aside / "sub").mkdir()
        (aside / "mark").write_text(text)
        (aside / "sub" / "ours").write_text(text)


def listing(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


def box(name: str, text: str) -> dict[str, str]:
    return {f"{name}/mark": text, f"{name}/sub/ours": text}


def test_a_folder_is_made_and_replaced(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "box", "old")
    assert (tmp_path / "deep" / "box").stat().st_mode & 0o777 == 0o755
    write(tmp_path / "deep" / "box", "new")
    assert listing(tmp_path) == box("deep/box", "new")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["box"]


@pytest.mark.parametrize("output", [".", "..", "../box", "sub/.."])
def test_the_working_folder_is_not_replaced(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "box", "old")
    monkeypatch.chdir(tmp_path / "box")
    before = listing(tmp_path)
    with pytest.raises(BadInputError, match=r"is the folder you work in, or holds it: choose another output"):
        write(Path(output), "new")
    assert listing(tmp_path) == before
    assert Path.cwd() == tmp_path / "box"


def test_a_path_with_dots_and_links_is_what_it_leads_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "box", "old")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    write(Path("../box"), "new")
    assert listing(tmp_path) == box("box", "new")
    (tmp_path / "link").symlink_to("box")
    write(tmp_path / "link", "by the link")
    assert (tmp_path / "link").is_symlink()
    assert listing(tmp_path / "box") == {"mark": "by the link", "sub/ours": "by the link"}


@pytest.mark.parametrize("step", ["away", "in"])
@pytest.mark.parametrize("failure", [OSError(errno.EBUSY, "busy"), KeyboardInterrupt()])
def test_a_failed_rename_loses_nothing(
    step: str, failure: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "box", "old")
    rename = Path.rename

    def failing(self: Path, to: Path) -> Path:
        if (step == "away" and self.name == "box") or (step == "in" and to.name == "box"):
            monkeypatch.setattr(Path, "rename", rename)
            raise failure
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", failing)
    raised = BadInputError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(raised, match=r"can't replace .*box: busy" if raised is BadInputError else None):
        write(tmp_path / "box", "new")
    assert listing(tmp_path) == box("box", "old")
    assert [p.name for p in tmp_path.iterdir()] == ["box"]


def test_files_of_the_users_own_stay(tmp_path: Path) -> None:
    write(tmp_path / "box", "old")
    for name in ("sub/thesis.tex", ".hidden"):
        file = tmp_path / "box" / name
        file.write_text("years of work")
        with pytest.raises(BadInputError, match=rf"box holds {name}, which superlower didn't write"):
            write(tmp_path / "box", "new")
        assert file.read_text() == "years of work"
        file.unlink()
    (tmp_path / "box" / "link").symlink_to(tmp_path)
    with pytest.raises(BadInputError, match="box holds link"):
        write(tmp_path / "box", "new")
    assert (tmp_path / "box" / "mark").read_text() == "old"


def test_files_that_come_during_the_build_stay(tmp_path: Path) -> None:
    write(tmp_path / "box", "old")
    with (
        pytest.raises(BadInputError, match=r"box holds thesis\.tex"),
        replacing(tmp_path / "box", "box", written),
    ):
        (tmp_path / "box" / "thesis.tex").write_text("years of work")
    assert listing(tmp_path) == {**box("box", "old"), "box/thesis.tex": "years of work"}


def test_other_things_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").write_text("mine")
    for name in ("file", "other"):
        with pytest.raises(BadInputError, match=f"{name} exists and is no box: choose another output"):
            write(tmp_path / name, "new")
    assert listing(tmp_path) == {"file": "mine", "other/x": "mine"}
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", "new")
    assert (tmp_path / "empty" / "mark").read_text() == "new"


def test_a_full_disk_is_said_to_be_one(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(BadInputError, match=r"disk full while writing .*box: No space left"):  # noqa: SIM117
        with replacing(tmp_path / "box", "box", written):
            raise full
    other = OSError(errno.EIO, "hardware")
    with pytest.raises(OSError, match="hardware"):  # noqa: SIM117
        with replacing(tmp_path / "box", "box", written):
            raise other
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "found.npz"
    for content in ("one", "two"):
        with replacing_file(file) as aside:
            assert aside.parent == tmp_path
            assert aside.suffix == ".npz"
            aside.write_text(content)
            assert not file.exists() or file.read_text() != content
        assert file.read_text() == content

    class StoppedError(Exception):
        pass

    def stopped() -> None:
        with replacing_file(file) as aside:
            aside.write_text("half")
            raise StoppedError

    with pytest.raises(StoppedError):
        stopped()
    assert file.read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["found.npz"]
