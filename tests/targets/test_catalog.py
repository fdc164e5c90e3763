"""The catalog: strict to read, sourced, consistent with the hardware's arithmetic, open to third parties."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from importlib.resources import files

import msgspec
import pytest

from superlower import plugins
from superlower.errors import BadInputError
from superlower.targets import catalog
from superlower.targets.base import Figure, Precision, Target
from superlower.targets.catalog import load_catalog, parse, target, targets

ENTRY = """
[toy]
title = "Toy GPU"
kind = "nvidia-gpu"
architecture = "Turing"
compute_capability = 75
precisions = ["fp32", "fp16"]
memory_gb = { value = 8, source = "Toy data sheet, p. 1" }
[toy.peak_tops]
fp16 = { value = 10, source = "Toy data sheet, p. 2" }
[toy.backends]
tvm = ">=0.27,<1"
[toy.unserved]
openvino = "no NVIDIA device"
[toy.tvm]
kind = "cuda"
arch = "sm_75"
"""
NAMES = ["v100", "t4", "rtx2080ti", "a100", "rtx3090", "rtx4090", "h100", "rtx5090"]
TOY = parse(ENTRY, "toy.toml")["toy"]


@pytest.fixture(autouse=True)
def _fresh_tables():
    catalog.catalog.cache_clear()
    yield
    catalog.catalog.cache_clear()


def install(monkeypatch: pytest.MonkeyPatch, **makers: object) -> None:
    """Put further target catalogs beside superlower's own, as installed distributions would."""
    own = plugins.table("target")["catalog"]
    points = {"catalog": own}
    for name in makers:
        points[name] = EntryPoint(name, f"third_party.{name}:targets", plugins.GROUPS["target"])
    monkeypatch.setattr(plugins, "table", lambda kind: points)
    monkeypatch.setattr(plugins, "load", lambda kind, name: makers.get(name, load_catalog))


# (boost clock in MHz, FP32 cores, memory bus in bits, Gbit/s a pin), from the same documents' other rows.
HARDWARE = {
    "v100": (1530, 5120, 4096, 1.755),
    "t4": (1590, 2560, 256, 10),
    "rtx2080ti": (1545, 4352, 352, 14),
    "a100": (1410, 6912, 5120, 3.186),
    "rtx3090": (1695, 10496, 384, 19.5),
    "rtx4090": (2520, 16384, 384, 21),
    "h100": (1980, 16896, 5120, 5.23),
    "rtx5090": (2407, 21760, 512, 28),
}
# Dense tensor operations a clock and SM over FP32's, by architecture; GeForce with FP32 accumulation.
RATIOS = {
    "v100": {"fp16": 8},
    "t4": {"fp16": 8, "int8": 16},
    "rtx2080ti": {"fp16": 4, "int8": 16},
    "a100": {"tf32": 8, "fp16": 16, "bf16": 16, "int8": 32},
    "rtx3090": {"tf32": 1, "fp16": 2, "bf16": 2, "int8": 8},
    "rtx4090": {"tf32": 1, "fp16": 2, "bf16": 2, "fp8": 4, "int8": 8},
    "rtx5090": {"tf32": 1, "fp16": 2, "bf16": 2, "fp8": 4, "int8": 8},
}


class TestReading:
    def test_a_right_entry_is_read_whole(self):
        assert TOY.name == "toy"
        assert TOY.precisions == (Precision.FP32, Precision.FP16)
        assert TOY.memory_gb == Figure(value=8, source="Toy data sheet, p. 1")
        assert TOY.bandwidth_gbs is None

    @pytest.mark.parametrize(
        ("old", "new", "field"),
        [
            ('kind = "nvidia-gpu"', 'kind = "nvidia-gpu"\ncolour = "green"', "colour"),
            ('title = "Toy GPU"', "title = 3", "title"),
            ('title = "Toy GPU"', "", "title"),
            ('title = "Toy GPU"', 'title = " "', "title"),
            ('title = "Toy GPU"', 'title = "Toy GPU"\nname = "other"', "name"),
            ('kind = "nvidia-gpu"', 'kind = "toaster"', "kind"),
            ("compute_capability = 75", "", "compute_capability"),
            ('["fp32", "fp16"]', '["fp32", "fp17"]', "precisions"),
            ('["fp32", "fp16"]', '["fp16"]', "precisions"),
            ('["fp32", "fp16"]', '["fp32", "fp32"]', "precisions"),
            ('value = 8, source = "Toy data sheet, p. 1"', "value = 8", "memory_gb.source"),
            ('value = 8, source = "Toy data sheet, p. 1"', 'value = 8, source = " "', "memory_gb.source"),
            (
                'value = 8, source = "Toy data sheet, p. 1"',
                'value = 8, source = "memory"',
                "memory_gb.source",
            ),
            ("value = 8,", "value = 0,", "memory_gb.value"),
            ("value = 8,", "value = inf,", "memory_gb.value"),
            ("value = 8,", 'value = 8, unit = "GB",', "memory_gb.unit"),
            ("value = 10,", "value = -10,", "peak_tops.fp16.value"),
            ("fp16 = {", "fp4 = {", "peak_tops.fp4"),
            ('">=0.27,<1"', '"0.27 or later"', "backends.tvm"),
            ('"no NVIDIA device"', '""', "unserved.openvino"),
            ("openvino = ", "tvm = ", "unserved.tvm"),
            ('kind = "cuda"', "", "tvm"),
        ],
    )
    def test_a_wrong_entry_is_refused_by_entry_and_field(self, old, new, field):
        text = ENTRY.replace(old, new, 1)
        assert text != ENTRY
        with pytest.raises(BadInputError) as error:
            parse(text, "toy.toml")
        message = str(error.value)
        assert "toy.toml: target 'toy'" in message
        assert f"field `{field}`" in re.sub(r"\[(\d+|\.\.\.)\]", "", message)
        assert "\n" not in message

    def test_what_is_no_toml_or_no_table_is_refused(self):
        with pytest.raises(BadInputError, match=r"toy\.toml is not TOML"):
            parse("[toy", "toy.toml")
        with pytest.raises(BadInputError, match="'toy' is not a target"):
            parse("toy = 3", "toy.toml")


class TestFigures:
    """The printed figures against clocks, cores and buses: a figure with sparsity would be double."""

    @pytest.mark.parametrize("name", NAMES)
    def test_fp32_peak_is_two_operations_a_core_and_clock(self, name):
        mhz, cores, _, _ = HARDWARE[name]
        # Printed with one decimal: right to half of its unit.
        assert target(name).peak_tops["fp32"].value == pytest.approx(2 * cores * mhz / 1e6, abs=0.05)

    @pytest.mark.parametrize("name", NAMES)
    def test_bandwidth_is_bus_width_times_data_rate(self, name):
        _, _, bits, gbit = HARDWARE[name]
        bandwidth = target(name).bandwidth_gbs
        assert bandwidth is not None
        # Printed with three digits: half a unit of the third is at most 0.5 %.
        assert bandwidth.value == pytest.approx(bits * gbit / 8, rel=0.005)

    @pytest.mark.parametrize("name", sorted(RATIOS))
    def test_tensor_peaks_are_dense(self, name):
        peaks = {key: figure.value for key, figure in target(name).peak_tops.items()}
        assert set(peaks) - {"fp32"} == set(RATIOS[name])
        mhz, cores, _, _ = HARDWARE[name]
        for key, ratio in RATIOS[name].items():
            # Printed with two or three digits: T4's 65 is right to half of its unit, 0.8 %.
            assert peaks[key] == pytest.approx(ratio * 2 * cores * mhz / 1e6, rel=0.008), key

    def test_h100_tensor_peaks_are_dense(self):
        # Its tensor cores are rated at 1830 MHz (FP32: 1980 MHz): 132 SMs, 4096 FP16 operations a clock each.
        peaks = {key: figure.value for key, figure in target("h100").peak_tops.items()}
        assert peaks["fp16"] == pytest.approx(132 * 4096 * 1830e6 / 1e12, rel=0.001)
        assert peaks["bf16"] == peaks["fp16"]
        assert peaks["tf32"] == pytest.approx(peaks["fp16"] / 2, rel=0.001)
        assert peaks["fp8"] == peaks["int8"] == pytest.approx(peaks["fp16"] * 2, rel=0.001)

    def test_every_figure_names_a_document(self):
        for entry in load_catalog().values():
            figures = [entry.memory_gb, entry.bandwidth_gbs, *entry.peak_tops.values()]
            for figure in filter(None, figures):
                assert any(w in figure.source for w in ("whitepaper", "data sheet", "/proc")), entry.name

    def test_every_precision_of_a_gpu_has_a_peak(self):
        for name in NAMES:
            assert set(target(name).precisions) <= set(target(name).peak_tops), name


class TestOwnEntries:
    def test_all_are_listed_cpu_first(self):
        assert [t.name for t in targets()] == ["cpu", *NAMES, "intel-gpu"]

    def test_every_backend_is_accounted_for_on_every_target(self):
        known = {"onnxruntime", "openvino", "tvm", "tensorrt", "tensorrt-rtx"}
        assert set(plugins.table("backend")) <= known
        for entry in targets():
            assert set(entry.backends) | set(entry.unserved) == known, entry.name

    def test_nvidia_targets_agree_on_their_architecture(self):
        for name in NAMES:
            entry = target(name)
            assert entry.tvm["arch"] == f"sm_{entry.compute_capability}"

    def test_support_by_architecture(self):
        names = ("onnxruntime", "tensorrt", "tensorrt-rtx")
        by_backend = {b: {n for n in NAMES if b in target(n).backends} for b in names}
        assert by_backend["onnxruntime"] == by_backend["tensorrt"] == set(NAMES)
        assert by_backend["tensorrt-rtx"] == set(NAMES) - {"v100", "h100"}
        # The last releases with code for Volta: TensorRT 10.4, and ONNX Runtime 1.26 on CUDA 12.
        assert target("v100").backends["tensorrt"] == ">=8.6,<10.5"
        assert target("v100").backends["onnxruntime"] == ">=1.24,<1.27"
        # The first for Blackwell.
        assert target("rtx5090").backends["tensorrt"] == ">=10.8"
        assert target("rtx5090").backends["onnxruntime"] == ">=1.27"

    def test_precisions_follow_the_architecture(self):
        for name in NAMES:
            entry = target(name)
            capability = entry.compute_capability or 0
            assert (Precision.INT8 in entry.precisions) == (capability >= 75)
            assert (Precision.BF16 in entry.precisions) == (capability >= 80)
            assert (Precision.FP8 in entry.precisions) == (capability >= 89)

    def test_the_toml_holds_no_default_written_out(self):
        document = tomllib.loads(files("superlower.targets").joinpath("catalog.toml").read_text())
        assert set(document) == {*NAMES, "intel-gpu"}

    def test_tvm_takes_the_target_dictionaries(self):
        if importlib.util.find_spec("tvm") is None:
            pytest.skip("Apache TVM is not installed")
        # In a process of its own: where an engine was loaded first, there is TVM's runtime alone.
        script = (
            "import json, sys, tvm\n"
            "print(json.dumps([tvm.target.Target(each).kind.name for each in json.loads(sys.argv[1])]))"
        )
        asked = [dict(target(name).tvm) for name in ("cpu", *NAMES, "intel-gpu")]
        done = subprocess.run(
            [sys.executable, "-c", script, json.dumps(asked)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1]) == [each["kind"] for each in asked]


class TestNames:
    @pytest.mark.parametrize(("given", "near"), [("rtx4900", "rtx4090"), ("V100s", "v100"), ("CPU", "cpu")])
    def test_an_unknown_name_is_answered_with_near_ones(self, given, near):
        with pytest.raises(BadInputError, match=f"unknown target '{given}': did you mean .*{near}"):
            target(given)


class TestThirdParties:
    def test_their_targets_stand_beside_ours(self, monkeypatch):
        install(monkeypatch, toys=lambda: {"toy": TOY})
        assert target("toy") == TOY
        assert [t.name for t in targets()] == ["cpu", *NAMES, "intel-gpu", "toy"]

    def test_a_doubled_name_is_an_error_that_names_both(self, monkeypatch):
        ours = msgspec.structs.replace(TOY, name="v100")
        install(monkeypatch, toys=lambda: {"v100": ours})
        with pytest.raises(BadInputError, match=r"'v100' is defined twice, by superlower.*third_party\.toys"):
            targets()

    @pytest.mark.parametrize(
        ("maker", "message"),
        [
            (lambda: {"toy": 3}, "'toy' is not a Target"),
            (lambda: {"toys": TOY}, "'toys' is not a Target of that name"),
            (lambda: [TOY], "must return a dictionary of targets, not list"),
            (lambda: 1 / 0, "failed: ZeroDivisionError"),
            ("no callable", "is not callable"),
            (
                lambda: {"toy": msgspec.structs.replace(TOY, peak_tops={"fp16": Figure(value=1, source="")})},
                "field `peak_tops.fp16.source`",
            ),
            (lambda: {"toy": msgspec.structs.replace(TOY, title=3)}, "field `title`"),
        ],
    )
    def test_a_wrong_catalog_is_refused_by_name(self, monkeypatch, maker, message):
        install(monkeypatch, toys=maker)
        with pytest.raises(BadInputError) as error:
            targets()
        assert "target catalog 'toys' (third_party.toys:targets)" in str(error.value)
        assert message in str(error.value)

    def test_a_real_distribution_is_found(self, monkeypatch, tmp_path):
        (tmp_path / "toy_targets.py").write_text(
            "from superlower.targets.base import Precision, Target\n"
            "def targets():\n"
            "    return {'toy-cpu': Target(name='toy-cpu', title='Toy', kind='cpu', architecture='toy',\n"
            "            precisions=(Precision.FP32,), backends={}, tvm={'kind': 'llvm'})}\n"
        )
        info = tmp_path / "toy_targets-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-targets\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[superlower.targets]\ntoys = toy_targets:targets\n")
        monkeypatch.syspath_prepend(tmp_path)
        plugins.table.cache_clear()
        try:
            assert target("toy-cpu").title == "Toy"
            assert target("cpu").kind == "cpu"
        finally:
            plugins.table.cache_clear()


def test_targets_are_frozen():
    with pytest.raises(AttributeError):
        target("v100").title = "other"  # type: ignore[misc]
    assert isinstance(target("v100"), Target)
