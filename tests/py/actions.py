"""Runs a composite action as GitHub's runner does, as far as ours needs it.

`${{ }}` expressions are names of contexts, compared with `==` and `!=` and joined with `&&`. Steps of
other actions (`uses`) are not run: the caller says what they put out.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")


@dataclass
class Finished:
    """What a run of the action left."""

    outputs: dict[str, str]
    summary: str
    log: str
    # The names of the steps that ran.
    ran: list[str] = field(default_factory=list)
    failed: bool = False


@dataclass
class Action:
    """A composite action, and what is around it."""

    folder: Path
    temporary: Path
    environment: Mapping[str, str]
    # The outputs of steps that use other actions, by step.
    used: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def description(self) -> dict:
        return yaml.safe_load((self.folder / "action.yml").read_text(encoding="utf-8"))

    def run(self, given: Mapping[str, str], workspace: Path) -> Finished:
        """Runs the steps with inputs `given`, in `workspace`."""
        action = self.description()
        inputs = {name: given.get(name, one.get("default")) for name, one in action["inputs"].items()}
        missing = [name for name, value in inputs.items() if value is None]
        assert not missing, f"required inputs that are not given: {missing}"
        contexts = {f"inputs.{name}": value for name, value in inputs.items()}
        contexts |= {"github.action_path": str(self.folder), "runner.temp": str(self.temporary)}
        contexts |= {"runner.os": "Linux", "runner.arch": "X64"}
        done = Finished({}, "", "")
        for number, step in enumerate(action["runs"]["steps"]):
            if done.failed or not condition(step.get("if", ""), contexts):
                continue
            done.ran.append(step["name"])
            outputs = self.used.get(step["name"], {})
            if "run" in step:
                outputs = self.script(step, number, contexts, workspace, done)
            for name, value in outputs.items():
                contexts[f"steps.{step.get('id')}.outputs.{name}"] = value
        for name, output in action["outputs"].items():
            done.outputs[name] = substitute(output["value"], contexts)
        return done

    def script(self, step: dict, number: int, contexts: dict[str, str], workspace: Path, done: Finished):
        """Runs the script of a step; returns its outputs."""
        assert step["shell"] == "bash", "a composite action has to name the shell"
        files = {
            name: self.temporary / f"{name}{number}" for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")
        }
        for file in files.values():
            file.touch()
        script = self.temporary / f"step{number}.sh"
        script.write_text(substitute(step["run"], contexts), encoding="utf-8")
        environment = dict(self.environment) | {name: str(file) for name, file in files.items()}
        environment |= {"RUNNER_TEMP": str(self.temporary), "GITHUB_ACTION_PATH": str(self.folder)}
        environment |= {name: substitute(value, contexts) for name, value in step.get("env", {}).items()}
        ended = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            cwd=workspace,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
            check=False,
        )
        done.log += ended.stdout
        done.summary += files["GITHUB_STEP_SUMMARY"].read_text(encoding="utf-8")
        done.failed = ended.returncode != 0
        lines = files["GITHUB_OUTPUT"].read_text(encoding="utf-8").splitlines()
        return dict(line.split("=", 1) for line in lines)


def substitute(text: str, contexts: Mapping[str, str]) -> str:
    return EXPRESSION.sub(lambda found: contexts.get(found[1], ""), text)


def condition(text: str, contexts: Mapping[str, str]) -> bool:
    """The condition of a step; none is true."""

    def holds(comparison: str) -> bool:
        left, operator, right = re.fullmatch(r"([\w.-]+) (==|!=) '(.*)'", comparison).groups()
        return (contexts.get(left, "") == right) == (operator == "==")

    return all(holds(one) for one in text.split(" && ")) if text else True
