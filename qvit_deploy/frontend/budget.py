"""What reading an ONNX file may cost. A file of kilobytes can ask for terabytes, or for more nodes than atoms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import onnx

from qvit_deploy.errors import InputError

MAX_NODES = 200_000
"""Nodes of a graph after its local functions are inlined; the largest vision transformers have some 10,000."""

READ_BYTES = ContextVar("READ_BYTES", default=2**31)
"""Memory that reading any file may take; what shapes are measured on at once counts."""

BYTES_PER_BYTE = 8
"""How much more for each byte of the file and its weights, of which several copies live for a while."""


def require_few_nodes(model: onnx.ModelProto, called: str) -> None:
    """Counts the nodes that inlining would make, without making them.

    Raises:
        InputError: there are more than `MAX_NODES`, or a function calls itself.
    """
    functions = {(f.domain, f.name): f for f in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def count(nodes: Iterator[onnx.NodeProto]) -> int:
        total = 0
        for node in nodes:
            total += 1 if (key := (node.domain, node.op_type)) not in functions else sizes[key]
            for attribute in node.attribute:
                for graph in (attribute.g, *attribute.graphs):
                    total += count(iter(graph.node))
        return total

    waiting, open_calls = list(functions), set[tuple[str, str]]()
    while waiting:
        key = waiting[-1]
        calls = {c for c in _calls(iter(functions[key].node)) if c in functions} - sizes.keys()
        if not calls:
            sizes[key] = count(iter(functions[key].node))
            open_calls.discard(waiting.pop())
        elif key in open_calls:
            raise InputError(f"{called}: function {key[1]!r} calls itself; export the model again")
        else:
            open_calls.add(key)
            waiting += calls
    if (total := count(iter(model.graph.node))) > MAX_NODES:
        raise InputError(f"{called} has {total:,} nodes once its functions are inlined, more than {MAX_NODES:,}")


def _calls(nodes: Iterator[onnx.NodeProto]) -> Iterator[tuple[str, str]]:
    for node in nodes:
        yield node.domain, node.op_type
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _calls(iter(graph.node))


@contextmanager
def bounded_memory(path: Path) -> Iterator[None]:
    """Bounds the memory that this process may take on top of what it has, while it reads a file and rewrites its graph.

    The system itself refuses what exceeds the bound (Linux' RLIMIT_DATA), also to C++ that would fill all memory with
    one operator's result; elsewhere nothing is bounded.

    Raises:
        InputError: the bound was reached.
    """
    bound = READ_BYTES.get() + BYTES_PER_BYTE * _size(path)
    before = _limit_data(bound)
    try:
        yield
    except MemoryError:
        raise InputError(_too_much(path, bound)) from None
    except Exception as error:
        if before is not None and _ran_out(error):
            raise InputError(_too_much(path, bound)) from error
        raise
    finally:
        if before is not None:
            _restore(before)


def _size(path: Path) -> int:
    """Returns the bytes of an ONNX file and of those beside it, in which its weights may lie; 0 if there is none."""
    beside = path.parent.iterdir() if path.is_file() else ()
    return sum(f.stat().st_size for f in beside if f == path or (f.suffix != ".onnx" and f.is_file()))


def _too_much(path: Path, bound: int) -> str:
    return (
        f"{path} asks for more than {bound / 1e9:.1f} GB while its graph is read, where most of its size need less; if "
        "you trust the file, allow more: qvit-deploy --read-memory 8 ..."
    )


def _ran_out(error: BaseException | None) -> bool:
    """Returns whether C++ ran out of memory somewhere behind an error: libraries tell in the text alone."""
    while error is not None:
        if isinstance(error, MemoryError) or "bad_alloc" in str(error) or "allocate memory" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _limit_data(bound: int) -> tuple[int, int] | None:
    """Lets the process take `bound` bytes more. Returns the limits before, or None where there is no such thing."""
    try:
        import resource

        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        taken = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData:"))
        before = resource.getrlimit(resource.RLIMIT_DATA)
    except (ImportError, OSError, StopIteration):
        return None
    soft = [taken + bound, *(limit for limit in before if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_DATA, (min(soft), before[1]))
    return before


def _restore(limits: tuple[int, int]) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, limits)
