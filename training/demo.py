"""``make demo``: a teacher, then students by ce, kd, dist and bickd on digits100, three seeds each; results in runs/demo.

The teacher sees new augmentations of the training images in every epoch. The students see two of each image, again and
again, so that they overfit without a teacher: people distil where data is short. docs/results.md says how that was chosen.

Weights and temperatures are each method's defaults: the literature's for kd and dist, and this project's for bickd
(docs/loss.md). The methods share model, epochs, batches, optimizer, schedule, initial weights and augmentation. No setting
of a method was chosen for this demo; the best epoch is the one with the highest validation accuracy.
"""

import json
import shutil
import time
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from training import report
from training.config import Config
from training.data import Splits, load_splits
from training.loop.distributed import Processes
from training.loop.engine import build
from training.loop.evaluation import predictions
from training.models import Network, make_model
from training.run import run
from training.storage import checkpoint, files
from training.storage.run_folder import CHECKPOINT

OUTPUT = Path("runs/demo")
METHODS = ("ce", "kd", "dist", "bickd")
SEEDS = (0, 1, 2)
TEACHER = "cnn_large"
STUDENT = "cnn_small"
TEACHER_EPOCHS = 18
STUDENT_EPOCHS = 20
VIEWS = 2
"""Augmented versions of each training image that the students see."""


def main(
    output: Path = OUTPUT,
    seeds: tuple[int, ...] = SEEDS,
    teacher_epochs: int = TEACHER_EPOCHS,
    student_epochs: int = STUDENT_EPOCHS,
) -> None:
    """Trains everything anew and writes results.md, results.json, curves.png and similarity.png."""
    console, start = Console(), time.perf_counter()
    if output.exists():
        shutil.rmtree(output)
    teacher_folder = output / "teacher"
    run(Config(method="ce", student=TEACHER, epochs=teacher_epochs, seed=100, output=teacher_folder), console)
    teacher_file = teacher_folder / CHECKPOINT
    runs: report.Runs = {method: [] for method in METHODS}
    for seed in seeds:
        for method in METHODS:
            taught = method != "ce"
            config = Config(
                method=method,
                student=STUDENT,
                teacher_checkpoint=teacher_file if taught else None,
                teacher_cache=output / f"teacher-output-{seed}" if taught else None,
                views=VIEWS,
                epochs=student_epochs,
                seed=seed,
                output=output / f"{method}-{seed}",
            )
            runs[method].append(run(config, console))

    teacher = checkpoint.load(teacher_file, dataset="digits100")
    cells = report.rows(runs)
    title = f"digits100, {STUDENT} under {TEACHER} ({teacher.test_accuracy:.2f} %), {len(seeds)} seeds, percent"
    console.print(report.terminal(cells, title))
    files.write_text(output / "results.md", f"{title}\n\n{report.markdown(cells)}")
    results = {method: [[record.as_dict() for record in records] for records in all_] for method, all_ in runs.items()}
    files.write_text(output / "results.json", json.dumps({"teacher": teacher.test_accuracy, "students": results}, indent=1))
    report.plot_curves(runs, teacher.test_accuracy, output / "curves.png")
    plot_similarities(output, teacher, seeds[0])
    console.print(f"{time.perf_counter() - start:.0f} s; table, curves and heat maps are in {output}", soft_wrap=True)


def plot_similarities(output: Path, teacher: checkpoint.Trained, seed: int) -> None:
    """Heat maps of the untrained student and of those trained by ce and bickd, over the test split."""
    config = Config(method="ce", student=STUDENT)
    splits = load_splits(config.dataset, config.data)
    students = {
        "before training": build(lambda: make_model(STUDENT, splits.channels, splits.classes), seed),
        "after ce": checkpoint.load(output / f"ce-{seed}" / CHECKPOINT, dataset=config.dataset).model,
        "after bickd": checkpoint.load(output / f"bickd-{seed}" / CHECKPOINT, dataset=config.dataset).model,
    }
    reference = logits_of(teacher.model, splits, config)
    panels = {name: report.class_similarity(logits_of(model, splits, config), reference) for name, model in students.items()}
    report.plot_similarity(panels, output / "similarity.png")


def logits_of(model: nn.Module, splits: Splits, config: Config) -> Tensor:
    """Logits ``(N, C)`` of the test split."""
    network = Network(model, splits.classes)
    parts = predictions([network], splits.test, config, torch.device("cpu"), Processes())
    return torch.cat([logits for (logits,), _ in parts])


if __name__ == "__main__":
    main()
