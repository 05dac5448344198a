"""A report for people."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from quartet.audit.model import RULES, Finding, Report

SHOWN_PER_RULE = 20


def show(report: Report, console: Console) -> None:
    """A line a rule, then every violation and what was mended (of one rule the first twenty, and how many more)."""
    table = Table(box=None, pad_edge=False)
    table.add_column("rule")
    table.add_column("checked", justify="right")
    table.add_column("violations", justify="right")
    by_rule = {rule: [v for v in report.violations if v.rule == rule] for rule in RULES}
    for rule, sentence in RULES.items():
        count = len(by_rule[rule])
        style = "red" if count else "green"
        table.add_row(sentence, str(report.checked.get(rule, 0)), f"[{style}]{count}[/]")
    console.print(table)
    for rule, found in by_rule.items():
        _name(console, rule, found, "red")
    if report.mended:
        console.print(f"mended: {len(report.mended)}", style="green")
        for rule in RULES:
            _name(console, rule, [finding for finding in report.mended if finding.rule == rule], "green")


def _name(console: Console, rule: str, found: Sequence[Finding], style: str) -> None:
    for finding in found[:SHOWN_PER_RULE]:
        console.print(f"{rule}: {finding.subject}: {finding.finding}", style=style, markup=False, soft_wrap=True)
    if len(found) > SHOWN_PER_RULE:
        console.print(f"{rule}: and {len(found) - SHOWN_PER_RULE} more", style=style)
