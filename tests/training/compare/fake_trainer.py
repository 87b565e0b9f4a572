"""Replaces ``python -m training.train`` in the tests of compare: writes the files of a run within milliseconds.

Validation accuracy rises with the product of the settings, test accuracy falls with it. FAKE_FAILURES maps prefixes of
folder names to exit statuses, FAKE_PATIENCE is the duration of a run in seconds, FAKE_CALLS the file that lists the calls.
FAKE_COMPANY is the number of runs that must have started before one ends.
"""

import json
import math
import os
import signal
import sys
import time
from pathlib import Path

import yaml

HANDLES_SIGNALS = "signals are handled from now on"


def main() -> int:
    config = yaml.safe_load(Path(sys.argv[sys.argv.index("--config") + 1]).read_text())
    output = Path(config["output"])
    state = output / "last.pt"
    call = {
        "folder": output.name, "seed": config["seed"], "method": config["method"], "settings": config["settings"],
        "teacher_checkpoint": config["teacher_checkpoint"], "teacher_cache": config["teacher_cache"],
        "views": config["views"], "from_state": state.exists(), "resume": "--resume" in sys.argv,
        "threads": os.environ["OMP_NUM_THREADS"], "start": time.monotonic(),
    }  # fmt: skip
    status = run(config, output, state)
    with open(os.environ["FAKE_CALLS"], "a") as file:
        file.write(json.dumps({**call, "end": time.monotonic()}) + "\n")
    return status


def wait_for_company(started: Path) -> None:
    with started.open("a") as file:
        file.write("started\n")
    end = time.monotonic() + 60
    while len(started.read_text().splitlines()) < int(os.environ.get("FAKE_COMPANY", "0")):
        if time.monotonic() > end:
            raise SystemExit("no other run has started")
        time.sleep(0.005)


def run(config: dict, output: Path, state: Path) -> int:
    def save_and_leave(number: int, frame: object) -> None:
        state.write_text("half of it")
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, save_and_leave)
    print(HANDLES_SIGNALS, flush=True)
    wait_for_company(Path(f"{os.environ['FAKE_CALLS']}-started"))
    if (output / "result.json").exists():
        raise SystemExit("finished runs must not be started")
    time.sleep(float(os.environ.get("FAKE_PATIENCE", "0")))
    for beginning, status in json.loads(os.environ.get("FAKE_FAILURES", "{}")).items():
        if output.name.startswith(beginning):
            print(f"error: {beginning} went wrong")
            return status
    validation = 50 + 5 * sum(math.log10(value) for value in config["settings"].values()) + 0.5 * config["seed"] % 7
    test = 100 - validation
    epoch = {"epoch": 1, "test_accuracy": test, "validation_accuracy": validation, "steps": 10, "seconds": 0.2}
    (output / "metrics.jsonl").write_text(json.dumps(epoch) + "\n")
    (output / "checkpoint.pt").write_text(f"model of {config['method']}, {config['epochs']} epochs")
    result = {
        "method": config["method"], "student": config["student"], "dataset": config["dataset"], "seed": config["seed"],
        "epochs": config["epochs"], "test_accuracy": test, "validation_accuracy": validation, "best_epoch": 1,
        "best_test_accuracy": test, "steps": 10, "seconds": 0.2, "first_stage_seconds": 0.0,
        "teacher_accuracy": None if config["method"] == "ce" else 80.0,
    }  # fmt: skip
    (output / "result.json").write_text(json.dumps(result))
    state.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
