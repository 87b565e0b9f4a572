"""``report.md`` from the lines of ``results.jsonl``; its tables are those of ``docs/performance.md``."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

Line = dict[str, Any]

NEAREST = 4
"""Listed cases of the numbers phase for each dtype: those closest to their tolerance."""

VERSIONS = ("revision", "torch", "triton", "Python")

BEST = 3
"""Listed launch parameters per batch."""


def failures(lines: Sequence[Line]) -> list[Line]:
    """Wrong results, and tasks in which a process crashed."""
    return [
        line
        for line in lines
        if (line["kind"] == "result" and line.get("passed") is False) or (line["kind"] == "lost" and line["crashed"])
    ]


def unfinished(lines: Sequence[Line]) -> list[str]:
    """Tasks without a result, by phase."""
    stopped = [
        f"{line['phase']}: {line['task']}, {line['how']}" for line in lines if line["kind"] == "lost" and not line["crashed"]
    ]
    without = [f"{line['phase']}: {line['task']}, {line['problem']}" for line in _results(lines) if "problem" in line]
    found = [*stopped, *without]
    ended = {line["phase"]: line for line in lines if line["kind"] == "phase"}
    for phase in _phases(lines):
        if phase not in ended:
            found.append(f"{phase}: not started")
        elif ended[phase]["status"] == "running":
            found.append(f"{phase}: was running")
        elif ended[phase]["not_reached"]:
            names = ended[phase]["not_reached"]
            found.append(f"{phase}: {len(names)} tasks were not reached, the first is {names[0]}")
    return found


def passed(lines: Sequence[Line]) -> bool:
    """Whether nothing failed and every planned number was checked."""
    return not failures(lines) and not any(each.startswith("numbers: ") for each in unfinished(lines))


def write_report(lines: Sequence[Line], folder: Path) -> None:
    """Writes ``report.md`` atomically, so that readers never see a partial report."""
    path = folder / "report.md.new"
    path.write_text(render(lines))
    os.replace(path, folder / "report.md")


def render(lines: Sequence[Line]) -> str:
    """The report."""
    parts = ["# GPU check"]
    for section in (
        _verdict,
        _failed,
        _unfinished,
        _measured,
        _correlations,
        _kernels,
        _host,
        _numbers,
        _graphs,
        _probes,
        _sanitizer,
        _sweep,
        _rest,
    ):
        try:
            parts += section(lines)
        except Exception as error:
            # A section that fails must not prevent the others.
            parts.append(f"{section.__name__.strip('_')}: {type(error).__name__}: {error}; results.jsonl has the data.")
    return "\n\n".join(parts) + "\n"


def _phases(lines: Sequence[Line]) -> list[str]:
    return next((line["phases"] for line in lines if line["kind"] == "session"), [])


def _results(lines: Sequence[Line], phase: str | None = None) -> list[Line]:
    return [line for line in lines if line["kind"] == "result" and phase in (None, line["phase"])]


def _table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    first, *others = (f"| {' | '.join(row)} |" for row in (list(headings), *rows))
    return "\n".join([first, "|---" * (first.count("|") - 1) + "|", *others])


def _bullets(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _verdict(lines: Sequence[Line]) -> list[str]:
    facts = _facts(lines)
    checked = [line for line in _results(lines) if "passed" in line]
    wrong = failures(lines)
    open_ends = unfinished(lines)
    if wrong:
        verdict = f"**FAILED**: {len(wrong)} failures"
    elif open_ends:
        verdict = "**UNFINISHED**, no failure"
    else:
        verdict = "**PASSED**"
    right = sum(line["passed"] for line in checked)
    about = " ".join(facts.get(name, "") for name in ("GPU", "driver_version")).strip() or "GPU unknown"
    versions = ", ".join(f"{name} {facts[name]}" for name in VERSIONS if name in facts)
    return [
        f"{verdict}; {right} of {len(checked)} checks passed, {len(open_ends)} without a result.",
        f"{about}; {versions}; after {lines[-1]['at']:.0f} s.",
    ]


def _facts(lines: Sequence[Line]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in _results(lines, "environment"):
        found |= line.get("facts", {})
    return found


def _failed(lines: Sequence[Line]) -> list[str]:
    tasks: dict[tuple[str, str], list[str]] = {}
    for line in failures(lines):
        tasks.setdefault((line["phase"], _what_is_wrong(line)), []).append(line["task"])
    items = [
        f"FAILED {phase}: {names[0]}{f' and {len(names) - 1} more' * (len(names) > 1)}: {what}"
        for (phase, what), names in tasks.items()
    ]
    return ["## Failures", _bullets(items)] if items else []


def _what_is_wrong(line: Line) -> str:
    if line["kind"] == "lost":
        return f"the process ended by {line['how']}" + "".join(f"\n  > {each}" for each in line["log"].splitlines()[-6:])
    if "error" in line:
        return str(line["error"])
    if "gradient_error" in line:
        bits = "" if line.get("repeated", True) else "; a second call gives different bits"
        return (
            f"gradient off by {line['gradient_error']:.2e} of {line['gradient_tolerance']:.2e} allowed, "
            f"loss by {line['loss_error']:.2e} of {line['loss_tolerance']:.2e}{bits}"
        )
    return ", ".join(
        f"{name} {value}" for name, value in line.items() if name not in ("kind", "at", "phase", "task", "passed")
    )


def _unfinished(lines: Sequence[Line]) -> list[str]:
    items = unfinished(lines)
    return ["## Without a result", _bullets(items)] if items else []


def _measured(lines: Sequence[Line]) -> list[str]:
    timed = [line for line in _results(lines, "timing") if "milliseconds" in line]
    if not timed:
        return []
    compiled = {(line["batch"], line["dtype"]): line for line in _results(lines, "compiled") if "milliseconds" in line}
    rows = []
    for line in timed:
        other = compiled.get((line["batch"], line["dtype"]), {})
        times, memory = line["milliseconds"], line["megabytes"]
        columns = (times.get("kernels"), times.get("definition"), other.get("milliseconds"))
        used = (memory.get("kernels"), memory.get("definition"), other.get("megabytes"))
        rows.append([line["batch"], line["dtype"], *map(_three_digits, columns), ", ".join(map(_two_digits, used))])
    headings = ("B, C", "logits", "kernels", "definition", "compiled", "MB: kernels, definition, compiled")
    rates = [
        f"This card copies at {line['copy_bytes'] / 1e12:.2f} TB/s "
        f"and multiplies float16 matrices at {line['float16_flops'] / 1e12:.0f} Tflop/s."
        for line in _results(lines, "timing")
        if "copy_bytes" in line
    ]
    about = "Forward and backward, milliseconds of GPU time: replayed from CUDA graphs, kernels and definition interleaved."
    return ["## Measured", about, _table(headings, rows), *rates]


def _correlations(lines: Sequence[Line]) -> list[str]:
    rows = []
    for line in _results(lines, "timing"):
        if "similarities" in line:
            cosine, correlation = (line["similarities"][name] for name in ("cosine", "correlation"))
            times = (_three_digits(cosine), _three_digits(correlation), f"{correlation / cosine:.2f}")
            rows.append([line["batch"], line["dtype"], *times])
    return ["## Correlations", _table(("B, C", "logits", "cosine", "correlation", "ratio"), rows)] if rows else []


def _three_digits(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _two_digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _kernels(lines: Sequence[Line]) -> list[str]:
    profiled = [line for line in _results(lines, "kernels") if "kernels" in line]
    if not profiled:
        return []
    names = sorted({name for line in profiled for name in line["kernels"]}, key=_place_of(profiled))
    rows = [
        [f"{line['batch']}, {line['dtype']}", *(_microseconds(line["kernels"].get(name)) for name in names)]
        for line in profiled
    ]
    return ["## Kernels", _table(["us of the GPU", *names], rows)]


def _place_of(profiled: Sequence[Line]) -> Callable[[str], float]:
    """The mean position of a kernel among the launches of a step, by its name."""

    def place(name: str) -> float:
        places = [list(line["kernels"]).index(name) / len(line["kernels"]) for line in profiled if name in line["kernels"]]
        return sum(places) / len(places)

    return place


def _microseconds(found: Sequence[float] | None) -> str:
    if found is None:
        return "-"
    total, launches = found
    return (f"{total:.1f}" if total < 50 else f"{total:.0f}") + (f" in {launches:g}" if launches != 1 else "")


def _host(lines: Sequence[Line]) -> list[str]:
    found = [line for line in _results(lines, "host") if "microseconds" in line]
    rows = []
    for line in found:
        kernels, plain = (line["microseconds"][name] for name in ("kernels", "definition"))
        rows.append([line["batch"], line["dtype"], f"{kernels:.0f}", f"{plain:.0f}", f"{kernels / plain:.2f}"])
    headings = ("B, C", "logits", "kernels", "definition", "ratio")
    return ["## Host", "Host time of a step in microseconds.", _table(headings, rows)] if rows else []


def _numbers(lines: Sequence[Line]) -> list[str]:
    results = _results(lines, "numbers")
    compared = [line for line in results if "gradient_error" in line]
    if not results:
        return []
    nearest = []
    for dtype in dict.fromkeys(line["dtype"] for line in compared):
        own = [line for line in compared if line["dtype"] == dtype]
        nearest += sorted(own, key=lambda line: -line["gradient_error"] / line["gradient_tolerance"])[:NEAREST]
    rows = [
        [line["task"], *(f"{line[name]:.1e}" for name in ("gradient_error", "gradient_tolerance", "loss_error"))]
        for line in nearest
    ]
    right = sum(line.get("passed", False) for line in results)
    about = f"{right} of {len(results)} right, the same bits twice. Closest to their bounds:"
    return ["## Numbers", about, _table(("case", "gradient", "allowed", "loss"), rows)]


def _graphs(lines: Sequence[Line]) -> list[str]:
    results = _results(lines, "graphs")
    extras = ("difference", "compilations")
    items = []
    for line in results:
        about = ", ".join(f"{name} {line[name]:g}" for name in extras if name in line)
        items.append(
            f"{'ok' if line.get('passed') else 'FAILED'} {line['task']}{', ' * bool(about)}{about}, {line['seconds']:.0f} s"
        )
    return ["## Graphs and compilation", _bullets(items)] if items else []


def _probes(lines: Sequence[Line]) -> list[str]:
    models = ("h100", "a100", "rounded")
    results = [line for line in _results(lines, "probes") if "units" in line]
    if not results:
        return []
    rows = [[line["task"], f"{line['units']:g}", *(f"{line[model]:g}" for model in models)] for line in results]
    agreeing = [model for model in models if all(line["units"] == line[model] for line in results)]
    about = (
        f"The tensor cores sum like the model {agreeing[0]}."
        if agreeing
        else "The tensor cores sum like none of the models."
    )
    return ["## Tensor cores", about, _table(("in units of 2^-23", "here", *models), rows)]


def _sanitizer(lines: Sequence[Line]) -> list[str]:
    results = [line for line in _results(lines, "sanitizer") if "passed" in line]
    items = [f"{'ok' if line['passed'] else 'FAILED'} {line['task']}, {line['seconds']:.0f} s" for line in results]
    items += [f"{line['task']}: {line['skipped']}" for line in _results(lines, "sanitizer") if "skipped" in line]
    return ["## compute-sanitizer", _bullets(items)] if items else []


def _sweep(lines: Sequence[Line]) -> list[str]:
    results = [line for line in _results(lines, "sweep") if "milliseconds" in line]
    rows = []
    for batch, dtype in dict.fromkeys((line["batch"], line["dtype"]) for line in results):
        own = [line for line in results if (line["batch"], line["dtype"]) == (batch, dtype)]
        for line in sorted(own, key=_time_left)[:BEST]:
            gain = f"{100 * (1 - _time_left(line)):.1f} %"
            times = (_three_digits(line["milliseconds"][name]) for name in ("as it is", "changed"))
            rows.append(
                [batch, dtype, str(line["change"]), *times, gain, f"{line['difference']:.0e}", f"best of {len(own)}"]
            )
    headings = ("B, C", "logits", "launch parameters", "ms as it is", "ms", "gain", "difference", "")
    skipped = [line["skipped"] for line in _results(lines, "sweep") if "skipped" in line]
    about = [f"{len(skipped)} could not be compiled or launched, for example: {skipped[0]}"] if skipped else []
    return ["## Launch parameters", _table(headings, rows), *about] if rows or skipped else []


def _time_left(line: Line) -> float:
    return float(line["milliseconds"]["changed"] / line["milliseconds"]["as it is"])


def _rest(lines: Sequence[Line]) -> list[str]:
    ended = [line for line in lines if line["kind"] == "phase" and line["status"] != "running"]
    rows = [
        [line["phase"], line["status"], f"{line['done']} of {line['tasks']}", f"{line['seconds']:.0f}"] for line in ended
    ]
    facts = _bullets(f"{name}: {value}" for name, value in _facts(lines).items())
    return ["## Phases", _table(("phase", "", "tasks", "s"), rows), "## Machine", facts or "unknown"]
