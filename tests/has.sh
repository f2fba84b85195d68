# For test scripts: . "$(dirname "$0")/has.sh"
# COMMAND | has GREP_ARGUMENT…: grep of all that comes. One that leaves at the first match (-q) would end the writer with
# SIGPIPE, which pipefail takes for a failure.
has() {
  local text
  text=$(cat)
  grep "$@" <<<"$text"
}
