"""The repository keeps its own rules: layers, docstrings, size, one version, lazy SDKs, clean files."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import superlower

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "superlower"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
MODULES = sorted(SOURCE.rglob("*.py"))
MAX_LINES = 420
"""About 400: a module that outgrows it is two ideas."""

SDKS = (
    "torch",
    "openvino",
    "tvm",
    "tensorrt",
    "tensorrt_rtx",
    "onnxsim",
    "onnx_graphsurgeon",
    "nncf",
    "cv2",
    "lpips",
)


def tracked() -> list[Path]:
    """Files under version control; the test is skipped where there is no git or no repository (an sdist)."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing tells which files are part of the project")
    listed = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_imports_go_down_the_line():
    tool = Path(sys.executable).with_name("lint-imports")
    if not tool.exists():
        pytest.skip("import-linter is not installed: pip install --group dev")
    run = subprocess.run([tool, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    assert "1 kept, 0 broken" in run.stdout


def test_every_package_has_its_layer():
    (contract,) = PROJECT["tool"]["importlinter"]["contracts"]
    layered = {name.strip() for layer in contract["layers"] for name in layer.split("|")}
    own = {path.parent if path.name == "__init__.py" else path for path in SOURCE.glob("*/__init__.py")}
    own |= {path for path in SOURCE.glob("*.py") if path.stem not in {"__init__", "__main__"}}
    assert {f"superlower.{path.stem}" for path in own} == layered


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_a_module_has_a_docstring_and_is_one_idea(path):
    text = path.read_text("utf-8")
    assert (ast.get_docstring(ast.parse(text)) or "").strip(), "no docstring"
    assert len(text.splitlines()) <= MAX_LINES, "split it"


def test_the_version_stands_in_one_place():
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "superlower.__version__"}
    assert importlib.metadata.version("superlower") == superlower.__version__
    log = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.search(rf"^## \[{re.escape(superlower.__version__)}\]", log, re.MULTILINE)


def test_entry_points_import_without_an_sdk():
    """Listing passes, backends, frontends and targets must work on a machine with nothing but the core."""
    code = f"""
import importlib.abc, json, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {SDKS!r}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Absent())
from superlower import plugins
failed = {{}}
for kind in plugins.GROUPS:
    for name in plugins.table(kind):
        try:
            plugins.load(kind, name)
        except Exception as error:
            failed[f'{{kind}} {{name}}'] = f'{{type(error).__name__}}: {{error}}'
print(json.dumps(failed))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == {}


def test_entry_points_declared_are_those_installed():
    for group, declared in PROJECT["project"]["entry-points"].items():
        points = importlib.metadata.entry_points(group=group)
        ours = {p.name: p.value for p in points if p.dist is not None and p.dist.name == "superlower"}
        assert ours == declared, f"{group}: run pip install --editable . again"


def test_tracked_files_name_no_machine_and_no_package_index():
    # In parts, so that this file does not hold what it looks for.
    folders = "|".join(("root", "home/[a-z]", "Users/[A-Za-z]", "work/"))
    options = "|".join("-".join(parts) for parts in (("index", "url"), ("find", "links")))
    # What only NVIDIA's own index has is said so, with its address.
    public = r"(?! (?:https://pypi\.nvidia\.com|\{\w+\}))"
    pattern = re.compile(rf"(?<![\w.:/-])/(?:{folders})|(?:{options}){public}")
    hits = []
    for path in tracked():
        raw = path.read_bytes()
        if b"\0" in raw:
            continue
        for number, line in enumerate(raw.decode("utf-8", errors="replace").splitlines(), 1):
            if pattern.search(line):
                hits.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert hits == []


def test_no_large_or_built_file_is_tracked():
    # Weights of our own come with the package, and may be larger.
    large = [p for p in tracked() if p.stat().st_size > (3_000_000 if p.suffix == ".npz" else 1_000_000)]
    built = [p for p in tracked() if p.suffix in {".onnx", ".plan", ".so", ".pth", ".pt", ".whl", ".pyc"}]
    assert large + built == []


@pytest.mark.slow
def test_the_wheel_ships_types_and_data(tmp_path):
    pytest.importorskip("setuptools", minversion="77", reason="setuptools 77 builds the wheel")
    # From a copy: setuptools leaves build folders beside the sources.
    copy = tmp_path / "project"
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, copy / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "."]
    subprocess.run([*command, "--wheel-dir", str(tmp_path)], cwd=copy, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("superlower-*.whl")
    shipped = set(zipfile.ZipFile(wheel).namelist())
    suffixes = {".toml", ".j2", ".json", ".css", ".npz"}
    data = [p for p in SOURCE.rglob("*") if p.suffix in suffixes or p.name == "py.typed"]
    assert SOURCE / "py.typed" in data
    expected = {f"superlower/{p.relative_to(SOURCE).as_posix()}" for p in [*MODULES, *data]}
    assert expected <= shipped
    assert wheel.name.split("-")[1] == superlower.__version__


class TestMake:
    """The Makefile without running its tools: `make --dry-run` prints what would run."""

    @pytest.fixture
    def make(self):
        found = shutil.which("make")
        if found is None:
            pytest.skip("make is not installed")

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            command = [found, "--dry-run", "--always-make", *arguments]
            return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

        return run

    @pytest.mark.parametrize(
        ("goal", "command"),
        [
            ("demo", "superlower demo"),
            ("test", "-m 'not slow'"),
            ("test-full", "-m pytest"),
            ("bench", "benchmarks/speed.py"),
            ("lint", "lint-imports"),
        ],
    )
    def test_a_goal_makes_the_environment_first(self, make, goal, command):
        shown = make(goal, f"PYTHON={sys.executable}")
        assert shown.returncode == 0, shown.stderr
        steps = shown.stdout
        assert steps.index("torch==") < steps.index("--group dev") < steps.index(command)
        assert str(ROOT) not in steps.replace(sys.executable, "")

    def test_everything_but_slow_is_what_test_leaves_out(self, make):
        assert "not slow" not in make("test-full", f"PYTHON={sys.executable}").stdout

    def test_lint_runs_all_four_tools(self, make):
        shown = make("lint", f"PYTHON={sys.executable}").stdout
        assert all(
            tool in shown for tool in ("ruff check", "ruff format --quiet --check", "mypy", "lint-imports")
        )


class TestContinuousIntegration:
    """.ci/run against a stand-in for make: order, closing line and exit status."""

    @pytest.fixture
    def ci(self, tmp_path):
        bash = shutil.which("bash")
        if bash is None:
            pytest.skip("bash is not installed")
        (tmp_path / "project" / ".ci").mkdir(parents=True)
        script = tmp_path / "project" / ".ci" / "run"
        shutil.copy(ROOT / ".ci" / "run", script)
        stub = tmp_path / "bin" / "make"
        stub.parent.mkdir()

        def run(tests: str, tests_exit: int, lint_exit: int) -> subprocess.CompletedProcess[str]:
            stub.write_text(
                "#!/bin/sh\n"
                'echo "make $1 CI=$CI stdin=$(cat | wc -c)"\n'
                f"case $1 in test) echo '{tests}'; exit {tests_exit};; lint) exit {lint_exit};; esac\n"
            )
            stub.chmod(0o755)
            path = f"{stub.parent}:/usr/bin:/bin"
            return subprocess.run(
                [bash, str(script)],
                env={"PATH": path},
                input="typed",
                capture_output=True,
                text=True,
                check=False,
            )

        return run

    @pytest.mark.parametrize(
        ("closing", "tests_exit", "lint_exit", "status"),
        [
            ("12 passed, 1 skipped in 3.45s", 0, 0, 0),
            ("=== 1 failed, 11 passed in 3.45s ===", 1, 0, 1),
            ("12 passed in 61.00s (0:01:01)", 0, 2, 2),
            ("1 error in 0.10s", 2, 1, 2),
        ],
    )
    def test_tests_then_lint_then_the_closing_line(self, ci, closing, tests_exit, lint_exit, status):
        run = ci(closing, tests_exit, lint_exit)
        lines = run.stdout.splitlines()
        # Both run whatever the first's result, neither with the caller's standard input.
        assert [line for line in lines if line.startswith("make ")] == [
            "make test CI=true stdin=0",
            "make lint CI=true stdin=0",
        ]
        assert lines[-1] == f"tests: {closing} (exit {tests_exit}); lint: exit {lint_exit}"
        assert run.returncode == status

    def test_a_run_without_a_closing_line_says_so(self, ci):
        run = ci("Segmentation fault", 139, 0)
        assert run.stdout.splitlines()[-1].startswith("tests: pytest did not run to its end (exit 139)")
        assert run.returncode == 139
