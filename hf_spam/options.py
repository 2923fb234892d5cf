"""The flags of the command line that are the fields of a dataclass of settings."""

import types
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, Literal, Union, get_args, get_origin

import click
from docstring_parser import parse_from_object

from .training.recipes import Recipe


class Setting(click.ParamType):
    """A value of the type of a recipe's field, such as `int | Literal["longest"] | None`."""

    name = "setting"

    def __init__(self, annotation: Any):
        kinds = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
        self.words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
        self.words += ["none"] * (type(None) in kinds)
        self.types = [kind for kind in kinds if kind in (int, float, str)]

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "|".join([*(kind.__name__.upper() for kind in self.types), *self.words])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in self.words:
            return None if value == "none" else value
        for kind in self.types:
            try:
                return kind(value)
            except ValueError:
                continue
        self.fail(f"{value!r} is not {self.get_metavar(param, ctx)}.", param, ctx)


def options_of(settings: type, prefix: str = "") -> Callable[[Callable], Callable]:
    """Adds an option for each field of a dataclass of settings, explained by the field's docstring.

    Args:
        settings: `Recipe`, whose defaults are those of the recipe that is chosen, or another, whose defaults are shown.
        prefix: what the options' names begin with.
    """
    help_of = {param.arg_name: " ".join(param.description.split()) for param in parse_from_object(settings).params}

    def decorate(command: Callable) -> Callable:
        for field in reversed(fields(settings)):
            if field.name in ("name", "summary"):
                continue
            name, text = prefix + field.name, help_of[field.name]
            if settings is not Recipe and field.default not in (MISSING, False):
                text += f"  [default: {field.default}]"
            flag = f"--{name.replace('_', '-')}"
            if field.type is bool:
                option = click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=text)
            else:
                option = click.option(flag, name, type=Setting(field.type), help=text)
            command = option(command)
        return command

    return decorate


def given_of(ctx: click.Context, settings: dict[str, Any]) -> dict[str, Any]:
    """Those settings that were given on the command line, be it as none."""
    default = click.core.ParameterSource.DEFAULT
    return {name: value for name, value in settings.items() if ctx.get_parameter_source(name) is not default}
