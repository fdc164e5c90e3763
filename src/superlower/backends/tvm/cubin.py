"""Device code inside an engine, read from its bytes: no CUDA tool is needed, and no GPU.

A cubin is an ELF file of machine 190 (EM_CUDA). A fatbin is NVIDIA's container of several. What is read here
was compared with what nvcc 13.0 and NVRTC 12.9 write for sm_70 to sm_120, and with what ptxas reports.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from superlower.errors import BadInputError

ELF = b"\x7fELF"
FATBIN = bytes.fromhex("50ed55ba")

_EM_CUDA = 190
_OSABI, _MACHINE = 7, 18
_OSABI_FIRST = 0x33
"""Of CUDA 12's cubins for architectures before sm_100: e_flags' lowest byte is the SM, and later the next."""
_FATBIN_HEADER = struct.Struct("<4sHHQ")
_ENTRY = struct.Struct("<HHIQQIIIIQQQ")
_KINDS = {1: "PTX", 2: "cubin"}
_NOBITS = 8
_SIZED, _REGCOUNT = 4, 0x2F
"""Of .nv.info: the format of records that give their size, and the record (symbol, registers)."""


@dataclass(frozen=True)
class Kernel:
    """One function of a cubin.

    Attributes:
        name: its symbol.
        registers: of a thread.
        shared_bytes: static shared memory of a block.
        code_bytes: of machine code.
    """

    name: str
    registers: int
    shared_bytes: int
    code_bytes: int


@dataclass(frozen=True)
class DeviceCode:
    """One piece of device code.

    Attributes:
        arch: "sm_70", or "compute_70" of PTX.
        kind: "cubin" or "PTX".
        nbytes: of the piece.
        kernels: of a cubin, in its order; none are read of PTX, nor of a compressed cubin.
    """

    arch: str
    kind: str
    nbytes: int
    kernels: tuple[Kernel, ...] = ()


def device_code(engine: Path) -> list[DeviceCode]:
    """Every piece of device code in a file (shared library, fatbin or cubin), in its order.

    Raises:
        BadInputError: the file can't be read.
    """
    try:
        return list(scan(engine.read_bytes()))
    except OSError as error:
        raise BadInputError(f"{engine} can't be read: {error}") from error


def scan(data: bytes) -> Iterator[DeviceCode]:
    """The device code among bytes, whatever lies around it."""
    at = 0
    while True:
        starts = [start for magic in (ELF, FATBIN) if (start := data.find(magic, at)) >= 0]
        if not starts:
            return
        at = min(starts)
        try:
            if data.startswith(FATBIN, at):
                found, size = _fatbin(data, at)
                yield from found
            else:
                cubin = _cubin(data, at)
                size = cubin.nbytes if cubin is not None else len(ELF)
                if cubin is not None:
                    yield cubin
        except (struct.error, ValueError, IndexError):
            size = len(ELF)  # The magic number by chance, or of something else.
        at += size


def _fatbin(data: bytes, at: int) -> tuple[list[DeviceCode], int]:
    _, version, header, size = _FATBIN_HEADER.unpack_from(data, at)
    end = at + header + size
    if version != 1 or header != _FATBIN_HEADER.size or end > len(data):
        raise ValueError("no fatbin")
    found, start = [], at + header
    while start < end:
        kind, _, entry, payload, _, _, arch, *_ = _ENTRY.unpack_from(data, start)
        if kind not in _KINDS or entry < _ENTRY.size:
            raise ValueError("no entry of a fatbin")
        own = start + entry
        cubin = _cubin(data, own) if data.startswith(ELF, own) else None
        prefix = "sm" if kind == 2 else "compute"
        found.append(cubin or DeviceCode(f"{prefix}_{arch}", _KINDS[kind], payload))
        start = own + payload
    return found, end - at


def _cubin(data: bytes, at: int) -> DeviceCode | None:
    """The cubin that starts at an offset; None where it is another machine's ELF file."""
    (machine,) = struct.unpack_from("<H", data, at + _MACHINE)
    if machine != _EM_CUDA:
        return None
    program, sections, flags = struct.unpack_from("<QQI", data, at + 32)
    program_entry, programs, entry, count, names = struct.unpack_from("<HHHHH", data, at + 54)
    sm = flags & 0xFF if data[at + _OSABI] == _OSABI_FIRST else flags >> 8 & 0xFF
    if at + sections + count * entry > len(data):
        raise ValueError("a cubin cut short")
    # name, type, flags, address, offset, size, link, info, alignment, entry size.
    table = [struct.unpack_from("<IIQQQQIIQQ", data, at + sections + i * entry) for i in range(count)]

    def name(strings: int, offset: int) -> str:
        start = at + table[strings][4] + offset
        return data[start : data.index(b"\0", start)].decode()

    named = {name(names, row[0]): row for row in table}
    registers = _registers(data, at, named, name)
    kernels = tuple(
        Kernel(
            name=section.removeprefix(".text."),
            registers=registers.get(section.removeprefix(".text."), 0),
            shared_bytes=_size(named.get(section.replace(".text.", ".nv.shared.", 1))),
            code_bytes=row[5],
        )
        for section, row in named.items()
        if section.startswith(".text.")
    )
    ends = [row[4] + row[5] for row in table if row[1] != _NOBITS]
    ends += [sections + count * entry, program + programs * program_entry]
    return DeviceCode(f"sm_{sm}", "cubin", max(ends), kernels)


def _registers(
    data: bytes, at: int, named: dict[str, tuple[int, ...]], name: Callable[[int, int], str]
) -> dict[str, int]:
    """Registers a thread, by kernel."""
    info, symbols = named.get(".nv.info"), named.get(".symtab")
    if info is None or symbols is None:
        return {}
    found = {}
    start, end = at + info[4], at + info[4] + info[5]
    while start < end:
        form, attribute, size = struct.unpack_from("<BBH", data, start)
        start += 4
        if form != _SIZED:
            continue
        if attribute == _REGCOUNT:
            symbol, count = struct.unpack_from("<II", data, start)
            (text,) = struct.unpack_from("<I", data, at + symbols[4] + symbol * symbols[9])
            found[name(symbols[6], text)] = count
        start += size
    return found


def _size(row: tuple[int, ...] | None) -> int:
    return 0 if row is None else row[5]
