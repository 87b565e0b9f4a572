"""A Hugging Face Trainer whose compute_loss distils an image classifier. Install: pip install "transformers[torch]>=5.0"."""

from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from bickd_kernels import BicKDLoss


class DistillationTrainer(Trainer):
    def __init__(self, *args: Any, teacher: nn.Module, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.teacher = self.accelerator.prepare_model(teacher.eval(), evaluation_mode=True)
        self.criterion = BicKDLoss()
        # The loss is a mean over the micro-batch, which the Trainer has to divide by the accumulation steps.
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        outputs = model(pixel_values=inputs["pixel_values"])
        with torch.no_grad():
            teacher_logits = self.teacher(pixel_values=inputs["pixel_values"]).logits
        loss = self.criterion(outputs.logits, teacher_logits, inputs["labels"])
        return (loss, outputs) if return_outputs else loss


def classifier(width: int) -> nn.Module:
    shape = {"hidden_size": width, "intermediate_size": width, "num_hidden_layers": 1, "num_attention_heads": 2}
    return ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_labels=10, **shape))


def main(steps: int = 20) -> float:
    """Trains a student on one random batch; returns the mean loss of all steps."""
    torch.manual_seed(0)
    dataset = [{"pixel_values": torch.randn(3, 8, 8), "labels": sample % 10} for sample in range(32)]
    arguments = TrainingArguments(
        output_dir="runs/huggingface",
        max_steps=steps,
        per_device_train_batch_size=32,
        learning_rate=0.01,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
    )
    trainer = DistillationTrainer(classifier(32), arguments, train_dataset=dataset, teacher=classifier(64))
    loss: float = trainer.train().training_loss
    return loss


if __name__ == "__main__":
    main()
