"""Defines command line options that several commands share, and those that set fields of the recipe."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, Optional, get_args, get_origin

import typer
from rich.markup import escape

from qvit_deploy.commands.request import SweepRequest
from qvit_deploy.data.preprocess import Preprocess
from qvit_deploy.errors import InputError
from qvit_deploy.frontend.input_shapes import OPTION as INPUT_SHAPE
from qvit_deploy.frontend.input_shapes import parse_input_shapes
from qvit_deploy.pipeline.input_options import InputOptions
from qvit_deploy.recipe import BUDGETS, EFFORTS, Recipe
from qvit_deploy.targets.registry import TARGETS
from qvit_deploy.tasks.registry import TASKS

# typer reads these annotations at run time, where Python 3.10 needs Optional spelled out.
# ruff: noqa: UP045

PreprocessFile = Annotated[Optional[Path], typer.Option(help="JSON with input_size, mean, std, ...")]
Task = Annotated[
    Optional[str],
    typer.Option(help=f"what the outputs mean, of {', '.join(TASKS)}, options behind a colon; a bundle says it itself"),
]
Labels = Annotated[
    Optional[str],
    typer.Option(help="label maps (a folder, an .npz) or boxes (a COCO .json); none: leave those of DATA out"),
]
Json = Annotated[bool, typer.Option("--json", help="one JSON object on standard output")]

INPUT_OPTIONS: dict[str, Any] = {
    "calib": Annotated[
        Optional[str], typer.Option(help="calibration images: a folder, an .npz, a .npy or demo:fashion-mnist")
    ],
    "checkpoint": Annotated[Optional[Path], typer.Option(help="weights of a timm model (.safetensors or .pt)")],
    "pretrained": Annotated[bool, typer.Option("--pretrained", help="let timm fetch its weights")],
    "preprocess": PreprocessFile,
    "input_shapes": Annotated[
        Optional[list[str]],
        typer.Option(
            INPUT_SHAPE, help="sizes that an .onnx file leaves open, such as 3x512x512 or NAME=3x512x512; repeatable"
        ),
    ],
    "skip_bad_images": Annotated[bool, typer.Option(help="leave out images that cannot be read")],
}
"""Field of `InputOptions` -> its option, as the user writes it."""

REQUEST_OPTIONS: dict[str, Any] = {
    "effort": Annotated[Optional[str], typer.Option(help=f"time for accuracy: {', '.join(EFFORTS)}")],
    "recipe": Annotated[Optional[Path], typer.Option(help="TOML file with any of these choices; flags win")],
    "cache": Annotated[
        Optional[Path],
        typer.Option(help="folder for results of stages; another budget, or a restart, goes on from them"),
    ],
}
"""Field of `CompileRequest` -> its option, with the field's default."""


@dataclass(frozen=True)
class RecipeOption:
    """An option that sets a field of the recipe, with the field's type, help and default.

    Attributes:
        name: of the option, or of both values of a bool; None for the field's name.
        sweep: whether a sweep takes one value, several separated by commas, or no such option (None).
    """

    field: str
    name: str | None = None
    sweep: Literal["one", "several"] | None = "one"
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """Returns the flag, such as --mean-bits; of a bool the first of the two."""
        return (self.name or f"--{self.field.replace('_', '-')}").partition("/")[0]

    def parameter(self, several: bool) -> inspect.Parameter:
        """Returns the option as a parameter of a command, for typer; with `several` it takes a list of values."""
        kind = _kind(self.field)
        if several or get_origin(kind) is tuple:
            accepted: Any = list[str] if _is_choices(kind) and not several else str
        else:
            accepted = str if get_origin(kind) is Literal else kind
        option = typer.Option(self.name or self.flag, help=escape(self._help(several)))  # rich reads help as markup
        annotation = Annotated[Optional[accepted], option]
        return inspect.Parameter(self.field, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)

    def _help(self, several: bool) -> str:
        field, kind = Recipe.model_fields[self.field], _kind(self.field)
        choices = [str(c) for part in (kind, *get_args(kind)) if get_origin(part) is Literal for c in get_args(part)]
        choices = choices or list(self.choices)
        parts = [f"budget: {field.description}" if self.field in BUDGETS else str(field.description)]
        parts += [f"of {', '.join(choices)}"] if choices else []
        parts += ["repeatable"] if _is_choices(kind) and not several else []
        parts += ["several separated by commas"] if several else []
        if field.default not in (None, False, ()) and not several:
            values = field.default if isinstance(field.default, tuple) else (field.default,)
            parts.append(f"default: {','.join(map(str, values))}")
        return "; ".join(parts)

    def values(self, text: str) -> list[Any]:
        """Parses the comma-separated values of a sweep's option. Raises InputError."""
        if _kind(self.field) is not float:
            return text.split(",")
        try:
            return [float(part) for part in text.split(",")]
        except ValueError:
            raise InputError(f"{self.flag} {text!r}: give numbers separated by commas, e.g. 4,4.5,5") from None


RECIPE_OPTIONS = (
    RecipeOption("mean_bits", sweep="several"),
    RecipeOption("max_size_mb", "--max-size", sweep="several"),
    RecipeOption("max_bitops_g", "--max-bitops", sweep="several"),
    RecipeOption("max_latency_ms", "--max-latency", sweep="several"),
    RecipeOption("latency_table"),
    RecipeOption("uniform", sweep="several"),
    RecipeOption("score", sweep="several"),
    RecipeOption("bits"),
    RecipeOption("separate_bits", "--separate-bits/--shared-bits"),
    RecipeOption("keep_float"),
    RecipeOption("widths", "--width"),
    RecipeOption("calibration_images", "--images"),
    RecipeOption("task", choices=tuple(TASKS)),
    RecipeOption("uint8_input", "--uint8-input/--float-input"),
    RecipeOption("targets", "--target", sweep=None, choices=tuple(TARGETS)),
)
"""The options of all fields of the recipe that have one."""


def request_options(command: Callable[..., None]) -> Callable[..., None]:
    """Decorates a command with a parameter `request`, which becomes `INPUT_OPTIONS`, `REQUEST_OPTIONS` and
    `RECIPE_OPTIONS`.

    The type of `request`, `CompileRequest` or `SweepRequest`, decides which options take lists.
    """
    own = inspect.signature(command, eval_str=True).parameters
    request_type = own["request"].annotation
    sweep = issubclass(request_type, SweepRequest)
    options = [o for o in RECIPE_OPTIONS if not sweep or o.sweep is not None]
    lists = [o for o in options if sweep and o.sweep == "several"]
    defaults = {f.name: f.default for kind in (InputOptions, request_type) for f in fields(kind)}
    defaults["input_shapes"] = None
    of_request = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=annotation)
        for name, annotation in (INPUT_OPTIONS | REQUEST_OPTIONS).items()
    ]
    of_request += [o.parameter(o in lists) for o in options]
    parameters: list[inspect.Parameter] = []
    for parameter in own.values():
        keyword = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        parameters += of_request if parameter.name == "request" else [keyword]

    def run(**arguments: Any) -> None:
        chosen = {o: value for o in options if (value := arguments.pop(o.field)) is not None}
        told = {name: arguments.pop(name) for name in REQUEST_OPTIONS}
        told["options"] = _input_options(**{name: arguments.pop(name) for name in INPUT_OPTIONS})
        told["choices"] = {o.field: _value(o, value) for o, value in chosen.items() if o not in lists}
        if sweep:
            told["lists"] = {o.field: o.values(value) for o, value in chosen.items() if o in lists and value}
        command(**arguments, request=request_type(**told))

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _input_options(preprocess: Path | None, input_shapes: list[str] | None, **others: Any) -> InputOptions:
    """Returns how a model and its images are read, given the arguments that typer parsed. Raises InputError."""
    return InputOptions(
        preprocess=None if preprocess is None else Preprocess.from_file(preprocess),
        input_shapes=parse_input_shapes(input_shapes or ()),
        **others,
    )


def whole_numbers(flag: str, text: str) -> tuple[int, ...]:
    """Parses an option such as `--bits 4,6,8`. Raises InputError."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{flag} {text!r}: give whole numbers separated by commas, e.g. 4,6,8") from None


def _value(option: RecipeOption, argument: Any) -> Any:
    """Returns the value of a field, given the argument that typer parsed. Raises InputError."""
    kind = _kind(option.field)
    return whole_numbers(option.flag, argument) if get_origin(kind) is tuple and not _is_choices(kind) else argument


def _kind(field: str) -> Any:
    """Returns the type of a field of the recipe, without None."""
    annotation: Any = Recipe.model_fields[field].annotation
    rest = [part for part in get_args(annotation) if part is not NoneType]
    return rest[0] if NoneType in get_args(annotation) else annotation


def _is_choices(kind: Any) -> bool:
    """Returns whether a type is a tuple of names, whose option may be repeated."""
    return get_origin(kind) is tuple and get_args(kind)[0] is not int
