"""Progress of a run: a bar in a terminal, plain lines elsewhere."""

from io import StringIO

from rich.console import Console
from torch import nn

from training.models import Network
from training.observer import StepReport
from training.progress import RunProgress
from training.state import EpochRecord

STEP = StepReport("main", 2, 3, 50, 100, 1.25, {"ce": 1.5, "kd": 0.75}, 61.4, 830.0)
RECORD = EpochRecord(2, 1.25, {"ce": 1.5}, 61.4, 55.5, 54.25, 100, 8.0, 1.0, 830.0, 0.05, 7)


def shown(*, terminal: bool, broken: int = 0) -> str:
    output = StringIO()
    console = Console(file=output, force_terminal=terminal, width=160, color_system=None)
    with RunProgress(console, "kd cnn_small seed 0", 3) as progress:
        progress.on_step(STEP)
        progress.bar.refresh()
        progress.on_broken([f"image {number} is broken" for number in range(broken)])
        network = Network(nn.Linear(4, 2), 2)
        progress.on_epoch(RECORD, network, network)
    return output.getvalue()


def test_a_terminal_shows_a_bar_with_steps_speed_accuracy_and_terms() -> None:
    printed = shown(terminal=True)
    for part in ("epoch 2/3", "50/100", "830 images/s", "accuracy 61.4 %", "loss 1.250", "ce 1.500", "kd 0.750"):
        assert part in printed


def test_outside_a_terminal_each_epoch_prints_a_plain_line_and_no_bar() -> None:
    assert shown(terminal=False) == (
        "kd cnn_small seed 0: epoch 2/3, loss 1.2500, validation 55.50 %, test 54.25 %, 8.0 s, 830 images/s, "
        "7 images left out\n"
    )


def test_the_first_broken_images_are_named_and_all_are_counted() -> None:
    printed = shown(terminal=False, broken=9)
    assert [line for line in printed.splitlines() if line.startswith("left out")] == [
        f"left out: image {number} is broken" for number in range(5)
    ]
    assert "9 images could not be read and were left out" in printed
