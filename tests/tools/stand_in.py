"""Libraries that are not here, as names and entry points only: enough to load what was linked against them.

Needs a C compiler and binutils.
"""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

_SYSTEM = re.compile(r"@(?:GLIBC|GLIBCXX|CXXABI|GCC)")


def stand_in(modules: Iterable[Path], folder: Path, libraries: str, entries: str, body: str) -> None:
    """Make every library that the modules ask for.

    Args:
        modules: shared objects, together in one process.
        folder: where the libraries go; the loader finds them there by LD_LIBRARY_PATH.
        libraries: pattern of their names.
        entries: pattern of the entry points' names.
        body: what each entry point does, in C, returning int.
    """
    needed: set[str] = set()
    asked: dict[str, set[str]] = defaultdict(set)
    for module in modules:
        found = re.findall(r"\[([^\]]+\.so\.\d+)\]", _run("readelf", "-d", module))
        needed |= {name for name in found if re.match(libraries, name)}
        for line in _run("nm", "-D", "-u", module).splitlines():
            symbol = line.split()[-1]
            name, _, library = symbol.partition("@")
            if not _SYSTEM.search(symbol) and re.search(entries, name):
                asked[library].add(name)
    for name in needed:
        source, versions = folder / "entries.c", folder / "entries.map"
        own = asked.get(name, set())
        lines = [f"int {entry}(void) {{ {body} }}\n" for entry in sorted(own | asked.get("", set()))]
        source.write_text("#include <stdlib.h>\n" + "".join(lines))
        options = ["-w", "-fno-builtin", "-shared", "-fPIC", f"-Wl,-soname,{name}"]
        if own:
            # The loader compares versions: a library of versioned entry points must carry the same.
            versions.write_text(f"{name} {{ global: {' '.join(f'{entry};' for entry in sorted(own))} }};\n")
            options.append(f"-Wl,--version-script={versions}")
        _run("cc", *options, "-o", folder / name, source)


def _run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
