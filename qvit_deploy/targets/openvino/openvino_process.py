"""The process in which OpenVINO runs a file that was just emitted: `python -m` this module with a folder.

It reads the file `request` there and writes `answer`, which are pickled (`isolated`).
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

from qvit_deploy.errors import InputError
from qvit_deploy.targets.openvino.isolated import Answer, Request
from qvit_deploy.targets.openvino.runtime import OpenVinoModel


def answer(request: Request) -> Answer:
    """Returns what OpenVINO makes of a request. Raises InputError when it does not take a file."""
    tensors = {}
    if (probe := request.probe) is not None:
        runner = OpenVinoModel(probe.model, batch=probe.batch, fetch=probe.fetch)
        tensors = dict(zip(probe.fetch, runner.run(probe.images), strict=True))
        del runner
    loaded = OpenVinoModel(request.model)
    outputs = {} if request.images is None else loaded.outputs(request.images)
    return Answer(outputs, tensors, loaded.layers())


def main() -> None:
    """Reads a request, asks OpenVINO, and answers."""
    folder = Path(sys.argv[1])
    try:
        found = answer(pickle.loads((folder / "request").read_bytes()))
    except InputError as error:
        found = Answer(refusal=str(error))
    (folder / "answer").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main()
