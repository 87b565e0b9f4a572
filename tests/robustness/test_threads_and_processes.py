"""The losses called from several threads, after fork, in spawned processes, and as modules that are copied or stored."""

import copy
import multiprocessing
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import KINDS, call, evaluate, loss_and_gradient, make_inputs, term_rounding, with_absences
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bickd_kernels import BicKDLoss, BilateralLoss

THREADS = 8
PATIENCE = 60
"""Seconds after which threads or processes that wait for each other count as failed."""

MODULES = [BilateralLoss, BicKDLoss]
OPTIONS: dict[str, Any] = {"contrast_temperature": 0.1, "sample_wise_weight": 2.0, "ignore_index": 3, "positives": "sample"}


def jobs() -> list[Callable[[], tuple[Tensor, Tensor]]]:
    """Calls of several losses, shapes, dtypes and backends."""
    batches = [make_inputs(9, 7), with_absences(make_inputs(40, 30)), make_inputs(70, 11, dtype=torch.float16)]
    batches[0].target[2] = -100
    labelled = [
        (kind, inputs) for kind in KINDS for inputs in batches if kind != "bilateral_unlabelled" or inputs is not batches[1]
    ]
    return [
        lambda kind=kind, inputs=inputs, backend=backend: evaluate(kind, inputs, backend=backend)
        for kind, inputs in labelled
        for backend in ("torch", "reference")
    ]


@pytest.mark.parametrize("same", [True, False], ids=["the same call at a time", "different calls at a time"])
def test_eight_threads_get_the_bits_of_one(same: bool) -> None:
    tasks = jobs()
    expected = [task() for task in tasks]
    barrier = threading.Barrier(THREADS)
    running, most = [0], [0]
    lock = threading.Lock()
    threads = torch.get_num_threads()

    def work(thread: int) -> list[int]:
        # A new thread starts with PyTorch's default, and the number of threads in a sum decides its order.
        torch.set_num_threads(threads)
        differing = []
        for turn in range(5 * len(tasks)):
            index = (turn if same else turn + thread) % len(tasks)
            barrier.wait(PATIENCE)
            with lock:
                running[0] += 1
                most[0] = max(most[0], running[0])
            try:
                actual = tasks[index]()
            except Exception:
                barrier.abort()
                raise
            with lock:
                running[0] -= 1
            if not all(torch.equal(value, other) for value, other in zip(actual, expected[index], strict=True)):
                differing.append(index)
        return differing

    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(work, range(THREADS))) == [[]] * THREADS
    # Several calls ran at the same time, not one after the other.
    assert most[0] > 1


class Losses(Dataset[Tensor]):
    """A data set of losses and gradients, which the worker that loads a sample computes."""

    def __init__(self, backend: str) -> None:
        self.backend = backend

    def __len__(self) -> int:
        return 2 * len(KINDS)

    def __getitem__(self, index: int) -> Tensor:
        loss, gradient = evaluate(KINDS[index // 2], make_inputs(30, 20, seed=index), backend=self.backend)
        return torch.cat([loss[None], gradient.flatten()])


def in_a_new_process(function: Callable[..., None], *arguments: Any) -> None:
    """Runs a function that forks, in a new process: PyTorch refuses backward after a fork if the process has used fake
    tensors, as tests of compilers and exporters do.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        executor.submit(function, *arguments).result(2 * PATIENCE)


def assert_workers_agree(start: str, backend: str) -> None:
    losses = Losses(backend)
    # The parent runs the loss and backward before its workers start.
    expected = torch.stack([losses[index] for index in range(len(losses))])
    loader = DataLoader(losses, batch_size=1, num_workers=2, multiprocessing_context=start, timeout=PATIENCE)
    # A worker has one thread, its parent may have more, and the number of threads may decide the order of a sum.
    torch.testing.assert_close(torch.cat(list(loader)), expected, rtol=1e-12, atol=term_rounding())


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_worker_of_a_data_loader_computes_what_its_parent_does(start: str, backend: str) -> None:
    in_a_new_process(assert_workers_agree, start, backend)


def assert_modules_travel(start: str) -> None:
    inputs = make_inputs(12, 7)
    criteria = [module(**OPTIONS) for module in MODULES]
    expected = [loss_and_gradient(criterion, inputs) for criterion in criteria]
    # A forked process has lost the threads of its parent: with more than one, PyTorch would wait for them forever.
    with multiprocessing.get_context(start).Pool(1, torch.set_num_threads, (1,)) as pool:
        results = pool.starmap_async(loss_and_gradient, [(criterion, inputs) for criterion in criteria]).get(PATIENCE)
    # The number of threads may decide the order of a sum.
    rounding = term_rounding(contrast_temperature=OPTIONS["contrast_temperature"])
    torch.testing.assert_close(results, expected, rtol=1e-12, atol=rounding)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_module_works_in_another_process(start: str) -> None:
    in_a_new_process(assert_modules_travel, start)


class Distiller(nn.Module):
    """A model that holds a criterion beside parameters of its own."""

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.layer = nn.Linear(7, 7, dtype=torch.float64)
        self.criterion = criterion

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        return self.criterion(self.layer(student), teacher, target)


def bare(criterion: nn.Module) -> nn.Module:
    return criterion


def by_pickle(module: nn.Module, folder: Path) -> Any:
    return pickle.loads(pickle.dumps(module))


def by_deepcopy(module: nn.Module, folder: Path) -> Any:
    return copy.deepcopy(module)


def by_file(module: nn.Module, folder: Path) -> Any:
    torch.save(module, folder / "module.pt")
    with pytest.MonkeyPatch.context() as patch:
        # The trainer sets this variable when it is imported, and with it a whole module cannot be loaded.
        patch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)
        return torch.load(folder / "module.pt", weights_only=False)


@pytest.mark.parametrize("copied", [by_pickle, by_deepcopy, by_file])
@pytest.mark.parametrize("held", [bare, Distiller])
@pytest.mark.parametrize("module", MODULES)
def test_a_copy_has_the_same_options_and_results_and_is_independent(
    module: Any, held: Any, copied: Any, tmp_path: Path
) -> None:
    inputs = make_inputs(12, 7)
    original = held(module(**OPTIONS))
    expected = loss_and_gradient(original, inputs)
    duplicate = copied(original, tmp_path)
    criteria = [next(part for part in whole.modules() if type(part) is module) for whole in (original, duplicate)]
    assert criteria[0].options == criteria[1].options == module(**OPTIONS).options
    assert all(torch.equal(*pair) for pair in zip(loss_and_gradient(duplicate, inputs), expected, strict=True))
    criteria[1].contrast_temperature = 5.0
    assert not torch.equal(loss_and_gradient(duplicate, inputs)[0], expected[0])
    assert all(torch.equal(*pair) for pair in zip(loss_and_gradient(original, inputs), expected, strict=True))


@pytest.mark.parametrize("held", [bare, Distiller])
@pytest.mark.parametrize("module", MODULES)
def test_a_state_dict_is_saved_and_loaded_as_weights_only(module: Any, held: Any, tmp_path: Path) -> None:
    original = held(module(**OPTIONS))
    torch.save(original.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    # The criterion adds nothing to a checkpoint: one of a model without it loads into a model with it, and the reverse.
    assert [name for name in state if not name.startswith("layer.")] == []
    restored = held(module(**OPTIONS))
    assert restored.load_state_dict(state, strict=True) == ([], [])
    inputs = make_inputs(12, 7)
    pairs = zip(loss_and_gradient(restored, inputs), loss_and_gradient(original, inputs), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_can_be_differentiated_in_another_thread(kind: str, backend: str) -> None:
    inputs = make_inputs(9, 7)
    _, expected = evaluate(kind, inputs, backend=backend)
    student = inputs.student.requires_grad_()
    loss = call(kind, inputs, backend=backend)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(loss.backward).result(PATIENCE)
    assert torch.equal(student.grad, expected)
