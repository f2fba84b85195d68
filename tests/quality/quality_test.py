#!/usr/bin/env python3
"""The statistics, tables and plots of quality.py on cases that are known."""
import json
import math
import pathlib
import shutil
import sys
import tempfile
import unittest
import xml.etree.ElementTree

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import quality  # noqa: E402


class Kendall(unittest.TestCase):
    def test_without_ties(self):
        # All pairs agree, none does.
        self.assertEqual(quality.kendall_tau_b([1, 2, 3], [1, 2, 3]), 1)
        self.assertEqual(quality.kendall_tau_b([1, 2, 3], [3, 2, 1]), -1)
        # Pairs: (1,2) with (1,3): in order; (1,3) with (1,2): in order; (2,3) with (3,2): not.
        self.assertAlmostEqual(quality.kendall_tau_b([1, 2, 3], [1, 3, 2]), 1 / 3)

    def test_with_ties(self):
        # x 12 2 1 12 2, y 1 4 7 1 0: of 10 pairs 2 agree, 6 do not, one is a tie of x, one of both.
        self.assertAlmostEqual(quality.kendall_tau_b([12, 2, 1, 12, 2], [1, 4, 7, 1, 0]), -4 / math.sqrt(9 * 8))

    def test_all_equal(self):
        self.assertTrue(math.isnan(quality.kendall_tau_b([1, 1, 1], [1, 2, 3])))

    def test_table_of_a_report(self):
        report = {"layers": []}
        for i in range(4):
            candidate = {"bits": 2, "guided_error": 2.0**i, "output_error": 1 / (i + 1), "weight_error": 0.5,
                         "paper_criterion": [0, 2, 1, 3][i], "measured_kl": 0.1 * i}
            report["layers"].append({"layer": {"rows": 10 ** (2 * i), "cols": 10}, "candidates": [candidate]})
        table = quality.tau_table(report)
        self.assertIn("| criterion | 2 planes | all |", table)
        self.assertIn("| guided error | 1.000 | 1.000 |", table)
        self.assertIn("| output error | -1.000 | -1.000 |", table)
        self.assertIn("| output error x weights | 1.000 |", table)
        self.assertIn("| weight error | - | - |", table)
        self.assertIn("| paper's criterion | 0.667 |", table)
        del report["layers"][0]["candidates"][0]["measured_kl"]
        self.assertIn("3 layers", quality.tau_table(report))
        with self.assertRaises(SystemExit):
            quality.tau_table({"layers": []})


class Tables(unittest.TestCase):
    def test_get(self):
        value = {"a": {"b": [1, {"c": "x"}]}}
        self.assertEqual(quality.get(value, "a.b.1.c"), "x")
        self.assertEqual(quality.get(value, "a.b.0"), "1")
        self.assertEqual(quality.get(value, "a.z.c"), "")

    def test_row(self):
        def report(kl):
            return {"job": {"quality": {"stored_bits": 2.174, "perplexity_quantized": 88.04, "kl": kl, "kl_standard_error": 0.01}}}
        line = quality.row("wht128-shift", "2", "61.7", {"test": report(1.1), "valid": report(1.2)})
        self.assertEqual(line, "| wht128-shift | 2 | 2.174 | 88.040 | - | 1.2000 ± 0.0100 | 62 | 1.1000 ± 0.0100 |")

    def test_row_of_mixed_widths(self):
        q = {"stored_bits": 2.5, "planes": 2.31, "perplexity_quantized": 50, "kl": 1, "kl_standard_error": 0.1, "published_mixed": True}
        report = {"job": {"quality": q}}
        self.assertEqual(quality.row("lat:paper:2.2", "mixed", "1", {"test": report}),
                         "| lat:paper:2.2 | mixed 2.310 | 2.500 | 50.000 | - | - | 1 | 1.0000 ± 0.1000 |")
        q["published_mixed"] = False
        self.assertIn("| mixed (uniform is better) | 2.500 |", quality.row("lat:paper:2.2", "mixed", "1", {"test": report}))

    def test_point(self):
        q = {"stored_bits": 2.4, "kl": 1, "kl_standard_error": 0.1, "perplexity_quantized": 4e6, "package_bytes": 7, "published_mixed": True}
        line = quality.point("guided", "2.25", {"job": {"quality": q}})
        self.assertEqual(line, "| guided | 2.25 | 2.400 | 1.0000 | 0.1000 | 4e+06 | 7 | mixed |")
        self.assertEqual(quality.read_curves([line]), {"guided": [(2.4, 1, 0.1)]})

    def test_seconds(self):
        self.assertEqual(quality.quantizing_seconds({"state_seconds": {"QUEUED": 100, "PROFILING": 3, "CALIBRATING": 2, "EVALUATING": 50}}), 5)

    def test_recipes_are_json_with_known_methods(self):
        names = sorted(pathlib.Path(__file__).parent.glob("recipes/*.json"))
        self.assertGreater(len(names), 20)
        for name in names:
            self.assertIn(json.loads(name.read_text())["method"], ("shiftadd", "lat", "acc", "optq", "rtn"), name)


class Plots(unittest.TestCase):
    def test_judge(self):
        uniform = [(2.0, 4.0, 0.1), (4.0, 1.0, 0.1)]
        self.assertAlmostEqual(quality.interpolate(uniform, 3.0), 2.0)
        self.assertIsNone(quality.interpolate(uniform, 4.5))
        falling = quality.judge({"guided": [(2.0, 4.0, 0.1), (3.0, 1.0, 0.1), (5.0, 0.5, 0.1)], "uniform": uniform})
        self.assertEqual(falling, "guided: 3 points, KL falls from each to the next; over 2 points KL is 0.71 of uniform widths' "
                                  "(geometric mean; least 0.50, most 1.00; uniform widths interpolated in log KL).")
        rising = quality.judge({"paper": [(2.0, 1.0, 0.3), (3.0, 1.5, 0.4)]})
        self.assertEqual(rising, "paper: 2 points, KL rises 1 times, by at most 1.0 standard errors.")

    def test_svg(self):
        curves = quality.read_curves(["| series | planes | stored bits | KL | ± |", "|---|---|---|---|---|",
                                      "| mixed | 3 | 3.2 | 0.5 | 0.01 | x |", "| mixed | 2 | 2.2 | 2 | 0.1 | x |", "| uniform | 2 | 2.2 | 3 | 0.1 | x |"])
        self.assertEqual(curves["mixed"], [(2.2, 2.0, 0.1), (3.2, 0.5, 0.01)])
        root = xml.etree.ElementTree.fromstring(quality.svg(curves))
        name = "{http://www.w3.org/2000/svg}"
        lines = root.findall(f".//{name}polyline")
        self.assertEqual(len(lines), 2)
        (x0, y0), (x1, y1) = (tuple(map(float, p.split(","))) for p in lines[0].get("points").split())
        self.assertLess(x0, x1)
        self.assertLess(y0, y1)  # a smaller KL is further down
        self.assertEqual(len(root.findall(f".//{name}circle")), 3)


class Paper(unittest.TestCase):
    def folder(self, bench=True, zero_shot=True):
        folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        figures = {name: {"value": value, "standard_error": error} for name, value, error in (
            ("perplexity_full", 20.123, 0.31), ("perplexity", 24.567, 0.42), ("kl", 0.21987, 0.0123),
            ("kl_p99", 2.5, 0.25), ("top1_agreement", 0.75, 0.0125))}
        (folder / "eval.json").write_text(json.dumps({"package_evaluation": figures}))
        if bench:
            side = {"milliseconds_per_token": 8, "joules_per_token": 0.125, "fp16_layer_bytes": 2**21, "fp16_bytes": 2**22}
            (folder / "bench.json").write_text(json.dumps(
                {"package": side, "source": {"milliseconds_per_token": 16}}))
        (folder / "inspect.json").write_text(json.dumps(
            {"bytes": 2**21, "config_document": {"layers": [{"digest": d, "rows": 2**9, "cols": 2**10} for d in "ab"]},
             "layers": [{"digest": "a", "size": 2**19}, {"digest": "b", "size": 2**19}, {"digest": "head", "size": 2**20}]}))
        if zero_shot:
            (folder / "zero-shot" / "model").mkdir(parents=True)
            (folder / "zero-shot" / "model" / "results_1.json").write_text(json.dumps(
                {"results": {"next": {"acc,none": 0.5, "acc_stderr,none": 0.05}, "text": {"word_perplexity,none": 3}}}))
        return folder

    def test_a_row_has_every_figure_with_its_error(self):
        report = {"job": {"quality": {"stored_bits": 3.1678}}}
        self.assertEqual(
            quality.paper_row("m", "shiftadd", "3", report, self.folder()),
            "| m | shiftadd | 3 | 3.168 | 24.57 ± 0.42 | 0.220 ± 0.012 | 2.50 ± 0.25 | 0.750 ± 0.013 | next 0.500 ± 0.050 | "
            "1.0 MiB | 2.0 MiB | 125.0 | 0.125 |")
        row = quality.paper_row("m", "rtn", "2", report, self.folder(bench=False, zero_shot=False))
        self.assertTrue(row.endswith("| – | 1.0 MiB | 2.0 MiB | – | – |"), row)
        self.assertEqual(row.count("|"), quality.paper_heading().splitlines()[0].count("|"))

    def test_full_precision(self):
        folder = self.folder()
        shutil.copy(folder / "bench.json", folder / "source-bench.json")
        shutil.copytree(folder / "zero-shot", folder / "unquantized" / "zero-shot")
        self.assertEqual(quality.paper_full("m", folder, folder),
                         "| m | full precision | – | 16 | 20.12 ± 0.31 | 0 | 0 | 1 | next 0.500 ± 0.050 | 2.0 MiB | 4.0 MiB | 62.5 | "
                         "not readable here |")

    def test_a_line_that_lacks_a_figure_is_made_again(self):
        report = {"job": {"quality": {"stored_bits": 3.1678}}}
        table = self.folder() / "table.md"
        whole = quality.paper_row("m", "rtn", "3", report, self.folder())
        lines = ["a line above", quality.paper_heading(), whole, quality.paper_row("m", "rtn", "2", report, self.folder(bench=False))]
        table.write_text("\n".join(lines) + "\n")
        columns = ["zero-shot", "tokens/s"]
        self.assertFalse(quality.paper_lacks(table, ["m", "rtn", "3"], columns))
        self.assertTrue(quality.paper_lacks(table, ["m", "rtn", "4"], columns))
        self.assertFalse(quality.paper_lacks(table, ["m", "rtn", "2"], ["zero-shot"]))  # nobody asks for its speed
        self.assertEqual(table.read_text(), "\n".join(lines) + "\n")
        self.assertTrue(quality.paper_lacks(table, ["m", "rtn", "2"], columns))
        self.assertEqual(table.read_text(), "\n".join(lines[:-1]) + "\n")
        self.assertTrue(quality.paper_lacks(table.with_name("none"), ["m", "rtn", "2"], columns))

    def test_panels_and_order_of_the_table(self):
        report = {"job": {"quality": {"stored_bits": 3.1678}}}
        head = ["a line above", "", *quality.paper_heading().splitlines()]
        shiftadd = quality.paper_row("m", "shiftadd", "3", report, self.folder())
        full = quality.paper_full("m", self.folder(), "none")
        panels = quality.paper_panels([*head, full, shiftadd])
        self.assertEqual(panels, {"m": {"shiftadd": [(3.168, 0.220, 0.012)]}})
        rtn = quality.paper_row("m", "rtn", "3", report, self.folder())
        other = shiftadd.replace("| m |", "| n |")
        rtn2 = rtn.replace("| rtn | 3 |", "| rtn | 2 |")
        panels = quality.paper_panels([shiftadd, other, rtn])
        self.assertEqual({model: sorted(curves) for model, curves in panels.items()}, {"m": ["rtn", "shiftadd"], "n": ["shiftadd"]})
        self.assertEqual(quality.paper_sorted([*head, shiftadd, other, rtn, full, rtn2]), [*head, full, rtn2, rtn, shiftadd, other])
        root = xml.etree.ElementTree.fromstring(quality.svg_panels(panels))
        name = "{http://www.w3.org/2000/svg}"
        self.assertEqual(len(root.findall(f"{name}g")), 2)
        colours = {line.get("stroke") for line in root.findall(f".//{name}polyline")}
        self.assertEqual(len(colours), 2)  # shiftadd's is the same in both

    def test_estimates(self):
        self.assertEqual(quality.estimate({"value": 3.9e6, "standard_error": 123456}), "3.90e+06 ± 1.2e+05")
        self.assertEqual(quality.estimate({"value": 12.34567}), "12.35")


if __name__ == "__main__":
    unittest.main()
