"""Tasks that have to be told something about a model: which output is meant, how it is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from qvit_deploy.errors import InputError
from qvit_deploy.graph.interface import Interface, Output
from qvit_deploy.tasks.all_outputs import AllOutputs
from qvit_deploy.tasks.task import Task
from qvit_deploy.validation import Record, validated

Options = TypeVar("Options", bound=Record)


class ConfiguredTask(AllOutputs, Generic[Options]):
    """A task with options, written behind its name: `segment:axis=1,output=masks`.

    What the user leaves open `for_model` finds out, and a bundle's manifest holds the whole text. Every output of a
    model counts, as for `AllOutputs`; the options say which of them the task's own numbers are about.
    """

    def __init__(self, options: Options) -> None:
        self.options = options

    @property
    def text(self) -> str:
        """The task's name with the options that are not the defaults, as `with_options` reads them."""
        chosen = self.options.model_dump(exclude_defaults=True)
        return self.name + ":" * bool(chosen) + ",".join(f"{key}={value}" for key, value in chosen.items())

    def with_options(self, text: str) -> Task:
        """Reads `key=value,key=value`.

        Raises:
            InputError: a part that is not so, or an option that does not exist or has no such value.
        """
        parts = [part.partition("=") for part in text.split(",") if part]
        for key, equals, _ in parts:
            if not equals:
                known = ", ".join(type(self.options).model_fields)
                raise InputError(f"task {self.name}: {key!r} is not OPTION=VALUE; the options are {known}")
        values = {key.strip(): value for key, _, value in parts}
        unknown = [key for key in values if key not in type(self.options).model_fields]
        if unknown:
            known = ", ".join(type(self.options).model_fields)
            raise InputError(f"task {self.name} has no option {unknown[0]!r}; it has {known}")
        return type(self)(validated(type(self.options), values, f"task {self.name}"))

    def known(self, option: str) -> Any:
        """Returns an option that `for_model` finds out. Raises InputError: it did not, as for an edited manifest."""
        value = getattr(self.options, option)
        if value is None:
            raise InputError(f"task {self.text!r} does not say its {option}; pass --task {self.name}, or compile again")
        return value

    def completed(self, **options: object) -> Task:
        """Returns the task with these options in place of its own."""
        return type(self)(self.options.model_copy(update=options))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, ConfiguredTask) and self.options == other.options

    def __hash__(self) -> int:
        return hash((type(self), self.options))


def chosen_output(task: str, interface: Interface, name: str | None, ranks: Mapping[int, str]) -> Output:
    """Returns the output that a task is about: the one of that name, or the only one with a fitting rank.

    Args:
        ranks: number of dimensions -> how a person calls them, the likeliest first; with several outputs the first
            rank that one output alone has decides.

    Raises:
        InputError: it does not exist or does not fit, or several would.
    """
    described = ", ".join(f"{o.name!r} {shape_text(o)}" for o in interface.outputs)
    wanted = " or ".join(ranks.values())
    if name is not None:
        output = next((o for o in interface.outputs if o.name == name), None)
        if output is None:
            raise InputError(f"task {task}: the model has no output {name!r}; it has {described}")
        if len(output.shape) not in ranks or not output.is_float or output.batch_axis != 0:
            kind = " integers" if not output.is_float else "" if output.batch_axis == 0 else " one for all images,"
            raise InputError(f"task {task} needs floats {wanted}, output {name!r} is{kind} {shape_text(output)}")
        return output
    for rank in ranks:
        fitting = [o for o in interface.outputs if o.is_float and o.batch_axis == 0 and len(o.shape) == rank]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise InputError(f"task {task}: {len(fitting)} outputs fit ({described}); say which with output=NAME")
    raise InputError(f"task {task} needs an output {wanted}; the model gives {described}")


def picture_size(interface: Interface) -> tuple[int, int] | None:
    """Returns (height, width) of the image that a model takes; None where there is none, or they are open."""
    shape = next((i.shape for i in interface.inputs if i.kind == "image"), ())
    match shape[2:]:
        case (int(height), int(width)):
            return height, width
    return None


def shape_text(output: Output) -> str:
    """Writes an output's shape: [batch, 21, 32, 32]."""
    return "[" + ", ".join("?" if d is None else str(d) for d in output.shape) + "]"
