"""The variants that a benchmark compares: engines of this package and forms of Hugging Face's model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bert_large.bench.hugging_face import FORMS, check_forms
from bert_large.engines import ENGINES, resolve_engine
from bert_large.errors import InputError, UserError
from bert_large.model.operations import Operations


@dataclass(frozen=True)
class Compared:
    """The engine under test and the variants that take turns with it."""

    engine: Operations
    other_engines: list[Operations]
    forms: list[str]
    """Forms of Hugging Face's model, keys of `hugging_face.FORMS`."""

    @property
    def engines(self) -> list[Operations]:
        """The engine under test and the others."""
        return [self.engine, *self.other_engines]

    @property
    def names(self) -> list[str]:
        """Names in the results of all variants but the engine under test."""
        return [engine.name for engine in self.other_engines] + [result_name(form) for form in self.forms]

    def without(self, differences: Mapping[str, str]) -> Compared:
        """Return the variants without those in `differences`; raises `UserError` if the engine under test is one."""
        if self.engine.name in differences:
            raise UserError(
                f"the {self.engine.name} engine does not compute the same as the eager engine in fp32: "
                f"{differences[self.engine.name]}"
            )
        return Compared(
            self.engine,
            [engine for engine in self.other_engines if engine.name not in differences],
            [form for form in self.forms if result_name(form) not in differences],
        )


def result_name(form: str) -> str:
    """Return the name of a form of Hugging Face's model in the results."""
    return form.replace("-", "_")


def resolve_compared(engine: str, compare: Sequence[str], precision: str) -> Compared:
    """Return the variants that `--engine` and `--compare` name; `InputError` if one is unknown or not installed."""
    unknown = [name for name in compare if name not in (*ENGINES, *FORMS)]
    if unknown:
        raise InputError(f"--compare names {unknown[0]!r}, expected one of {', '.join((*ENGINES, *FORMS))}")
    forms = [name for name in compare if name in FORMS]
    check_forms(forms)
    others = [name for name in compare if name in ENGINES]
    engines = [resolve_engine(name, precision)[0] for name in (engine, *others)]
    names = [resolved.name for resolved in engines] + forms
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise InputError(f"--compare names {repeated[0]}, which is already measured (--engine {engine}); remove it")
    return Compared(engines[0], engines[1:], forms)
