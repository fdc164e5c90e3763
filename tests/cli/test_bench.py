"""superlower bench: what is measured, and how it is said."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from superlower.bundle.bundle import Bundle
from superlower.driver import quality as driver
from superlower.driver.flops import graph_macs
from superlower.driver.quality import QualityRow
from superlower.metrics.clip import Quality
from superlower.targets.catalog import target
from support.clips import save_folder
from support.command import fresh, superlower

pytest.importorskip("torch", reason="PyTorch isn't installed: pip install 'superlower[torch]'")


@pytest.fixture(scope="module")
def bundle(basicvsr_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BasicVSR of one block at 64x64, compiled by both CPU backends with one thread."""
    pytest.importorskip("openvino", reason="OpenVINO isn't installed: pip install 'superlower[openvino]'")
    folder = tmp_path_factory.mktemp("bench") / "bundle"
    asked = ("-t", "cpu", "-b", "onnxruntime", "-b", "openvino", "--threads", 1)
    outcome = superlower("compile", basicvsr_folder, "-o", folder, *asked)
    assert outcome.code == 0, outcome.stderr
    return folder


PYTORCH = ("--pytorch", "random:0", "--set", "blocks=1")


class TestSpeed:
    def test_pytorch_and_every_engine(self, bundle: Path) -> None:
        asked = ("--frames", 2, "--rounds", 2, "--quick", "--json")
        outcome = superlower("bench", "speed", bundle, *PYTORCH, *asked)
        assert outcome.code == 0, outcome.stderr
        found = outcome.json
        assert found["machine"] == target("cpu").title
        assert (found["height"], found["width"], found["frames"], found["rounds"]) == (64, 64, 2, 2)
        assert found["versions"].keys() == {"onnxruntime", "openvino", "torch"}
        names = [row["name"] for row in found["results"]]
        assert names == ["PyTorch eager fp32", "onnxruntime-cpu-fp32", "openvino-cpu-fp32"]
        # As many as the engines were compiled for, not as many as there are cores.
        assert [row["threads"] for row in found["results"]] == [1, 1, 1]
        first = found["results"][0]
        assert first["equations"] == {}
        macs = graph_macs(Bundle.open(bundle).model())
        for row in found["results"]:
            assert row["ms"] == pytest.approx(np.median(row["rounds_ms"]))
            expected = [a / b for a, b in zip(first["rounds_ms"], row["rounds_ms"], strict=True)]
            assert row["ratios"] == pytest.approx(expected)
            assert row["ratio"] == pytest.approx(np.median(expected))
        for row in found["results"][1:]:
            calls = {name: time["calls"] for name, time in row["equations"].items()}
            assert calls == {"flow_b": 1, "flow_f": 1, "backward": 2, "forward": 2}
            assert sum(time["share"] for time in row["equations"].values()) == pytest.approx(1)
            forward = row["equations"]["forward"]["ms"]
            rate = found["gflops_s"][row["name"]]["forward"]
            assert rate == pytest.approx(2 * macs["forward"] / (forward / 1000) / 1e9)

    def test_tables_name_machine_threads_and_equations(self, bundle: Path) -> None:
        outcome = superlower(
            "bench", "speed", bundle, "-b", "openvino", *PYTORCH, "--frames", 2, "--rounds", 1, "--quick"
        )
        assert outcome.code == 0, outcome.stderr
        assert outcome.stdout == ""
        text = " ".join(outcome.stderr.split())
        assert target("cpu").title in text
        assert "PyTorch was set to 1 threads: as the engines have" in text
        assert "equations of openvino-cpu-fp32" in text
        assert "onnxruntime" not in text

    def test_without_pytorch_engines_are_compared_with_the_first(self, bundle: Path) -> None:
        outcome = superlower("bench", "speed", bundle, "--frames", 2, "--rounds", 1, "--quick", "--json")
        first, second = outcome.json["results"]
        assert (first["name"], first["ratio"]) == ("onnxruntime-cpu-fp32", 1)
        assert second["name"] == "openvino-cpu-fp32"

    def test_a_longer_clip_than_the_golden_one(self, upscaler_bundle: Path) -> None:
        asked = ("--frames", 7, "--rounds", 1, "--quick", "--json")
        (row,) = superlower("bench", "speed", upscaler_bundle, *asked).json["results"]
        assert [time["calls"] for time in row["equations"].values()] == [7]

    def test_first_frame_memory_peak_and_files(
        self, upscaler_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("superlower.driver.products.SQUARES", (64,))
        asked = ("--frames", 2, "--rounds", 2, "-o", tmp_path / "out", "--plot", tmp_path / "plot.svg")
        outcome = superlower("bench", "speed", upscaler_bundle, *asked, "--json")
        assert outcome.code == 0, outcome.stderr
        found = outcome.json
        (row,) = found["results"]
        assert row["fresh"]["load_ms"] > 0
        assert row["fresh"]["first_ms"] > 0
        # A process with NumPy and ONNX Runtime in it: tens of megabytes, and not as much as a machine has.
        assert 3e7 < row["fresh"]["peak_bytes"] < 2e9
        (peak,) = found["peaks"]
        assert (peak["precision"], len(peak["rounds"])) == ("fp32", 2)
        gflops = [found["gflop"] * 1000 / ms for ms in row["rounds_ms"]]
        shares = [rate / top for rate, top in zip(gflops, peak["rounds"], strict=True)]
        assert row["whole_gflops_s"] == pytest.approx(np.median(gflops))
        assert row["of_peak"] == pytest.approx(np.median(shares))
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["speed.json", "speed.md"]
        assert json.loads((tmp_path / "out" / "speed.json").read_text()) == found
        page = (tmp_path / "out" / "speed.md").read_text()
        assert "| onnxruntime-cpu-fp32 |" in page
        assert target("cpu").title in page
        ElementTree.parse(tmp_path / "plot.svg")

    @pytest.mark.slow
    def test_all_rivals(self, bundle: Path) -> None:
        asked = ("--against", "all", "--frames", 2, "--rounds", 1, "-b", "openvino", "--json")
        found = superlower("bench", "speed", bundle, *PYTORCH, *asked).json
        assert found["absent"] == []
        assert [row["name"] for row in found["results"]] == [
            "PyTorch eager fp32",
            "torch.compile fp32",
            "ONNX Runtime, as exported",
            "OpenVINO, as exported",
            "openvino-cpu-fp32",
        ]

    def test_rivals_need_weights_and_a_known_name(self, upscaler_bundle: Path) -> None:
        outcome = superlower("bench", "speed", upscaler_bundle, "--against", "compile")
        assert outcome.code == 2
        assert "--pytorch" in outcome.error
        outcome = superlower(
            "bench", "speed", upscaler_bundle, "--against", "compil", "--pytorch", "random:0"
        )
        assert outcome.code == 2
        assert "unknown contender 'compil': did you mean compile" in outcome.error

    def test_a_file_that_cant_be_written_is_refused_first(
        self, upscaler_bundle: Path, tmp_path: Path
    ) -> None:
        outcome = superlower("bench", "speed", upscaler_bundle, "--markdown", tmp_path)
        assert outcome.code == 2
        assert "it is a folder" in outcome.error

    def test_a_backend_that_isnt_in_the_bundle(self, upscaler_bundle: Path) -> None:
        outcome = superlower("bench", "speed", upscaler_bundle, "-b", "openvno")
        assert outcome.code == 2
        assert "unknown backend in this bundle 'openvno'" in outcome.error

    def test_other_weights_than_the_bundles(self, bundle: Path, tmp_path: Path) -> None:
        outcome = superlower("bench", "speed", bundle, "--pytorch", tmp_path / "none.pth")
        assert outcome.code == 2
        assert "no such file" in outcome.error

    @pytest.mark.parametrize("option", [("--frames", 1), ("--rounds", 0)])
    def test_a_clip_of_one_frame_or_no_round(self, upscaler_bundle: Path, option: tuple[str, int]) -> None:
        assert superlower("bench", "speed", upscaler_bundle, *option).code == 2


class TestQuality:
    def test_scores_are_of_the_frames_given(self, upscaler_bundle: Path, tmp_path: Path) -> None:
        truth = save_folder(tmp_path / "truth", 3, 32, 32)
        outcome = superlower("bench", "quality", upscaler_bundle, "--gt", truth, "--json")
        assert outcome.code == 0, outcome.stderr
        (row,) = outcome.json["results"]
        assert row["variant"] == "onnxruntime-cpu-fp32"
        assert len(row["psnr_y_frames"]) == 3
        assert row["psnr_y"] == pytest.approx(np.mean(row["psnr_y_frames"]))
        assert 0 < row["psnr_y"] < 60

    def test_the_psnr_of_identical_frames_is_infinite(
        self, upscaler_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        row = QualityRow(
            "onnxruntime-cpu-fp32", Quality({"psnr": (inf, inf), "ssim": (1.0, 1.0)}), (0.0, 0.0)
        )
        monkeypatch.setattr(driver, "measure", lambda *_, **__: [row])
        truth = save_folder(tmp_path / "truth", 2, 32, 32)
        outcome = superlower("bench", "quality", upscaler_bundle, "--gt", truth, "--json")
        (found,) = outcome.json["results"]
        assert (found["psnr_y"], found["psnr_y_frames"]) == ("inf", ["inf", "inf"])
        assert float(found["psnr_y"]) == inf

    def test_other_metrics_where_asked(self, upscaler_bundle: Path, tmp_path: Path) -> None:
        truth = save_folder(tmp_path / "truth", 3, 32, 32)
        asked = ("bench", "quality", upscaler_bundle, "--gt", truth, "--metrics", "psnr, flicker")
        (row,) = superlower(*asked, "--json").json["results"]
        assert (len(row["psnr_y_frames"]), len(row["flicker_frames"])) == (3, 2)
        assert row["flicker"] == pytest.approx(np.mean(row["flicker_frames"]))
        assert "ssim_y" not in row
        shown = superlower(*asked).stderr
        assert "flicker" in shown
        assert "SSIM" not in shown

    def test_a_metric_nobody_knows_and_one_whose_library_is_absent(
        self, upscaler_bundle: Path, tmp_path: Path
    ) -> None:
        truth = save_folder(tmp_path / "truth", 2, 32, 32)
        asked = ("bench", "quality", upscaler_bundle, "--gt", truth, "--metrics")
        outcome = superlower(*asked, "psrn")
        assert (outcome.code, outcome.stdout) == (2, "")
        assert "unknown metric 'psrn': did you mean psnr" in outcome.error
        assert superlower(*asked, ",").code == 2
        outcome = fresh(*asked, "psnr,tof", absent=("cv2",))
        assert (outcome.code, outcome.stdout) == (6, "")
        assert "pip install 'superlower[metrics]'" in outcome.error
        outcome = fresh(*asked, "lpips", absent=("lpips",))
        assert outcome.code == 6
        assert "pip install 'superlower[lpips]'" in outcome.error

    def test_truth_of_another_size(self, upscaler_bundle: Path, tmp_path: Path) -> None:
        (tmp_path / "truth").mkdir()
        Image.fromarray(np.zeros((40, 32, 3), np.uint8)).save(tmp_path / "truth" / "0.png")
        outcome = superlower("bench", "quality", upscaler_bundle, "--gt", tmp_path / "truth")
        assert outcome.code == 2
        assert "--size 20x16" in outcome.error
