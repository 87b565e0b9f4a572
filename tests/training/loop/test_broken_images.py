"""Images that cannot be read are left out, named and counted, or stop a strict run."""

import pytest
import torch
from tiny_training import Noted, TinySplit, linear_model, make_config, make_trainer, tiny_splits
from torch import Tensor

from training.loop.evaluation import UnreadableImageError
from training.observer import Observer, StepReport


def test_a_broken_image_is_left_out_reported_and_counted() -> None:
    noted = Noted()
    splits = tiny_splits(TinySplit(broken=(4, 11)))
    (record,) = make_trainer(splits=splits, observer=noted, config=make_config(epochs=1, batch_size=10)).train()
    assert sorted(noted.broken) == ["image 11 is broken", "image 4 is broken"]
    assert record.skipped == 2


def test_a_broken_image_stops_a_strict_run() -> None:
    config = make_config(strict_data=True, batch_size=10)
    with pytest.raises(UnreadableImageError, match="image 4 is broken"):
        make_trainer(splits=tiny_splits(TinySplit(broken=(4,))), config=config).train()


def test_an_epoch_without_a_readable_image_stops_the_run() -> None:
    with pytest.raises(UnreadableImageError, match="no image of epoch 1 could be read"):
        make_trainer(splits=tiny_splits(TinySplit(broken=tuple(range(30))))).train()


def test_a_step_without_any_image_changes_nothing_and_the_run_continues() -> None:
    student, before, changed = linear_model(), list[Tensor](), list[bool]()

    class Watch(Observer):
        def on_step(self, report: StepReport) -> None:
            weight = student[1].weight.detach().clone()
            changed.append(not before or not torch.equal(weight, before[-1]))
            before.append(weight)

    broken = tuple(range(1, 30, 2))
    config = make_config(batch_size=1, epochs=1, ema_decay=0.5)
    trainer = make_trainer(student, config=config, splits=tiny_splits(TinySplit(broken=broken)), observer=Watch())
    (record,) = trainer.train()
    assert record.skipped == 15
    assert sum(changed) == 15
    assert trainer.average.updates == 15


def test_broken_images_of_validation_and_test_are_left_out_named_and_counted() -> None:
    noted = Noted()
    splits = tiny_splits(None, TinySplit(broken=(1, 2)), TinySplit(broken=(5,)))
    (record,) = make_trainer(splits=splits, observer=noted, config=make_config(epochs=1)).train()
    assert noted.broken == ["image 1 is broken", "image 2 is broken", "image 5 is broken"]
    assert (record.skipped, record.validation_skipped, record.test_skipped) == (0, 2, 1)


@pytest.mark.parametrize("place", [1, 2])
def test_a_broken_image_of_any_split_stops_a_strict_run(place: int) -> None:
    splits = [None, None, None]
    splits[place] = TinySplit(broken=(3,))
    with pytest.raises(UnreadableImageError, match="strict_data: image 3 is broken"):
        make_trainer(splits=tiny_splits(*splits), config=make_config(strict_data=True)).train()
