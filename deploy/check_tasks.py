#!/usr/bin/env python3
"""Checks a folder of lm-eval tasks and their rows, and prints the tasks' names with commas between.

  check_tasks.py FOLDER      (needs pyyaml and jinja2, which come with lm-eval)

Every *.yaml must name a task whose rows (dataset_kwargs.data_files, JSON lines) are there; the templates are filled in for
every row, so that a row without a field, a choice that is no list or an answer that is none of the choices is named here and
not met as a stack trace after an hour. Exit code 1 with every fault on stderr.
"""

import ast
import json
import pathlib
import sys

import jinja2
import yaml

MOST_SHOWN = 20


class LooseLoader(yaml.SafeLoader):
    """Tags of lm-eval (!function) are names to us."""


LooseLoader.add_multi_constructor("!", lambda loader, suffix, node: f"!{suffix} {getattr(node, 'value', '')}")
ENVIRONMENT = jinja2.Environment(undefined=jinja2.StrictUndefined)


def fill(template, row):
    """What a template gives for a row. The name of a field alone is the field, as in lm-eval."""
    if not isinstance(template, str):
        return template
    if template in row:
        return row[template]
    text = ENVIRONMENT.from_string(template).render(**row)
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def row_fault(task, row):
    if not isinstance(row, dict):
        return "expected a JSON object"
    for field in ("doc_to_text", "doc_to_target", "doc_to_choice"):
        if str(task.get(field, "")).startswith("!function"):
            return None  # a program's business
    try:
        fill(task.get("doc_to_text", ""), row)
        target = fill(task.get("doc_to_target", ""), row)
        if task.get("output_type") != "multiple_choice":
            return None
        choices = fill(task.get("doc_to_choice"), row)
    except jinja2.exceptions.UndefinedError as error:
        return str(error)
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c for c in choices):
        return f"doc_to_choice: found {choices!r}, expected two texts or more"
    if isinstance(target, bool) or not isinstance(target, (int, str)):
        return f"doc_to_target: found {target!r}, expected a choice or its number"
    if isinstance(target, int) and not 0 <= target < len(choices):
        return f"doc_to_target: found {target}, expected 0 to {len(choices) - 1}"
    if isinstance(target, str) and target not in choices:
        return f"doc_to_target: found {target!r}, expected one of {choices!r}"
    return None


def rows_of(folder, task):
    """(path, [lines]) of every file of rows, or a fault."""
    files = (task.get("dataset_kwargs") or {}).get("data_files")
    if not files:
        return [], "dataset_kwargs.data_files: found none, expected the rows' files"
    paths = [f for value in (files.values() if isinstance(files, dict) else [files])
             for f in (value if isinstance(value, list) else [value])]
    found = []
    for name in paths:
        path = pathlib.Path(name)
        if not path.is_file():  # lm-eval takes it from where it is run
            return [], f"dataset_kwargs.data_files: {name}: no such file (from {pathlib.Path.cwd()})"
        found.append((path, path.read_text(encoding="utf-8").splitlines()))
    return found, None


def task_faults(folder, path, names):
    try:
        task = yaml.load(path.read_text(encoding="utf-8"), LooseLoader)
    except yaml.YAMLError as error:
        return [f"{path}: {' '.join(str(error).split())}"]
    if not isinstance(task, dict) or not isinstance(task.get("task"), str):
        return [f"{path}: task: expected a name"]
    names.append(task["task"])
    if "include" in task:
        return []  # built on another file
    files, fault = rows_of(folder, task)
    if fault:
        return [f"{path}: {fault}"]
    faults = []
    for rows, lines in files:
        if not any(line.strip() for line in lines):
            faults.append(f"{rows}: it has no row")
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                fault = row_fault(task, json.loads(line))
            except (json.JSONDecodeError, jinja2.exceptions.TemplateError) as error:
                fault = str(error)
            if fault:
                faults.append(f"{rows} line {number} (task {task['task']}): {fault}")
    return faults


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder, names, faults = pathlib.Path(sys.argv[1]), [], []
    for path in sorted(folder.glob("*.yaml")):
        faults += task_faults(folder, path, names)
    if not names and not faults:
        faults = [f"{folder}: no *.yaml with a task"]
    for name in sorted({n for n in names if names.count(n) > 1}):
        faults.append(f"{folder}: task {name} is there {names.count(name)} times")
    for fault in faults[:MOST_SHOWN]:
        print(fault, file=sys.stderr)
    if len(faults) > MOST_SHOWN:
        print(f"and {len(faults) - MOST_SHOWN} more", file=sys.stderr)
    if faults:
        sys.exit(1)
    print(",".join(names))


if __name__ == "__main__":
    main()
