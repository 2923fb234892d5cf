"""Options of the command line: those that several commands share, and those made from the fields of a dataclass."""

import types
from collections.abc import Callable, Collection
from dataclasses import MISSING, fields
from typing import Any, Literal, Union, get_args, get_origin

import click
from docstring_parser import parse_from_object

from .data.formats import is_hub_id
from .data.names import sources_of
from .training.recipes import RECIPES
from .training.settings import Recipe

# The flags of transformers' example scripts have underscores (--save_steps), and some have other names.
CONTEXT = {"token_normalize_func": lambda name: name.replace("_", "-"), "help_option_names": ["-h", "--help"]}
ALIASES = {"model": "--model-name-or-path", "base": "--model-name-or-path", "data": "--dataset-name"}
METAVARS = {int: "INTEGER", float: "NUMBER", str: "TEXT"}

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def reachable(name: str, repo_type: str = "model") -> str:
    """Return a model, or fail at once if it must be on the Hub and the Hub cannot be reached."""
    if is_hub_id(name):
        from .hub_errors import check_reachable  # slow to import

        check_reachable(name, repo_type)
    return name


def reachable_data(data: str) -> str:
    """Return the sources of messages, or fail at once as `reachable` does."""
    for source in sources_of(data):
        reachable(source, "dataset")
    return data


def data_option(help: str) -> Callable[[Callable], Callable]:
    """Return the required option --data with a help text."""
    return click.option(
        "--data", ALIASES["data"], "data", required=True, type=reachable_data, metavar="TEXT", help=help
    )


model_option = click.option(
    "--model",
    ALIASES["model"],
    "model",
    type=reachable,
    default="bundled",
    show_default=True,
    metavar="TEXT",
    help="Model: a folder, a Hub id, or bundled.",
)


def recipe_option(default: str | None, shown: str | None = None) -> Callable[[Callable], Callable]:
    """Return the option --recipe; the help names the default, or what is `shown` for it."""
    help = f"Recipe; `hf-spam recipes` lists them.  [default: {shown or default}]"
    return click.option(
        "--recipe", "name", type=click.Choice(list(RECIPES)), default=default, metavar="NAME", help=help
    )


private = click.option("--private", is_flag=True, help="Make the repository private when it is created.")
branch = click.option("--revision", default="main", show_default=True, help="Branch; created if missing.")
text_column = click.option(
    "--text-column",
    help="Column of the texts; several, separated by commas, are joined.  [default: as in a model's training data, or "
    "text, message, sms, v2 and others]",
)
label_column = click.option(
    "--label-column",
    help="Column of the labels.  [default: as in a model's training data, or label, category, class, v1 and others]",
)
label_map = click.option("--label-map", help="Meaning of labels, such as legit=ham,smishing=spam or 0=spam,1=ham.")
trust_remote_code = click.option("--trust-remote-code", is_flag=True, help="Run Python code that comes with MODEL.")
encoding = click.option("--encoding", help="Encoding of text files, such as cp1252.  [default: whichever fits]")
skip_bad_rows = click.option("--skip-bad-rows", is_flag=True, help="Leave out rows that cannot be read; log how many.")


def reading_options(command: Callable) -> Callable:
    """Add the options that say how to read labelled messages."""
    return text_column(label_column(label_map(encoding(skip_bad_rows(command)))))


class Setting(click.ParamType):
    """Values of a field annotated, for example, `int | Literal["longest"] | None`, where None is typed as `none`."""

    name = "setting"

    def __init__(self, annotation: Any):
        kinds = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
        self.words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
        self.words += ["none"] * (type(None) in kinds)
        self.types = [kind for kind in kinds if kind in (int, float, str)]

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "|".join([*(METAVARS[kind] for kind in self.types), *self.words])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in self.words:
            return None if value == "none" else value
        for kind in self.types:
            try:
                return kind(value)
            except ValueError:
                continue
        self.fail(f"expected {self.get_metavar(param, ctx).replace('|', ' or ')}, got {value!r}.", param, ctx)


class SettingOption(click.Option):
    """An option that belongs to a titled section of the help."""

    def __init__(self, *args: Any, section: str, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.section = section


class SettingsCommand(click.Command):
    """A command whose help lists the options of each section under its title."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if record := param.get_help_record(ctx):
                sections.setdefault(getattr(param, "section", "Options"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def options_of(
    settings: type, section: str = "Settings of the recipe", names: Collection[str] | None = None
) -> Callable[[Callable], Callable]:
    """Add an option for each field of a dataclass, or those in `names`, to a command; their docstrings are the help.

    Defaults are shown, except for those of `Recipe`, which depend on the chosen recipe.
    """
    help_of = {param.arg_name: " ".join(param.description.split()) for param in parse_from_object(settings).params}

    def decorate(command: Callable) -> Callable:
        for field in reversed(fields(settings)):
            if field.name in ("name", "summary") or (names is not None and field.name not in names):
                continue
            text, flag = help_of[field.name].replace("None", "none"), "--" + field.name.replace("_", "-")
            if settings is not Recipe and field.default not in (MISSING, None, False):
                text += f"  [default: {field.default}]"
            common = {"cls": SettingOption, "section": section, "help": text}
            if field.type is bool:
                option = click.option(f"{flag}/--no-{flag[2:]}", field.name, default=None, **common)
            else:
                flags = [flag, ALIASES[field.name]] if field.name in ALIASES else [flag]
                option = click.option(*flags, field.name, type=Setting(field.type), **common)
            command = option(command)
        return command

    return decorate


def given_settings(ctx: click.Context, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings given on the command line, including those given as `none`."""
    default = click.core.ParameterSource.DEFAULT
    return {name: value for name, value in settings.items() if ctx.get_parameter_source(name) is not default}
