"""Compiles a launch to the intermediate representation that ttsem executes, and caches it.

Two launches share a cache entry exactly if Triton would compile them to the same binary: the key is that of Triton's own
cache (source, signature, constants, alignment of arguments, options, target, versions), and the stage.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from triton import knobs
from triton._C.libtriton import get_cache_invalidating_env_vars, ir, nvidia
from triton.backends.compiler import BaseBackend, GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.cache import get_cache_key
from ttsem import harness, mlir

STAGES = ("ttir", "ttgir")

_texts: dict[str, str] = {}


def text_of(launch: harness.LaunchRecord, stage: str, target: GPUTarget) -> str:
    """The module of a launch: that of stage ``"ttir"``, or the last of ``"ttgir"``, which is converted to LLVM.

    In the latter, layouts, pipelines and tensor-core instructions are chosen and shared memory is allocated.
    """
    backend = make_backend(target)
    source, options = _specialise(launch, target, backend)
    key = _key(launch, stage, source, backend, options)
    if key not in _texts:
        _texts[key] = _from_disk_or_compiled(key, source, options, backend, target, stage)
    return _texts[key]


def _specialise(launch: harness.LaunchRecord, target: GPUTarget, backend: BaseBackend) -> tuple[ASTSource, Any]:
    options, signature, constants, attributes = harness._specialize(launch.fn, launch.args, launch.kwargs, target)
    source = ASTSource(fn=launch.fn, signature=signature, constexprs=constants, attrs=attributes)
    return source, backend.parse_options(dict(options.__dict__))


def _key(launch: harness.LaunchRecord, stage: str, source: ASTSource, backend: BaseBackend, options: Any) -> str:
    parts = (
        get_cache_key(source, backend, options, get_cache_invalidating_env_vars()),
        # Triton's key for a backend names the assembler, but not the target.
        repr(backend.target),
        stage,
        version("ttsem"),
        # Faults report the file name that is in the module.
        launch.fn.file_name,
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _from_disk_or_compiled(
    key: str, source: ASTSource, options: Any, backend: BaseBackend, target: GPUTarget, stage: str
) -> str:
    path = Path(knobs.cache.dir) / "ttsem" / f"{key}.{stage}"
    if path.exists():
        return path.read_text()
    text = _compile(source, options, backend, target, stage)
    _write_atomically(path, text)
    return text


def _compile(source: ASTSource, options: Any, backend: BaseBackend, target: GPUTarget, stage: str) -> str:
    _print_generic_form()
    context = ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    stages: dict[str, Any] = {}
    backend.add_stages(stages, options, source.language)
    codegen = backend.get_codegen_implementation(options)
    metadata = {"target": target, **options.__dict__}
    module = source.make_ir(target, options, codegen, backend.get_module_map(), context)
    module = stages["ttir"](module, metadata)
    if stage == "ttgir":
        module = stages["ttgir"](module, metadata)
        _run_until_llvm(module, stages["llir"], metadata)
    return mlir.to_generic(str(module))


def _print_generic_form() -> None:
    """Selects the form that ttsem reads. Compiling a kernel to machine code resets the printer, so it is set every time."""
    mlir._generic_printing_enabled[0] = False
    mlir.enable_generic_printing()


class _LlvmReachedError(Exception):
    """Raised where the conversion to LLVM starts, to end the stage there."""

    def __init__(self, passes: Any) -> None:
        super().__init__()
        self.passes = passes


def _run_until_llvm(module: Any, lower: Any, metadata: dict[str, Any]) -> None:
    """Runs the passes of ``lower`` that precede the conversion to LLVM."""
    with _stopping_at_llvm():
        try:
            lower(module, metadata)
        except _LlvmReachedError as reached:
            reached.passes.run(module, "before_llvm")
            return
    raise RuntimeError("this version of Triton converts to LLVM in another way")


@contextmanager
def _stopping_at_llvm() -> Iterator[None]:
    def stop(passes: Any, *_: Any) -> None:
        raise _LlvmReachedError(passes)

    convert = nvidia.passes.ttgpuir.add_to_llvmir
    nvidia.passes.ttgpuir.add_to_llvmir = stop
    try:
        yield
    finally:
        nvidia.passes.ttgpuir.add_to_llvmir = convert


def _write_atomically(path: Path, text: str) -> None:
    # Workers of pytest-xdist share the folder.
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(text)
    os.replace(file.name, path)
