"""What is said of variants whose precision was searched on a clip."""

from __future__ import annotations

from superlower.bundle.manifest import QuantizationRecord, TypesRecord, Variant
from superlower.cli.common import console, print_table


def print_found(variant: Variant) -> None:
    """What a search on a clip found for a variant, if there was one."""
    if variant.quantization is not None:
        print_quantization(variant.name, variant.quantization)
    if variant.types is not None:
        print_mixed(variant.name, variant.types)


def print_quantization(variant: str, record: QuantizationRecord) -> None:
    """What of a variant runs in 8 bits, what that costs, and how the loss goes over time."""
    print_table(
        f"{variant}: {record.activations} activations, calibrated on {record.clip}",
        ("nodes", "in 8 bits", "share of the saving", "alone costs dB"),
        (
            (
                group.name,
                f"{group.quantized} of {group.nodes}",
                f"{group.share:.1%}",
                "" if group.alone_db is None else f"{group.alone_db:.4f}",
            )
            for group in record.groups
        ),
    )
    loss = record.quality
    curve = " ".join(f"{db:.3f}" for db in record.curve_db)
    console.print(
        f"int8 costs {loss.db:.4f} dB of PSNR of {loss.budget_db:g} allowed ({loss.before_db:.2f} -> "
        f"{loss.after_db:.2f} dB, in {record.measured_on}); frame by frame {curve}",
        soft_wrap=True,
    )


def print_mixed(variant: str, record: TypesRecord) -> None:
    """Which types a variant's nodes have, what that saves and costs, and how the loss goes over time."""
    offered = sorted({p for group in record.groups for p in group.saved_ms if p != "fp32"})
    print_table(
        f"{variant}: types found on {record.clip}, run {len(record.trials)} times in {record.measured_on}",
        (
            "nodes",
            "how many",
            "type",
            *(f"{p} saves ms" for p in offered),
            *(f"{p} alone costs dB" for p in offered),
        ),
        (
            (
                group.name,
                str(group.nodes) + (f", {group.held} held in fp32" if group.held else ""),
                str(group.precision),
                *(_number(group.saved_ms.get(p), 2) for p in offered),
                *(_number(group.alone_db.get(p), 4) for p in offered),
            )
            for group in record.groups
        ),
    )
    for precision, why in record.refused.items():
        console.print(f"not offered: {precision}: {why}", soft_wrap=True)
    console.print(f"nodes kept in more bits than the fewest offered: {len(record.kept)}", soft_wrap=True)
    for line in _by_reason(record.kept):
        console.print(f"  {line}", soft_wrap=True)
    if record.ms:
        times = ", ".join(f"{name} {ms:.1f}" for name, ms in record.ms.items())
        console.print(f"ms a frame, engines timed in turns: {times}", soft_wrap=True)
    else:
        console.print("the target isn't here: what types save is estimated from its peaks", soft_wrap=True)
    loss = record.quality
    tof = "" if record.tof is None else f", {record.tof:+.4f} px of tOF of {record.budget_tof:g}"
    curve = " ".join(f"{db:.3f}" for db in record.curve_db)
    console.print(
        f"mixed types cost {loss.db:.4f} dB of PSNR of {loss.budget_db:g} allowed ({loss.before_db:.2f} -> "
        f"{loss.after_db:.2f} dB), {record.flicker:+.4f} levels of flicker of {record.budget_flicker:g}"
        f"{tof}; frame by frame {curve}",
        soft_wrap=True,
    )


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _by_reason(kept: tuple[str, ...]) -> list[str]:
    """One line a graph, type and reason: how many nodes, and the first of them."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for line in kept:
        graph, node, rest = line.split(": ", 2)
        grouped.setdefault((graph, rest), []).append(node)
    return [
        f"{graph}: {nodes[0]}{f' and {len(nodes) - 1} more' if len(nodes) > 1 else ''}: {rest}"
        for (graph, rest), nodes in grouped.items()
    ]
