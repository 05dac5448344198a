"""A report for people."""

from rich.console import Console
from rich.table import Table

from quartet.audit.model import RULES, Report

SHOWN_PER_RULE = 20


def show(report: Report, console: Console) -> None:
    """A line a rule, then every violation (of one rule the first twenty, and how many more)."""
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
        for violation in found[:SHOWN_PER_RULE]:
            console.print(
                f"{rule}: {violation.subject}: {violation.finding}", style="red", markup=False, soft_wrap=True
            )
        if len(found) > SHOWN_PER_RULE:
            console.print(f"{rule}: and {len(found) - SHOWN_PER_RULE} more", style="red")
