"""The metrics of a run on disk: metrics.jsonl, one line per epoch, and scalars for TensorBoard."""

import json
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from training.models import Network
from training.observer import Observer
from training.state import EpochRecord
from training.storage import files
from training.storage.run_folder import METRICS, TENSORBOARD


class Records(Observer):
    """Writes the metrics to a run's folder.

    ``before`` are the completed epochs of a resumed run; other epochs in the file are dropped.
    """

    def __init__(self, folder: Path, before: list[EpochRecord]) -> None:
        self.path = folder / METRICS
        files.write_text(self.path, "".join(_line(record) for record in before))
        files.make_folder(folder / TENSORBOARD)
        # Scalars of later epochs come from a run that was killed before it saved them.
        self.writer = SummaryWriter(str(folder / TENSORBOARD), purge_step=len(before) + 1)

    def on_epoch(self, record: EpochRecord, network: Network, trained: Network) -> None:
        with files.append(self.path) as file:
            file.write(_line(record).encode())
        scalars = record.as_dict()
        for name, value in {**scalars, **{f"term/{name}": value for name, value in record.terms.items()}}.items():
            if isinstance(value, int | float):
                self.writer.add_scalar(name, value, record.epoch)
        self.writer.flush()

    def close(self) -> None:
        """Closes the files."""
        self.writer.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


def read_records(folder: Path) -> list[EpochRecord]:
    """The epochs of a run, from its folder."""
    return [EpochRecord(**line) for line in read_metrics(folder)]


def _line(record: EpochRecord) -> str:
    return json.dumps(record.as_dict()) + "\n"
