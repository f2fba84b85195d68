#!/usr/bin/env python3
"""deploy/check_tasks.py on folders of lm-eval tasks that are good and that are wrong in one way each.

  check_tasks_test.py SOURCE_DIR      (exits 77, skipped, without jinja2 or yaml)
"""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

try:
    import jinja2  # noqa: F401
    import yaml  # noqa: F401
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

SOURCE = pathlib.Path(sys.argv.pop(1)) if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent
GOOD = {"q": "two and two are", "c": [" four", " five"], "a": 0}


class CheckTasks(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = pathlib.Path(temporary.name)

    def task(self, rows, name="sums", head=None):
        path = self.folder / f"{name}.jsonl"
        path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
        (self.folder / f"{name}.yaml").write_text(head if head is not None else (
            f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {path}}}}}\ntest_split: test\n"
            'output_type: multiple_choice\ndoc_to_text: "{{q}}"\ndoc_to_choice: "{{c}}"\ndoc_to_target: "{{a}}"\n'), encoding="utf-8")

    def check(self):
        return subprocess.run([sys.executable, SOURCE / "deploy" / "check_tasks.py", self.folder], capture_output=True, text=True,
                              check=False)

    def refused(self, *faults):
        result = self.check()
        self.assertEqual(result.returncode, 1, result.stdout)
        self.assertNotIn("Traceback", result.stderr)
        for fault in faults:
            self.assertIn(fault, result.stderr)
        return result.stderr.splitlines()

    def test_good_rows(self):
        self.task([GOOD, {**GOOD, "a": " five"}])
        self.task([GOOD], "other")
        result = self.check()
        self.assertEqual((result.returncode, result.stdout.strip()), (0, "other,sums"), result.stderr)

    def test_every_row_that_is_wrong_is_named_with_its_line(self):
        self.task([GOOD, {"q": "x", "c": [" a", " b"]}, {**GOOD, "c": " four"}, {**GOOD, "c": [" four"]}, {**GOOD, "c": [" four", ""]},
                   {**GOOD, "a": 2}, {**GOOD, "a": -1}, {**GOOD, "a": " six"}, {**GOOD, "a": None}, "[1]", '{"q"'])
        lines = self.refused(
            "line 2 (task sums): 'a' is undefined", "line 3 (task sums): doc_to_choice: found ' four', expected two texts",
            "line 4 (task sums): doc_to_choice", "line 5 (task sums): doc_to_choice", "line 6 (task sums): doc_to_target: found 2, expected 0 to 1",
            "line 7 (task sums): doc_to_target: found -1", "line 8 (task sums): doc_to_target: found ' six'",
            "line 9 (task sums): doc_to_target: found None", "line 10 (task sums): expected a JSON object", "line 11 (task sums): Expecting")
        self.assertEqual(len(lines), 10)

    def test_many_faults_are_counted(self):
        self.task([{}] * 30)
        self.assertEqual(self.refused()[-1], "and 10 more")

    def test_files_that_are_wrong(self):
        self.refused("no *.yaml with a task")
        self.task([])
        self.refused("sums.jsonl: it has no row")
        (self.folder / "sums.jsonl").unlink()
        self.refused("no such file")
        for head, fault in (("task: [", "sums.yaml"), ("- a", "task: expected a name"), ("task: 7", "task: expected a name"),
                            ("task: sums", "dataset_kwargs.data_files: found none")):
            self.task([GOOD], head=head)
            self.refused(fault)

    def test_a_name_that_stands_twice(self):
        self.task([GOOD])
        (self.folder / "again.yaml").write_text((self.folder / "sums.yaml").read_text(encoding="utf-8"), encoding="utf-8")
        self.refused("task sums is there 2 times")


if __name__ == "__main__":
    unittest.main()
