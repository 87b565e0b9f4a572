"""``make gpu-check`` without a GPU: its checks on simulated kernels, its phases and its command line."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from simulate import simulator
from tensor_core import TENSOR_CORES

from benchmarks.gpu_check import __main__ as command
from benchmarks.gpu_check import numbers, probes, sanitizer, sweep, worker
from benchmarks.gpu_check.numbers import check, check_lowered, check_rows, check_terms
from benchmarks.gpu_check.session import Phase
from benchmarks.gpu_check.steps import TIMED, by_backend, step_of
from benchmarks.gpu_check.task import Task
from bickd_kernels.accuracy import Case, evaluate, make_batch
from bickd_kernels.backends.triton import planning

SMALL = (17, 29)

SIMULATED = [
    Case(*SMALL, torch.float32),
    Case(*SMALL, torch.bfloat16, options={"contrast_temperature": 0.02}),
    # The other options are weights, which the kernel tests cover.
    *(Case(*SMALL, torch.float32, **change) for change in numbers.OPTIONS[:10]),
]

LACKING = """
import sys

for name in ("hypothesis", "jsonargparse", "matplotlib", "numpy", "psutil", "pytest", "rich", "scipy", "sklearn",
             "tensorboard", "torchmetrics", "torchvision", "ttsem", "yaml"):
    sys.modules[name] = None

import importlib
import pkgutil
from pathlib import Path
import benchmarks.gpu_check as package

for module in pkgutil.iter_modules(package.__path__):
    found = importlib.import_module(f"benchmarks.gpu_check.{module.name}")
    if hasattr(found, "tasks"):
        assert found.tasks(Path(".")), module.name

from benchmarks.gpu_check.steps import TIMED, by_definition
by_definition(TIMED[0])
"""


@pytest.mark.parametrize("case", SIMULATED, ids=str)
def test_correct_results_pass(case: Case) -> None:
    with simulator(races="off"):
        found = check(case, device="cpu")
    assert found.get("passed"), found
    assert found["repeated"]


@pytest.mark.parametrize(
    "special", [check_rows, check_terms, check_lowered], ids=lambda function: function.__name__.removeprefix("check_")
)
def test_rows_terms_and_lowered_products_pass(special: Any) -> None:
    with simulator(races="off"):
        found = special(Case(*SMALL, torch.float32), device="cpu")
    assert found["passed"], found
    assert torch.get_float32_matmul_precision() == "highest"


def test_wrong_results_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def off(case: Case, batch: Any, backend: str) -> tuple[torch.Tensor, torch.Tensor]:
        loss, gradient = evaluate(case, batch, backend)
        return loss, gradient * (1 + 1e-5 * (backend == "triton"))

    monkeypatch.setattr(numbers, "evaluate", off)
    with simulator(races="off"):
        found = check(Case(*SMALL, torch.float32), device="cpu")
    assert not found["passed"]
    assert found["gradient_error"] == pytest.approx(1e-5, rel=0.1)


def test_results_of_simulated_kernels_reach_the_report_and_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(command, "PHASES", [Phase("numbers", "gpu_check_simulated", share=1)])
    assert command.main(["--output", str(tmp_path), "--phases", "numbers", "--seconds", "100"]) == 1
    report = (tmp_path / "report.md").read_text()
    assert "**FAILED**: 1 failures; 1 of 2 checks passed" in report
    assert "FAILED numbers: bickd_loss (19, 7) float32: gradient off by 1.0" in report
    assert "| bickd_loss (17, 29) float32 |" in report


def test_a_second_call_with_other_bits_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def drifting(case: Case, batch: Any, backend: str) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(backend)
        loss, gradient = evaluate(case, batch, backend)
        return loss, gradient * (1 + 2e-7 * len(calls))

    monkeypatch.setattr(numbers, "evaluate", drifting)
    with simulator(races="off"):
        found = check(Case(*SMALL, torch.float32), device="cpu")
    assert (found["passed"], found["repeated"]) == (False, False)


def test_an_exception_is_recorded_as_a_failed_result(capsys: pytest.CaptureFixture[str]) -> None:
    # On the CPU the kernels refuse any batch.
    case = Case(*SMALL, torch.float32, options={"similarity": "cosine"})
    found = worker.perform(Task(str(case), lambda: check(case, device="cpu")))
    assert not found["passed"]
    assert found["error"].startswith('ValueError: backend "triton" needs logits on a GPU')
    assert "Traceback" in capsys.readouterr().err


def test_numbers_cover_every_option_dtype_and_temperature_and_every_timed_batch() -> None:
    cases = list(numbers.cases())
    assert {case.dtype for case in cases} == {torch.float32, torch.bfloat16, torch.float16}
    assert {case.target for case in cases} == {"labels", "probabilities", "none"}
    assert {case.layout for case in cases} == {"contiguous", "strided", "offset"}
    tried = {name for case in cases for name in case.options}
    assert tried >= {"positives", "label_smoothing", "similarity", "contrast_temperature", "bilateral_temperature"}
    assert {(case.samples, case.classes, case.dtype) for case in TIMED} <= {
        (case.samples, case.classes, case.dtype) for case in cases
    }


def test_common_batches_come_first_and_no_task_occurs_twice() -> None:
    for phase in command.PHASES:
        names = [task.name for task in importlib.import_module(phase.module).tasks(Path())]
        assert len(names) == len(set(names)), phase.name
    assert str(next(numbers.cases())) == "bickd_loss (64, 100) float32"


@pytest.mark.parametrize("probe", probes.PROBES, ids=lambda probe: probe.name)
@pytest.mark.parametrize("model", TENSOR_CORES)
def test_a_probe_expects_the_result_of_the_tensor_core_model(probe: probes.Probe, model: str) -> None:
    with simulator(races="off", products=model):
        found = probes.run(probe, "cpu")
    assert found["units"] == found[model]


def test_probes_tell_the_models_apart() -> None:
    for probe in probes.PROBES:
        exact = torch.tensor(probe.accumulator + probe.terms * probe.left * probe.right, dtype=torch.float64)
        assert (exact.float() - probe.accumulator) * 2**23 == probe.rounded
    expected = [[getattr(probe, model) for probe in probes.PROBES] for model in ("h100", "a100", "rounded")]
    assert all(expected.count(each) == 1 for each in expected)


def test_every_change_of_launch_parameters_gives_another_plan() -> None:
    for case, changes in ((Case(256, 1000, torch.bfloat16), sweep.CHANGES), (sweep.CASES[-1], sweep.PANELS)):
        arguments = (case.samples, case.classes, 1, planning.Target("cuda", "90", 32))
        as_it_is = planning.plan(*arguments)
        plans = [sweep.changed(change)(*arguments) for change in changes]
        others = [plan for plan in plans if plan != as_it_is]
        assert len(set(others)) == len(others)
        # For each kind of parameters, one change may be the plan's own choice: its gain shows the noise of the sweep.
        assert len(plans) - len(others) <= len({tuple(change) for change in changes})


@pytest.mark.parametrize("change", sweep.CHANGES[::10], ids=str)
def test_a_change_of_launch_parameters_reaches_the_launches_and_keeps_the_results(
    change: sweep.Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[planning.Plan] = []
    original = planning.plan

    def noted(*arguments: Any, **options: Any) -> planning.Plan:
        plans.append(original(*arguments, **options))
        return plans[-1]

    case = Case(*SMALL, torch.bfloat16)
    batch = make_batch(case)
    with simulator(races="off"):
        step = step_of(by_backend(case, "triton"), batch)
        expected = sweep.gradient_of(step)
        monkeypatch.setattr(planning, "plan", noted)
        actual = sweep.gradient_of(sweep.with_plan(step, sweep.changed(change)))
    assert len(plans) == 1
    # Another order of float32 sums moves an entry to the next bfloat16 number at most, which for an entry of up to half the
    # largest is 2^-8 of the largest.
    assert float((actual - expected).abs().max()) <= 2**-8 * float(expected.abs().max())


def test_the_exit_status_of_compute_sanitizer_decides_its_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "compute-sanitizer"
    tool.write_text("#!/bin/sh\necho an invalid write; exit $STATUS\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert {task.name.split(" of ")[0] for task in sanitizer.tasks(tmp_path)} == {"memcheck", "racecheck"}
    for status, expected in (("0", {"passed": True}), ("9", {"passed": False, "said": "an invalid write\n"})):
        monkeypatch.setenv("STATUS", status)
        assert sanitizer.tasks(tmp_path)[0].run().items() >= expected.items()
    monkeypatch.setenv("STATUS", "1")
    assert "exit status 1" in sanitizer.tasks(tmp_path)[0].run()["problem"]


def test_gpu_check_needs_no_package_except_torch_and_triton() -> None:
    done = subprocess.run([sys.executable, "-c", LACKING], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_a_gpu_the_command_fails_and_keeps_earlier_results(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    (tmp_path / "results.jsonl").write_text("earlier")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check", "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "needs a GPU" in done.stdout
    assert (tmp_path / "results.jsonl").read_text() == "earlier"


def test_only_the_named_phases_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    taken: list[Any] = []

    def session(phases: Any, folder: Path, seconds: float) -> list[dict[str, Any]]:
        taken.extend([[phase.name for phase in phases], seconds])
        (folder / "report.md").write_text("the report")
        return [{"kind": "result", "phase": "numbers", "task": "one", "passed": len(taken) == 2}]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(command, "run_session", session)
    given = ["--output", str(tmp_path), "--phases", "numbers,timing", "--seconds", "60"]
    assert command.main(given) == 0
    assert taken == [["numbers", "timing"], 60.0]
    assert command.main(["--output", str(tmp_path)]) == 1
    assert taken[2] == [phase.name for phase in command.PHASES]
    with pytest.raises(SystemExit):
        command.main(["--phases", "numbers,everything"])
