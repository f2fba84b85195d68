#!/usr/bin/env bash
# The report's page in headless Chromium: laid out on a desk and on a phone, by day and by night.
#   chromium_test.sh TEST_PROGRAM [FOLDER for the screenshots]
# Exits 77 (skipped) where there is no chromium.
set -euo pipefail
command -v chromium >/dev/null || { echo "skipped: no chromium"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
SHIFTADD_REPORT_PAGE=$work/page.html "$1" --gtest_filter=ReportPage.HoldsEveryFigureAndItsNumbers >/dev/null
# What a browser makes of it, told in the title of a copy.
cat "$work/page.html" - >"$work/probe.html" <<'JS'
<script>
addEventListener('load', () => {
  const wide = document.documentElement.scrollWidth > innerWidth + 1;
  const empty = [...document.querySelectorAll('svg[role=img]')].filter(s => s.getBoundingClientRect().height < 40);
  const out = [...document.querySelectorAll('svg[role=img] :is(text,rect,circle)')].filter(e => {
    const b = e.getBBox(), v = e.ownerSVGElement.viewBox.baseVal;
    return b.x < -1 || b.y < -1 || b.x + b.width > v.width + 1 || b.y + b.height > v.height + 1;
  });
  const style = getComputedStyle(document.body);
  document.body.dataset.probe = JSON.stringify({
    wide, empty: empty.length, out: out.map(e => e.textContent),
    figures: document.querySelectorAll('svg[role=img]').length, tables: document.querySelectorAll('table').length,
    ink: style.color, paper: style.backgroundColor});
});
</script>
JS
fail() { echo "FAILED: $*"; exit 1; }
browse() { chromium --headless=new --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$work/profile" "$@" 2>/dev/null; }
for view in "1000 light" "1000 dark" "500 light"; do
  set -- "$1" "${2:-}" $view
  scheme=0; [ "$4" = dark ] && scheme=1
  # blink's preferredColorScheme: 0 dark, 1 light.
  page=$(browse --window-size="$3,2800" --blink-settings=preferredColorScheme=$((1 - scheme)) --dump-dom "file://$work/probe.html")
  probe=$(sed -n 's/.*data-probe="\([^"]*\)".*/\1/p' <<<"$page" | sed -n 1p | sed 's/&quot;/"/g')
  echo "$3 $4: $probe"
  grep -q '"wide":false' <<<"$probe" || fail "the page is wider than the window"
  grep -q '"empty":0,"out":\[\]' <<<"$probe" || fail "a figure is empty, or something stands outside of one"
  grep -q '"figures":5' <<<"$probe" || fail "expected 5 figures"
  if [ "$4" = dark ]; then
    grep -q '"paper":"rgb(13, 17, 23)"' <<<"$probe" || fail "no dark page at night"
  else
    grep -q '"paper":"rgb(255, 255, 255)"' <<<"$probe" || fail "no white page by day"
  fi
  [ -z "$2" ] || browse --window-size="$3,2800" --blink-settings=preferredColorScheme=$((1 - scheme)) \
    --screenshot="$2/report-$3-$4.png" "file://$work/page.html" >/dev/null
done
echo ok
