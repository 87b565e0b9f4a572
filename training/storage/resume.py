"""The checkpoint from which an interrupted run resumes: last.pt, or previous.pt if last.pt is damaged."""

import os
import warnings
from pathlib import Path

from training.config import Config, decisive
from training.data import Identity
from training.state import State
from training.storage import files
from training.storage.run_folder import LAST, PREVIOUS


def save_state(folder: Path, state: State) -> None:
    """Writes last.pt atomically, and keeps the one before as previous.pt."""
    last = folder / LAST
    if last.exists():
        os.replace(last, folder / PREVIOUS)
    files.save(last, state)


def load_state(folder: Path, config: Config) -> State | None:
    """The latest undamaged state in ``folder``, or None if the folder has no state.

    Raises:
        ValueError: every state is damaged, or the run had other settings than ``config``.
    """
    files.remove_leftovers(folder)
    found = [folder / name for name in (LAST, PREVIOUS) if (folder / name).exists()]
    for path in found:
        try:
            state = files.read(path)
        except ValueError as error:
            warnings.warn(f"{error}; trying the previous checkpoint", stacklevel=2)
            continue
        _refuse_other_settings(folder, state["config"], config)
        return state
    if found:
        raise ValueError(f"resume: no checkpoint in {folder} can be read; start a new run in another folder")
    return None


def refuse_other_data(folder: Path, state: State, identity: Identity) -> None:
    """Refuses to resume with other data than that of ``state``: the held-out split could then contain trained samples.

    Raises:
        ValueError: names the differences.
    """
    if "data" not in state:
        raise ValueError(f"resume: the checkpoint in {folder} does not record its data; start a new run in another folder")
    found = Identity.from_dict(state["data"]).differences(identity)
    if found:
        raise ValueError(f"resume: the run in {folder} had other data: {'; '.join(found)}")


def remove_states(folder: Path) -> None:
    """Removes the files that only an unfinished run needs."""
    for name in (LAST, PREVIOUS):
        (folder / name).unlink(missing_ok=True)


def _refuse_other_settings(folder: Path, saved: dict[str, object], config: Config) -> None:
    now = config.as_dict()
    then, here = decisive(saved), decisive(now)
    other = [name for name in here if then.get(name) != here[name]]
    if other:
        told = ", ".join(f"{name} {saved.get(name)!r} then and {now[name]!r} now" for name in other)
        raise ValueError(f"resume: the run in {folder} has other settings: {told}")
