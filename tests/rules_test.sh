#!/bin/sh
# The alert rules: their syntax, and each of them firing and quiet. Exits 77 (skipped) without promtool.
#   rules_test.sh FOLDER
set -eu
command -v promtool >/dev/null || { echo "skipped: no promtool"; exit 77; }
cd "$1"
promtool check rules rules.yml
promtool check config prometheus.yml
promtool test rules rules_test.yml
# Compose's: it mounts the rules beside it.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp rules.yml ../compose/prometheus.yml "$work"
promtool check config "$work/prometheus.yml"
