"""What an augmentation ended with, as text and as JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_lens_ext.cli.augment.plan import ALONE, Plan
from sae_lens_ext.cli.json_content import records

if TYPE_CHECKING:
    from sae_lens_ext.analysis.domains import DomainReport

RESIDUALS, STACK, NATIVE = "residuals", "stack", "native"
"""Folders of SAEs."""
REPORT_FILE, PAGE_FILE = "domains.json", "index.html"


def latents_file(domain: str) -> str:
    """Name the file that says what a domain's latents are."""
    return f"latents_{domain}.json"


@dataclass(frozen=True)
class Augmented:
    """A finished augmentation."""

    folder: Path
    """Where everything is."""
    report: "DomainReport"
    """What was measured."""
    trained: Mapping[str, Mapping[str, Any]]
    """By domain, the tokens and seconds of its training."""
    not_native: str | None
    """Why there is no native form, or None if there is one."""


def text_of(done: Augmented) -> str:
    """Give what is printed: the measurements, their changes against the base, and where everything is."""
    native = f"As one SAELens SAE: {done.folder}/{NATIVE}" if done.not_native is None else done.not_native
    return "\n".join(
        (
            done.report.to_frame().to_string(index=False, float_format=lambda x: f"{x:.3f}"),
            "",
            done.report.changes(ALONE).to_string(index=False, float_format=lambda x: f"{x:+.1%}"),
            "",
            f"Report: {done.folder / PAGE_FILE}    The stack: {done.folder}/{STACK}    {native}",
        )
    )


def content_of(plan: Plan, done: Augmented) -> dict[str, Any]:
    """Give the same as JSON has it."""
    folder = done.folder
    files: dict[str, Any] = {
        "page": folder / PAGE_FILE,
        "report": folder / REPORT_FILE,
        "stack": folder / STACK,
        "residuals": {domain: folder / RESIDUALS / domain for domain in plan.domains},
        "latents": {domain: folder / latents_file(domain) for domain in plan.domains},
    }
    if done.not_native is None:
        files["native"] = folder / NATIVE
    return {
        "plan": plan.to_dict(),
        "trained": done.trained,
        "measurements": records(done.report.to_frame()),
        "changes": records(done.report.changes(ALONE)),
        "not_native": done.not_native,
        "files": files,
    }
