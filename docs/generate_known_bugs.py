"""Write docs/known-bugs.md from the rules: `python docs/generate_known_bugs.py`. A test holds them equal."""

from __future__ import annotations

from pathlib import Path

from superlower.doctor.rules import BACKENDS, Action, Rule, rules

PAGE = Path(__file__).with_name("known-bugs.md")

INTRODUCTION = """\
# Known bugs and limits

<!-- Written by docs/generate_known_bugs.py from src/superlower/doctor/rules/*.toml: edit those, not this. -->

What the SDKs are known to refuse, to compute wrongly or to do without a word, and what superlower does about
each. `compile` applies the rules to every graph just before it is built; `superlower doctor --rules` lists
them, and which concern what is installed. Each has a scenario in `tests/doctor` that goes wrong without it,
in the SDK itself where it can be run.

| what superlower does | meaning |
| --- | --- |
| rewrite | passes run before the build, validated as all are; nodes they leave are refused, or warned of |
| refuse | nothing is built; the message says what to do (exit code 3 for operators, 2 for the whole build) |
| set | a build setting, which `--set` goes over |
| warn | the build goes on; the log and the bundle's manifest (`warnings`) say so |
| avoid | nothing is left to do: the function named is written so that it doesn't happen |
"""


def page() -> str:
    """The text of docs/known-bugs.md."""
    parts = [INTRODUCTION]
    for title, found in _sections():
        parts.append(f"## {title}\n")
        parts += [_entry(rule) for rule in found]
    return "\n".join(parts).rstrip() + "\n"


def _sections() -> list[tuple[str, list[Rule]]]:
    known = rules()
    named = [(backend, [r for r in known if r.backends[:1] == (backend,)]) for backend in BACKENDS]
    return [
        ("Every backend", [r for r in known if not r.backends]),
        *((n, found) for n, found in named if found),
    ]


def _entry(rule: Rule) -> str:
    lines = [f"### {rule.id}\n", f"{rule.symptom[0].upper()}{rule.symptom[1:]}.\n"]
    lines.append(f"- Where: {'; '.join(_where(rule)) or 'everywhere'}.")
    lines.append(f"- superlower: {_does(rule)}.")
    if rule.cure:
        lines.append(f"- You: {rule.cure}.")
    lines.append(f"- Source: {rule.source}.")
    return "\n".join(lines).replace("{detail}", "…") + "\n"


def _where(rule: Rule) -> list[str]:
    found = []
    if len(rule.backends) > 1:
        found.append(" and ".join(rule.backends))
    found += [f"{name} {range_}" for name, range_ in rule.versions.items()]
    found += [f"targets of kind {' or '.join(rule.kinds)}"] if rule.kinds else []
    found += [f"SM {rule.sm}"] if rule.sm else []
    found += [f"builds in {' or '.join(rule.precisions)}"] if rule.precisions else []
    return [*found, *([] if rule.graph_free else [rule.condition.told])]


def _does(rule: Rule) -> str:
    match rule.action:
        case Action.REWRITE:
            uses = (
                f"`{use.name}`" + "".join(f" {k}={v}" for k, v in use.options.items()) for use in rule.passes
            )
            return f"rewrites with {', '.join(uses)}, and {_THEN[rule.leaves]} what that leaves"
        case Action.REFUSE if rule.unless:
            unless = ", ".join(f"{k}={v}" for k, v in rule.unless.items())
            return f"refuses; with the setting {unless} it warns"
        case Action.SET:
            return "sets " + ", ".join(f"{k}={v}" for k, v in rule.settings.items())
        case Action.AVOID:
            return f"avoids it in `{rule.where.replace('superlower.', '', 1)}`"
        case Action.REFUSE:
            return "refuses"
        case Action.WARN:
            return "warns"


_THEN = {Action.REFUSE: "refuses", Action.WARN: "warns of"}


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
