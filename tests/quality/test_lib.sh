# Shared by the tests of this folder's scripts: a tiny model and tiny texts. To be sourced, with `bin` and `source` set.
# shellcheck shell=bash
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "FAILED: $*"; cat "$work/log"; exit 1; }

# make_inputs SEED: $work/model, and $work/texts of random words.
make_inputs() {
  cp -r "$source/tests/golden/tiny_package" "$work/layout"
  "$bin/shiftadd-export" golden:v1 "$work/model" --format hf-fp16 --package-dir "$work/layout" >/dev/null
  mkdir "$work/texts"
  python3 - "$work/texts" "$1" <<'PY'
import pathlib, random, sys
rng = random.Random(int(sys.argv[2]))
word = lambda: "".join(rng.choice("abcdeiourstn") for _ in range(rng.randint(2, 6)))
for name in ("c4-calibration", "wikitext2-test", "wikitext2-valid"):
    lines = [" ".join(word() for _ in range(70)) for _ in range(20)]
    (pathlib.Path(sys.argv[1]) / f"{name}.txt").write_text("\r\n\r\n".join(lines))
PY
}
