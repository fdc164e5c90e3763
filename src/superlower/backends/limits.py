"""The known-bugs rules as backends heed them: what isn't served, what coverage answers, what isn't built."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from superlower.backends.base import Backend
from superlower.backends.probe import Ask
from superlower.doctor.conditions import WHOLE
from superlower.doctor.examine import Context, examine
from superlower.doctor.rules import Action, rules
from superlower.targets.base import Precision, Target


def context(
    backend: Backend, target: Target, precision: Precision, settings: Mapping[str, str] | None = None
) -> Context:
    """A build, as rules see it.

    Args:
        settings: the backend's own, as the user gave them.
    """
    return Context(backend.name, backend.versions(), target, precision, settings or {})


def asked(build: Context) -> Ask:
    """The rules about nodes as something that can be asked: why they refuse one, None if they refuse none.

    A node that a prescribed pass would mend is refused here, as it stands.
    """
    acting = (Action.REFUSE, Action.REWRITE)
    about_nodes = [r for r in rules() if r.action in acting and not isinstance(r.condition, WHOLE)]

    def refusal(model: ir.Model) -> str | None:
        found = examine(about_nodes, build, model).after_passes()
        return next((f.symptom for f in found.acting(Action.REFUSE)), None)

    return refusal


def require(build: Context, model: ir.Model) -> None:
    """Refuse a graph before the SDK finds out or, silently, doesn't.

    Args:
        model: legalized and treated (see `superlower.doctor.treat`).

    Raises:
        UnsupportedOperatorError, BadInputError: a rule refuses it.
    """
    examine(rules(), build, model).after_passes().require()
