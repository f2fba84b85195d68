#!/usr/bin/env python3
"""Checks deploy/grafana and deploy/prometheus against the daemons' code.

  check_dashboards.py [--scraped FILE ...]

Every panel has an id of its own, the datasource that is provisioned and a unit that suits its first metric; every metric named
in an expression is exported: its name stands as a string in services/ or worker/ (or, with --scraped, in the given /metrics
texts); every histogram suffix belongs to a histogram; every variable is used, and every one that is used is there. Exit code 1
lists every fault.
"""
import argparse
import json
import pathlib
import re
import sys

DEPLOY = pathlib.Path(__file__).resolve().parent
SOURCE = DEPLOY.parent
METRIC = re.compile(r"\bshiftadd_[a-z0-9_]+")
SUFFIX = re.compile(r"_(bucket|sum|count)$")
VARIABLE = re.compile(r"\$\{?(\w+)")
# Grafana's units, by what a metric's name ends in; a rate of a counter of seconds is a share.
UNITS = {"_seconds": {"s"}, "_seconds_total": {"short", "percentunit"}, "_bytes": {"bytes"}, "_bytes_total": {"bytes"},
         "_ratio": {"percentunit"}, "_watts": {"watt"}, "_joules_total": {"joule"}}
OTHERS = {"short", "percentunit", "reqps", "bytes"}


def exported_by_code():
    """name -> True if it is a histogram."""
    metrics = {}
    for folder in ("services", "worker"):
        for path in (SOURCE / folder).rglob("*.cc"):
            if path.name.endswith("_test.cc"):
                continue
            text = path.read_text(encoding="utf-8")
            for match in re.finditer(r'"(shiftadd_[a-z0-9_]+)"', text):
                builders = text[max(0, match.start() - 120):match.start()]
                nearest = max(((builders.rfind(kind), kind) for kind in ("BuildHistogram", "NewHistogram", "BuildCounter",
                                                                         "BuildGauge", "Gauges(")))
                metrics[match.group(1)] = metrics.get(match.group(1), False) or (
                    nearest[0] >= 0 and nearest[1].endswith("Histogram"))
    return metrics


def exported_by_text(paths):
    metrics = {}
    for path in paths:
        for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
            if line.startswith("# TYPE "):
                _, _, name, kind = line.split()
                metrics[name] = kind == "histogram"
    return metrics


def provisioned_uids():
    uids = set()
    for path in (DEPLOY / "grafana/provisioning/datasources").glob("*.yml"):
        uids.update(re.findall(r"^\s*uid:\s*(\S+)", path.read_text(encoding="utf-8"), re.M))
    return uids


def check_expression(where, expression, metrics, faults):
    names = METRIC.findall(expression)
    if not names:
        faults.append(f"{where}: no shiftadd metric in: {expression}")
    for name in names:
        base = SUFFIX.sub("", name)
        if name in metrics:
            if metrics[name]:
                faults.append(f"{where}: {name} is a histogram: use its _bucket, _sum or _count")
        elif not metrics.get(base, False):
            faults.append(f"{where}: no daemon exports {name}")
    if expression.count("(") != expression.count(")"):
        faults.append(f"{where}: brackets do not match in: {expression}")


def check_unit(where, panel, faults):
    unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit")
    names = METRIC.findall(panel.get("targets", [{}])[0].get("expr", ""))
    ending = max((e for e in UNITS if names and SUFFIX.sub("", names[0]).endswith(e)), key=len, default="")
    # Of a histogram's sum over its count, and of quotients, the unit is another.
    fits = UNITS.get(ending, OTHERS)
    if unit not in fits:
        faults.append(f"{where}: its unit is {unit}, expected {' or '.join(sorted(fits))} for {names[0] if names else 'nothing'}")


def check_variables(path, dashboard, faults):
    asked = {name for panel in dashboard.get("panels", []) for target in panel.get("targets", [])
             for name in VARIABLE.findall(target.get("expr", ""))}
    given = {variable.get("name") for variable in dashboard.get("templating", {}).get("list", [])}
    for name in sorted(given - asked):
        faults.append(f"{path.name}: variable {name} is used in no panel")
    for name in sorted(asked - given):
        faults.append(f"{path.name}: ${name} is used, and is no variable")


def check_dashboard(path, uids, metrics, faults):
    try:
        dashboard = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        faults.append(f"{path.name}: not JSON: {error}")
        return
    ids = set()
    for panel in dashboard.get("panels", []):
        where = f"{path.name}: panel {panel.get('id')} '{panel.get('title')}'"
        if panel.get("id") in ids:
            faults.append(f"{where}: its id is taken")
        ids.add(panel.get("id"))
        targets = panel.get("targets", [])
        if not targets:
            faults.append(f"{where}: asks for nothing")
        check_unit(where, panel, faults)
        for holder in [panel, *targets]:
            uid = holder.get("datasource", {}).get("uid")
            if uid not in uids:
                faults.append(f"{where}: datasource uid {uid} is not provisioned ({', '.join(sorted(uids))})")
        for target in targets:
            check_expression(where, target.get("expr", ""), metrics, faults)
    if not ids:
        faults.append(f"{path.name}: has no panels")
    check_variables(path, dashboard, faults)
    for variable in dashboard.get("templating", {}).get("list", []):
        where = f"{path.name}: variable {variable.get('name')}"
        if variable.get("datasource", {}).get("uid") not in uids:
            faults.append(f"{where}: its datasource is not provisioned")
        check_expression(where, variable.get("query", {}).get("query", ""), metrics, faults)


def check_rules(path, metrics, faults):
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        match = re.match(r"\s*expr:\s*(.*)", line)
        if match and "shiftadd_" in match.group(1):
            check_expression(f"{path.name}:{number}", match.group(1), metrics, faults)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scraped", nargs="*", default=[], help="texts of /metrics, instead of the code")
    arguments = parser.parse_args()
    metrics = exported_by_text(arguments.scraped) if arguments.scraped else exported_by_code()
    faults = []
    dashboards = sorted((DEPLOY / "grafana/dashboards").glob("*.json"))
    for path in dashboards:
        check_dashboard(path, provisioned_uids(), metrics, faults)
    if not dashboards:
        faults.append("deploy/grafana/dashboards holds no dashboard")
    check_rules(DEPLOY / "prometheus/rules.yml", metrics, faults)
    for fault in faults:
        print(fault)
    print(f"{len(dashboards)} dashboards, {len(metrics)} metrics exported, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
