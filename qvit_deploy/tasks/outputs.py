"""Any model: nothing is known of its outputs, so each of them has to come out as in float."""

from __future__ import annotations

from qvit_deploy.tasks.all_outputs import AllOutputs
from qvit_deploy.tasks.task import Words


class PlainOutputs(AllOutputs):
    """The outputs themselves, as arrays."""

    name = "outputs"
    words = Words(
        score="score", same="integers", signal="outputs", answer="answer", answers="answers", counted="integer outputs"
    )


OUTPUTS = PlainOutputs()
