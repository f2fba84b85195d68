#!/usr/bin/env python3
"""What the scripts here need to know of JSON, statistics and plots. Standard library only.

  quality.py get PATH              the value at a dotted path of the JSON on stdin; empty if there is none
  quality.py recipe FILE BITS...   the recipe with these candidate widths
  quality.py row NAME BITS SECONDS one line of table.sh from the reports NAME=FILE on the rest of the line
  quality.py seconds               wall time until a job's candidates were there, from its report on stdin
  quality.py point SERIES PLANES   one line of curve.sh from a report on stdin
  quality.py tau                   Kendall's tau of every criterion against the measured KL, from a report on stdin
  quality.py judge                 whether the curves of that table on stdin fall, and lie below uniform widths
  quality.py plot FILE             the lines of curve.sh's table on stdin as an SVG file
  quality.py paper-heading         the heading of paper.sh's table
  quality.py paper-full MODEL FOLDER MODEL_FOLDER       its line of full precision
  quality.py paper-row MODEL METHOD BITS REPORT FOLDER  a line, from a report and what figures() left in the folder
  quality.py paper-lacks FILE MODEL METHOD BITS COLUMNS...  whether its line is not there or has a dash in such a column; takes it out then
  quality.py paper-sort FILE       puts its lines in order
  quality.py paper-plot FILE       KL over stored bits of that table on stdin as an SVG file, a panel a model
"""
import itertools
import json
import math
import pathlib
import sys

# --- Statistics ---


def kendall_tau_b(x, y):
    """Kendall's tau-b: pairs in the same order less pairs in the opposite one, corrected for ties.
    NaN where all values of one side are equal."""
    concordant = discordant = ties_x = ties_y = 0
    for i, j in itertools.combinations(range(len(x)), 2):
        dx, dy = (x[i] > x[j]) - (x[i] < x[j]), (y[i] > y[j]) - (y[i] < y[j])
        if dx == 0 and dy == 0:
            continue
        if dx == 0:
            ties_x += 1
        elif dy == 0:
            ties_y += 1
        elif dx == dy:
            concordant += 1
        else:
            discordant += 1
    pairs = concordant + discordant
    scale = math.sqrt((pairs + ties_x) * (pairs + ties_y))
    return (concordant - discordant) / scale if scale else math.nan


def criteria(layer, candidate):
    """Every criterion's value for a candidate of a job's report, as the coordinator sums them."""
    weights = layer["layer"]["rows"] * layer["layer"]["cols"]
    return {
        "guided error": candidate["guided_error"],
        "output error x weights": candidate["output_error"] * weights,
        "weight error x weights": candidate["weight_error"] * weights,
        "output error": candidate["output_error"],
        "weight error": candidate["weight_error"],
        "paper's criterion": candidate["paper_criterion"],
    }


def tau_table(report):
    """Markdown: a row a criterion, a column a width and one for all candidates together."""
    by_width = {}
    for layer in report["layers"]:
        for candidate in layer["candidates"]:
            if "measured_kl" in candidate:
                by_width.setdefault(candidate["bits"], []).append((criteria(layer, candidate), candidate["measured_kl"]))
    if not by_width:
        raise SystemExit("the report has no measured KL: was the job submitted with --criterion measured?")
    widths = sorted(by_width)
    groups = [by_width[bits] for bits in widths] + [sum(by_width.values(), [])]
    lines = ["| criterion | " + " | ".join(f"{bits} planes" for bits in widths) + " | all |", "|---|" + "---|" * len(groups)]
    for name in groups[0][0][0]:
        taus = [kendall_tau_b([values[name] for values, _ in group], [kl for _, kl in group]) for group in groups]
        lines.append(f"| {name} | " + " | ".join("-" if math.isnan(t) else f"{t:.3f}" for t in taus) + " |")
    return "\n".join(lines + ["", f"{len(groups[0])} layers; Kendall's tau-b against the KL of the model with that layer alone quantized."])


# --- Tables ---


def get(value, path):
    for key in path.split("."):
        if isinstance(value, list):
            value = value[int(key)] if int(key) < len(value) else None
        elif isinstance(value, dict):
            value = value.get(key)
        if value is None:
            return ""
    return value if isinstance(value, str) else json.dumps(value)


def perplexity(value):
    return f"{value:.3f}" if value < 1000 else f"{value:.3g}"


def quantizing_seconds(report):
    """Wall time until the candidates were there, all widths together."""
    return sum(s for state, s in report["state_seconds"].items() if state not in ("QUEUED", "EVALUATING", "PACKAGING"))


def row(name, bits, seconds, reports):
    """A line of the table: `reports` by text (test, c4, valid); one that is not there is a dash. Mixed widths say their average."""
    any_quality = next(iter(reports.values()))["job"]["quality"]
    if bits == "mixed":
        bits += f" {any_quality['planes']:.3f}" if any_quality["published_mixed"] else " (uniform is better)"
    cells = [name, bits, f"{any_quality['stored_bits']:.3f}"]
    quality = {text: report["job"]["quality"] for text, report in reports.items()}
    cells.append(perplexity(quality["test"]["perplexity_quantized"]) if "test" in quality else "-")
    for text in ("c4", "valid", "test"):
        cells.append(f"{quality[text]['kl']:.4f} ± {quality[text]['kl_standard_error']:.4f}" if text in quality else "-")
    cells.insert(-1, f"{float(seconds):.0f}")
    return "| " + " | ".join(cells) + " |"


def point(series, planes, report):
    """A line of the curve's table."""
    q = report["job"]["quality"]
    published = "mixed" if q["published_mixed"] else "uniform"
    return (f"| {series} | {planes} | {q['stored_bits']:.3f} | {q['kl']:.4f} | {q['kl_standard_error']:.4f} | "
            f"{perplexity(q['perplexity_quantized'])} | {q['package_bytes']} | {published} |")


# --- The paper's comparison ---

PAPER_COLUMNS = ["model", "method", "planes", "stored bits", "perplexity", "KL", "KL p99", "same top token", "zero-shot",
                 "layers", "package", "tokens/s", "J/token"]


def line(cells):
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def paper_heading():
    return line(PAPER_COLUMNS) + "\n" + "|" + "---|" * len(PAPER_COLUMNS)


def estimate(figure):
    """value ± standard error, with two digits of the error."""
    value, error = figure["value"], figure.get("standard_error")
    if not error:
        return f"{value:.4g}"
    if value >= 10000:
        return f"{value:.2e} ± {error:.1e}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def mebibytes(count):
    return f"{count / 2**20:.1f} MiB" if count else "–"


def read_json(path):
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def zero_shot(folder):
    """task acc ± error; … of lm-eval's newest results below the folder, a dash without."""
    files = sorted(pathlib.Path(folder).rglob("results_*.json"))
    if not files:
        return "–"
    results = read_json(files[-1])["results"]
    return "; ".join(f"{task} {r['acc,none']:.3f} ± {float(r['acc_stderr,none']):.3f}"
                     for task, r in sorted(results.items()) if "acc,none" in r) or "–"


def speed(figures):
    """[tokens/s, J/token] of one side of `shiftadd bench`."""
    if not figures:
        return ["–", "–"]
    joules = figures.get("joules_per_token")
    return [f"{1000 / figures['milliseconds_per_token']:.1f}", "not readable here" if joules is None else f"{joules:.3f}"]


def paper_full(model, folder, model_folder):
    figures = read_json(pathlib.Path(folder) / "eval.json")["package_evaluation"]
    model_folder = pathlib.Path(model_folder)
    bench = read_json(model_folder / "source-bench.json")
    package = read_json(pathlib.Path(folder) / "inspect.json")
    layers = package and sum(2 * layer["rows"] * layer["cols"] for layer in package["config_document"]["layers"])
    total = bench["package"].get("fp16_bytes") if bench else None
    return line([model, "full precision", "–", "16", estimate(figures["perplexity_full"]), "0", "0", "1",
                 zero_shot(model_folder / "unquantized" / "zero-shot"),
                 mebibytes(layers), mebibytes(total)] + speed(bench and bench.get("source")))


def sizes(package):
    """[bytes of the layers, of all] as `inspect --json` has a package."""
    if not package:
        return [None, None]
    layers = {layer["digest"] for layer in package["config_document"]["layers"]}
    return [sum(blob["size"] for blob in package["layers"] if blob["digest"] in layers), package["bytes"]]


def paper_row(model, method, bits, report, folder):
    folder = pathlib.Path(folder)
    figures, bench = read_json(folder / "eval.json")["package_evaluation"], read_json(folder / "bench.json")
    layers, total = sizes(read_json(folder / "inspect.json"))
    return line([model, method, bits, f"{report['job']['quality']['stored_bits']:.3f}", estimate(figures["perplexity"]),
                 estimate(figures["kl"]), estimate(figures["kl_p99"]), estimate(figures["top1_agreement"]),
                 zero_shot(folder / "zero-shot"), mebibytes(layers), mebibytes(total)] + speed(bench and bench["package"]))


PAPER_METHODS = ["full precision", "rtn", "optq", "lat", "acc", "acc-butterfly", "shiftadd"]


def cells_of(text):
    return [cell.strip() for cell in text.strip().strip("|").split("|")]


def paper_lacks(path, key, columns):
    """Whether the line of `key` (model, method, planes) is to be made: a run may have measured less than this one will."""
    path = pathlib.Path(path)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found = [text for text in lines if len(cells_of(text)) == len(PAPER_COLUMNS) and cells_of(text)[:3] == key]
    if found and not any(cells_of(text)[PAPER_COLUMNS.index(column)] == "–" for text in found for column in columns):
        return False
    if found:
        path.write_text("".join(f"{text}\n" for text in lines if text not in found), encoding="utf-8")
    return True


def paper_sorted(lines):
    """The lines of one table: what is above its rows, then the rows by model (as they came), method and planes."""
    rows = [text for text in lines if len(cells_of(text)) == len(PAPER_COLUMNS) and cells_of(text)[1] in PAPER_METHODS]
    models = list(dict.fromkeys(cells_of(text)[0] for text in rows))
    rows.sort(key=lambda text: (models.index(cells_of(text)[0]), PAPER_METHODS.index(cells_of(text)[1]), cells_of(text)[2]))
    return [text for text in lines if text not in rows] + rows


def paper_panels(lines):
    """{model: {method: [(stored bits, KL, its error)]}} of paper.sh's lines."""
    panels = {}
    for text in lines:
        cells = cells_of(text)
        try:
            bits, (kl, _, error) = float(cells[3]), cells[5].partition(" ± ")
            point = (bits, float(kl), float(error or 0))
        except (IndexError, ValueError):
            continue
        if point[1] > 0:
            panels.setdefault(cells[0], {}).setdefault(cells[1], []).append(point)
    return {model: {method: sorted(points) for method, points in curves.items()} for model, curves in panels.items()}


# --- Plots ---

COLOURS = ["#0b6e4f", "#c1292e", "#235789", "#8f5db7", "#d98324", "#555555"]


def read_curves(lines):
    """{series: [(stored bits, KL, standard error)]} from `| series | planes | stored bits | KL | ± | …` lines."""
    curves = {}
    for line in lines:
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        try:
            point = (float(cells[2]), float(cells[3]), float(cells[4]))
        except (IndexError, ValueError):
            continue  # a heading or a rule
        curves.setdefault(cells[0], []).append(point)
    return {name: sorted(points) for name, points in curves.items()}


def interpolate(series, bits):
    """KL at these stored bits on a straight line in log KL between a series' points; None outside them."""
    for (x0, y0, _), (x1, y1, _) in zip(series, series[1:]):
        if x0 <= bits <= x1 and y0 > 0 and y1 > 0:
            return y0 * (y1 / y0) ** ((bits - x0) / (x1 - x0)) if x1 > x0 else y0
    return series[0][1] if len(series) == 1 and series[0][0] == bits else None


def judge(curves):
    """A line a series: does its KL fall with the bits, but for two standard errors, and is it below that of uniform widths?"""
    lines = []
    for name, series in curves.items():
        if name == "uniform":
            continue
        rises = [(b[1] - a[1]) / math.hypot(a[2], b[2]) if a[2] or b[2] else math.inf
                 for a, b in zip(series, series[1:]) if b[1] > a[1]]
        text = f"{name}: {len(series)} points, KL falls from each to the next" if not rises else (
            f"{name}: {len(series)} points, KL rises {len(rises)} times, by at most {max(rises):.1f} standard errors")
        ratios = [kl / uniform for bits, kl, _ in series
                  if (uniform := interpolate(curves.get("uniform", [(0, 0, 0)]), bits)) is not None]
        if ratios:
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            text += (f"; over {len(ratios)} points KL is {mean:.2f} of uniform widths' (geometric mean; least {min(ratios):.2f}, "
                     f"most {max(ratios):.2f}; uniform widths interpolated in log KL)")
        lines.append(text + ".")
    return "\n".join(lines)


def span(values, margin):
    return min(values) - margin, max(values) + margin


def svg(curves):
    return svg_panels({"": curves})


def svg_panels(panels, width=760, height=480):
    """A panel for each {name: curves}: KL, on a logarithmic scale, over stored bits; bars of one standard error either side.
    One scale and one legend for all; a name has the same colour in all."""
    points = [p for curves in panels.values() for series in curves.values() for p in series if p[1] > 0]
    if not points:
        raise SystemExit("no points to plot")
    scale = span([p[0] for p in points], 0.1) + span([math.log10(p[1]) for p in points], 0.1)
    if len(panels) > 1:
        width, height = 420, 420
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    total = width * len(panels)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {height}" font-family="sans-serif" font-size="13">',
           f'<rect width="{total}" height="{height}" fill="white"/>']
    for i, (title, curves) in enumerate(panels.items()):
        out.append(f'<g transform="translate({i * width} 0)">')
        out += panel(title, curves, colours, scale, width, height)
        out.append("</g>")
    for i, name in enumerate(names):
        y = 36 + 18 * i
        out.append(f'<line x1="{total - 150}" y1="{y - 4}" x2="{total - 125}" y2="{y - 4}" stroke="{colours[name]}" stroke-width="2"/>'
                   f'<text x="{total - 118}" y="{y}">{name}</text>')
    return "\n".join(out + ["</svg>", ""])


def panel(title, curves, colours, scale, width, height):
    left, right, top, bottom = 70, 20, 20, 50
    x0, x1, y0, y1 = scale
    x_of = lambda bits: left + (bits - x0) / (x1 - x0) * (width - left - right)
    y_of = lambda kl: height - bottom - (math.log10(kl) - y0) / (y1 - y0) * (height - top - bottom)
    out = [f'<text x="{(left + width - right) / 2}" y="14" text-anchor="middle" font-weight="bold">{title}</text>'] if title else []
    for tick in range(math.ceil(x0 * 4), math.floor(x1 * 4) + 1):
        if width < 600 and tick % 2:
            continue
        x = x_of(tick / 4)
        out.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{height - bottom}" stroke="#e5e5e5"/>'
                   f'<text x="{x:.1f}" y="{height - bottom + 18}" text-anchor="middle">{tick / 4:g}</text>')
    for decade in range(math.floor(y0), math.ceil(y1) + 1):
        for kl in (10.0**decade * step for step in (1, 2, 5)):
            if y0 <= math.log10(kl) <= y1:
                y = y_of(kl)
                out.append(f'<line x1="{left}" y1="{y:.1f}" x2="{width - right}" y2="{y:.1f}" stroke="#e5e5e5"/>'
                           f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{kl:g}</text>')
    for name, series in curves.items():
        colour = colours[name]
        series = [p for p in series if p[1] > 0]
        path = " ".join(f"{x_of(bits):.1f},{y_of(kl):.1f}" for bits, kl, _ in series)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for bits, kl, error in series:
            x = x_of(bits)
            if error > 0:
                low, high = max(kl - error, 10**y0), min(kl + error, 10**y1)
                out.append(f'<line x1="{x:.1f}" y1="{y_of(low):.1f}" x2="{x:.1f}" y2="{y_of(high):.1f}" stroke="{colour}"/>')
            out.append(f'<circle cx="{x:.1f}" cy="{y_of(kl):.1f}" r="3" fill="{colour}"/>')
    out.append(f'<text x="{(left + width - right) / 2}" y="{height - 10}" text-anchor="middle">stored bits a weight</text>')
    out.append(f'<text transform="translate(18 {(top + height - bottom) / 2}) rotate(-90)" text-anchor="middle">KL to full precision (nats a token)</text>')
    return out


def main(arguments):
    command, arguments = (arguments[0] if arguments else ""), arguments[1:]
    if command == "get":
        print(get(json.load(sys.stdin), arguments[0]))
    elif command == "recipe":
        with open(arguments[0], encoding="utf-8") as file:
            recipe = json.load(file)
        print(json.dumps({**recipe, "candidate_bits": [int(bits) for bits in arguments[1:]]}))
    elif command == "seconds":
        print(quantizing_seconds(json.load(sys.stdin)))
    elif command == "row":
        reports = {}
        for pair in arguments[3:]:
            text, path = pair.split("=", 1)
            with open(path, encoding="utf-8") as file:
                reports[text] = json.load(file)
        print(row(*arguments[:3], reports))
    elif command == "point":
        print(point(*arguments, json.load(sys.stdin)))
    elif command == "tau":
        print(tau_table(json.load(sys.stdin)))
    elif command == "judge":
        print(judge(read_curves(sys.stdin)))
    elif command == "plot":
        with open(arguments[0], "w", encoding="utf-8") as file:
            file.write(svg(read_curves(sys.stdin)))
    elif command == "paper-heading":
        print(paper_heading())
    elif command == "paper-full":
        print(paper_full(*arguments))
    elif command == "paper-row":
        print(paper_row(*arguments[:3], read_json(arguments[3]), arguments[4]))
    elif command == "paper-lacks":
        sys.exit(0 if paper_lacks(arguments[0], arguments[1:4], arguments[4:]) else 1)
    elif command == "paper-sort":
        path = pathlib.Path(arguments[0])
        path.write_text("\n".join(paper_sorted(path.read_text(encoding="utf-8").splitlines())) + "\n", encoding="utf-8")
    elif command == "paper-plot":
        with open(arguments[0], "w", encoding="utf-8") as file:
            file.write(svg_panels(paper_panels(sys.stdin)))
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
