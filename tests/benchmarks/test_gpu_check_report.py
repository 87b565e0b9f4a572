"""``gpu_check.report`` on made-up lines of a session: tables in the form of ``docs/performance.md``, failures first."""

from typing import Any

from benchmarks.gpu_check import report
from benchmarks.gpu_check.report import render

Line = dict[str, Any]


def result(phase: str, task: str = "one", **values: Any) -> Line:
    return {"kind": "result", "at": 3.0, "phase": phase, "task": task, "seconds": 1.0, **values}


def session(*lines: Line, phases: tuple[str, ...] = ()) -> list[Line]:
    return [{"kind": "session", "at": 0.0, "seconds": 480, "phases": list(phases)}, *lines]


def number(task: str, error: float, **values: Any) -> Line:
    errors = {"gradient_error": error, "gradient_tolerance": 2e-6, "loss_error": 1e-8, "loss_tolerance": 1e-6}
    return result("numbers", task, **{"passed": error <= 2e-6, "repeated": True, "dtype": "float32", **errors, **values})


SMALL = {"batch": "64, 100", "dtype": "bfloat16"}
LARGE = {"batch": "256, 21841", "dtype": "float32"}


def test_times_and_memory_are_one_table_with_the_compiled_definition_where_it_was_measured() -> None:
    text = render(
        session(
            result("timing", copy_bytes=3.4e12, float16_flops=720e12),
            result(
                "timing",
                **SMALL,
                milliseconds={"kernels": 0.0312, "definition": 0.3849},
                megabytes={"kernels": 0.31, "definition": 0.52},
            ),
            result(
                "timing", **LARGE, milliseconds={"kernels": 31.21}, megabytes={"kernels": 189.3}, problem="definition: OOM"
            ),
            result("compiled", **SMALL, milliseconds=0.0631, megabytes=0.21),
        )
    )
    assert "| B, C | logits | kernels | definition | compiled | MB: kernels, definition, compiled |" in text
    assert "| 64, 100 | bfloat16 | 0.031 | 0.385 | 0.063 | 0.3, 0.5, 0.2 |" in text
    assert "| 256, 21841 | float32 | 31.2 | - | - | 189, -, - |" in text
    assert "copies at 3.40 TB/s and multiplies float16 matrices at 720 Tflop/s" in text
    assert "definition: OOM" in text


def test_kernels_are_listed_in_the_order_of_their_launches() -> None:
    text = render(
        session(
            result("kernels", **SMALL, kernels={"rows": [5.46, 1.0], "slopes": [4.7, 1.0], "scale": [3.0, 1.0]}),
            result(
                "kernels",
                **LARGE,
                kernels={"rows": [83.0, 1.0], "sums": [9.0, 2.0], "slopes": [2963.4, 1.0], "scale": [24, 1]},
            ),
        )
    )
    assert "| us of the GPU | rows | sums | slopes | scale |" in text
    assert "| 64, 100, bfloat16 | 5.5 | - | 4.7 | 3.0 |" in text
    assert "| 256, 21841, float32 | 83 | 9.0 in 2 | 2963 | 24.0 |" in text


def test_numbers_are_counted_and_those_nearest_to_their_bounds_are_listed() -> None:
    far = [number(f"far {index}", 1e-9) for index in range(20)]
    other = number("other", 1e-9, dtype="float16")
    bad = number("bad", 1e-9, passed=False)
    text = render(session(*far, number("near", 1.9e-6), other, bad))
    assert "22 of 23 right" in text
    assert "| other |" in text
    assert text.index("| near | 1.9e-06 | 2.0e-06 | 1.0e-08 |") < text.index("| far")
    assert text.count("| far") == report.NEAREST - 1


def test_failures_come_first_and_state_what_is_wrong() -> None:
    text = render(session(number("good", 1e-8), number("bad", 1e-8, passed=False, repeated=False)))
    assert "**FAILED**: 1 failures; 1 of 2 checks passed" in text
    assert "FAILED numbers: bad: gradient off by 1.00e-08 of 2.00e-06 allowed" in text
    assert "a second call gives different bits" in text
    assert text.index("FAILED numbers: bad") < text.index("## Numbers")


def test_failures_of_one_cause_are_listed_once() -> None:
    lines = [result("timing", f"batch {index}", passed=False, error="no driver") for index in range(5)]
    assert "FAILED timing: batch 0 and 4 more: no driver" in render(session(*lines))


def test_a_phase_without_a_result_is_listed() -> None:
    ended = {"kind": "phase", "at": 9.0, "phase": "graphs", "status": "complete", "seconds": 3, "done": 1, "tasks": 1}
    text = render(session({**ended, "not_reached": []}, phases=("graphs", "sweep")))
    assert "- sweep: not started" in text
    assert "- graphs" not in text


def test_the_best_launch_parameters_of_each_batch_have_their_gain() -> None:
    def swept(change: Line, changed: float) -> Line:
        return result("sweep", **SMALL, change=change, difference=1e-7, milliseconds={"as it is": 0.04, "changed": changed})

    text = render(session(*(swept({"warps": warps}, 0.05 - 0.002 * warps) for warps in (1, 2, 4, 8))))
    rows = [line for line in text.splitlines() if line.startswith("| 64, 100")]
    assert rows[0] == "| 64, 100 | bfloat16 | {'warps': 8} | 0.040 | 0.034 | 15.0 % | 1e-07 | best of 4 |"
    assert len(rows) == report.BEST


def test_probes_name_the_model_that_they_agree_with() -> None:
    models = {"h100": 4.0, "a100": 0.0, "rounded": 4.0}
    other = {"h100": 0.0, "a100": 0.0, "rounded": 2.0}
    assert "like the model h100" in render(
        session(result("probes", units=4.0, **models), result("probes", units=0.0, **other))
    )
    assert "like none of the models" in render(session(result("probes", units=3.0, **models)))


def test_host_graphs_and_sanitizer_have_their_sections() -> None:
    text = render(
        session(
            result("host", **SMALL, microseconds={"kernels": 655.0, "definition": 3719.0}),
            result("graphs", "schedule", passed=True, difference=0.0, compilations=2),
            result("sanitizer", "memcheck of a case", passed=False, said="an invalid write"),
        )
    )
    assert "| 64, 100 | bfloat16 | 655 | 3719 | 0.18 |" in text
    assert "ok schedule, difference 0, compilations 2, 1 s" in text
    assert "FAILED memcheck of a case" in text
    assert "an invalid write" in text


def test_the_machine_is_described() -> None:
    facts = {"GPU": "NVIDIA H200", "driver_version": "580", "torch": "2.11.0", "revision": "abc"}
    text = render(session(result("environment", facts=facts)))
    assert "NVIDIA H200 580; revision abc, torch 2.11.0; after 3 s." in text
    assert "- driver_version: 580" in text


def test_a_section_that_cannot_be_rendered_does_not_affect_the_others() -> None:
    text = render(session(result("host", **SMALL, microseconds={}), number("good", 1e-8)))
    assert "host: KeyError" in text
    assert "| good |" in text
