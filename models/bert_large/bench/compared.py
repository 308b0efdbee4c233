"""What a benchmark compares an engine with: other engines of ours, and forms of Hugging Face's model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bert_large.bench.hugging_face import FORMS, check_forms
from bert_large.engines import ENGINES, resolve_engine
from bert_large.errors import InputError, UserError
from bert_large.model.operations import Operations


@dataclass(frozen=True)
class Compared:
    """The engine under test, and what takes turns with it."""

    engine: Operations
    other_engines: list[Operations]
    forms: list[str]
    """Of Hugging Face's model, names of `hugging_face.FORMS`."""

    @property
    def engines(self) -> list[Operations]:
        """The engine under test and the others."""
        return [self.engine, *self.other_engines]

    @property
    def names(self) -> list[str]:
        """What all but the engine under test is called in figures."""
        return [engine.name for engine in self.other_engines] + [figure_name(form) for form in self.forms]

    def without(self, differences: Mapping[str, str]) -> Compared:
        """Return what is left without those that compute something else; `UserError` if the engine under test does."""
        if self.engine.name in differences:
            raise UserError(
                f"the {self.engine.name} engine does not compute what the eager engine does in fp32: "
                f"{differences[self.engine.name]}"
            )
        return Compared(
            self.engine,
            [engine for engine in self.other_engines if engine.name not in differences],
            [form for form in self.forms if figure_name(form) not in differences],
        )


def figure_name(form: str) -> str:
    """Return what a form is called in figures."""
    return form.replace("-", "_")


def resolve_compared(engine: str, compare: Sequence[str], precision: str) -> Compared:
    """Return what `--engine` and `--compare` name; `InputError` if something of it is unknown or not installed."""
    unknown = [name for name in compare if name not in (*ENGINES, *FORMS)]
    if unknown:
        raise InputError(f"--compare names {unknown[0]!r}, expected of {', '.join((*ENGINES, *FORMS))}")
    forms = [name for name in compare if name in FORMS]
    check_forms(forms)
    engines = [resolve_engine(name, precision)[0] for name in (engine, *(name for name in compare if name in ENGINES))]
    names = [its.name for its in engines] + forms
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise InputError(f"--compare names {repeated[0]}, which is measured already (--engine {engine}); leave it out")
    return Compared(engines[0], engines[1:], forms)
