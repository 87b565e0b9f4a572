"""Every example in docs/examples trains its student."""

import importlib
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bickd_kernels import bickd_loss

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"

LIBRARIES = {
    "plain_loop": (),
    "semantic_segmentation": (),
    "huggingface_trainer": ("transformers", "accelerate"),
    "lightning_module": ("lightning",),
    "timm_task": ("timm",),
    "torchdistill_registration": ("torchdistill",),
}
"""What each example needs besides PyTorch; ``data_parallel`` is not among them, because torchrun starts it."""


@pytest.fixture(autouse=True)
def somewhere_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)


def load(name: str) -> ModuleType:
    for library in LIBRARIES[name]:
        pytest.importorskip(library, reason=f"docs/examples/{name}.py needs {library}, which is not installed")
    return importlib.import_module(name)


def test_every_example_is_listed_and_tested() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {*LIBRARIES, "data_parallel"}
    listed = re.findall(r"^\| \[`(\w+)\.py`\]\(\1\.py\)", (EXAMPLES / "README.md").read_text(), flags=re.MULTILINE)
    assert sorted(listed) == sorted(names)


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_loss_of_a_fixed_batch_falls(name: str) -> None:
    example = load(name)
    first, last = example.main(1), example.main(20)
    assert math.isfinite(first)
    assert last < first


def printed_losses(ranks: int) -> list[float]:
    """What ``data_parallel`` prints under torchrun, on the CPU."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, str(EXAMPLES / "data_parallel.py")],
        env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [float(loss) for loss in re.findall(r"^epoch \d+: loss (\S+)$", done.stdout, flags=re.MULTILINE)]


def test_two_ranks_train_as_one_process_with_the_whole_batch() -> None:
    alone, together = printed_losses(1), printed_losses(2)
    assert len(alone) == 20
    assert alone[-1] < alone[0]
    # float32 sums in another order: a few roundings of 6e-8 per step. The loss of a rank's own slice would be 10 % off.
    torch.testing.assert_close(torch.tensor(together), torch.tensor(alone), rtol=1e-5, atol=0)


def test_the_hugging_face_trainer_divides_by_the_accumulation_steps_and_evaluates(tmp_path: Path) -> None:
    example = load("huggingface_trainer")
    # All samples are equal, and so are all micro-batches.
    samples = [{"pixel_values": torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0)), "labels": 1}] * 8
    norms = []
    for accumulated in (1, 2):
        torch.manual_seed(0)
        arguments = example.TrainingArguments(
            output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=4, gradient_accumulation_steps=accumulated,
            logging_steps=1, save_strategy="no", report_to="none",
        )  # fmt: skip
        student, teacher = example.classifier(8), example.classifier(16)
        trainer = example.DistillationTrainer(student, arguments, train_dataset=samples, teacher=teacher)
        trainer.train()
        norms.append(trainer.state.log_history[0]["grad_norm"])
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)

    evaluated = trainer.evaluate(samples)["eval_loss"]
    images, labels = torch.stack([sample["pixel_values"] for sample in samples]), torch.ones(8, dtype=torch.int64)
    with torch.no_grad():
        expected = bickd_loss(student.cpu()(images).logits, teacher.cpu()(images).logits, labels)
    assert evaluated == pytest.approx(expected.item(), rel=1e-5)


def test_lightning_does_not_change_the_teacher() -> None:
    example = load("lightning_module")
    teacher, student = (nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3)) for _ in range(2))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    trainer = example.L.Trainer(max_steps=2, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(
        example.Distillation(student, teacher),
        DataLoader(TensorDataset(torch.randn(8, 5), torch.arange(8) % 3), batch_size=4),
    )
    assert student[1].num_batches_tracked == 2
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name])
